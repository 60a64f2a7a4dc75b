"""From a finished fit to the model that is handed out."""

from __future__ import annotations

import numpy as np
from astropy.table import Table

from galprep_dask.psf.model import PSFModel
from galprep_dask.psf.prior import noise_factors

__all__ = ["assemble"]


def assemble(fit, used, parameters: dict) -> PSFModel:
    """
    Make a PSFModel of a finished fit.

    Parameters
    ----------
    fit : galprep_dask.psf.one_fit.OneFit
    used : (k,) bool array
        Stars that P was fitted to.
    parameters : dict
        What was asked for.

    Returns
    -------
    PSFModel
    """
    problem, solution = fit.problem, fit.solution
    size, s = problem.data.shape[-1], problem.oversampling
    variance, image_variance = _variances(fit, size)
    return PSFModel(
        solution.psf, size, s, fit.field, variance, image_variance, _star_table(fit, used),
        solution.loss_history, solution.converged, fit.validation, parameters,
    )  # fmt: skip


def _variances(fit, size):
    """Variances of the coefficients, and of the image at the data's sampling, from the normal matrix."""
    problem, solution = fit.problem, fit.solution
    fine, s = solution.psf.shape[-1], problem.oversampling
    per_fine, per_pixel = noise_factors(fit.prior, s, fine)
    information = solution.diagonal
    # The middle of every data pixel on the fine grid, nearest where it falls between two.
    at = np.rint((fine - 1) / 2 + s * (np.arange(size) - (size - 1) / 2)).astype(int)
    at = np.clip(at, 0, fine - 1)
    sampled = information[:, at[:, None], at]
    shrink = fit.prior.shrink
    variance = 1 / (information / per_fine + shrink)
    image_variance = 1 / (sampled / per_pixel[:, at[:, None], at] + shrink[:, at[:, None], at] / s**2)
    if fit.field is not None:  # what the coefficients are drawn to is not known exactly, and matters as far as they are
        wrong = fit.mean_variance * (shrink * variance) ** 2
        variance, image_variance = variance + wrong, image_variance + s**4 * wrong[:, at[:, None], at]
    level = fit.level_variance
    variance[0] += level
    image_variance[0] += level * s**4
    return variance, image_variance


def _star_table(fit, used):
    """Make a table with a row per stamp."""
    s, problem = fit.solution, fit.problem
    scale = np.sqrt(np.maximum(np.diagonal(s.normal, axis1=1, axis2=2), 1e-30))
    whitened = s.normal / scale[:, :, None] / scale[:, None, :] + 1e-9 * np.eye(4)
    with np.errstate(all="ignore"):
        errors = np.sqrt(np.maximum(np.diagonal(np.linalg.inv(whitened), axis1=1, axis2=2), 0)) / scale
    empty = ~problem.good.any((1, 2))
    # A PSF that is handed out is of sum 1 everywhere; the sum of a field may be any function of the place.
    light = problem.basis @ s.psf.sum((1, 2))
    values = {
        "dx": s.dx, "dy": s.dy, "flux": s.flux * light, "sky": s.sky, "dx_err": errors[:, 1], "dy_err": errors[:, 2],
        "flux_err": errors[:, 0] * light, "sky_err": errors[:, 3] if problem.free_sky else np.zeros(len(s.sky)),
        "snr": s.flux * np.sqrt(np.maximum(s.normal[:, 0, 0], 0)),
        "chi2": s.chi2 / np.maximum(s.n_good - 4, 1),
    }  # fmt: skip
    table = Table({name: np.where(empty, np.nan, column) for name, column in values.items()})
    table["n_good"] = s.n_good.astype(int)
    table["n_clipped"] = s.n_clipped.astype(int)
    table["used"] = used
    table["reserved"] = fit.reserved
    table["reason"] = fit.reasons
    for name in ("dx", "dy", "dx_err", "dy_err"):
        table[name].unit = "pix"
    return table
