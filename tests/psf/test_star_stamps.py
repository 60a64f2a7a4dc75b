import dask.array as da
import numpy as np
import pytest
from astropy.table import Table
from hypothesis import given, settings
from strategies import chunks_for

from galprep_dask.errors import ImageShapeError, ParameterError, TooFewStarsError
from galprep_dask.psf import star_stamps

SHAPE = (60, 70)
IMAGE = np.random.default_rng(0).normal(0, 1, SHAPE)
LABELS = np.zeros(SHAPE, int)
LABELS[18:23, 28:33] = 3
LABELS[18:23, 36:40] = 5
STARS = Table({"x": [30.3, 5.0, 1.0], "y": [20.2, 50.0, 1.0], "used": [True, False, True]})


def test_pixels_masks_and_noise_of_the_stars_that_are_used():
    bad = np.zeros(SHAPE, bool)
    bad[20, 27] = True
    image = IMAGE.copy()
    image[17, 30] = np.nan
    sigma = np.abs(IMAGE) + 1
    found = star_stamps(image, STARS, 15, segmentation=LABELS, mask=bad, sigma=sigma)
    assert found.rows.tolist() == [0, 2]
    assert (found.x.tolist(), found.y.tolist()) == ([30.3, 1.0], [20.2, 1.0])
    np.testing.assert_array_equal(found.stamps[0], image[13:28, 23:38])
    np.testing.assert_array_equal(found.sigma[0], sigma[13:28, 23:38])
    mask = found.mask[0]
    assert mask[20 - 13, 27 - 23]
    assert mask[17 - 13, 30 - 23]
    assert not mask[18 - 13 : 23 - 13, 28 - 23 : 33 - 23].any()  # the star itself
    neighbour = np.zeros(SHAPE, bool)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    for ny, nx in np.argwhere(LABELS == 5):
        neighbour |= (y - ny) ** 2 + (x - nx) ** 2 <= 4
    neighbour |= bad | np.isnan(image)
    np.testing.assert_array_equal(mask, neighbour[13:28, 23:38])
    # What lies beyond the image is masked.
    assert found.mask[1][:6].all()
    assert found.mask[1][:, :6].all()
    assert not found.mask[1][6:, 6:].any()


def test_growth_of_a_neighbour_stays_out_of_the_star():
    labels = LABELS.copy()
    labels[18:23, 33:36] = 5
    mask = star_stamps(IMAGE, STARS, 15, segmentation=labels, margin=3).mask[0]
    assert not mask[5:10, 5:10].any()
    assert mask[7, 10]


@settings(deadline=None, max_examples=20)
@given(chunks_for(SHAPE))
def test_same_for_every_chunking(chunks):
    expected = star_stamps(IMAGE, STARS, 15, segmentation=LABELS)
    image, labels = (da.from_array(plane, chunks=chunks) for plane in (IMAGE, LABELS))
    lazy = star_stamps(image, STARS, 15, segmentation=labels)
    np.testing.assert_array_equal(lazy.stamps, expected.stamps)
    np.testing.assert_array_equal(lazy.mask, expected.mask)


def test_bad_input():
    with pytest.raises(ParameterError, match="size=14; expected an odd"):
        star_stamps(IMAGE, STARS, 14)
    with pytest.raises(ParameterError, match="margin=-1"):
        star_stamps(IMAGE, STARS, 15, margin=-1)
    with pytest.raises(ParameterError, match="columns a; expected x and y"):
        star_stamps(IMAGE, Table({"a": [1]}), 15)
    with pytest.raises(TooFewStarsError, match="none of the 1 sources"):
        star_stamps(IMAGE, Table({"x": [1.0], "y": [1.0], "used": [False]}), 15)
    with pytest.raises(ImageShapeError, match="sigma"):
        star_stamps(IMAGE, STARS, 15, sigma=np.ones((3, 3)))
    with pytest.raises(ParameterError, match="labels from -3 to 5"):
        star_stamps(IMAGE, STARS, 41, segmentation=np.where(LABELS == 3, -3, LABELS))
    with pytest.raises(ImageShapeError, match="segmentation"):
        star_stamps(IMAGE, STARS, 15, segmentation=np.ones((3, 3), int))
