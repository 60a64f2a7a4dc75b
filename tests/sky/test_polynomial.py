import pickle

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.modeling.models import Polynomial2D
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial.chebyshev import chebvander
from strategies import chunks_for

from galprep_dask.errors import ImageShapeError, NoGoodPixelsError, ParameterError, TooFewPixelsError
from galprep_dask.sky import PolynomialSky, fit_polynomial_sky


def noisy_sky(shape=(70, 90), level=50.0, seed=0):
    """A smooth sky that is no polynomial, with noise."""
    rng = np.random.default_rng(seed)
    v, u = np.ogrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    return level + 3 * np.sin(2 * u + v) + 2 * np.exp(u * v) + rng.normal(0, 1, shape)


def corner_mask(shape):
    mask = np.zeros(shape, bool)
    mask[: shape[0] // 2, : shape[1] // 2] = True
    mask[5::11, 3::7] = True
    return mask


def dense_fit(image, mask, order, weight=None):
    """Coefficients, covariance and sky of the whole-image design matrix."""
    ny, nx = image.shape
    by_y = chebvander(np.linspace(-1, 1, ny), order)
    by_x = chebvander(np.linspace(-1, 1, nx), order)
    terms = [(i, j) for i in range(order + 1) for j in range(order + 1 - i)]
    design = np.stack([np.outer(by_y[:, i], by_x[:, j]).ravel() for i, j in terms], axis=1)
    good = ~mask.ravel()
    root = np.ones(good.sum()) if weight is None else np.sqrt(weight.ravel()[good])
    rows, values = design[good] * root[:, None], image.ravel()[good] * root
    # About the mean, so that the reference itself keeps its digits on a high level.
    mean = image.ravel()[good].mean()
    found = np.linalg.lstsq(rows, values - mean * root, rcond=None)[0]
    left = values - mean * root - rows @ found
    found[0] += mean
    covariance = np.linalg.inv(rows.T @ rows) * (left @ left) / (len(left) - len(terms))
    rms = np.sqrt(left @ left / (root @ root))
    return found, covariance, (design @ found).reshape(image.shape), rms


@pytest.mark.parametrize("level", [50.0, 3e7, -1e-12])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("order", range(9))
def test_equals_a_dense_least_squares_fit(order, weighted, level):
    scale = 1e-14 if abs(level) < 1 else 1.0
    image = level + scale * noisy_sky(level=0.0)
    mask = corner_mask(image.shape)
    weight = np.random.default_rng(1).uniform(0.2, 3, image.shape) if weighted else None
    coefficients, covariance, sky, rms = dense_fit(image, mask, order, weight)
    lazy = da.from_array(image, chunks=(17, 40), name=False)
    found = fit_polynomial_sky(lazy, mask, order, weight=weight, sigma_clip=None)
    span = np.ptp(sky) + rms
    precision = 1e-10 * span + 4 * np.finfo(float).eps * abs(level)
    np.testing.assert_allclose(found.evaluate().compute()[~mask], sky[~mask], rtol=0, atol=precision)
    # Into the masked corner the last bit of the data is carried with a factor of a hundred.
    precision += 1e-13 * abs(level)
    np.testing.assert_allclose(found.evaluate().compute(), sky, rtol=0, atol=precision)
    by_term = [found.coefficients[i, j] for i, j in found.terms]
    np.testing.assert_allclose(by_term, coefficients, rtol=0, atol=precision)
    assert found.rms == pytest.approx(rms, rel=1e-8)
    np.testing.assert_allclose(found.covariance, covariance, rtol=1e-6, atol=1e-9 * np.abs(covariance).max())
    assert (found.order, found.shape, found.n_pixels) == (order, image.shape, np.count_nonzero(~mask))
    assert all(found.coefficients[i, j] == 0 for i in range(order + 1) for j in range(order + 1 - i, order + 1))


@pytest.mark.parametrize("order", [1, 3])
def test_gives_back_any_polynomial_of_that_total_degree(order):
    model = Polynomial2D(order)
    model.parameters = np.random.default_rng(order).normal(size=len(model.parameters)) * 1e-2
    y, x = np.indices((45, 38))
    sky = fit_polynomial_sky(model(x, y), order=order)
    assert len(sky.terms) == len(model.parameters)
    np.testing.assert_allclose(sky.evaluate().compute(), model(x, y), rtol=1e-11, atol=1e-9)
    # The next degree is not in the basis.
    assert fit_polynomial_sky(x ** (order + 1.0), order=order).rms > 1e-3


@settings(max_examples=25)
@given(chunks_for((31, 43)), st.integers(0, 5), st.booleans())
def test_chunks_change_rounding_only(chunks, order, clip):
    image = noisy_sky((31, 43))
    image[3, 4] = 900.0
    mask = corner_mask(image.shape)
    sigma_clip = 3.0 if clip else None
    whole = fit_polynomial_sky(image, mask, order, sigma_clip=sigma_clip)
    parts = fit_polynomial_sky(da.from_array(image, chunks=chunks, name=False), mask, order, sigma_clip=sigma_clip)
    np.testing.assert_allclose(parts.coefficients, whole.coefficients, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(parts.rms, whole.rms, rtol=1e-10)
    assert parts.n_pixels == whole.n_pixels


def test_values_under_the_mask_do_not_count():
    image, mask = noisy_sky(), corner_mask((70, 90))
    weight = np.ones(image.shape)
    chunks = (16, 32)

    def fit(hidden, weight):
        pixels = da.from_array(np.where(mask, hidden, image), chunks=chunks, name=False)
        return fit_polynomial_sky(pixels, mask, 3, weight=weight)

    expected = fit(image, weight)
    for hidden in (0.0, 1e30, np.nan, -np.inf):
        for under in (1.0, 0.0, np.nan, 1e300):
            found = fit(hidden, np.where(mask, under, weight))
            np.testing.assert_array_equal(found.coefficients, expected.coefficients)
            np.testing.assert_array_equal(found.covariance, expected.covariance)
            assert found.rms == expected.rms


def test_pixels_without_a_positive_weight_are_left_out():
    image, mask = noisy_sky(), corner_mask((70, 90))
    expected = fit_polynomial_sky(image, mask, 2, weight=np.ones(image.shape))
    for nothing in (0.0, -1.0, np.nan, np.inf):
        found = fit_polynomial_sky(image, None, 2, weight=np.where(mask, nothing, 1.0))
        np.testing.assert_array_equal(found.coefficients, expected.coefficients)


def test_a_block_of_nan_among_good_ones_has_no_effect():
    image = noisy_sky()
    mask = np.zeros(image.shape, bool)
    mask[20:40, 30:60] = True
    chunks = ((20, 20, 30), (30, 30, 30))
    holes = da.from_array(np.where(mask, np.nan, image), chunks=chunks, name=False)
    expected = fit_polynomial_sky(da.from_array(image, chunks=chunks, name=False), mask, 3)
    np.testing.assert_array_equal(fit_polynomial_sky(holes, None, 3).coefficients, expected.coefficients)


def test_recovers_the_sky_within_the_error_that_its_covariance_gives():
    rng = np.random.default_rng(5)
    truth = np.array([[100.0, 2.0, -1.0], [1.0, 0.5, 0.0], [0.7, 0.0, 0.0]])
    v, u = np.linspace(-1, 1, 80), np.linspace(-1, 1, 60)
    sky = chebvander(v, 2) @ truth @ chebvander(u, 2).T
    pulls = []
    for _ in range(60):
        fit = fit_polynomial_sky(sky + rng.normal(0, 2, sky.shape), order=2, sigma_clip=None)
        offsets = [fit.coefficients[i, j] - truth[i, j] for i, j in fit.terms]
        pulls.append(offsets / np.sqrt(np.diag(fit.covariance)))
        assert fit.rms == pytest.approx(2.0, abs=4 * 2 / np.sqrt(2 * sky.size))
    assert np.abs(np.mean(pulls, axis=0)).max() < 4 / np.sqrt(60)
    assert np.std(pulls) == pytest.approx(1.0, abs=0.15)


def test_outliers_are_clipped():
    image = noisy_sky((60, 60))
    clean = fit_polynomial_sky(image, order=3)
    dirty = image.copy()
    dirty[10:14, 20:25] += 1e4
    mask = dirty != image
    expected = fit_polynomial_sky(image, mask, 3)
    found = fit_polynomial_sky(dirty, order=3)
    np.testing.assert_allclose(found.coefficients, expected.coefficients, atol=1e-9)
    assert found.n_pixels == expected.n_pixels
    assert found.n_pixels < image.size - 20 + 1
    assert found.rms == pytest.approx(clean.rms, rel=0.02)
    assert fit_polynomial_sky(dirty, order=3, sigma_clip=None).rms > 100
    assert fit_polynomial_sky(dirty, order=3, maxiters=0).rms > 100
    assert fit_polynomial_sky(dirty, order=3, maxiters=1).rms < 100
    assert fit_polynomial_sky(dirty, order=3, sigma_clip=1.5).n_pixels < found.n_pixels


def test_clipping_with_weights_is_in_units_of_each_pixels_own_error():
    rng = np.random.default_rng(2)
    sigma = np.where(np.arange(80) < 40, 1.0, 10.0) * np.ones((80, 1))
    image = 5 + rng.normal(0, sigma)
    image[20, 20] += 8.0  # 8 of its own sigma, less than 3 rms of all pixels
    fit = fit_polynomial_sky(image, order=0, weight=sigma**-2.0)
    lost = image.size - fit.n_pixels
    assert lost == pytest.approx(0.0027 * image.size, abs=15)
    without = np.zeros(image.shape, bool)
    without[20, 20] = True
    np.testing.assert_allclose(fit_polynomial_sky(image, without, 0, weight=sigma**-2.0).coefficients, fit.coefficients)
    assert fit.coefficients[0, 0] == pytest.approx(5, abs=4 / np.sqrt(3200))


@given(st.floats(-1e7, 1e7), st.integers(0, 3), st.floats(-1e3, 1e3), st.integers(-12, 6))
def test_pixels_are_not_clipped_for_the_noise_of_the_arithmetic(level, order, slope, exponent):
    y = np.arange(23.0)[:, None]
    image = (level + (slope * y if order else 0) + np.zeros((23, 19))) * 10.0**exponent
    sky = fit_polynomial_sky(image, order=order)
    assert sky.n_pixels == image.size
    # Below the smallest normal number there are fewer digits.
    rounding = 1e-13 * np.abs(image).max() + np.finfo(float).tiny
    np.testing.assert_allclose(sky.evaluate().compute(), image, rtol=0, atol=rounding)


def test_header_round_trip_is_exact():
    sky = fit_polynomial_sky(noisy_sky(level=-1e-7) * 1e-9, order=8)
    text = sky.to_header().tostring(sep="\n")
    back = PolynomialSky.from_header(fits.Header.fromstring(text, sep="\n"))
    np.testing.assert_array_equal(back.coefficients, sky.coefficients)
    assert (back.shape, back.order, back.n_pixels) == (sky.shape, sky.order, sky.n_pixels)
    assert back.rms == pytest.approx(sky.rms, rel=1e-12)
    assert np.isnan(back.covariance).all()
    assert back.covariance.shape == sky.covariance.shape
    np.testing.assert_array_equal(back.evaluate().compute(), sky.evaluate().compute())
    with pytest.raises(ParameterError, match="SKYMODEL"):
        PolynomialSky.from_header(fits.Header())


def test_header_survives_a_file(tmp_path):
    sky = fit_polynomial_sky(noisy_sky(), order=5)
    fits.PrimaryHDU(header=sky.to_header()).writeto(tmp_path / "sky.fits")
    back = PolynomialSky.from_header(fits.getheader(tmp_path / "sky.fits"))
    np.testing.assert_array_equal(back.coefficients, sky.coefficients)


@pytest.mark.parametrize("blocks", [8, 32])
def test_evaluate_is_lazy_small_and_two_tasks_a_chunk(blocks, no_compute):
    sky = fit_polynomial_sky(noisy_sky(), order=3)
    with no_compute():
        image = sky.evaluate((blocks * 100, blocks * 100), chunks=100)
    assert image.npartitions == blocks**2
    assert len(dict(image.__dask_graph__())) <= 2 * blocks**2
    assert len(pickle.dumps(image.dask)) < 20_000 + 400 * blocks**2
    assert image.dtype == np.float64


@given(chunks_for((33, 21)))
def test_evaluate_is_the_same_for_every_chunking(chunks):
    sky = fit_polynomial_sky(noisy_sky((33, 21)), order=4)
    whole = sky.evaluate(chunks=-1).compute()
    found = sky.evaluate(chunks=chunks)
    assert found.chunks == chunks
    np.testing.assert_array_equal(found.compute(), whole)


def test_another_shape_continues_the_sky_on_the_same_pixels():
    sky = fit_polynomial_sky(noisy_sky(), order=3)
    larger = sky.evaluate((100, 120)).compute()
    np.testing.assert_allclose(larger[:70, :90], sky.evaluate().compute(), rtol=1e-12)
    assert larger.shape == (100, 120)


def test_every_kind_and_dtype_of_image():
    image = np.round(noisy_sky() * 10)
    image.flags.writeable = False
    expected = fit_polynomial_sky(image, order=2).coefficients
    for pixels in (
        image.astype(">i4"),
        image.astype(">f4"),
        da.from_array(image, chunks=-1),
        xr.DataArray(image, dims=("y", "x")),
    ):
        np.testing.assert_array_equal(fit_polynomial_sky(pixels, order=2).coefficients, expected)


def test_one_row_and_one_pixel():
    assert fit_polynomial_sky(np.full((1, 9), 4.0), order=0).evaluate().compute().tolist() == [[4.0] * 9]
    assert fit_polynomial_sky(np.full((1, 1), 4.0), order=0).coefficients[0, 0] == 4.0
    with pytest.raises(TooFewPixelsError, match="do not determine"):
        fit_polynomial_sky(np.full((1, 9), 4.0), order=1)


def test_errors():
    image = noisy_sky((20, 20))
    with pytest.raises(NoGoodPixelsError):
        fit_polynomial_sky(image, np.ones(image.shape, bool))
    mask = np.ones(image.shape, bool)
    mask[0, :5] = False
    with pytest.raises(TooFewPixelsError, match="10 coefficients, and only 5 pixels"):
        fit_polynomial_sky(image, mask, 3)
    mask[0] = mask[7] = False  # 40 pixels, but only two rows
    with pytest.raises(TooFewPixelsError, match="do not determine"):
        fit_polynomial_sky(image, mask, 3)
    for order in (-1, 2.0, "3", None):
        with pytest.raises(ParameterError, match="order"):
            fit_polynomial_sky(image, None, order)
    with pytest.raises(ParameterError, match="sigma_clip"):
        fit_polynomial_sky(image, sigma_clip=0)
    with pytest.raises(ParameterError, match="maxiters"):
        fit_polynomial_sky(image, maxiters=-1)
    with pytest.raises(ImageShapeError, match="mask has shape"):
        fit_polynomial_sky(image, np.zeros((3, 3), bool))
    with pytest.raises(ImageShapeError, match="weight has shape"):
        fit_polynomial_sky(image, weight=np.ones((20, 21)))
    with pytest.raises(ImageShapeError, match="data has shape"):
        fit_polynomial_sky(image[0])
