import tracemalloc

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from astropy.stats import sigma_clipped_stats as astropy_stats
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from strategies import chunked, chunks_for, scenes

from galprep_dask.errors import ImageShapeError, NoGoodPixelsError, ParameterError
from galprep_dask.stats import sigma_clipped_stats

SHAPE = (61, 47)


def field(name):
    rng = np.random.default_rng(3)
    return {
        "normal": lambda: rng.normal(10, 2, SHAPE),
        "heavy tails": lambda: rng.standard_t(1.2, SHAPE),
        "lognormal": lambda: rng.lognormal(0, 2, SHAPE),
        "tiny fluxes": lambda: rng.normal(3e-12, 1e-12, SHAPE),
        "high level": lambda: 3e7 + rng.normal(0, 1, SHAPE),
        "constant": lambda: np.full(SHAPE, 0.1),
        "integers": lambda: rng.poisson(40, SHAPE),
        "unsigned": lambda: rng.poisson(4, SHAPE).astype("u2"),
        "two values": lambda: (rng.uniform(size=SHAPE) < 0.01) * 5.0,
    }[name]()


def assert_same(found, expected):
    """The same median to the bit; mean and std but for the order of sums."""
    assert found[1] == expected[1]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12 * expected[2])


FIELDS = [
    "normal", "heavy tails", "lognormal", "tiny fluxes", "high level", "constant", "integers", "unsigned", "two values",
]  # fmt: skip


@pytest.mark.parametrize("maxiters", [1, 2, 5, None])
@pytest.mark.parametrize("sigma", [1.5, 3.0])
@pytest.mark.parametrize("name", FIELDS)
def test_equals_astropy_on_the_whole_array(name, sigma, maxiters):
    image = field(name)
    for pixels in (image, image.astype("f4")):
        # astropy answers float32 in float32, which at 3e7 has not the digits asked for here.
        expected = astropy_stats(pixels.astype("f8"), sigma=sigma, maxiters=maxiters)
        found = sigma_clipped_stats(pixels, sigma=sigma, maxiters=maxiters)
        # Of equal values astropy gives not zero but a rounding error of their mean.
        atol = 1e-5 * expected[2] + np.spacing(abs(expected[1]))
        np.testing.assert_allclose(found, expected, rtol=1e-15, atol=atol)


@pytest.mark.parametrize("name", FIELDS)
def test_no_iterations_are_the_plain_statistics(name):
    image = field(name)  # astropy would take 0 for None
    expected = np.mean(image), np.median(image), np.std(image)
    atol = 1e-9 * expected[2] + np.spacing(abs(expected[1]))
    np.testing.assert_allclose(sigma_clipped_stats(image, maxiters=0), expected, rtol=1e-13, atol=atol)


def test_clipping_is_about_the_median_and_iterated():
    rng = np.random.default_rng(0)
    image = rng.normal(0, 1, (100, 100))
    image[:10] += 100.0
    image[10:15] += 20.0
    mean, median, std = sigma_clipped_stats(image)
    assert abs(mean) < 0.05
    assert abs(median) < 0.05
    assert abs(std - 0.98) < 0.03
    # 20 is past 3 sigma only when the pixels at 100 are gone.
    assert sigma_clipped_stats(image, maxiters=1)[2] > 4
    assert sigma_clipped_stats(image, maxiters=0)[2] > 25


def test_median_of_an_even_number_of_float32_pixels_is_not_rounded_to_float32():
    image = np.array([[3e7, 3e7 + 2]], "f4")
    assert sigma_clipped_stats(image, maxiters=0) == (30000001.0, 30000001.0, 1.0)


def test_no_bit_depends_on_chunks_where_pixels_differ_by_orders_of_magnitude():
    image = np.array([[0.0, -9.71e163, -1.02e154, -2.13e125], [2.89e132, -9.43711083e139, 1.51e160, 1.21e104]])
    image = np.concatenate([image, [[2.78e161, 2.02e123, -1.5e151, 0.0]]])
    assert sigma_clipped_stats(da.from_array(image, chunks=2)) == sigma_clipped_stats(image)


@given(st.sampled_from(["f4", "f8"]).flatmap(chunked))
def test_no_bit_depends_on_chunks_whatever_the_pixels(images):
    image, lazy = images
    if not np.isfinite(image).any():
        with pytest.raises(NoGoodPixelsError):
            sigma_clipped_stats(lazy)
        return
    expected = sigma_clipped_stats(image)
    assert_array_equal(sigma_clipped_stats(lazy), expected)
    assert_array_equal(sigma_clipped_stats(image.T), expected)


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("dtype", ["f4", "f8", None])
def test_no_bit_depends_on_chunks(name, dtype):
    image = field(name)
    image = image if dtype is None else image.astype(dtype)
    for how in ({}, {"maxiters": 0}, {"sigma": 2.0, "maxiters": None}):
        expected = sigma_clipped_stats(image, **how)
        for chunks in (20, (61, 5), ((1, 20, 40), (30, 17))):
            assert sigma_clipped_stats(da.from_array(image, chunks=chunks), **how) == expected


@given(scenes(), st.sampled_from([0.0, 1e30, np.nan, np.inf]))
def test_values_under_the_mask_do_not_count(scene, hidden):
    image, mask, chunks = scene
    if mask.all():
        return
    expected = sigma_clipped_stats(image[~mask][None])
    lazy = da.from_array(np.where(mask, hidden, image), chunks=chunks, name=False)
    assert_same(sigma_clipped_stats(lazy, mask), expected)
    assert_same(sigma_clipped_stats(xr.DataArray(lazy, dims=("y", "x")), xr.DataArray(mask, dims=("y", "x"))), expected)


def test_non_finite_pixels_are_left_out_without_a_mask():
    image = np.array([[1.0, np.nan, 2.0], [np.inf, 3.0, -np.inf]])
    assert sigma_clipped_stats(image, maxiters=0) == (2.0, 2.0, pytest.approx(np.sqrt(2 / 3), rel=1e-15))


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("value", [0.0, 0.1, -3e7, 1e-12, 1e30])
def test_constant_images_have_no_spread(value, dtype):
    image = np.full((60, 70), value, dtype)
    assert sigma_clipped_stats(da.from_array(image, chunks=(17, 70))) == (image[0, 0], image[0, 0], 0.0)


def test_one_good_pixel_is_enough():
    image = np.full((40, 50), np.nan)
    image[31, 7] = 4.5
    assert sigma_clipped_stats(da.from_array(image, chunks=16)) == (4.5, 4.5, 0.0)
    mask = np.isnan(image)
    assert sigma_clipped_stats(np.where(mask, 1e30, image), mask) == (4.5, 4.5, 0.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_block_without_good_pixels_has_no_effect(bad):
    rng = np.random.default_rng(5)
    good = rng.normal(20, 3, (40, 60)).astype("f4")
    image = np.concatenate([good, np.full((40, 60), bad, "f4"), rng.normal(20, 3, (13, 60)).astype("f4")])
    expected = sigma_clipped_stats(np.concatenate([image[:40], image[80:]]))
    assert_same(sigma_clipped_stats(da.from_array(image, chunks=(40, 60))), expected)
    mask = np.zeros(image.shape, bool)
    mask[40:80] = True
    assert_same(sigma_clipped_stats(np.where(mask, np.float32(7), image), mask), expected)


def test_sigma_that_drops_every_pixel_leaves_nan_as_in_astropy():
    assert np.isnan(sigma_clipped_stats(np.array([[-1.0, 1.0]]), sigma=0.5)).all()


def kinds(array):
    return array, da.from_array(array, chunks=(9, 14), name=False), xr.DataArray(array, dims=("y", "x"))


def test_every_kind_of_array_for_data_and_mask():
    rng = np.random.default_rng(9)
    image, mask = rng.normal(8, 2, (37, 41)).astype("f4"), rng.uniform(size=(37, 41)) < 0.2
    expected = sigma_clipped_stats(image[~mask][None])
    for data in (*kinds(image), image.astype(">f4"), np.asfortranarray(image)):
        for bad in (*kinds(mask), mask.astype("u1")):
            assert_same(sigma_clipped_stats(data, bad), expected)
    assert_same(sigma_clipped_stats(image[:, ::-1], mask[:, ::-1]), expected)
    assert_same(sigma_clipped_stats(image, mask, sigma=3.0, maxiters=5), expected)


def test_a_numpy_image_is_not_copied():
    image = np.random.default_rng(2).normal(3, 1, (1500, 2000))
    mask = image > 5
    sigma_clipped_stats(image[:50], mask[:50])
    tracemalloc.start()
    sigma_clipped_stats(image, mask)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < image.nbytes / 4


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">i2", "?", "f2", "u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8"])
def test_every_dtype_of_a_fits_file(dtype):
    image = np.random.default_rng(1).integers(0, 2, (20, 30)).astype(dtype)
    if dtype != "?":
        image += np.arange(30, dtype=dtype)
    expected = astropy_stats(image.astype("f8"))
    np.testing.assert_allclose(sigma_clipped_stats(image), expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["i2", "u2", "i4", "u4", "i8"])
def test_the_whole_range_of_integers(dtype):
    limits = np.iinfo(dtype)
    image = np.random.default_rng(1).integers(limits.min, limits.max, (80, 90), dtype=dtype)
    expected = astropy_stats(image.astype("f8"), sigma=1.7, maxiters=3)
    found = sigma_clipped_stats(da.from_array(image, chunks=(30, 90)), sigma=1.7, maxiters=3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * expected[2])


def test_input_is_not_modified():
    image = np.random.default_rng(1).normal(size=(1, 50))
    before, image.flags.writeable = image.copy(), False
    sigma_clipped_stats(image)
    np.testing.assert_array_equal(image, before)


def test_units_scale_through():
    image = np.random.default_rng(1).standard_t(2, size=(50, 50))
    np.testing.assert_allclose(
        sigma_clipped_stats(image * 2.0**-40), np.multiply(sigma_clipped_stats(image), 2.0**-40), rtol=1e-14
    )


@given(chunks_for((5, 6)))
def test_zeros_of_both_signs_give_the_same_zero(chunks):
    image = np.zeros((5, 6))
    image[::2, 1::3] = -0.0
    found = np.array(sigma_clipped_stats(da.from_array(image, chunks=chunks, name=False)))
    assert not np.signbit(found).any()


def test_errors():
    image = np.ones((4, 5))
    with pytest.raises(NoGoodPixelsError, match="every pixel"):
        sigma_clipped_stats(image, np.ones((4, 5), bool))
    with pytest.raises(NoGoodPixelsError):
        sigma_clipped_stats(np.full((4, 5), np.nan))
    for sigma in (0, -1.0, np.nan):
        with pytest.raises(ParameterError, match="sigma"):
            sigma_clipped_stats(image, sigma=sigma)
    with pytest.raises(ParameterError, match="maxiters"):
        sigma_clipped_stats(image, maxiters=-1)
    with pytest.raises(ImageShapeError, match=r"mask has shape \(5, 4\)"):
        sigma_clipped_stats(image, np.zeros((5, 4), bool))
