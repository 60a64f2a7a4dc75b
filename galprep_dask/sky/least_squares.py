"""What the fits of polynomials and of polynomial pieces have in common."""

from __future__ import annotations

import dask.array as da
import numpy as np

from galprep_dask.arrays import ImageLike, as_image, as_mask, check_same_shape
from galprep_dask.errors import ParameterError

__all__ = ["check_fit", "fit_planes", "normal_matrix"]


def check_fit(order, lowest_order: int, sigma_clip, maxiters) -> None:
    """Raise ParameterError unless degree and clipping make sense."""
    if not isinstance(order, int | np.integer) or order < lowest_order:
        raise ParameterError(f"order={order!r}; expected a whole number, {lowest_order} or more.")
    if sigma_clip is not None and not sigma_clip > 0:
        raise ParameterError(f"sigma_clip={sigma_clip!r}; expected a positive number, or None.")
    if maxiters < 0:
        raise ParameterError(f"maxiters={maxiters!r}; expected 0 or more.")


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
