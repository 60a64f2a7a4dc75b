"""The image minus its sky, with an image of the sky in between or without."""

from functools import partial

import dask.array as da
import numpy as np
import pytest

from galprep_dask.errors import ImageShapeError, ParameterError
from galprep_dask.sky import (
    fit_mean_sky,
    fit_median_sky,
    fit_mesh_sky,
    fit_piecewise_sky,
    fit_polynomial_sky,
    subtract_sky,
)

FITS = {
    "mean": fit_mean_sky, "median": fit_median_sky, "polynomial": partial(fit_polynomial_sky, order=5),
    "pieces": partial(fit_piecewise_sky, piece_size=60), "mesh": partial(fit_mesh_sky, box_size=(40, 25)),
}  # fmt: skip


def image_of(dtype):
    rng = np.random.default_rng(0)
    y, x = np.indices((150, 200))
    image = 120 + 0.05 * x + 3 * np.sin(y / 20) + rng.normal(0, 2, x.shape)
    image[10:20, 30:45] += 100
    image = np.clip(image, 0, 250).astype(dtype)
    if image.dtype.kind == "f":
        image[7, 9], image[8, 9], image[9, 9], image[10, 9] = np.nan, np.inf, -np.inf, 1e30
    image.flags.writeable = False
    return image


@pytest.mark.parametrize("dtype", ["f8", "f4", ">f4", "i2", "u1", "i8"])
@pytest.mark.parametrize("name", FITS)
def test_it_is_the_difference_to_what_is_evaluated_to_the_bit(name, dtype):
    image = image_of(dtype)
    sky = FITS[name](image)
    wanted = np.subtract(image, sky.evaluate(image.shape).compute(), dtype=np.float64)
    wanted = wanted.astype(np.float64 if dtype in ("f8", "i8") else np.float32)
    for chunks in (1000, ((1, 100, 49), (7, 193))):
        subtracted = subtract_sky(da.from_array(image, chunks=chunks), sky)
        assert subtracted.dtype == wanted.dtype
        np.testing.assert_array_equal(subtracted.compute(scheduler="sync"), wanted)
    np.testing.assert_array_equal(subtract_sky(image[None], sky)[0], wanted)


@pytest.mark.parametrize("name", ["polynomial", "pieces", "mesh"])
def test_the_sky_of_another_image_is_refused(name):
    """A cutout got the sky of the first corner of its mosaic."""
    image = image_of("f8")
    sky = FITS[name](image)
    with pytest.raises(ImageShapeError, match=r"fitted to an image of \(150, 200\).*shape \(50, 60\).*cut then"):
        subtract_sky(image[80:130, 90:150], sky)


def test_what_is_no_sky_is_refused():
    with pytest.raises(ParameterError, match="sky is a float; expected a sky model"):
        subtract_sky(image_of("f8"), 3.0)
