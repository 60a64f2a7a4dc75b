from functools import partial

import dask.array as da
import numpy as np
import pytest
from fields import de_vaucouleurs_field, polynomial_sky
from hypothesis import given, settings
from strategies import chunks_for

from galprep_dask.errors import LittleSkyWarning, NoGoodPixelsError, ParameterError
from galprep_dask.sky import (
    fit_median_sky,
    fit_mesh_sky,
    fit_polynomial_sky,
    fit_sky_between_sources,
    subtract_sky,
)

SHAPE = (1024, 1024)


@pytest.fixture(scope="module")
def light():
    return de_vaucouleurs_field(SHAPE)


def observed(sky, light, seed=1):
    """Noise of 1, and that of the photons of the sources."""
    noise = np.random.default_rng(seed).normal(0, 1, sky.shape) * np.sqrt(1 + light / 10)
    return (sky + light + noise).astype(np.float32)


def between(image, order, **kwargs):
    fit = partial(fit_polynomial_sky, order=order)
    return fit_sky_between_sources(da.from_array(image, chunks=512), fit=fit, fwhm=3.0, **kwargs)


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_wings_of_galaxies_and_faint_sources_do_not_lift_the_sky(order, light):
    truth = polynomial_sky(SHAPE, order)
    sky, masked = between(observed(truth, light), order)
    error = sky.evaluate().compute() - truth
    assert abs(error.mean()) < 0.01  # of the noise of a pixel; the error of a mean of these pixels is 0.001
    assert error.std() < 0.03
    masked = masked.compute()
    assert masked[light > 0.2].mean() > 0.99
    assert masked.mean() < 0.6


def test_what_is_gained_by_looking_for_faint_light(light):
    truth = polynomial_sky(SHAPE, 3)
    image = observed(truth, light)
    bias = [
        (between(image, 3, faint_scales=scales)[0].evaluate().compute() - truth).mean() for scales in ((), (1, 4, 8))
    ]
    assert bias[0] > 0.008
    assert bias[1] < 0.6 * bias[0]


def small_field():
    light = de_vaucouleurs_field((160, 180), n_galaxies=4, n_stars=3, seed=3)
    return observed(polynomial_sky(light.shape, 1, amplitude=5), light)


SMALL = small_field()
SMALL.flags.writeable = False


@settings(max_examples=4)
@given(chunks_for(SMALL.shape))
def test_same_mask_for_every_chunking(chunks):
    search = {"fit": partial(fit_polynomial_sky, order=1), "fwhm": 3.0, "rounds": 3}
    expected_sky, expected = fit_sky_between_sources(SMALL, **search)
    sky, masked = fit_sky_between_sources(da.from_array(SMALL, chunks=chunks), **search)
    assert masked.chunks == chunks
    np.testing.assert_array_equal(masked, expected)
    np.testing.assert_allclose(sky.coefficients, expected_sky.coefficients, rtol=1e-10, atol=1e-9)


def test_values_under_the_mask_do_not_count():
    bad = np.random.default_rng(0).uniform(size=SMALL.shape) < 0.02
    fit = partial(fit_polynomial_sky, order=1)
    expected_sky, expected = fit_sky_between_sources(SMALL, bad, fit=fit, fwhm=3.0)
    assert expected[bad].all()
    for hidden in (0.0, 1e30, np.nan):
        sky, masked = fit_sky_between_sources(np.where(bad, np.float32(hidden), SMALL), bad, fit=fit, fwhm=3.0)
        np.testing.assert_array_equal(masked, expected)
        np.testing.assert_array_equal(sky.coefficients, expected_sky.coefficients)


def test_what_comes_back_is_what_was_fitted():
    sky, masked = fit_sky_between_sources(SMALL, fit=fit_median_sky, fwhm=3.0)
    assert type(masked) is np.ndarray
    assert fit_median_sky(SMALL, masked) == sky


def test_until_stable(caplog):
    caplog.set_level("INFO", logger="galprep_dask.sky")
    fit = partial(fit_polynomial_sky, order=1)
    fit_sky_between_sources(SMALL, fit=fit, fwhm=3.0)
    changed = [record.args[1] for record in caplog.records if record.msg.startswith("round")]
    assert 2 <= len(changed) <= 8
    assert changed[0] > changed[-1]
    caplog.clear()
    fit_sky_between_sources(SMALL, fit=fit, fwhm=3.0, rounds=1)
    assert len(caplog.records) == 1


def test_an_image_full_of_sources_still_has_a_sky():
    light = de_vaucouleurs_field((200, 200), n_galaxies=60, n_stars=0, seed=2)
    sky, masked = fit_sky_between_sources(observed(50.0 + 0 * light, light), fit=fit_median_sky, fwhm=3.0)
    assert 0 < masked.mean() < 1
    assert abs(sky.level - 50) < 0.5


def test_errors():
    fit = fit_median_sky
    with pytest.raises(NoGoodPixelsError):
        fit_sky_between_sources(SMALL, np.ones(SMALL.shape, bool), fit=fit, fwhm=3.0)
    for wrong in ({"rounds": 0}, {"margin": -1.0}, {"faint_scales": (0,)}, {"faint_scales": (1.5,)}, {"fwhm": 0}):
        with pytest.raises(ParameterError, match=next(iter(wrong))):
            fit_sky_between_sources(SMALL, fit=fit, **{"fwhm": 3.0, **wrong})


def test_subtracting_rounds_once_and_keeps_the_kind(no_compute):
    image = np.full((40, 50), 3e7, np.float32) + np.arange(50, dtype=np.float32) * 2
    sky = fit_polynomial_sky(image, order=1)
    expected = (image.astype(np.float64) - sky.evaluate().compute()).astype(np.float32)
    found = subtract_sky(image, sky)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
    with no_compute():
        lazy = subtract_sky(da.from_array(image, chunks=20), sky)
        cube = subtract_sky(da.from_array(np.stack([image, image]), chunks=(1, 20, 20)), sky)
    np.testing.assert_array_equal(lazy, expected)
    np.testing.assert_array_equal(cube[1], expected)


def test_a_sky_that_the_model_cannot_follow_is_warned_about():
    # A mesh is flat beyond the middle of its outer boxes, where this sky goes on: it is taken for sources.
    image = np.random.default_rng(0).normal(0, 1, (300, 340)) + np.linspace(0, 20, 340)
    with pytest.warns(LittleSkyWarning, match="Try another model"):
        fit_sky_between_sources(image, fit=partial(fit_mesh_sky, box_size=60, exclude_percentile=95), fwhm=3.0)
