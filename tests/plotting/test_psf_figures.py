"""Figures of the PSF, and the residuals that they show."""

from dataclasses import replace

import numpy as np
import pytest
from simulated_stars import integrated, moffat, stars

from galprep_dask.errors import ImageShapeError, OutputError, ParameterError
from galprep_dask.plotting import plot_psf, plot_psf_fit
from galprep_dask.psf import PSFModel, fit_psf, star_residuals

GAIN = 5.0


@pytest.fixture(scope="module")
def sample():
    data, mask, _ = stars(moffat(3.2, e1=0.05), 40, 21, gain=GAIN, seed=2)
    data.flags.writeable = mask.flags.writeable = False
    return data, mask


@pytest.fixture(scope="module")
def model(sample):
    return fit_psf(sample[0], mask=sample[1], sky_std=1.0, gain=GAIN)


@pytest.fixture(scope="module")
def left(sample, model):
    return star_residuals(model, sample[0], mask=sample[1], sky_std=1.0, gain=GAIN)


def test_residuals_of_a_fit_are_its_noise(sample, model, left):
    data, mask = sample
    assert left.pulls.shape == data.shape
    assert not np.isfinite(left.pulls[mask]).any()
    assert np.nanstd(left.pulls[left.used]) == pytest.approx(1.0, abs=0.03)
    assert left.used.sum() == model.stars["used"].sum()
    assert left.reserved.sum() == model.validation["n_reserved"]
    assert left.refitted
    # The fit has taken a pixel's worth of freedom out of every pixel of the mean.
    assert 0.8 < np.sqrt(np.nanmean(left.mean_pull(left.used) ** 2)) < 1.0
    # By hand, for one star.
    row, k = model.stars[5], 5
    light = row["flux"] * model.at(dx=row["dx"], dy=row["dy"])
    by_hand = (data[k] - row["sky"] - light) / np.sqrt(1 + np.maximum(light, 0) / GAIN)
    shown = np.isfinite(left.pulls[k])
    assert shown.mean() > 0.9
    np.testing.assert_allclose(left.pulls[k][shown], by_hand[shown], atol=1e-9)


def test_stars_that_were_kept_out_leave_more(sample, model):
    out = fit_psf(sample[0], mask=sample[1], sky_std=1.0, gain=GAIN, refit=False)
    kept = star_residuals(out, sample[0], mask=sample[1], sky_std=1.0, gain=GAIN)
    assert not kept.refitted
    assert not (kept.used & kept.reserved).any()
    used, unseen = (np.nanmean(kept.mean_pull(which) ** 2) for which in (kept.used, kept.reserved))
    assert unseen > used


def test_profiles_agree_and_a_wrong_psf_shows(sample, model, left):
    off = (left.profile - left.model_profile) / left.profile_error
    assert np.abs(off).max() < 4
    assert (np.diff(left.radius) > 0).all()
    assert left.model_profile[0] == pytest.approx(model.image.max(), rel=0.1)
    wide = integrated(moffat(3.5), 0, 0, 21)
    wrong = PSFModel((wide / wide.sum())[None], 21, stars=model.stars)
    shown = star_residuals(wrong, sample[0], mask=sample[1], sky_std=1.0, gain=GAIN)
    assert shown.mean_pull(shown.used)[10, 10] > 10  # stars are sharper than that
    assert (shown.profile / shown.model_profile)[0] > 1.05


def test_residuals_do_not_depend_on_what_is_under_the_mask(sample, model, left):
    for under in (0.0, 1e30, np.nan):
        again = star_residuals(
            model, np.where(sample[1], under, sample[0]), mask=sample[1], sky_std=1.0, gain=GAIN
        )
        np.testing.assert_array_equal(again.pulls, left.pulls)
        np.testing.assert_array_equal(again.profile, left.profile)


def test_sigma_is_taken_as_it_is(sample, model, left):
    double = star_residuals(model, sample[0], mask=sample[1], sigma=np.full(sample[0].shape, 2.0))
    plain = star_residuals(model, sample[0], mask=sample[1], sky_std=2.0)
    np.testing.assert_array_equal(double.pulls, plain.pulls)


def test_residuals_say_what_is_wrong(sample, model):
    data, mask = sample
    with pytest.raises(ParameterError, match="without a table of stars"):
        star_residuals(PSFModel.from_image(model.image), data, sky_std=1.0)
    with pytest.raises(ImageShapeError, match="40 of 21 x 21"):
        star_residuals(model, data[:3], sky_std=1.0)
    with pytest.raises(ImageShapeError, match="mask"):
        star_residuals(model, data, mask=mask[:3], sky_std=1.0)
    for noise in ({}, {"sigma": 1.0, "sky_std": 1.0}):
        with pytest.raises(ParameterError, match="either sigma or sky_std"):
            star_residuals(model, data, **noise)


def test_figure_of_the_fit_shows_both_kinds_of_stars(left, tmp_path):
    figure = plot_psf_fit(left, title="field $_1", path=tmp_path / "fit.png")
    assert (tmp_path / "fit.png").stat().st_size > 10_000
    fitted, reserved, profile = figure.axes[:3]
    for axes, which in ((fitted, left.used), (reserved, left.reserved)):
        shown = np.ma.filled(axes.images[0].get_array(), np.nan)
        np.testing.assert_array_equal(shown, left.mean_pull(which))
        assert axes.get_title().startswith(str(which.sum()))
        assert axes.images[0].get_clim() == (-5, 5)
        assert axes.images[0].origin == "lower"
    line = profile.lines[0]
    assert line.get_label() == "PSF"
    np.testing.assert_allclose(line.get_ydata(), left.model_profile / left.model_profile.max())
    with pytest.raises(OutputError, match="missing"):
        plot_psf_fit(left, path=tmp_path / "missing" / "fit.png")
    with pytest.raises(ParameterError, match="star_residuals"):
        plot_psf_fit(np.zeros((3, 3)))
    nobody = replace(left, used=np.zeros(len(left.used), bool))
    with pytest.raises(ParameterError, match="no star"):
        plot_psf_fit(nobody)
    alone = plot_psf_fit(replace(left, reserved=np.zeros(len(left.used), bool)))
    assert alone.axes[1].get_title() == "no reserved stars"


def test_figure_of_the_psf_shows_it_its_uncertainty_and_its_profile(model, tmp_path):
    figure = plot_psf(model, title="PSF_$", path=tmp_path / "psf.png")
    assert (tmp_path / "psf.png").stat().st_size > 10_000
    image, sigma, profile = figure.axes[:3]
    shown = np.asarray(image.images[0].get_array())
    positive = model.image > 1e-5 * model.image.max()
    np.testing.assert_allclose(shown[positive], model.image[positive])
    np.testing.assert_allclose(sigma.images[0].get_array(), model.sigma / model.image.max())
    assert f"FWHM {model.fwhm:.2f} px" in profile.get_title()
    assert f"chi2 {model.validation['reduced_chi2']:.2f}" in profile.get_title()
    assert profile.lines[0].get_ydata().max() == pytest.approx(1.0)
    unknown = plot_psf(PSFModel.from_image(model.image)).axes[1]
    assert [text.get_text() for text in unknown.texts] == ["not known"]
    with pytest.raises(ParameterError, match="PSFModel"):
        plot_psf(model.image)
