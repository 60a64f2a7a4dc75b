"""
What the fits of polynomials and of polynomial pieces have in common.

A fit with clipping is one fit after another, each to the pixels near the one before. Their limits soon change by
little: a look at the image takes along, one by one, the pixels whose residuals lie near the limit, and from these
follow the sums of the next fits, without the image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import dask.array as da
import numpy as np

from galprep_dask.arrays import ImageLike, as_image, as_mask, check_same_shape, is_number, is_whole
from galprep_dask.blockwise import merge_blocks_now_at
from galprep_dask.errors import ParameterError
from galprep_dask.sky._kernels.chebyshev import Band, join_bands

__all__ = ["Solution", "check_fit", "clipped_fit", "fit_planes", "normal_matrix"]

#: How far below the limit, and above it, residuals count as near, as parts of the limit. Clipping noise at three
#: standard deviations lowers the limit by 1.6 %, what is left of sources makes it more.
_BELOW, _ABOVE = 0.07, 0.02
#: Pixels that are taken along at most, in all; they take 33 bytes each. A block may have twice its share.
_ROOM = 2**21
#: Part of the squares of the pixels that the squares of their residuals must be, or sums of pixels have lost digits.
_LEAST_LEFT = 1e-4


def check_fit(order, lowest_order: int, sigma_clip, maxiters) -> None:
    """Raise ParameterError unless degree and clipping make sense."""
    if not is_whole(order) or order < lowest_order:
        raise ParameterError(f"order={order!r}; expected a whole number, {lowest_order} or more.")
    if sigma_clip is not None and not (is_number(sigma_clip) and sigma_clip > 0):
        raise ParameterError(f"sigma_clip={sigma_clip!r}; expected a positive number, or None.")
    if not (is_whole(maxiters) and maxiters >= 0):
        raise ParameterError(f"maxiters={maxiters!r}; expected a whole number, 0 or more.")


def fit_planes(data: ImageLike, mask: ImageLike | None, weight: ImageLike | None) -> list[da.Array]:
    """Give the image and, of mask and weight, what there is, as dask arrays of the same chunks."""
    data = as_image(data)
    planes = [data]
    if mask is not None:
        planes.append(as_mask(mask, data))
    if weight is not None:
        check_same_shape(weight, data.shape, "weight")
        planes.append(as_image(weight, "weight", chunks=data.chunks))
    return planes


def normal_matrix(gram: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """
    Weighted products of all pairs of terms T_i(v) T_j(u), from the moments of the weights.

    T_i T_k = (T_(i+k) + T_|i-k|) / 2, on both axes.
    """
    rows = (i[:, None] + i, np.abs(i[:, None] - i))
    columns = (j[:, None] + j, np.abs(j[:, None] - j))
    return sum(gram[row, column] for row in rows for column in columns) / 4


class Solution(NamedTuple):
    """
    A fit.

    Attributes
    ----------
    model : array
        Coefficients about which residuals were taken.
    correction : array
        What the fit adds to them.
    scatter : float
        Standard deviation of sqrt(weight) * residual that it leaves.
    left : float
        What it leaves of the sum of the squares of the residuals about ``model``.
    n_pixels : int
        Number of pixels fitted.
    sums : array
        From which it follows.
    """

    model: np.ndarray
    correction: np.ndarray
    scatter: float
    left: float
    n_pixels: int
    sums: np.ndarray


def clipped_fit(
    planes: list[da.Array], zero: np.ndarray, sigma_clip: float | None, maxiters: int, *, look: Callable,
    solve: Callable, change: Callable, furthest: Callable, rounding: Callable, shown: Callable = np.asarray,
) -> Solution:  # fmt: skip
    """
    Fit, and fit again to the pixels within ``sigma_clip`` times the scatter.

    Parameters
    ----------
    planes : list of (ny, nx) dask arrays
        The image and what belongs to it.
    zero : array
        Coefficients of no sky.
    sigma_clip, maxiters : float or None, int
        As for :func:`galprep_dask.sky.fit_polynomial_sky`.
    look : callable
        ``look(*blocks, origin=, model=, limit=, edges=, room=)`` gives sums and :class:`Band` of a block.
    solve : callable
        ``solve(sums, model)`` gives a Solution.
    change : callable
        ``change(band, model=, shifted=, limit=)`` gives the change of sums that another limit makes.
    furthest : callable
        ``furthest(correction)`` is no less than what the correction changes at any pixel.
    rounding : callable
        ``rounding(solution)`` is the scatter that comes of the rounding of the model.
    shown : callable
        ``shown(model)`` is what ``look`` and ``change`` take for coefficients.

    Returns
    -------
    Solution
        The last.
    """

    def looked(model, limit=None, edges=(np.inf, np.inf), room=0) -> _Look:
        how = {"limit": limit, "edges": edges, "room": 2 * room // planes[0].npartitions}
        return _Look(model, edges, *merge_blocks_now_at(look, _joined, *planes, model=shown(model), **how))

    found = solve(looked(zero).sums, zero)
    fits = 0 if sigma_clip is None else maxiters
    if fits == 0 or found.left < _LEAST_LEFT:
        # Once more, about the first solution: a sky of 3e7 with noise 1 had taken its digits from the noise. A fit
        # with clipping is about that solution in any case.
        model = found.model + found.correction
        found = solve(looked(model).sums, model)
    near = None
    for _ in range(fits):
        if found.scatter <= rounding(found):
            break  # noise of the arithmetic only, and no pixel to be blamed for it
        before, limit, model = found.n_pixels, sigma_clip * found.scatter, found.model + found.correction
        if near is None or not near.holds(limit, furthest(found.correction)):
            below = _below(sigma_clip, before)
            near = looked(model, limit, ((1 - below) * limit, (1 + _ABOVE) * limit), _ROOM)
            sums = near.sums
        else:
            sums = near.sums + change(near.band, model=shown(near.model), shifted=shown(model), limit=limit)
        found = solve(sums, near.model)
        if found.n_pixels == before:
            break
    return found


class _Look(NamedTuple):
    """A pass over the image: residuals about ``model``, and one by one the pixels where they are between ``edges``."""

    model: np.ndarray
    edges: tuple[float, float]
    sums: np.ndarray
    band: Band

    def holds(self, limit: float, shift: float) -> bool:
        """Tell whether every pixel that the limit concerns, of a sky changed by so much at most, is in the band."""
        shift *= math.sqrt(self.band.largest_weight)
        return self.band.n_lost == 0 and self.edges[0] + shift <= limit <= self.edges[1] - shift


def _below(sigma_clip: float, n_pixels: int) -> float:
    """How far below the limit residuals are taken along, so that there is room for them if they are noise."""
    density = 2 * sigma_clip * math.exp(-0.5 * sigma_clip**2) / math.sqrt(2 * math.pi)
    return min(_BELOW, _ROOM / 2 / max(n_pixels * density, 1))


def _joined(parts: list[tuple[np.ndarray, Band]]) -> tuple[np.ndarray, Band]:
    sums, bands = zip(*parts, strict=True)
    return sum(sums[1:], start=sums[0]), join_bands(list(bands))
