import warnings

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from astropy import units as u
from astropy.convolution import convolve
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import chunked, scenes

from galprep_dask.errors import ImageShapeError, ParameterError
from galprep_dask.segmentation import detect_sources, smooth


def weighted_means(image, bad, fwhm):
    """The definition, pixel by pixel: the kernel is a Gaussian out to three sigma, rounded up to a pixel."""
    sigma = fwhm / np.sqrt(8 * np.log(2))
    radius = int(np.ceil(3 * sigma))
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets[:, None] ** 2 + offsets**2) / sigma**2)
    result = np.full(image.shape, np.nan)
    for y, x in np.ndindex(image.shape):
        rows, columns = y + offsets, x + offsets
        inside_y, inside_x = (rows >= 0) & (rows < image.shape[0]), (columns >= 0) & (columns < image.shape[1])
        here, there = np.ix_(inside_y, inside_x), np.ix_(rows[inside_y], columns[inside_x])
        weight = np.where(bad[there], 0.0, kernel[here])
        if weight.sum() > 0:
            result[y, x] = np.sum(weight * np.where(bad[there], 0.0, image[there])) / weight.sum()
    return result


@settings(max_examples=30)
@given(scenes(max_side=14), st.floats(0.7, 9))
def test_equals_the_weighted_mean_of_its_definition(scene, fwhm):
    image, mask, _ = scene
    expected = weighted_means(image, mask, fwhm)
    found = smooth(image, fwhm, mask)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(image).max())


@given(chunked("f4", finite=True), st.sampled_from([0.6, 2.0, 7.0]))
def test_chunks_do_not_change_a_bit(images, fwhm):
    image, lazy = images
    mask = image > 5e3
    found = smooth(lazy, fwhm, mask)
    assert found.chunks == lazy.chunks
    np.testing.assert_array_equal(found.compute(scheduler="sync"), smooth(image, fwhm, mask))


def test_chunks_of_one_pixel():
    image = np.random.default_rng(0).normal(size=(9, 11))
    lazy = da.from_array(image, chunks=1, name=False)
    np.testing.assert_array_equal(smooth(lazy, 3.0).compute(scheduler="sync"), smooth(image, 3.0))


@given(scenes(max_side=20), st.sampled_from([0.0, 1e30, np.nan, -np.inf]))
def test_values_under_the_mask_do_not_count(scene, hidden):
    image, mask, chunks = scene
    lazy = da.from_array(np.where(mask, hidden, image), chunks=chunks, name=False)
    np.testing.assert_array_equal(smooth(lazy, 3.0, mask).compute(scheduler="sync"), smooth(image, 3.0, mask))


def test_pixels_out_of_reach_of_any_good_one_are_nan_and_others_are_filled():
    image = np.full((31, 31), np.nan)
    image[15, 15] = 4.0
    for fwhm, radius in ((2.354, 3), (2.356, 4)):  # sigma just below and above 1
        found = smooth(image, fwhm)
        finite = np.zeros(image.shape, bool)
        finite[15 - radius : 16 + radius, 15 - radius : 16 + radius] = True
        np.testing.assert_array_equal(np.isfinite(found), finite)
        np.testing.assert_allclose(found[finite], 4.0, rtol=1e-15)


def test_a_gaussian_is_widened_in_quadrature():
    y, x = np.indices((101, 101)) - 50.0
    image = np.exp(-(x**2 + y**2) / (2 * 4.0**2))
    found = smooth(image, fwhm=3.0 * np.sqrt(8 * np.log(2)))
    width = np.sqrt(np.sum(found * x**2) / np.sum(found))
    assert width == pytest.approx(5.0, rel=0.01)
    np.testing.assert_allclose(found, found.T, rtol=0, atol=1e-15)


def test_lazy_and_three_tasks_a_chunk_more(no_compute):
    for blocks in (8, 32):
        lazy = da.zeros((blocks * 20, blocks * 20), chunks=20)
        with no_compute():
            found = smooth(lazy, 3.0)
        graph = found.__dask_optimize__(found.__dask_graph__(), found.__dask_keys__())
        assert len(dict(graph)) <= 4 * blocks**2


def test_kinds_and_dtypes():
    image = np.random.default_rng(0).integers(0, 2, (15, 20))
    expected = smooth(image.astype("f8"), 2.0)
    for dtype in (">f4", ">i2", "u1", "?"):
        pixels = image.astype(dtype)
        pixels.flags.writeable = False
        np.testing.assert_array_equal(smooth(pixels, 2.0), expected)
    named = xr.DataArray(image, dims=("y", "x"), coords={"y": np.arange(15)})
    found = smooth(named, 2.0)
    assert isinstance(found.data, da.Array)
    np.testing.assert_array_equal(found["y"], named["y"])
    np.testing.assert_array_equal(found, expected)


def test_a_unit_is_kept():
    image = np.random.default_rng(0).normal(size=(15, 20)).astype("f4")
    found = smooth(image << u.Jy, 2.0, image > 1)
    assert found.unit == u.Jy
    np.testing.assert_array_equal(found.value, smooth(image, 2.0, image > 1))
    assert detect_sources(found, 0.1 * u.Jy).n_labels == detect_sources(found.value, 0.1).n_labels


KERNEL = np.array([[0.0, 1.0, 2.0], [1.0, 5.0, 3.0], [0.0, 2.0, 1.0], [1.0, 0.0, 0.5], [0.25, 0.0, 4.0]])


@given(scenes(max_side=20))
def test_a_kernel_of_any_shape_is_convolved_as_astropy_does(scene):
    image, mask, chunks = scene
    lazy = da.from_array(image, chunks=chunks, name=False)
    found = smooth(lazy, kernel=KERNEL, mask=mask)
    np.testing.assert_array_equal(found.compute(scheduler="sync"), smooth(image, kernel=KERNEL, mask=mask))
    # Beyond the edge astropy has zeros, and here there is nothing.
    padded = np.pad(np.where(mask, np.nan, image), 4, constant_values=np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where all is NaN in reach
        expected = convolve(padded, KERNEL, boundary="fill", fill_value=np.nan, nan_treatment="interpolate")
    np.testing.assert_allclose(found, expected[4:-4, 4:-4], rtol=0, atol=1e-12 * np.abs(image).max())


def test_a_gaussian_given_as_a_kernel_is_the_same():
    image = np.random.default_rng(0).normal(size=(30, 40))
    image[3, 5] = np.nan
    along = np.exp(-0.5 * (np.arange(-4, 5) / (3 / np.sqrt(8 * np.log(2)))) ** 2)
    np.testing.assert_allclose(smooth(image, kernel=np.outer(along, along) * 7), smooth(image, 3.0), atol=1e-14)


@pytest.mark.parametrize("fwhm", [1.0, 9.0, 40.0])
def test_bad_pixels_far_away_change_no_bit(fwhm):
    image = np.random.default_rng(0).normal(size=(40, 500))
    expected = smooth(image, fwhm)
    image[20, [3, 250]] = np.nan
    reach = int(np.ceil(3 * fwhm / np.sqrt(8 * np.log(2))))
    columns = np.arange(500)
    far = np.minimum(abs(columns - 3), abs(columns - 250)) > reach
    np.testing.assert_array_equal(smooth(image, fwhm)[:, far], expected[:, far])
    assert (smooth(image, fwhm)[20, ~far] != expected[20, ~far]).all()


def test_errors():
    image = np.zeros((5, 5))
    for fwhm in (0, -1.0, np.nan, np.inf):
        with pytest.raises(ParameterError, match="fwhm"):
            smooth(image, fwhm)
    with pytest.raises(ImageShapeError, match="mask"):
        smooth(image, 2.0, np.zeros((5, 6), bool))
    for kernel in (np.ones(3), np.ones((2, 3)), -np.ones((3, 3)), np.zeros((3, 3)), np.full((1, 1), np.nan)):
        with pytest.raises(ParameterError, match="kernel has"):
            smooth(image, kernel=kernel)
    for both in ({}, {"fwhm": 2.0, "kernel": np.ones((3, 3))}):
        with pytest.raises(ParameterError, match="either"):
            smooth(image, **both)
