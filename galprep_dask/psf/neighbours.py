"""Neighbours of stars: found in the residuals, fitted with the same PSF, and taken off."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.ndimage import maximum_filter

from galprep_dask.psf.gauge import rendered_stars, sampled
from galprep_dask.psf.solve import Batch, Solution, fit_stars

__all__ = ["Neighbours", "without_neighbours"]

#: Significance of a peak in the residual, fraction of the star's own flux below which it is taken for a misfit of the
#: star, and most neighbours of a stamp.
SIGNIFICANT, LEAST_FRACTION, MOST = 7.0, 0.003, 4


class Neighbours:
    """Stamp, flux and position of every neighbour; (n,) arrays."""

    def __init__(self, stamp, flux, dx, dy):
        self.stamp, self.flux, self.dx, self.dy = stamp, flux, dx, dy

    def __len__(self):
        return len(self.stamp)


def _psf_of(problem, solution, k):
    return solution.psf[0] if len(solution.psf) == 1 else np.tensordot(problem.basis[k], solution.psf, 1)


def _light(problem, solution, found, size):
    """Light of the neighbours on every stamp."""
    light = np.zeros(problem.data.shape)
    offset = np.arange(size) - (size - 1) / 2
    half = (solution.psf.shape[-1] - 1) / 2 / problem.oversampling + 0.5
    for k, flux, dx, dy in zip(found.stamp, found.flux, found.dx, found.dy, strict=True):
        star = flux * sampled(_psf_of(problem, solution, k), size, problem.oversampling, dx, dy)
        star[np.abs(offset - dy) > half] = 0
        star[:, np.abs(offset - dx) > half] = 0
        light[k] += star
    return light


def without_neighbours(problem, solution, fwhm: float, before: Neighbours | None = None):
    """
    Take neighbours off the stamps.

    Parameters
    ----------
    problem : Problem
        Stamps as observed.
    solution : Solution
        A PSF and the stars under it.
    fwhm : float
        Of the stars, px.
    before : Neighbours, optional
        Those that were found under an earlier PSF; they are fitted again, none is looked for.

    Returns
    -------
    Problem, Neighbours
        The stamps without them, and what was taken off.
    """
    size, s = problem.data.shape[-1], problem.oversampling
    every = rendered_stars(solution.psf, problem.basis, solution.dx, solution.dy, size, s)
    own = solution.flux[:, None, None] * every + solution.sky[:, None, None]
    residual = np.where(problem.good, problem.data - own, 0.0)
    found = before or _peaks(problem, solution, residual, fwhm)
    if not len(found):
        return problem, found
    light = _light(problem, solution, found, size)
    index = found.stamp
    offset = np.arange(size) - (size - 1) / 2
    near = np.hypot(offset - found.dx[:, None, None], offset[:, None] - found.dy[:, None, None]) < 1.5 * fwhm
    each = np.array(
        [
            found.flux[i] * sampled(_psf_of(problem, solution, k), size, s, found.dx[i], found.dy[i])
            for i, k in enumerate(index)
        ]
    )
    alone = replace(
        problem, data=(residual - light)[index] + each, good=problem.good[index] & near, basis=problem.basis[index],
        variance=problem.variance[index] + np.maximum(own[index], 0) * problem.inverse_gain, free_sky=False,
    )  # fmt: skip
    batch = Batch(alone, solution.psf.shape[-1])
    fitted = Solution(solution.psf, found.flux, found.dx, found.dy, np.zeros(len(found)))
    fit_stars(batch, fitted, steps=4, floor=0.3)
    stayed = np.hypot(fitted.dx - found.dx, fitted.dy - found.dy) < 2 * fwhm
    kept = stayed & (fitted.flux > 0)
    found = Neighbours(*(values[kept] for values in (index, fitted.flux, fitted.dx, fitted.dy)))
    light = _light(problem, solution, found, size)
    return replace(problem, data=np.where(problem.good, problem.data - light, problem.data)), found


def _peaks(problem, solution, residual, fwhm):
    """Peaks of the residuals that are significant after a filter of the PSF's width."""
    size = residual.shape[-1]
    offset = np.arange(size) - (size - 1) / 2
    width = fwhm / 2.355
    kernel = np.exp(-0.5 * (np.arange(-np.ceil(3 * width), np.ceil(3 * width) + 1) / width) ** 2)
    band = np.array([np.convolve(row, kernel, "same") for row in np.eye(size)])
    weight = problem.good / problem.variance
    top, bottom = band @ (weight * residual) @ band.T, band**2 @ weight @ (band**2).T
    flux = top / np.maximum(bottom, 1e-300) * (kernel.sum() ** 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        significance = np.where(bottom > 0, top / np.sqrt(np.maximum(bottom, 1e-300)), 0.0)
    stamps, fluxes, xs, ys = [], [], [], []
    for k in range(len(residual)):
        distance = np.hypot(offset - solution.dx[k], offset[:, None] - solution.dy[k])
        sharp = residual[k] ** 2 * weight[k]
        peak = (
            (significance[k] > SIGNIFICANT) & (significance[k] == maximum_filter(significance[k], 2 * int(fwhm) + 1))
            & (distance > 1.2 * fwhm) & (flux[k] > LEAST_FRACTION * solution.flux[k])
        )  # fmt: skip
        rows, columns = np.nonzero(peak)
        order = np.argsort(-significance[k][rows, columns])[:MOST]
        for i, j in zip(rows[order], columns[order], strict=True):
            box = sharp[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
            if box.max() > 0.7 * box.sum():  # one pixel holds it all: a cosmic ray
                continue
            stamps.append(k)
            fluxes.append(flux[k][i, j])
            xs.append(offset[j])
            ys.append(offset[i])
    return Neighbours(np.array(stamps, int), np.array(fluxes), np.array(xs), np.array(ys))
