"""How a PSF varies over the field: polynomials of the position, and the region that the stars cover."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.polynomial.chebyshev import chebvander2d
from scipy.spatial import ConvexHull, QhullError

__all__ = ["Field", "chebyshev_products", "make_field"]


@dataclass(frozen=True)
class Field:
    """
    Polynomials that are orthonormal over the stars, and the stars' hull.

    Attributes
    ----------
    degree : int
        Total degree to which every pixel varies.
    domain : (4,) array
        x and y that map to -1 and 1: x0, x1, y0, y1.
    transform : (m, m) array
        From Chebyshev products to the orthonormal polynomials; the first of them is 1.
    hull : (h, 2) array
        Corners (x, y) of the convex hull of the stars, counterclockwise.
    """

    degree: int
    domain: np.ndarray
    transform: np.ndarray
    hull: np.ndarray

    @property
    def total(self) -> int:
        """Total degree of all polynomials: size and shape may vary to a higher one than every pixel."""
        return (math.isqrt(8 * len(self.transform) + 1) - 3) // 2

    def basis(self, x, y) -> np.ndarray:
        """Give the polynomials at positions, (k, m)."""
        return chebyshev_products(np.atleast_1d(x), np.atleast_1d(y), self.total, self.domain) @ self.transform

    def inside(self, x: float, y: float) -> bool:
        """Whether a position lies in the hull of the stars, its rim included."""
        return bool(np.hypot(*np.subtract(self.clamped(x, y), (x, y))) < 1e-6)

    def clamped(self, x: float, y: float) -> tuple[float, float]:
        """Give the position itself, or the nearest point of the hull where it lies outside."""
        if self.degree == 0:
            return float(x), float(y)
        point = np.array([x, y], float)
        start, step = self.hull, np.roll(self.hull, -1, axis=0) - self.hull
        if len(start) > 2:
            turned = step[:, 0] * (point[1] - start[:, 1]) - step[:, 1] * (point[0] - start[:, 0])
            if (turned >= 0).all():
                return float(x), float(y)
        length2 = np.maximum((step**2).sum(1), 1e-30)
        along = np.clip(((point - start) * step).sum(1) / length2, 0, 1)
        nearest = start + along[:, None] * step
        best = nearest[np.argmin(((nearest - point) ** 2).sum(1))]
        return float(best[0]), float(best[1])


def chebyshev_products(x, y, degree: int, domain) -> np.ndarray:
    """Products T_i(x) T_j(y) of total degree ``degree`` at positions, (k, m), lowest degrees first."""
    u = (2 * np.asarray(x, float) - domain[0] - domain[1]) / (domain[1] - domain[0])
    v = (2 * np.asarray(y, float) - domain[2] - domain[3]) / (domain[3] - domain[2])
    products = chebvander2d(u, v, [degree, degree]).reshape(len(u), degree + 1, degree + 1)
    keep = np.add.outer(np.arange(degree + 1), np.arange(degree + 1)) <= degree
    i, j = np.nonzero(keep)
    order = np.argsort(i + j, kind="stable")
    return products[:, i[order], j[order]]


def make_field(x, y, degree: int, weight, total: int | None = None) -> Field:
    """
    Make the polynomials for stars at (x, y), orthonormal under ``weight``.

    Parameters
    ----------
    x, y : (k,) arrays
    degree : int
    weight : (k,) array
        Squared signal-to-noise ratios.
    total : int, optional
        Highest degree of the polynomials, where it is above ``degree``; the lower ones do not depend on it.

    Returns
    -------
    Field
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    domain = np.array([x.min(), x.max(), y.min(), y.max()])
    for low in (0, 2):
        if domain[low + 1] - domain[low] < 1e-9:
            domain[low : low + 2] += (-1.0, 1.0)
    products = chebyshev_products(x, y, max(degree, total or 0), domain)
    root = np.sqrt(weight / weight.sum())
    triangle = np.linalg.qr(products * root[:, None], mode="r")
    transform = np.linalg.inv(triangle)
    transform = transform * np.sign(transform[0, 0])
    points = np.stack([x, y], 1)
    try:
        hull = points[ConvexHull(points).vertices]
    except (QhullError, ValueError):
        hull = points[[np.argmin(x + y), np.argmax(x + y)]]
    return Field(degree, domain, transform, hull)
