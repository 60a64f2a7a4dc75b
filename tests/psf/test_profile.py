"""The stars' profile, roughly, and the grid that it asks for."""

from functools import partial

import numpy as np
import pytest
from scipy.special import j1
from simulated_stars import cramer_rao, integrated, moffat, stars

from galprep_dask.psf import fit_psf
from galprep_dask.psf.profile import lost_to_sampling, needed_oversampling, slope_of
from galprep_dask.psf.start import starting_values

SIZE, COUNT = 25, 60


def measured(profile, **kwargs):
    data, mask, truth = stars(profile, COUNT, SIZE, **{"gain": 5.0, "seed": 1, **kwargs})
    sky, dx, dy, flux, fwhm = starting_values(np.where(mask, 0, data), ~mask)
    light, variance = data - sky[:, None, None], np.ones_like(data)
    return slope_of(light, ~mask, variance, 0.2, flux, dx, dy, fwhm), fwhm, truth


def airy(x, y, width=3.6):
    """Give the pattern of an aperture, slightly elongated; ``width`` is the wavelength over the aperture, px."""
    r = np.hypot(x, 1.03 * y) * np.pi / width + 1e-9
    return (2 * j1(r) / r) ** 2 * np.pi / (4 * width**2)


@pytest.mark.parametrize("slope", [2.3, 3.0, 6.0])
def test_the_slope_of_the_wings_is_found_despite_masks_and_rays(slope):
    (found, alike, shown), _, _ = measured(moffat(3.0, slope, e1=0.05))
    assert found == slope
    assert alike
    assert not shown


def test_stars_that_are_no_moffat_profiles_are_told():
    (_, alike, shown), _, _ = measured(airy, snr=(300, 1500))
    assert not alike
    assert shown


def test_faint_stars_keep_the_grid_of_the_data_and_bright_ones_get_a_finer():
    given = {"inverse_gain": 0.2, "fwhm": 3.6, "slope": 3.0, "size": 51}
    bright, faint = np.full(50, 3e5), np.full(50, 6e2)
    lost = [lost_to_sampling(flux, np.ones(50), **given) for flux in (bright, faint)]
    assert [needed_oversampling(3.6, lambda value=value: value) for value in lost] == [2, 1]
    broad = lost_to_sampling(bright, np.ones(50), **{**given, "fwhm": 9.0})
    assert needed_oversampling(9.0, lambda: broad) == 1
    assert needed_oversampling(3.6, lambda: 500.0, varies=True) == 1


def test_bright_stars_of_four_pixels_reach_the_bound_on_a_finer_grid_only():
    """The band-limited function through the pixels cannot be what such stars show: a bias of the core."""
    profile = moffat(3.6, e1=0.05, e2=-0.03)
    data, mask, truth = stars(profile, COUNT, SIZE, gain=5.0, seed=1, snr=(1000, 6000))
    ratios = []
    for oversampling in ("auto", 1):
        model = fit_psf(data, mask=mask, sky_std=1.0, gain=5.0, local_sky=False, oversampling=oversampling)
        error = np.sqrt(np.mean((model.image - truth["psf"] / truth["psf"].sum()) ** 2))
        ratios.append(error / cramer_rao(truth, mask, of_sum_one=True))
    assert ratios[0] < 1.1
    assert ratios[1] > 1.3


@pytest.mark.parametrize("local_sky", [False, True])
def test_large_stamps_reach_the_bound_by_default(local_sky):
    """What lies above half a cycle per pixel is a bias of a fit at the data's sampling; what is only noise is held."""
    profile = moffat(3.6, e1=0.05)
    data, mask, truth = stars(profile, 100, 51, gain=5.0, seed=3, sky_scatter=0.1 * local_sky, subpixels=3)
    model = fit_psf(data, mask=mask, sky_std=1.0, gain=5.0, local_sky=local_sky)
    bound = cramer_rao(truth, mask, of_sum_one=True)
    assert model.oversampling == 2
    for dx, dy in [(a, b) for a in (0, 0.5, -0.3) for b in (0, -0.45, 0.2)]:
        true = integrated(profile, dx, dy, 51)
        assert np.sqrt(np.mean((model.at(dx=dx, dy=dy) - true / true.sum()) ** 2)) < bound
    covered = np.abs(model.image - truth["psf"] / truth["psf"].sum()) < model.sigma
    assert abs(np.mean(covered) - 0.683) < 0.08


@pytest.mark.parametrize("width", [2.2, 3.6])
def test_an_airy_pattern_is_let_go_of(width):
    """
    It is no Moffat profile: a first fit finds that out, and the prior holds it no more.

    A sharp one has no frequencies that the data's pixels do not show, where a Moffat profile as sharp has.
    """
    data, mask, truth = stars(partial(airy, width=width), COUNT, SIZE, gain=5.0, seed=1, snr=(50, 500))
    model = fit_psf(data, mask=mask, sky_std=1.0, gain=5.0, local_sky=False)
    error = np.sqrt(np.mean((model.image - truth["psf"] / truth["psf"].sum()) ** 2))
    assert model.oversampling == 1
    assert error < 1.15 * cramer_rao(truth, mask, of_sum_one=True)


@pytest.mark.parametrize("fwhm", [2.5, 3.6])
def test_two_parts_of_a_psf_make_the_stars_that_one_makes(fwhm):
    import jax.numpy as jnp

    from galprep_dask.psf._kernels.parts import joined, matrices_of, parts_of, rendered, transposed
    from galprep_dask.psf._kernels.render import shift_matrices
    from galprep_dask.psf.start import moffat_psf

    oversampling, fine = 2, 2 * SIZE - 1
    psf = moffat_psf(fwhm, SIZE, fine, oversampling, 3.0)
    dx, dy = np.array([0.0, 0.4, -0.3], "f4"), np.array([0.5, -0.2, 0.1], "f4")
    y, x = (shift_matrices(shift, SIZE, fine, oversampling) for shift in (dy, dx))
    matrices, parts = (
        matrices_of(dx, dy, SIZE, fine, oversampling),
        parts_of(jnp.asarray(psf[None], "f4"), SIZE, oversampling),
    )
    found, whole = np.asarray(rendered(parts, matrices)), y @ psf @ x.swapaxes(1, 2)
    # Beyond the rim a star goes on at the other side, at another distance on either grid.
    assert np.abs(found - whole)[:, 1:-1, 1:-1].max() < 1e-5 * whole.max()
    back = joined(
        transposed(jnp.asarray(whole, "f4"), matrices, lambda half, x: jnp.matmul(half, x).sum(0)[None]),
        SIZE,
        fine,
        oversampling,
    )
    assert np.vdot(back, psf[None]) == pytest.approx(np.vdot(whole, found), rel=1e-5)
