"""What a fit leaves open is fixed here: the centre of P, its sum, and its level against the local skies."""

from __future__ import annotations

import numpy as np

from galprep_dask.psf._kernels.moments import adaptive_moments
from galprep_dask.psf._kernels.render import box_response, frequencies, shift_matrices, shifted
from galprep_dask.psf.solve import Problem, Solution

__all__ = ["centred", "fix_gauge", "polished", "rendered_stars", "resolved", "sampled"]

#: A level of P against the skies that a first guess may have got wrong, fraction of the peak.
LIKELY_LEVEL = 3e-4
#: Stars that are rendered at once: their matrices are small beside the stamps.
AT_ONCE = 32


def fix_gauge(solution: Solution, problem: Problem, alive) -> float:
    """
    Centre and normalise P, give skies and P their levels, and change the stars so that every model stays.

    Parameters
    ----------
    solution : Solution
        Changed in place.
    problem : Problem
    alive : (k,) bool array
        Stars that were fitted.

    Returns
    -------
    float
        Variance of the level of P, per fine pixel.
    """
    variance = _fix_level(solution, problem, alive) if problem.free_sky and problem.a_sky == 0 else 0.0
    s = problem.oversampling
    solution.psf, x, y = centred(solution.psf, s)
    solution.dx, solution.dy = solution.dx + x / s, solution.dy + y / s
    total = solution.psf[0].sum()
    solution.psf, solution.flux = solution.psf / total, solution.flux * total
    return variance


def centred(psf, oversampling: int) -> tuple[np.ndarray, float, float]:
    """
    Shift (m, N, N) coefficients so that the core of the first is in the middle pixel, by its adaptive centroid.

    Returns
    -------
    psf : (m, N, N) array
    x, y : float
        Where the core was, fine pixels from the middle.
    """
    x, y = 0.0, 0.0
    for _ in range(3):
        found = adaptive_moments(psf[:1], sigma=max(2.0, 1.5 * oversampling))
        dx, dy = float(found.x[0]), float(found.y[0])
        if not np.isfinite(dx + dy):
            break
        psf, x, y = shifted(psf, [-dx], [-dy]), x + dx, y + dy
        if np.hypot(dx, dy) < 1e-7:
            break
    return psf, x, y


def _fix_level(solution, problem, alive):
    """
    Take out of the skies what goes with the flux: a level of P does that, a sky does not.

    ``sky_k = a + b flux_k``; the mean sky a is expected near what it looks like, b within LIKELY_LEVEL of the peak.
    """
    sky, flux = solution.sky[alive], solution.flux[alive]
    if len(sky) < 2:
        return 0.0
    error2 = 1 / np.maximum(solution.normal[alive, 3, 3], 1e-300)
    middle = np.median(sky)
    scatter2 = (1.4826 * np.median(np.abs(sky - middle))) ** 2
    weight = 1 / (error2 + scatter2)
    level = LIKELY_LEVEL * solution.psf[0].max() * problem.oversampling**2
    mean_error2 = 1 / weight.sum()
    columns = np.stack([np.ones_like(flux), flux], 1)
    normal = columns.T @ (weight[:, None] * columns) + np.diag([1 / (middle**2 + mean_error2), 1 / level**2])
    covariance = np.linalg.inv(normal)
    b = (covariance @ (columns.T @ (weight * sky)))[1]
    fine = b / problem.oversampling**2
    solution.psf[0] += fine
    solution.sky = solution.sky - b * solution.flux
    return float(covariance[1, 1]) / problem.oversampling**4


def sampled(psf, size: int, oversampling: int, dx: float = 0.0, dy: float = 0.0) -> np.ndarray:
    """Integrate a fine PSF (..., N, N) over ``size`` x ``size`` data pixels, (dx, dy) px from their middle."""
    fine = psf.shape[-1]
    y, x = (shift_matrices(np.array([float(d)]), size, fine, oversampling)[0] for d in (dy, dx))
    return y @ psf @ x.T


def rendered_stars(psf, basis, dx, dy, size: int, oversampling: int) -> np.ndarray:
    """Give stars of flux 1, (k, size, size), at (k,) dx and dy, of coefficients (m, N, N) and polynomials (k, m)."""
    out = np.empty((len(dx), size, size))
    for start in range(0, len(dx), AT_ONCE):
        few = slice(start, start + AT_ONCE)
        y, x = (shift_matrices(np.asarray(d[few], float), size, psf.shape[-1], oversampling) for d in (dy, dx))
        images = psf[0] if len(psf) == 1 else np.tensordot(basis[few], psf, 1)
        out[few] = y @ images @ x.swapaxes(1, 2)
    return out


def resolved(image, fine: int, oversampling: int) -> np.ndarray:
    """Give the fine PSF (N, N) that is this image (n, n) once it is integrated over data pixels."""
    size = image.shape[-1]
    if fine == size:
        return image
    f = frequencies(size)
    amplitude = np.where(f == 0, 1.0, 2.0) / size / box_response(f / oversampling, oversampling)
    distance = np.subtract.outer((np.arange(fine) - (fine - 1) / 2) / oversampling, np.arange(size) - (size - 1) / 2)
    matrix = np.tensordot(amplitude, np.cos(2 * np.pi * f[:, None, None] * distance), 1)
    return matrix @ image @ matrix.T


def polished(image) -> np.ndarray:
    """
    Sum 1 and centre of mass in the middle pixel, exactly.

    The core is centred already. What the noise of the outer pixels adds to the centre of mass is taken off as a
    gradient over the whole image, which is far below the noise of a pixel.
    """
    size = image.shape[-1]
    axis = np.arange(size) - (size - 1) / 2
    scale = size * (axis**2).sum()
    image = image / image.sum()
    image = image - axis * ((image @ axis).sum() / scale) - axis[:, None] * ((axis @ image).sum() / scale)
    return image / image.sum()
