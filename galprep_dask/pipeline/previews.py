"""Small versions of the images of a band, for a page: means over squares of pixels."""

from __future__ import annotations

import math

import dask.array as da
import numpy as np

from galprep_dask.blockwise import map_regions

__all__ = ["block_means"]

#: Most pixels of a side.
_SIDE = 512
#: About the side in pixels of the regions that a task looks at.
_REGION = 1024


def block_means(planes: dict[str, da.Array]) -> dict[str, np.ndarray]:
    """
    Average images over squares, so many pixels wide that no side has more than 512 of them.

    Parameters
    ----------
    planes : dict of (ny, nx) dask arrays
        Images of the same shape and chunks, all read in one pass. Bool arrays give fractions.

    Returns
    -------
    dict
        A float32 array for each, NaN where no pixel is finite; and ``step``, the side of the squares.
    """
    arrays = list(planes.values())
    ny, nx = arrays[0].shape
    step = max(1, math.ceil(max(ny, nx) / _SIDE))
    side = max(1, _REGION // step) * step
    boxes = [
        (y, min(y + side, ny), x, min(x + side, nx)) for y in range(0, ny, side) for x in range(0, nx, side)
    ]
    means = {name: np.empty((math.ceil(ny / step), math.ceil(nx / step)), np.float32) for name in planes}
    found = map_regions(_means, boxes, arrays, [None] * len(boxes), step=step).compute()
    for (y0, _, x0, _), parts in zip(boxes, found, strict=True):
        for image, part in zip(means.values(), parts, strict=True):
            image[y0 // step : y0 // step + part.shape[0], x0 // step : x0 // step + part.shape[1]] = part
    return {**means, "step": np.array(step)}


def _means(regions, _, *, box, step):
    return [_mean_over_squares(region, step) for region in regions]


def _mean_over_squares(region: np.ndarray, step: int) -> np.ndarray:
    good = np.isfinite(region)
    rows, columns = (np.arange(0, n, step) for n in region.shape)

    def over_squares(values):
        return np.add.reduceat(np.add.reduceat(values, rows, axis=0), columns, axis=1)

    with np.errstate(invalid="ignore"):
        total = over_squares(np.where(good, region, 0).astype(np.float64))
        return (total / over_squares(good.astype(np.float64))).astype(np.float32)
