"""Wings, neighbours, and the plain stack."""

import numpy as np
import pytest
from simulated_stars import integrated, moffat, stars

from galprep_dask.errors import ImageShapeError, ParameterError, TooFewStarsError
from galprep_dask.psf import fit_psf, join_wings, stack_psf

SIZE, COUNT = 25, 60
PROFILE = moffat(3.0, beta=2.5, e1=0.04)


def rms(image):
    return np.sqrt(np.mean(np.square(image)))


def bright_stars(size=91, count=6):
    data, _, truth = stars(PROFILE, count, size, snr=2e4, gain=5.0, seed=4, masks=False, rays=False)
    axis = np.arange(size) - size // 2
    core = np.hypot(axis, axis[:, None]) < 4
    data[:, core] = np.minimum(data[:, core], 100.0)  # saturated
    return data, np.broadcast_to(core, data.shape)


def test_encircled_energy_with_wings():
    data, mask, _ = stars(PROFILE, COUNT, SIZE, gain=5.0, seed=1)
    bright, cores = bright_stars()
    model = fit_psf(data, mask=mask, sky_std=1.0, gain=5.0, local_sky=False, wings=(bright, cores))
    assert model.image.shape == (91, 91)
    assert abs(model.image.sum() - 1) < 1e-9
    true = integrated(PROFILE, 0, 0, 91)
    true /= true.sum()
    axis = np.arange(91) - 45
    r = np.hypot(axis, axis[:, None])
    for radius in (6.0, 15.0, 30.0):  # 2, 5 and 10 FWHM
        inside = r <= radius
        assert abs(model.image[inside].sum() - true[inside].sum()) < 0.005
    assert np.isfinite(model.sigma).all()
    ring = (r > 8) & (r < 40)
    assert rms((model.image - true)[ring]) < 3 * rms(model.sigma[ring])


def test_wings_say_what_is_wrong():
    model = stack_psf(stars(PROFILE, 10, SIZE, seed=1, masks=False, rays=False)[0])
    bright, cores = bright_stars(count=2)
    for call, error, match in (
        (lambda: join_wings(model, bright[:, :25, :25]), ImageShapeError, "wider"),
        (lambda: join_wings(model, bright, cores[:1]), ImageShapeError, "mask"),
        (lambda: join_wings(model, bright, cores, annulus=(5, 40)), ParameterError, "annulus"),
        (lambda: join_wings(model, bright, np.ones_like(cores)), TooFewStarsError, "bright"),
    ):
        with pytest.raises(error, match=match):
            call()


def test_neighbours_are_fitted():
    profile = moffat(3.6, e1=0.05)
    data, _, truth = stars(profile, COUNT, SIZE, gain=5.0, seed=6, masks=False, rays=False)
    crowded = data.copy()
    rng = np.random.default_rng(2)
    for k in range(0, COUNT, 3):  # a third of the stamps
        angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(6, 10)
        light = 0.4 * truth["flux"][k] * integrated(profile, distance * np.cos(angle), distance * np.sin(angle), SIZE)
        crowded[k] += light
    true = truth["psf"] / truth["psf"].sum()
    given = {"sky_std": 1.0, "gain": 5.0, "local_sky": False}
    alone, clipped, fitted = (
        fit_psf(data, **given), fit_psf(crowded, **given), fit_psf(crowded, neighbours="fit", **given)
    )  # fmt: skip
    assert rms(fitted.image - true) < 1.5 * rms(alone.image - true)
    assert rms(fitted.image - true) <= rms(clipped.image - true)
    assert fitted.validation["reduced_chi2"] < 1.1
    with pytest.raises(ParameterError, match="neighbours"):
        fit_psf(data, neighbours="deblend")


def test_stack_is_a_psf_but_a_worse_one():
    profile = moffat(3.6, e1=0.05)
    data, mask, truth = stars(profile, COUNT, SIZE, gain=5.0, seed=1)
    true = truth["psf"] / truth["psf"].sum()
    stack = stack_psf(data, mask=mask)
    fitted = fit_psf(data, mask=mask, sky_std=1.0, gain=5.0)
    assert abs(stack.image.sum() - 1) < 1e-9
    assert rms(fitted.image - true) < rms(stack.image - true) < 0.01 * true.max()
    with pytest.raises(ImageShapeError, match="odd"):
        stack_psf(data[:, :24, :24])
    with pytest.raises(TooFewStarsError):
        stack_psf(np.full((2, 5, 5), np.nan))
