"""Centre, size and ellipticity of stars by adaptive Gaussian weights."""

from typing import NamedTuple

import numpy as np

__all__ = ["Moments", "adaptive_moments"]

#: Gaussian of the same second moments: FWHM = 2.3548 sigma.
FWHM_OF_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))


class Moments(NamedTuple):
    """Adaptive moments of every stamp; NaN where they did not settle."""

    x: np.ndarray  #: from the middle of the stamp, px
    y: np.ndarray
    size: np.ndarray  #: T = Ixx + Iyy, px^2
    e1: np.ndarray  #: (Ixx - Iyy) / T
    e2: np.ndarray  #: 2 Ixy / T

    @property
    def fwhm(self):
        """FWHM of the round Gaussian of the same T, px."""
        return FWHM_OF_SIGMA * np.sqrt(self.size / 2)


def adaptive_moments(images, good=None, *, sigma=2.0, centre=None, iterations=100, tolerance=1e-7):
    """
    Second moments under the elliptical Gaussian weight that has the same moments as the image under it.

    Parameters
    ----------
    images : (k, n, n) array
        Sky-subtracted stars near the middle.
    good : (k, n, n) bool array, optional
        Pixels that count.
    sigma : float or (k,) array
        Width to start from, px.
    centre : (k, 2) array, optional
        x and y to start from, from the middle.
    iterations : int
        At most.
    tolerance : float
        Relative change of T at which they have settled.

    Returns
    -------
    Moments

    Notes
    -----
    Bernstein and Jarvis 2002, AJ 123, 583, section 3.1: under a weight of covariance M a Gaussian of covariance M
    has second moments M / 2 and shows half of its offset.
    """
    images = np.asarray(images, np.float64)
    count, size = images.shape[:2]
    middle = (size - 1) / 2
    reach = int(min(middle, np.ceil(8 * np.max(sigma) + 4)))
    crop = slice(int(middle) - reach, int(middle) + reach + 1)
    images = images[:, crop, crop]
    if good is not None:
        images = np.where(np.asarray(good)[:, crop, crop], images, 0.0)
    axis = np.arange(-reach, reach + 1.0)
    x, y = (np.zeros(count), np.zeros(count)) if centre is None else np.array(centre, float).T.copy()
    xx, yy = np.broadcast_to(np.square(sigma, dtype=float), (2, count)).copy()
    xy = np.zeros(count)
    active, settled = np.arange(count), np.zeros(count, bool)
    with np.errstate(all="ignore"):
        for _ in range(iterations):
            dx, dy = axis - x[active, None], axis - y[active, None]
            a, b, c = xx[active], yy[active], xy[active]
            det = a * b - c * c
            # One product of three terms in y and three in x is the exponent at every pixel.
            in_y = np.stack([np.ones_like(dy), -0.5 * (a / det)[:, None] * dy**2, (c / det)[:, None] * dy], -1)
            in_x = np.stack([-0.5 * (b / det)[:, None] * dx**2, np.ones_like(dx), dx], 1)
            light = in_y @ in_x
            np.exp(light, out=light)
            light *= images[active]
            along_x, along_y = light.sum(1), light.sum(2)
            s0 = along_x.sum(1)
            sx, sy = (along_x * dx).sum(1) / s0, (along_y * dy).sum(1) / s0
            sxx, syy = (along_x * dx**2).sum(1) / s0, (along_y * dy**2).sum(1) / s0
            sxy = ((light @ dx[:, :, None])[:, :, 0] * dy).sum(1) / s0
            x[active] += np.clip(2 * sx, -1, 1)
            y[active] += np.clip(2 * sy, -1, 1)
            new = [2 * (sxx - sx**2), 2 * (syy - sy**2), 2 * (sxy - sx * sy)]
            # A step may neither halve nor double the weight, nor make it narrower than a third of a pixel.
            na, nb = (np.clip(n, np.maximum(old / 2, 0.1), old * 2) for n, old in zip(new[:2], (a, b), strict=True))
            nc = np.clip(new[2], -0.9 * np.sqrt(na * nb), 0.9 * np.sqrt(na * nb))
            change = np.abs(na + nb - a - b) / (a + b) + np.hypot(sx, sy)
            xx[active], yy[active], xy[active] = na, nb, nc
            lost = ~(s0 > 0) | ~np.isfinite(change) | (np.hypot(x[active], y[active]) > reach) | (na + nb > reach**2)
            done = change < tolerance
            settled[active[done & ~lost]] = True
            active = active[~done & ~lost]
            if not active.size:
                break
    nan = np.where(settled, 0.0, np.nan)
    total = xx + yy
    return Moments(x + nan, y + nan, total + nan, (xx - yy) / total + nan, 2 * xy / total + nan)
