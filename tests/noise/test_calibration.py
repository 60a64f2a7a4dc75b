import math
import re

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import scenes

from galprep_dask.errors import ImageShapeError, NoGoodPixelsError, ParameterError, SigmaWarning
from galprep_dask.noise import calibrate_sigma, check_sigma, measure_sky_std, sigma_image
from galprep_dask.noise._kernels.gaussian import clipped_width
from galprep_dask.sky import source_mask


def white(shape=(600, 700), std=3.0, seed=0):
    return np.random.default_rng(seed).normal(0, std, shape)


def with_galaxies(noise, seed=1):
    """Light of forty galaxies over the noise, and where it is less than a hundredth of the noise."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(noise.shape)
    light = np.zeros(noise.shape)
    for _ in range(40):
        x0, y0, size = rng.uniform(0, noise.shape[1]), rng.uniform(0, noise.shape[0]), rng.uniform(2, 4)
        light += 10 ** rng.uniform(1, 3) * np.exp(-0.5 * ((x - x0) ** 2 + (y - y0) ** 2) / size**2)
    return light + noise, light < 0.1


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.0, 1.2, 18.0])
def test_ratio_is_the_factor_by_which_sigma_is_off(factor):
    data = white()
    check = check_sigma(data, np.full(data.shape, 3.0 / factor), expected=factor)
    assert check.ratio == pytest.approx(factor, abs=4 * check.error)
    assert check.error == pytest.approx(factor / math.sqrt(2 * data.size), rel=1e-2)
    assert check.n_pixels >= data.size - 1
    assert (check.box_size, check.box_ratios.shape) == ((256, 256), (3, 3))
    np.testing.assert_allclose(check.box_ratios, factor, rtol=0.05)
    assert check.lowest == check.box_ratios.min() <= check.ratio <= check.box_ratios.max() == check.highest


def test_ratio_is_that_of_numpy_on_the_same_pixels():
    data, mask = white(seed=2), np.random.default_rng(3).uniform(size=(600, 700)) < 0.3
    sigma = np.random.default_rng(4).uniform(2, 4, data.shape)
    check = check_sigma(data, sigma, mask, box_size=100, sigma_clip=math.inf)
    pulls = data / sigma
    assert check.ratio == pytest.approx(np.std(pulls[~mask]), rel=1e-12)
    assert check.n_pixels == (~mask).sum()
    expected = [
        [np.std(pulls[y : y + 100, x : x + 100][~mask[y : y + 100, x : x + 100]]) for x in range(0, 700, 100)]
        for y in range(0, 600, 100)
    ]
    np.testing.assert_allclose(check.box_ratios, expected, rtol=1e-12)


@pytest.mark.parametrize("n_sigma", [2.5, 3.0, 4.0, 5.0])
def test_what_clipping_takes_from_a_gaussian_is_made_up_for(n_sigma):
    data = white((1000, 1000))
    assert measure_sky_std(data, sigma_clip=n_sigma) == pytest.approx(3.0, rel=4e-3)
    check = check_sigma(data, np.full(data.shape, 3.0), sigma_clip=n_sigma, box_size=500)
    assert check.ratio == pytest.approx(1.0, abs=5e-3)


def test_width_of_a_clipped_gaussian():
    assert clipped_width(math.inf) == 1.0
    assert clipped_width(5.0) == pytest.approx(1 - 7.4e-6, abs=1e-7)
    values = np.random.default_rng(0).normal(size=500_000)
    for n_sigma in (2.5, 3.0, 4.0):
        kept = values
        for _ in range(20):
            kept = kept[np.abs(kept) <= n_sigma * kept.std()]
        assert clipped_width(n_sigma) == pytest.approx(kept.std(), abs=4e-3)


def test_our_sigma_is_calibrated_with_sources_in_the_field_as_a_whole_and_by_chunk():
    noise = np.random.default_rng(5).normal(0, 30.0, (800, 800))
    data, empty = with_galaxies(noise)
    masked = source_mask(data, fwhm=5.0)
    std = measure_sky_std(data, masked)
    assert std == pytest.approx(30.0, rel=0.01)
    sigma = sigma_image(da.from_array(data, chunks=200), sky_std=std, gain=4.0)
    check = check_sigma(data, sigma, masked, box_size=200)
    assert check.ratio == pytest.approx(1.0, abs=0.02)
    assert check.lowest > 0.98
    assert check.highest < 1.02
    # The same on the truth, in every chunk.
    pulls = data / sigma.compute()
    for block in np.ndindex(4, 4):
        box = tuple(slice(200 * k, 200 * k + 200) for k in block)
        assert np.std(pulls[box][empty[box]]) == pytest.approx(1.0, abs=0.02)


@settings(max_examples=25)
@given(scenes(min_side=12), st.sampled_from([0.0, 1e30, np.nan, -np.inf]), st.integers(3, 20))
def test_same_to_the_bit_for_all_chunks_and_whatever_is_under_the_mask(scene, hidden, box_size):
    image, mask, chunks = scene
    sigma = np.random.default_rng(0).uniform(0.5, 2, image.shape)
    sigma.flags.writeable = False
    with dask.config.set(scheduler="sync"):
        whole = check_sigma(image, sigma, mask, box_size=box_size, expected=None)
        lazy = (da.from_array(plane, chunks=chunks, name=False) for plane in (image, sigma, mask))
        dirty = (np.where(mask, hidden, image), np.where(mask, hidden, sigma), mask)
        others = [check_sigma(*planes, box_size=box_size, expected=None) for planes in (lazy, dirty)]
    for other in others:
        assert (other.ratio, other.n_pixels, other.error) == (whole.ratio, whole.n_pixels, whole.error)
        np.testing.assert_array_equal(other.box_ratios, whole.box_ratios)
        np.testing.assert_array_equal(other.box_n_pixels, whole.box_n_pixels)


def test_pixels_without_a_usable_sigma_are_left_out():
    data, sigma = white((100, 100)), np.full((100, 100), 3.0)
    sigma[:50] = np.array([np.nan, 0.0, -3.0, np.inf])[np.arange(50) % 4, None]
    check = check_sigma(data, sigma, box_size=50)
    assert check.n_pixels == pytest.approx(5000, abs=2)
    assert np.isnan(check.box_ratios[0]).all()
    assert check.ratio == pytest.approx(1.0, abs=0.05)
    assert check.lowest > 0.9


def test_noise_that_varies_is_seen_in_the_boxes():
    data = white((512, 512)) * np.where(np.arange(512) < 256, 1.0, 2.0)
    check = check_sigma(data, np.full(data.shape, 3.0), expected=None)
    np.testing.assert_allclose(check.box_ratios, [[1, 2], [1, 2]], rtol=0.02)
    assert check.ratio == pytest.approx(np.sqrt(2.5), rel=0.01)
    assert (check.lowest, check.highest) == (check.box_ratios.min(), check.box_ratios.max())


def test_far_off_is_warned_about_and_always_logged(caplog):
    data = white((200, 200))
    for factor, warned in ((0.79, True), (0.82, False), (1.22, False), (1.28, True)):
        caplog.clear()
        sigma = np.full(data.shape, 3.0 / factor)
        with caplog.at_level("INFO", logger="galprep_dask"):
            if warned:
                with pytest.warns(SigmaWarning, match=r"expected about 1\. Sigma is off by a factor of"):
                    check_sigma(data, sigma)
                check_sigma(data, sigma, expected=factor)
                check_sigma(data, sigma, expected=None)
            else:
                check_sigma(data, sigma)
        logged = re.findall(r"std of data / sigma ([\d.]+) \+-", caplog.text)
        assert [float(value) for value in logged] == pytest.approx([factor] * len(logged), rel=0.02)
        assert logged


def test_header_says_what_was_measured():
    data = white((300, 300))
    check = check_sigma(data, np.full(data.shape, 3.0), box_size=100)
    header = check.to_header()
    assert header["SIGCHK"] == check.ratio
    assert (header["SIGCHKLO"], header["SIGCHKHI"]) == (check.lowest, check.highest)
    assert header["SIGCHKN"] == check.n_pixels
    assert "SIGSCL" not in header
    _, scaled = calibrate_sigma(data, np.ones(data.shape))
    assert scaled.to_header()["SIGSCL"] == scaled.scale
    assert "rescaled by 3" in str(scaled)


@pytest.mark.parametrize("expected", [1.0, 0.5])
def test_rescaling_makes_sigma_right(expected):
    data = white(std=7.0)
    relative = np.random.default_rng(1).uniform(0.5, 2, data.shape)
    data *= relative
    sigma, check = calibrate_sigma(data, relative, expected=expected)
    assert check.scale == pytest.approx(7.0 / expected, rel=0.01)
    assert check.ratio == pytest.approx(expected, rel=1e-12)
    np.testing.assert_array_equal(sigma, relative * check.scale)
    again = check_sigma(data, sigma, expected=expected)
    assert again.ratio == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(again.box_ratios, check.box_ratios, rtol=1e-9)


def test_rescaled_sigma_is_of_the_kind_and_dtype_given():
    data = white((60, 60))
    ones = np.ones((60, 60), "f4")
    assert calibrate_sigma(data, ones)[0].dtype == np.float32
    lazy = calibrate_sigma(data, da.from_array(ones, chunks=20))[0]
    assert isinstance(lazy, da.Array)
    assert lazy.dtype == np.float32
    assert isinstance(calibrate_sigma(data, xr.DataArray(ones, dims=("y", "x")))[0], xr.DataArray)


@pytest.mark.parametrize("blocks", [8, 32])
def test_tasks_do_not_grow_with_chunks(blocks, monkeypatch):
    counted = []
    monkeypatch.setattr(
        da.Array, "compute", lambda self, **_: counted.append(len(dict(self.__dask_graph__()))) or 1 / 0
    )
    image = da.zeros((blocks * 20, blocks * 20), chunks=20)
    with pytest.raises(ZeroDivisionError):
        check_sigma(image, image + 1, image > 1, box_size=30)
    assert counted[0] <= 9 * blocks**2  # three of them make the planes


def test_errors():
    data, sigma = white((40, 50)), np.ones((40, 50))
    with pytest.raises(ImageShapeError, match=r"sigma has shape \(50, 40\), but data has \(40, 50\)"):
        check_sigma(data, sigma.T)
    with pytest.raises(ImageShapeError, match="mask has shape"):
        check_sigma(data, sigma, np.zeros((2, 2)))
    for everything in ({"mask": np.ones((40, 50), bool)}, {"sigma": -sigma}, {"data": data * np.nan}):
        with pytest.raises(NoGoodPixelsError, match="cannot compare sigma with the noise"):
            check_sigma(**{"data": data, "sigma": sigma} | everything)
    for wrong in (0, 2.4, -1, np.nan):
        for function in (lambda **how: measure_sky_std(data, **how), lambda **how: check_sigma(data, sigma, **how)):
            with pytest.raises(ParameterError, match="sigma_clip"):
                function(sigma_clip=wrong)
    for wrong in (0, -5, 2.5, "large"):
        with pytest.raises(ParameterError, match="box_size"):
            check_sigma(data, sigma, box_size=wrong)
    for wrong in (0.0, -1.0, np.nan):
        with pytest.raises(ParameterError, match="expected="):
            check_sigma(data, sigma, expected=wrong)
        with pytest.raises(ParameterError, match="expected="):
            calibrate_sigma(data, sigma, expected=wrong)
    with pytest.raises(ParameterError, match="all source-free pixels are equal"):
        calibrate_sigma(np.zeros((40, 50)), sigma)
