import dask
import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import convolve2d, fftconvolve
from strategies import chunks_for

from galprep_dask.errors import ImageShapeError, ParameterError, TooFewPixelsError
from galprep_dask.noise import check_sigma, correlation_factor, sigma_image


def analytic(kernel, size):
    """The factor for white noise that was convolved with a kernel: its autocorrelation, summed over pairs of pixels."""
    correlation = convolve2d(kernel, kernel[::-1, ::-1])
    correlation /= correlation.max()
    dy, dx = (np.abs(np.arange(n) - n // 2) for n in correlation.shape)
    pairs = np.outer(np.maximum(1 - dy / size, 0), np.maximum(1 - dx / size, 0))
    return np.sqrt((pairs * correlation).sum())


def gaussian_kernel(sigma):
    offset = np.arange(-12, 13)
    kernel = np.exp(-0.5 * (offset / sigma) ** 2)
    return np.outer(kernel, kernel)


KERNELS = {
    "none": np.ones((1, 1)),
    "2 x 2": np.ones((2, 2)),
    "3 x 3": np.ones((3, 3)),
    "one direction": np.array([[0.2, 0.6, 0.2]]),
    "narrow": gaussian_kernel(0.6),
    "wide": gaussian_kernel(1.5),
}


def correlated(kernel, shape=(2100, 1300), seed=0):
    return fftconvolve(np.random.default_rng(seed).normal(0, 1, shape), kernel, mode="same")


@pytest.mark.parametrize("name", KERNELS)
def test_is_what_theory_gives_for_convolved_noise(name):
    kernel = KERNELS[name]
    noise = correlated(kernel)
    sizes = (1, 2, 5, 8, 16)
    found = correlation_factor(noise, block_size=sizes)
    expected = np.array([analytic(kernel, size) for size in sizes])
    n_squares = noise.size / np.square(sizes)
    # Their noise is correlated where the kernel is not much smaller than the squares.
    error = expected / np.sqrt(2 * n_squares / (analytic(kernel, 100) / expected) ** 2 / 4)
    assert (np.abs(found - expected) < 4 * error + 2e-3).all()
    assert found[0] == pytest.approx(1.0, abs=1e-3)
    if name == "none":
        np.testing.assert_allclose(found, 1.0, atol=0.03)


def test_half_masked_and_wild_pixels_change_little():
    kernel = gaussian_kernel(1.0)
    noise = correlated(kernel, (1500, 1500))
    expected = correlation_factor(noise, block_size=8)
    mask = np.zeros(noise.shape, bool)
    mask[:, ::50] = mask[::60] = True  # whole lines, as of a detector
    dirty = noise.copy()
    dirty[mask] = np.nan
    dirty[3::500, 7::500] = 1e30  # not masked
    found = correlation_factor(dirty, block_size=8)
    assert found == pytest.approx(expected, rel=0.03)
    assert correlation_factor(dirty, mask, block_size=8) == found


def test_neither_a_slope_over_large_distances_nor_an_exposure_that_varies_counts():
    noise = correlated(np.ones((2, 2)), (2048, 2048))
    expected = correlation_factor(noise, block_size=8)
    columns = np.arange(2048)
    assert correlation_factor(noise + 100.0 * (columns >= 1024), block_size=8) == pytest.approx(expected, rel=1e-9)
    assert correlation_factor(noise * np.where(columns < 1024, 1.0, 5.0), block_size=8) == pytest.approx(
        expected, rel=1e-9
    )


@settings(max_examples=15)
@given(chunks_for((70, 90)), st.sampled_from([0.0, 1e30, np.nan]))
def test_same_to_the_bit_for_all_chunks_and_whatever_is_under_the_mask(chunks, hidden):
    rng = np.random.default_rng(0)
    image, mask = rng.normal(0, 1, (70, 90)).astype("f4"), rng.uniform(size=(70, 90)) < 0.2
    image.flags.writeable = mask.flags.writeable = False
    with dask.config.set(scheduler="sync"):
        expected = correlation_factor(image, mask, block_size=[3, 8])
        lazy = (da.from_array(plane, chunks=chunks, name=False) for plane in (image, mask))
        np.testing.assert_array_equal(correlation_factor(*lazy, block_size=[3, 8]), expected)
        dirty = np.where(mask, np.float32(hidden), image)
        np.testing.assert_array_equal(correlation_factor(dirty, mask, block_size=[3, 8]), expected)


def test_its_square_as_fac2_makes_the_sigma_of_sums_right():
    """What a fit sees: fluxes in apertures scatter as sigma, summed in quadrature, says."""
    noise = 5 * correlated(gaussian_kernel(1.0), (1600, 1600))
    factor = correlation_factor(noise, block_size=20)
    sigma = sigma_image(noise, sky_std=noise.std(), gain=1e9, fac2=factor**2)
    apertures = noise.reshape(80, 20, 80, 20).sum(axis=(1, 3))
    claimed = np.sqrt((sigma**2).reshape(80, 20, 80, 20).sum(axis=(1, 3)))
    assert np.std(apertures / claimed) == pytest.approx(1.0, abs=0.02)
    assert check_sigma(noise, sigma, expected=1 / factor).ratio == pytest.approx(1 / factor, rel=0.01)


def test_one_task_a_tile_beside_the_image(monkeypatch):
    counted = []
    monkeypatch.setattr(
        da.Array, "compute", lambda self, **_: counted.append(len(dict(self.__dask_graph__()))) or 1 / 0
    )
    for blocks in (8, 32):
        with pytest.raises(ZeroDivisionError):
            correlation_factor(da.zeros((blocks * 256, blocks * 256), chunks=256))
        assert counted.pop() <= 1.1 * blocks**2


def test_errors():
    noise = np.random.default_rng(0).normal(0, 1, (100, 120))
    for wrong in (0, -3, 2.5, 101, "large", [], [4, 0]):
        with pytest.raises(ParameterError, match=r"block_size=.*1 to 100"):
            correlation_factor(noise, block_size=wrong)
    with pytest.raises(TooFewPixelsError, match="squares of 40 x 40 pixels .* smaller block_size"):
        correlation_factor(noise, block_size=40)
    for empty in (np.ones((100, 120), bool), None):
        with pytest.raises(TooFewPixelsError, match="half free of sources"):
            correlation_factor(noise if empty is not None else noise * np.nan, empty)
    with pytest.raises(TooFewPixelsError):
        correlation_factor(np.full((100, 120), 3.0))
    with pytest.raises(ImageShapeError, match="mask has shape"):
        correlation_factor(noise, np.zeros((3, 3)))
    for wrong in (0, -1, np.nan):
        with pytest.raises(ParameterError, match="sigma_clip"):
            correlation_factor(noise, sigma_clip=wrong)
