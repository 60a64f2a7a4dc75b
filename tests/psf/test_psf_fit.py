import warnings
from functools import lru_cache

import numpy as np
import pytest
from concurrency import run_fresh
from simulated_stars import cramer_rao, field_of, integrated, moffat, quadratic, stars

from galprep_dask.errors import (
    ImageShapeError,
    NoGoodPixelsError,
    NotConvergedWarning,
    OutsideFieldWarning,
    ParameterError,
    TooFewStarsError,
)  # fmt: skip
from galprep_dask.psf import fit_psf

# One shape for most tests: every new one is compiled anew.
SIZE, COUNT = 25, 60
PROFILE = moffat(3.6, e1=0.05, e2=-0.03)


@lru_cache
def sample(**kwargs):
    data, mask, truth = stars(PROFILE, COUNT, SIZE, **{"seed": 1, "gain": 5.0, **kwargs})
    for array in (data, mask):
        array.flags.writeable = False
    return data, mask, truth


def fit(data, mask=None, **kwargs):
    return fit_psf(data, mask=mask, **{"sky_std": 1.0, "gain": 5.0, **kwargs})


def rms(image):
    return np.sqrt(np.mean(np.square(image)))


def true_image(truth):
    return truth["psf"] / truth["psf"].sum()


@pytest.mark.parametrize(("local_sky", "allowed"), [(False, 1.1), (True, 1.3)])
def test_error_is_that_of_the_cramer_rao_bound(local_sky, allowed):
    ratios = []
    for seed in range(4):
        data, mask, truth = sample(seed=seed, sky_scatter=0.05 if local_sky else 0.0)
        model = fit(data, mask, local_sky=local_sky)
        ratios.append(rms(model.image - true_image(truth)) / cramer_rao(truth, mask, of_sum_one=True))
        assert model.converged
    assert np.mean(ratios) < allowed


def test_image_is_centred_normalised_odd_and_float64():
    data, mask, _ = sample()
    model = fit(data, mask)
    image = model.image
    axis = np.arange(SIZE) - SIZE // 2
    assert image.dtype == np.float64
    assert image.shape == (SIZE, SIZE)
    assert abs(image.sum() - 1) < 1e-9
    assert abs(image.astype("f4").sum(dtype=float) - 1) < 1e-6
    assert abs((image @ axis).sum()) < 1e-9
    assert abs((axis @ image).sum()) < 1e-9
    assert np.isfinite(image).all()
    assert abs(model.fwhm - 3.6) < 0.15  # pixels widen it by some percent


def test_size_and_ellipticity_of_a_hundred_stars_are_not_biased():
    from galprep_dask.psf._kernels.moments import adaptive_moments

    off = []
    for seed in (5, 6):
        given = {"snr": 100.0, "seed": seed, "masks": False, "rays": False}
        data, _, truth = stars(PROFILE, 100, SIZE, **given)
        clean = stars(PROFILE, 100, SIZE, noise=False, **given)[0]
        # The same noise with both signs: what it does to first order goes out of the mean, and the bias is left.
        both = [fit_psf(noisy, sky_std=1.0, local_sky=False).image for noisy in (data, 2 * clean - data)]
        found, true = adaptive_moments(np.array(both)), adaptive_moments(truth["psf"][None])
        off.append([found.size / true.size - 1, found.e1 - true.e1, found.e2 - true.e2])
    off = np.array(off)
    size, e1, e2 = np.abs(off.mean((0, 2)))
    assert size < 0.002
    assert max(e1, e2) < 5e-4
    # The noise of 100 such stars is 0.28 % in T and 0.0016 in e; three times that is let be.
    assert np.abs(off[:, 0]).max() < 0.0085
    assert np.abs(off[:, 1:]).max() < 0.005


def test_sigma_covers_the_truth():
    covered = []
    for seed in range(4):
        data, mask, truth = sample(seed=seed)
        model = fit(data, mask, local_sky=False)
        covered.append(np.mean(np.abs(model.image - true_image(truth)) < model.sigma))
    assert abs(np.mean(covered) - 0.683) < 0.08


def test_positions_and_fluxes_are_right_within_their_errors():
    data, mask, truth = sample()
    table = fit(data, mask).stars
    for name in ("dx", "dy", "flux"):
        pull = (table[name] - truth[name]) / table[f"{name}_err"]
        if name == "flux":  # a sum over the stamp, not the plane
            pull = (table["flux"] / np.median(table["flux"] / truth["flux"]) - truth["flux"]) / table["flux_err"]
        assert 0.6 < np.percentile(np.abs(pull[table["used"]]), 68) < 1.5


def test_values_under_the_mask_do_not_matter():
    data, mask, _ = sample()
    expected = fit(data, mask)
    for value in (0.0, 1e30, np.nan):
        changed = np.where(mask, value, data)
        model = fit(changed, mask)
        np.testing.assert_array_equal(model.coefficients, expected.coefficients)
        np.testing.assert_array_equal(model.stars["flux"], expected.stars["flux"])


def test_repeats_are_identical_to_the_bit():
    data, mask, _ = sample()
    one, two = fit(data, mask), fit(data, mask)
    assert one.coefficients.tobytes() == two.coefficients.tobytes()
    assert one.sigma.tobytes() == two.sigma.tobytes()


def test_units_of_the_image_do_not_matter():
    data, mask, _ = sample()
    unit = 2.0**-40
    one, two = fit(data, mask), fit(data * unit, mask, sky_std=unit, gain=5 / unit)
    np.testing.assert_allclose(two.image, one.image, atol=1e-5 * one.image.max())


def test_transposed_stars_give_the_transposed_psf():
    data, mask, _ = sample()
    one, two = fit(data, mask), fit(data.swapaxes(1, 2), mask.swapaxes(1, 2))
    np.testing.assert_allclose(two.image.T, one.image, atol=1e-5 * one.image.max())


def test_precision_and_jax_settings_of_the_user():
    import jax

    data, mask, _ = sample()
    before = jax.config.jax_enable_x64
    one, two = fit(data, mask), fit(data, mask, dtype="float64")
    assert jax.config.jax_enable_x64 == before
    np.testing.assert_allclose(two.image, one.image, atol=1e-5 * one.image.max())


@pytest.mark.parametrize("local_sky", [False, True])
def test_lbfgs_settles_where_newton_does(local_sky):
    data, mask, _ = sample(sky_scatter=0.05 * local_sky)
    newton, lbfgs = (fit(data, mask, solver=solver, local_sky=local_sky) for solver in ("newton", "lbfgs"))
    assert newton.converged
    assert lbfgs.converged
    assert np.abs(lbfgs.image - newton.image).max() < 1e-5 * newton.image.max()


def test_adam_comes_close_and_says_that_it_has_not_settled():
    data, mask, _ = sample()
    given = {"refit": False, "local_sky": False, "oversampling": 1}
    newton = fit(data, mask, **given)
    with pytest.warns(NotConvergedWarning, match="num_steps"):
        adam = fit(data, mask, solver="adam", learning_rate=3e-4, num_steps=400, **given)
    assert not adam.converged
    assert newton.loss_history[-1] < adam.loss_history[-1]
    assert rms(adam.image - newton.image) < 5 * rms(newton.sigma)


def test_reserved_stars_are_at_least_a_fifth_and_predicted():
    data, mask, _ = sample()
    told = fit(data, mask).validation
    assert fit(data, mask).stars["reserved"].sum() + 1 >= 0.2 * COUNT
    assert told["n_reserved"] >= 0.2 * (told["n_reserved"] + told["n_fitted"]) - 1
    assert told["n_folds"] == 1
    assert 0.9 < told["reduced_chi2"] < 1.1
    assert told["reduced_chi2"] < told["stack_reduced_chi2"] + 0.01
    for name in ("size", "e1", "e2"):
        assert abs(told[f"{name}_residual"]) < 4 * told[f"{name}_error"] + 1e-4
    kept = fit(data, mask, refit=False).stars
    assert not (kept["used"] & kept["reserved"]).any()
    assert np.array_equal(np.asarray(kept["reserved"]), np.asarray(fit(data, mask).stars["reserved"]))
    assert not np.array_equal(np.asarray(kept["reserved"]), np.asarray(fit(data, mask, seed=1).stars["reserved"]))


def test_few_stars_are_reserved_in_turn():
    data, mask, _ = sample(masks=False)
    model = fit(data[:10])
    assert model.validation["n_folds"] == 5
    assert model.validation["n_reserved"] == 10
    assert model.stars["used"].all()


def test_a_bright_star_that_comes_back_is_not_clipped():
    """The noise of P from stars ten times fainter is no cosmic ray in the core of a bright one."""
    snr = np.array([65.0, 57, 91, 85, 95, 85, 165, 950, 85])
    for seed in range(3):
        given = {"gain": 50.0, "masks": False, "rays": False}
        data = np.array([stars(PROFILE, 1, SIZE, snr=snr[k], seed=[seed, k], **given)[0][0] for k in range(9)])
        data[0, 4, 5:8] += 40
        data[7, 20, 2:5] += 200
        table = fit(data, gain=50.0, oversampling=1).stars
        assert table["used"].all()
        assert 3 <= table["n_clipped"][7] < 20
        assert table["n_clipped"][0] >= 3


def test_one_and_two_stars():
    data, _, truth = sample(masks=False, rays=False)
    bright = np.argsort(-truth["flux"])
    for count in (1, 2):
        model = fit(data[bright[:count]])
        assert rms(model.image - true_image(truth)) < 3 * cramer_rao(
            {**truth, "flux": truth["flux"][bright[:count]], "variance": truth["variance"][bright[:count]]},
            np.zeros(data[:count].shape, bool),
        )
        assert model.validation["n_reserved"] == (0 if count == 1 else 2)


def test_a_thousand_small_stars():
    profile = moffat(2.8)
    data, mask, truth = stars(profile, 1000, 11, gain=5.0, seed=3, snr=(20, 200), masks=False, rays=False)
    model = fit(data, mask)
    assert model.converged
    assert model.stars["used"].sum() > 980
    # The wings that such small stamps cut off are wrong by more than noise.
    assert rms(model.image - true_image(truth)) < 1e-3 * model.image.max()


def test_groups_of_stars_change_rounding_only(monkeypatch):
    data, mask, _ = sample()
    whole = fit(data, mask)
    monkeypatch.setattr("galprep_dask.psf.solve.GROUP_PIXELS", 16 * SIZE**2)  # four groups instead of one
    parts = fit(data, mask)
    assert np.abs(parts.image - whole.image).max() < 1e-5 * whole.image.max()
    assert list(parts.stars["used"]) == list(whole.stars["used"])


def test_stamps_that_are_no_stars_are_named():
    data, mask, truth = sample(masks=False, rays=False)
    data, mask = data.copy(), mask.copy()
    mask[3] = True
    rng = np.random.default_rng(0)
    data[7] = rng.normal(0, 1, data[7].shape)
    data[11] = 5e4 * integrated(moffat(7.0), 0.1, 0.2, SIZE) + rng.normal(0, 1, data[11].shape)
    data[15] = np.nan
    model = fit(data, mask)
    reason = model.stars["reason"]
    assert list(reason[[3, 7, 11, 15]]) == ["masked", "blank", "unlike the PSF", "masked"]
    assert not model.stars["used"][[3, 7, 11, 15]].any()
    assert model.stars["used"].sum() == COUNT - 4
    others = np.ones(COUNT, bool)
    others[[3, 7, 11, 15]] = False
    kept = {**truth, "flux": truth["flux"][others], "variance": truth["variance"][others]}
    assert rms(model.image - true_image(truth)) < 1.4 * cramer_rao(kept, mask[others])


def test_total_variation_and_sky_penalties_do_what_they_say():
    def variation(image):
        return np.hypot(*np.gradient(image)).sum()

    faint, mask, _ = sample(snr=(20.0, 40.0), masks=False, rays=False)
    plain, smooth = fit(faint), fit(faint, a_TV=0.05)
    assert variation(smooth.image) < 0.97 * variation(plain.image)
    data, mask, _ = sample(sky_scatter=0.3)
    plain = fit(data, mask)
    # The loss is a mean over pixels, so a penalty of order 1 outweighs the chi2 of a sky.
    held = fit(data, mask, a_sky=1e3)
    assert np.std(held.stars["sky"]) < 0.1 * np.std(plain.stars["sky"])
    assert np.all(fit(data, mask, local_sky=False).stars["sky"] == 0)


def test_a_strong_total_variation_settles():
    data, mask, _ = sample()
    weak, strong = fit(data, mask, a_TV=3.0), fit(data, mask, a_TV=30.0)
    assert weak.converged
    assert strong.converged
    assert np.hypot(*np.gradient(strong.image)).sum() < np.hypot(*np.gradient(weak.image)).sum()
    # It is the loss of the data, that of the weak one least, plus so many times the total variation.
    assert strong.loss_history[-1] > 5 * weak.loss_history[-1]


def test_noise_of_the_image_with_a_gain_gives_what_sky_std_gives():
    data, mask, truth = sample(rays=False)
    noisy = np.sqrt(1 + np.maximum(data, 0) / 5)
    one, two = fit(data, mask), fit(data, mask, sky_std=None, sigma=noisy)
    assert rms(one.image - two.image) < 0.3 * rms(one.sigma)
    measured = fit(data, mask, sky_std=None)
    assert rms(one.image - measured.image) < 0.3 * rms(one.sigma)


@lru_cache
def sharp_sample(snr=(30, 1500)):
    return stars(moffat(1.5, e1=0.05), 60, 21, gain=5.0, seed=2, subpixels=9, snr=snr)


def test_oversampling_is_chosen_for_sharp_stars_and_predicts_them():
    data, mask, _ = sharp_sample()
    model = fit(data, mask)
    assert model.oversampling == 3
    assert "oversampling 3 (chosen)" in repr(model)
    assert model.image.shape == (21, 21)
    assert model.oversampled.shape == (63, 63)
    profile = moffat(1.5, e1=0.05)
    errors = []
    for dx, dy in ((0, 0), (0.5, 0.5), (-0.3, 0.2)):
        true = integrated(profile, dx, dy, 21)
        errors.append(rms(model.at(dx=dx, dy=dy) - true / true.sum()) / true.max())
    assert max(errors) < 8e-4
    assert model.validation["reduced_chi2"] < 1.1
    assert model.validation["stack_reduced_chi2"] > 1.3
    # Errors of neighbouring pixels go together, so that one field tells little of how often sigma covers them.
    true, covered = integrated(profile, 0, 0, 21), []
    for seed in range(2, 6):
        data, mask, _ = stars(profile, 60, 21, gain=5.0, seed=seed, subpixels=9)
        model = fit(data, mask)
        covered.append(np.mean(np.abs(model.image - true / true.sum()) < model.sigma))
    assert abs(np.mean(covered) - 0.683) < 0.08


@pytest.mark.parametrize("oversampling", [2, 3, 4, 5])
def test_no_checkerboard(oversampling):
    profile = moffat(1.8, e1=0.05)
    data, mask, truth = stars(profile, 40, 13, gain=5.0, seed=2, subpixels=9, masks=False, rays=False)
    model = fit(data, mask, oversampling=oversampling, local_sky=False)
    assert model.converged
    assert rms(model.image - true_image(truth)) < 3e-3 * model.image.max()
    # Nothing stands out at one cycle a data pixel: the mean of the two next to it on either side is its measure.
    image = model.oversampled
    power = np.abs(np.fft.fft2(image)) ** 2
    native = round(len(image) / oversampling)
    for row in (power[0], power[:, 0], np.diagonal(power)):
        around = np.delete(row[native - 2 : native + 3], 2) if oversampling > 2 else row[native - 3 : native - 1]
        assert row[native] < 2 * around.mean()


def test_field_follows_a_quadratic_variation():
    data, _, x, y, _ = field_of(quadratic, 120, SIZE, seed=3, snr=(100, 600))
    flat, model = (fit(data, x=x, y=y, degree=degree, local_sky=False) for degree in (0, 2))
    corners = [(a, b) for a in (350, 1650) for b in (350, 1650)]

    def true_at(place):
        image = integrated(quadratic(place[0] / 1000 - 1, place[1] / 1000 - 1), 0, 0, SIZE)
        return image / image.sum()

    assert model.validation["reduced_chi2"] < flat.validation["reduced_chi2"]
    for u, v in ((0, 0), (0.7, -0.7), (-0.6, 0.5)):
        true = integrated(quadratic(u, v), 0, 0, SIZE)
        at = 1000 * (u + 1), 1000 * (v + 1)
        image = model.at(*at)
        assert model.inside(*at)
        assert rms(image - true / true.sum()) < 3e-3 * true.max()
        assert abs(image.sum() - 1) < 1e-9
    # With free pixels polynomials would be twice as uncertain there.
    wrong = [rms(model.at(*at) - true_at(at)) / true_at(at).max() for at in [(1000, 1000), *corners]]
    assert rms(wrong[1:]) < 1.5 * wrong[0]
    assert not model.inside(-500, 1000)
    with pytest.warns(OutsideFieldWarning, match="outside"):
        clamped = model.at(-500, 1000)
    np.testing.assert_allclose(clamped, model.at(*model.field.clamped(-500, 1000)))
    with pytest.raises(ParameterError, match="varies"):
        model.at()


def test_corner_of_a_field_is_as_good_as_its_middle():
    """Squares of a size that is quadratic are of degree 4: polynomials of pixels alone err by 3e-4 of the peak."""
    data, _, x, y, _ = field_of(quadratic, 120, SIZE, seed=3, snr=(800, 1200))
    model = fit(data, x=x, y=y, degree=2, local_sky=False)
    assert model.degree == 2
    assert len(model.coefficients) == 15
    wrong = []
    outermost = [np.argmax(a * x + b * y) for a in (-1, 1) for b in (-1, 1)]
    for at in [(1000.0, 1000.0), *np.stack([x, y], 1)[outermost]]:
        true = integrated(quadratic(at[0] / 1000 - 1, at[1] / 1000 - 1), 0, 0, SIZE)
        wrong.append(1e4 * rms(model.at(*at) - true / true.sum()) / true.max() * true.sum())
    assert rms(wrong[1:]) < 2.2
    assert rms(wrong[1:]) < 1.5 * wrong[0]


def test_degree_is_chosen_by_reserved_stars():
    data, _, x, y, _ = field_of(quadratic, 120, SIZE, seed=3, snr=(100, 600))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConvergedWarning)
        assert fit(data, x=x, y=y, degree="auto", local_sky=False).degree >= 2
        constant = stars(PROFILE, 120, SIZE, snr=(100, 600), gain=5.0, seed=9, masks=False, rays=False)[0]
        assert fit(constant, x=x, y=y, degree="auto", local_sky=False).degree == 0


def test_what_is_wrong_is_said():
    data, mask, _ = sample()
    for call, error, match in (
        (lambda: fit(data[:, :24, :24]), ImageShapeError, "odd"),
        (lambda: fit(data[0]), ImageShapeError, r"\(k, n, n\)"),
        (lambda: fit(data[:0]), TooFewStarsError, "no stamps"),
        (lambda: fit(data, mask[:5]), ImageShapeError, "mask"),
        (lambda: fit(data, np.ones_like(mask)), NoGoodPixelsError, "masked"),
        (lambda: fit(np.full_like(data, np.nan)), NoGoodPixelsError, "not finite"),
        (lambda: fit(data, oversampling=0), ParameterError, "oversampling=0"),
        (lambda: fit(data, oversampling=1.5), ParameterError, "oversampling"),
        (lambda: fit(data, degree=5), ParameterError, "degree"),
        (lambda: fit(data, degree=1), ParameterError, "x="),
        (lambda: fit(data, degree=1, x=np.arange(3), y=np.arange(3)), ImageShapeError, "60"),
        (lambda: fit(data[:5], degree=2, x=np.arange(5.0), y=np.arange(5.0)), TooFewStarsError, "degree=2"),
        (lambda: fit(data, solver="sgd"), ParameterError, "newton"),
        (lambda: fit(data, reserve=0.1), ParameterError, "0.2"),
        (lambda: fit(data, a_TV=-1), ParameterError, "a_TV"),
        (lambda: fit(data, gain=-2.0), ParameterError, "gain"),
        (lambda: fit(data, sky_std=0.0), ParameterError, "sky_std"),
        (lambda: fit(data, sigma=1.0), ParameterError, "one of them"),
        (lambda: fit(data, num_steps=0), ParameterError, "num_steps"),
        (lambda: fit(data, dtype="float16"), ParameterError, "dtype"),
    ):
        with pytest.raises(error, match=match):
            call()


DEVICE_MEMORY = """
import os
os.environ.pop("XLA_PYTHON_CLIENT_PREALLOCATE", None)
import galprep_dask.psf, sys
assert "jax" not in sys.modules
from galprep_dask.psf._kernels import newton
print(os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"])
"""


def test_device_memory_is_not_taken_up_front():
    assert run_fresh(DEVICE_MEMORY) == "false\n"


def test_stamps_without_light_are_no_stars():
    data, _, _ = sample()
    for dark in (0 * data, -data):
        with pytest.raises(TooFewStarsError, match="none of the 60 usable stamps is brighter"):
            fit(dark)


@pytest.mark.parametrize("wrong", [{"gain": 0}, {"seed": -1}, {"num_steps": 2.5}, {"a_TV": "1"}, {"reserve": None}])
def test_numbers_that_make_no_sense_are_named(wrong):
    with pytest.raises(ParameterError, match=next(iter(wrong))):
        fit(sample()[0], **wrong)
