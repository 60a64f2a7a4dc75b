from fractions import Fraction

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import chunked, chunks_for, scenes

from galprep_dask.errors import ImageShapeError, NoGoodPixelsError, ParameterError
from galprep_dask.noise import effective_gain, sigma_image, sky_exposure, unusable_pixels


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


# Maps, masks, exposures --------------------------------------------------------------------------------------


def test_a_map_of_weights_or_of_rms_takes_the_place_of_the_noise_of_the_sky():
    image = np.array([[-1.0, 4.0, 0.0, 8.0]])
    rms = np.array([[1.0, 2.0, 3.0, 4.0]])
    expected = np.sqrt(np.array([[1.0, 4.0 + 2.0, 9.0, 16.0 + 4.0]]))
    for told in ({"rms": rms}, {"weight": rms**-2.0}):
        np.testing.assert_allclose(sigma_image(image, gain=2.0, **told), expected, rtol=1e-15)
        np.testing.assert_allclose(sigma_image(image, gain=2.0, sky_std=9.0, **told), expected, rtol=1e-15)
        doubled = sigma_image(image, gain=2.0, fac2=4.0, **told)
        np.testing.assert_allclose(doubled[0, ::2], 2 * expected[0, ::2], rtol=1e-15)
        np.testing.assert_allclose(sigma_image(image, fac1=0, **told), rms, rtol=1e-15)


BAD_VALUES = [np.nan, np.inf, -np.inf, 0.0, -1.0]


@pytest.mark.parametrize("name", ["weight", "rms", "exptime"])
@pytest.mark.parametrize("dtype", ["f4", "f8", ">f4"])
def test_where_a_map_tells_nothing_sigma_is_finite_and_the_pixel_is_marked(name, dtype):
    plane = np.full((3, 5), 4.0)
    plane[1] = BAD_VALUES
    plane = plane.astype(dtype)
    plane.flags.writeable = False
    image = np.full((3, 5), 6.0)
    marked = unusable_pixels(**{name: plane})
    np.testing.assert_array_equal(marked, np.array([[False] * 5, [True] * 5, [False] * 5]))
    found = sigma_image(image, sky_std=3.0, gain=2.0, **{name: plane})
    told = {"weight": 3 + 0.25, "rms": 3 + 16, "exptime": 0.75 + 9}[name]  # of source and sky
    np.testing.assert_allclose(found[[0, 2]], np.sqrt(told), rtol=1e-15)
    np.testing.assert_allclose(found[1], np.sqrt(9.0 if name == "exptime" else 9.0 + 3.0), rtol=1e-15)
    if name != "exptime":  # by default the median of the map
        found = sigma_image(image, gain=2.0, **{name: plane})
        np.testing.assert_allclose(found, np.sqrt(told), rtol=1e-15)


def test_unusable_pixels_add_to_a_mask_and_stay_lazy(no_compute):
    weight, mask = np.array([[1.0, 0.0, 1.0]]), np.array([[0, 0, 1]])
    assert unusable_pixels(mask, weight=weight).tolist() == [[False, True, True]]
    assert unusable_pixels(mask, exptime=100.0).tolist() == [[False, False, True]]  # a number has no pixels
    with no_compute():
        lazy = unusable_pixels(rms=da.ones((40, 40), chunks=7))
    assert isinstance(lazy, da.Array)
    assert not lazy.compute().any()
    with pytest.raises(ParameterError, match="no map is given"):
        unusable_pixels(exptime=3.0)
    with pytest.raises(ImageShapeError, match="weight has shape"):
        unusable_pixels(mask, weight=np.ones((2, 2)))


@settings(max_examples=30)
@given(
    scenes(min_side=2), st.sampled_from([0.0, 1e30, -1e30, np.nan, np.inf]),
    st.sampled_from([("exptime",), ("weight",), ("exptime", "rms")]),
)  # fmt: skip
def test_nothing_depends_on_what_is_under_the_mask_nor_on_chunks(scene, hidden, names):
    image, mask, chunks = scene
    assume(not mask.all())
    rng = np.random.default_rng(0)
    planes = {name: rng.uniform(0.5, 9, image.shape) for name in names}
    keywords = {"gain": 2.0} | ({"sky_std": 1.5} if names == ("exptime",) else {})
    dirty = {name: np.where(mask, hidden, plane) for name, plane in planes.items()}
    lazy = {name: da.from_array(plane, chunks=chunks, name=False) for name, plane in planes.items()}
    with dask.config.set(scheduler="sync"):
        expected = sigma_image(image, mask, **planes, **keywords)
        hidden_away = sigma_image(np.where(mask, hidden, image), mask, **dirty, **keywords)
        in_chunks = sigma_image(da.from_array(image, chunks=chunks, name=False), mask, **lazy, **keywords).compute()
    assert (np.isfinite(expected) & (expected > 0)).all()
    np.testing.assert_array_equal(hidden_away, expected)
    np.testing.assert_array_equal(in_chunks, expected)


@given(chunked("f8"))
def test_mean_exposure_is_the_harmonic_mean_to_the_last_bit_for_all_chunks(images):
    exposure, lazy = images
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        used = np.isfinite(1 / exposure) & (1 / exposure >= np.finfo("f8").tiny)
    if not used.any():
        with pytest.raises(NoGoodPixelsError, match="average the exposures"):
            sky_exposure(exposure)
        return
    exact = used.sum() / sum(Fraction(1 / float(time)) for time in exposure[used])
    assert sky_exposure(exposure) == float(exact)
    assert sky_exposure(lazy) == float(exact)


def test_mean_exposure_is_where_the_noise_is_what_it_is_over_the_image():
    rng = np.random.default_rng(0)
    exposure = np.linspace(50, 400, 1000) * np.ones((1000, 1))
    noise = rng.normal(0, 1, exposure.shape) * np.sqrt(30 / exposure)
    assert np.sqrt(30 / sky_exposure(exposure)) == pytest.approx(noise.std(), rel=2e-3)
    assert sky_exposure(exposure, exposure > 60) < 60


@pytest.mark.parametrize("gradient", [2, 10])
def test_is_calibrated_in_every_chunk_along_a_gradient_of_the_exposure(gradient):
    exposure = np.linspace(100, 100 * gradient, 600) * np.ones((600, 1))
    rng = np.random.default_rng(1)
    y, x = np.indices(exposure.shape) - 300
    galaxy = 300 * np.exp(-np.hypot(x, y) / 10)
    electrons = rng.poisson((galaxy + 50.0) * 2.0 * exposure)
    counts = electrons / (2.0 * exposure) - 50.0
    sky_std = counts[galaxy < 0.01].std()
    lazy = da.from_array(counts, chunks=100)
    empty = galaxy < 0.01
    measured_at = sky_exposure(exposure, ~empty)
    sigma = sigma_image(lazy, sky_std=sky_std, gain=2.0, exptime=exposure, sky_exptime=measured_at).compute()
    pulls = counts / sigma
    assert np.std(pulls[empty]) == pytest.approx(1.0, abs=0.01)
    by_default = sigma_image(counts, sky_std=sky_std, gain=2.0, exptime=exposure)
    assert np.std((counts / by_default)[empty]) == pytest.approx(1.0, abs=0.02)
    for rows in range(0, 600, 100):
        for columns in range(0, 600, 100):
            box = np.s_[rows : rows + 100, columns : columns + 100]
            if empty[box].sum() > 5000:
                assert np.std(pulls[box][empty[box]]) == pytest.approx(1.0, abs=0.03)
    bright = galaxy > 3
    assert np.std(((counts - galaxy) / sigma)[bright]) == pytest.approx(1.0, abs=0.05)


def test_the_exposure_of_the_noise_can_be_told(no_compute):
    image, exposure = np.zeros((1, 2)), np.array([[100.0, 400.0]])
    found = sigma_image(image, sky_std=2.0, gain=1.0, exptime=exposure, sky_exptime=100.0)
    np.testing.assert_allclose(found, [[2.0, 1.0]])
    with no_compute():
        sigma_image(da.zeros((4, 4)), sky_std=2.0, gain=1.0, exptime=da.ones((4, 4)), sky_exptime=1.0)
    for wrong in (0.0, -1.0, np.nan, "long"):
        with pytest.raises(ParameterError, match="sky_exptime"):
            sigma_image(image, sky_std=2.0, gain=1.0, exptime=exposure, sky_exptime=wrong)


def test_photon_noise_can_be_that_of_a_model():
    """Where noise is a few electrons, pixels that are high by chance would be taken for light."""
    rng = np.random.default_rng(0)
    model = np.zeros((400, 400))
    model[:, 200:] = 40.0
    data = rng.poisson(model + 9.0) - 9.0
    own = sigma_image(data, sky_std=3.0, gain=1.0)
    better = sigma_image(data, sky_std=3.0, gain=1.0, model=model)
    assert own.dtype == better.dtype
    assert np.std((data / own)[:, :200]) == pytest.approx(1 - 0.4 / 3, abs=0.04)
    for half in (np.s_[:, :200], np.s_[:, 200:]):
        assert np.std(((data - model) / better)[half]) == pytest.approx(1.0, abs=0.01)
    with pytest.raises(ImageShapeError, match="model has shape"):
        sigma_image(data, sky_std=3.0, gain=1.0, model=model[1:])


def test_one_image_in_five_units_has_one_sigma():
    """Electrons, ADU, ADU per second, nJy and MJy/sr: gain and exposure change with the unit, sigma only in scale."""
    rng = np.random.default_rng(0)
    gain, exptime, zeropoint, scale = 2.5, 120.0, 26.3, 0.06  # the zero point is of counts per second
    exposure = exptime * np.linspace(0.5, 1.5, 60) * np.ones((50, 1))
    rate = rng.normal(0, 0.2, (50, 60)) + 50 * rng.uniform(size=(50, 60)) ** 8
    weight = rng.uniform(15, 35, rate.shape)
    njy = 10 ** (-0.4 * (zeropoint - 31.4))
    mjy_sr = njy * 1e-15 / np.radians(scale / 3600) ** 2
    in_njy = effective_gain(gain, zeropoint=zeropoint, unit="nJy")
    in_mjy_sr = effective_gain(gain, zeropoint=zeropoint, unit="MJy / sr", pixel_scale=scale)
    versions = {  # one count per second in this unit, gain, exposure
        "adu/s": (1.0, gain, exptime),
        "adu": (exptime, gain, 1.0),
        "electron": (exptime * gain, 1.0, 1.0),
        "electron/s": (gain, 1.0, exptime),
        "nJy": (njy, in_njy, exptime),
        "MJy/sr": (mjy_sr, in_mjy_sr, exptime),
    }
    for noise in ({"sky_std": 0.2}, {"weight": weight}, {"rms": 1 / np.sqrt(weight)}, {"exptime": exposure}):
        expected = None
        for unit, (factor, unit_gain, unit_exptime) in versions.items():
            told = dict(noise, exptime=unit_exptime)
            if "exptime" in noise:
                told |= {"exptime": exposure / exptime * unit_exptime, "sky_std": 0.2 * factor}
            told |= {name: told[name] * factor for name in ("sky_std", "rms") if name in noise}
            told |= {"weight": weight / factor**2} if "weight" in noise else {}
            found = sigma_image(rate * factor, gain=unit_gain, **told) / factor
            expected = found if expected is None else expected
            np.testing.assert_allclose(found, expected, rtol=1e-12, err_msg=unit)


def test_what_is_missing_or_makes_no_sense_is_named():
    image = np.zeros((4, 5))
    plane = np.ones((4, 5))
    for wrong, named in (
        ({"gain": 1.0}, "sky_std=None; expected .* weight= or rms="),
        ({"sky_std": 1.0}, "gain=None; expected electrons per count"),
        ({"sky_std": 1.0, "gain": "two"}, "gain='two'"),
        ({"sky_std": plane, "gain": 1.0}, "sky_std has shape .* Pass a map as rms="),
        ({"gain": 1.0, "weight": plane, "rms": plane}, "weight and rms are both given"),
        ({"sky_std": np.nan, "gain": 1.0, "weight": plane}, "sky_std=nan"),
    ):
        with pytest.raises(ParameterError, match=named):
            sigma_image(image, **wrong)
    for name in ("weight", "rms", "exptime"):
        with pytest.raises(ImageShapeError, match=rf"{name} has shape \(5, 4\), but data has \(4, 5\)"):
            sigma_image(image, sky_std=1.0, gain=1.0, **{name: np.ones((5, 4))})
    for name in ("weight", "rms"):
        with pytest.raises(NoGoodPixelsError, match=f"every pixel of {name}"):
            sigma_image(image, gain=1.0, **{name: -plane})
    with pytest.raises(ImageShapeError, match="mask has shape"):
        sigma_image(image, np.zeros((2, 2)), sky_std=1.0, gain=1.0)
