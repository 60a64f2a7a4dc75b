"""The stars' profile, roughly, and the grid that it asks for."""

import numpy as np
import pytest
from simulated_stars import cramer_rao, moffat, stars

from galprep_dask.psf import fit_psf
from galprep_dask.psf.profile import lost_to_sampling, needed_oversampling, slope_of
from galprep_dask.psf.start import starting_values

SIZE, COUNT = 25, 60


def measured(profile, **kwargs):
    data, mask, truth = stars(profile, COUNT, SIZE, **{"gain": 5.0, "seed": 1, **kwargs})
    sky, dx, dy, flux, fwhm = starting_values(np.where(mask, 0, data), ~mask)
    light, variance = data - sky[:, None, None], np.ones_like(data)
    return slope_of(light, ~mask, variance, 0.2, flux, dx, dy, fwhm), fwhm, truth


@pytest.mark.parametrize("slope", [2.3, 3.0, 6.0])
def test_the_slope_of_the_wings_is_found_despite_masks_and_rays(slope):
    (found, alike), _, _ = measured(moffat(3.0, slope, e1=0.05))
    assert found == slope
    assert alike


def test_stars_that_are_no_moffat_profiles_are_told():
    narrow, ring = moffat(2.0, 6.0), moffat(9.0, 6.0)
    (_, alike), _, _ = measured(lambda x, y: 0.5 * narrow(x, y) + 0.5 * ring(x - 4, y), snr=(300, 1500))
    assert not alike


def test_faint_stars_keep_the_grid_of_the_data_and_bright_ones_get_a_finer():
    given = {"inverse_gain": 0.2, "fwhm": 3.6, "slope": 3.0, "size": 51}
    bright, faint = np.full(50, 3e5), np.full(50, 3e3)
    lost = [lost_to_sampling(flux, np.ones(50), **given) for flux in (bright, faint)]
    assert [needed_oversampling(3.6, lambda value=value: value) for value in lost] == [2, 1]
    broad = lost_to_sampling(bright, np.ones(50), **{**given, "fwhm": 6.0})
    assert needed_oversampling(6.0, lambda: broad) == 1


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
