"""The sky of real images of an infrared detector."""

import dask.array as da
import numpy as np
import pytest

import galprep_dask as gp
from galprep_dask import sky
from galprep_dask.masks import grow_by
from galprep_dask.segmentation import detect_sources, smooth
from galprep_dask.stats import sigma_clipped_stats

pytestmark = pytest.mark.shared_data


@pytest.fixture(scope="module", params=["image_1", "image_8"])
def subtracted(request, shared_data):
    """The image minus the sky that a comparison of models chose, its mask, noise, and FWHM in pixels."""
    image = gp.open_image(shared_data / "vircam_h" / f"{request.param}.fits", chunks=1024).persist()  # unpacked once
    fwhm = 0.95 / image.galprep.pixel_scale
    _, masked = sky.fit_sky_between_sources(image["data"], fit=sky.fit_polynomial_sky, fwhm=fwhm)
    compared = sky.compare_sky_models(image["data"], masked)
    model, masked = sky.fit_sky_between_sources(image["data"], fit=compared.fit, fwhm=fwhm)
    data, masked = da.compute(sky.subtract_sky(image["data"].data, model), masked.data)
    return data, masked, sigma_clipped_stats(data, masked, sigma=5.0)[2], fwhm


def test_source_free_pixels_lie_at_zero_in_every_part_of_the_image(subtracted):
    data, masked, noise, _ = subtracted
    medians = []
    for rows in np.array_split(np.arange(data.shape[0]), 8):
        for columns in np.array_split(np.arange(data.shape[1]), 8):
            box = np.ix_(rows, columns)
            medians.append(np.median(data[box][~masked[box]]) / noise)
    assert np.abs(medians).mean() < 0.02
    assert abs(np.mean(medians)) < 0.01


def test_there_is_no_hole_around_bright_sources(subtracted):
    data, _, noise, fwhm = subtracted
    bright = detect_sources(smooth(data, fwhm), 30 * noise, 20)
    assert bright.n_labels > 20
    inner, outer = (grow_by(bright, radius).compute() for radius in (15, 25))
    every = sky.source_mask(data, fwhm=fwhm)
    ring = outer & ~inner & ~every
    error = 3 * noise / np.sqrt(ring.sum())
    assert np.median(data[ring]) > -0.02 * noise - error
