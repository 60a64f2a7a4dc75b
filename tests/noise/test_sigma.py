import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import chunked, chunks_for

from galprep_dask.errors import ImageShapeError, ParameterError
from galprep_dask.noise import sigma_image


def simulated(gain, exptime, sky=2000.0, shape=(400, 400), seed=0):
    """Sky-subtracted counts per second: Poisson light of a galaxy over a Poisson sky; sky std; exposure."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape) - 200
    galaxy = 2e4 * np.exp(-np.hypot(y, 1.5 * x) / 15)
    electrons = np.broadcast_to(gain * exptime, shape)
    counts = rng.poisson((galaxy + sky) * electrons) / electrons - sky
    return counts, np.sqrt(sky / np.mean(electrons)), galaxy


@pytest.mark.parametrize("gain", [0.5, 2.0, 30.0])
@pytest.mark.parametrize("exptime", [10.0, 300.0])
def test_is_calibrated_on_poisson_noise(gain, exptime):
    counts, sky_std, galaxy = simulated(gain, exptime)
    sigma = sigma_image(counts, sky_std=sky_std, gain=gain, exptime=exptime)
    empty, bright = galaxy < 0.1, galaxy > 300
    assert empty.sum() > 10_000
    assert bright.sum() > 5_000
    assert np.std((counts / sigma)[empty]) == pytest.approx(1.0, abs=0.02)
    assert np.std(((counts - galaxy) / sigma)[bright]) == pytest.approx(1.0, abs=0.02)
    # Where the sky alone would be wrong by half.
    assert np.std(((counts - galaxy) / sky_std)[galaxy > 3000]) > 1.5


def test_is_calibrated_where_the_exposure_varies():
    exposure = np.where(np.arange(400) < 200, 100.0, 1000.0) * np.ones((400, 1))
    counts, _, galaxy = simulated(2.0, exposure)
    sigma = sigma_image(counts, sky_std=1e-3, gain=2.0, exptime=exposure)
    for half in (np.s_[:, :200], np.s_[:, 200:]):
        bright = galaxy[half] > 300
        source = np.sqrt(sigma[half] ** 2 + 2000 / (2.0 * exposure[half]))  # the sky's share, which varies too
        assert np.std(((counts - galaxy)[half] / source)[bright]) == pytest.approx(1.0, abs=0.02)


@given(
    chunked("f8", finite=True), st.floats(0.01, 100), st.floats(0.1, 50), st.floats(0.1, 1e4),
    st.floats(0, 5), st.floats(0.1, 5),
)  # fmt: skip
def test_is_the_formula(images, sky_std, gain, exptime, fac1, fac2):
    image, lazy = images
    expected = np.sqrt(fac1 * np.maximum(image, 0) / (gain * exptime) + fac2 * sky_std**2)
    keywords = {"sky_std": sky_std, "gain": gain, "exptime": exptime, "fac1": fac1, "fac2": fac2}
    whole = sigma_image(image, **keywords)
    np.testing.assert_allclose(whole, expected, rtol=1e-14)
    found = sigma_image(lazy, **keywords)
    assert found.chunks == lazy.chunks
    np.testing.assert_array_equal(found.compute(scheduler="sync"), whole)
    exposure = np.full(image.shape, exptime)
    np.testing.assert_allclose(sigma_image(image, **{**keywords, "exptime": exposure}), whole, rtol=1e-14)


@given(chunked("f4"), st.floats(1e-3, 1e3), st.sampled_from([0.0, -1.0, np.nan, np.inf, 1e-30, 1e30, 5.0]))
def test_finite_and_positive_whatever_the_pixels_and_the_exposure(images, sky_std, exposure):
    image, lazy = images
    found = sigma_image(lazy, sky_std=sky_std, gain=2.0, exptime=da.full_like(lazy, exposure)).compute(scheduler="sync")
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert (found > 0).all()
    hidden = ~(image > 0) | ~np.isfinite(image)
    np.testing.assert_allclose(found[hidden], sky_std, rtol=1e-6)
    if not exposure > 0 or not np.isfinite(exposure):
        np.testing.assert_allclose(found, sky_std, rtol=1e-6)


def test_a_sigma_that_float32_cannot_hold_is_not_zero():
    found = sigma_image(np.zeros((2, 2), "f4"), sky_std=1e-50, gain=1.0)
    assert (found == np.finfo("f4").tiny).all()


def test_invariant_under_units():
    rng = np.random.default_rng(0)
    adu = rng.normal(0, 30, (50, 60)) + 500 * rng.uniform(size=(50, 60)) ** 8
    gain, exptime, std = 2.5, 120.0, 30.0
    expected = sigma_image(adu, sky_std=std, gain=gain)
    rate = sigma_image(adu / exptime, sky_std=std / exptime, gain=gain, exptime=exptime)
    electrons = sigma_image(adu * gain, sky_std=std * gain, gain=1.0)
    flux = 3.631e-9  # flux unit per count
    physical = sigma_image(adu * flux, sky_std=std * flux, gain=gain / flux)
    np.testing.assert_allclose(rate * exptime, expected, rtol=1e-13)
    np.testing.assert_allclose(electrons / gain, expected, rtol=1e-13)
    np.testing.assert_allclose(physical / flux, expected, rtol=1e-13)


def test_every_parameter_counts():
    image = np.array([[-5.0, 0.0, 100.0]])
    base = {"sky_std": 3.0, "gain": 2.0, "exptime": 5.0, "fac1": 1.0, "fac2": 1.0}
    assert sigma_image(image, **base)[0].tolist() == [3.0, 3.0, np.sqrt(19.0)]
    for changed, expected in (
        ({"sky_std": 4.0}, [4.0, np.sqrt(26.0)]),
        ({"gain": 4.0}, [3.0, np.sqrt(14.0)]),
        ({"exptime": 10.0}, [3.0, np.sqrt(14.0)]),
        ({"fac1": 2.0}, [3.0, np.sqrt(29.0)]),
        ({"fac1": 0.0}, [3.0, 3.0]),
        ({"fac2": 4.0}, [6.0, np.sqrt(46.0)]),
    ):
        found = sigma_image(image, **{**base, **changed})[0]
        np.testing.assert_allclose(found[[0, 2]], expected, rtol=1e-15)


@settings(max_examples=15)
@given(chunks_for((9, 12)))
def test_kinds_and_dtypes(chunks):
    image = np.random.default_rng(0).integers(0, 200, (9, 12))
    image.flags.writeable = False
    exposure = np.linspace(1, 9, image.size).reshape(image.shape)
    expected = sigma_image(image.astype("f8"), sky_std=2.0, gain=1.5, exptime=exposure)
    lazy_exposure = da.from_array(exposure, chunks=5, name=False)  # other chunks than the image
    for dtype, result in ((">f4", "f4"), (">f8", "f8"), ("i2", "f4"), (">i4", "f8"), ("f2", "f4")):
        lazy = da.from_array(image.astype(dtype), chunks=chunks, name=False)
        found = sigma_image(lazy, sky_std=2.0, gain=1.5, exptime=lazy_exposure)
        assert (found.dtype, found.chunks) == (np.dtype(result), chunks)
        np.testing.assert_allclose(found.compute(scheduler="sync"), expected, rtol=1e-6)
    named = xr.DataArray(lazy, dims=("y", "x"), coords={"x": np.arange(12.0)})
    found = sigma_image(named, sky_std=2.0, gain=1.5, exptime=xr.DataArray(exposure, dims=("y", "x")))
    assert isinstance(found.data, da.Array)
    np.testing.assert_array_equal(found["x"], named["x"])
    assert type(sigma_image(image, sky_std=2.0, gain=1.5)) is np.ndarray


@pytest.mark.parametrize("blocks", [8, 32])
def test_lazy_and_three_tasks_a_chunk(blocks, no_compute):
    with no_compute():
        image = da.zeros((blocks * 10, blocks * 10), chunks=10, dtype="f4")
        found = sigma_image(image, sky_std=1.0, gain=1.0)
        mapped = sigma_image(
            image, image > 1, sky_std=1.0, gain=1.0, exptime=da.ones_like(image), sky_exptime=1.0,
            weight=da.ones_like(image),
        )  # fmt: skip
    assert len(dict(found.__dask_graph__())) <= 3 * blocks**2
    assert len(dict(mapped.__dask_graph__())) <= 8 * blocks**2


def test_errors():
    image = np.zeros((4, 5))
    base = {"sky_std": 1.0, "gain": 1.0}
    for name in ("sky_std", "gain", "exptime", "fac2"):
        for value in (0.0, -1.0, np.nan, np.inf):
            with pytest.raises(ParameterError, match=name):
                sigma_image(image, **{**base, name: value})
    for value in (-1.0, np.nan):
        with pytest.raises(ParameterError, match="fac1"):
            sigma_image(image, **base, fac1=value)
    with pytest.raises(ImageShapeError, match="exptime has shape"):
        sigma_image(image, **base, exptime=np.ones((5, 4)))
