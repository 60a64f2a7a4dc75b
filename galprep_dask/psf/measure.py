"""Sizes and shapes of the sources that may be stars, measured where their pixels are."""

from __future__ import annotations

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from galprep_dask.blockwise import block_edges, map_regions
from galprep_dask.psf._kernels.shapes import COLUMNS, TO_FWHM, measure_shapes, window_half
from galprep_dask.psf.locus import find_mode

__all__ = ["default_size", "measure_sources", "measure_until_wide_enough"]


#: How far, in the log of the width, stars may be from what the windows were made for.
_FAR = 0.25


def default_size(width: float) -> int:
    """Give the side of the box around stars of a standard deviation in pixels: eight times their FWHM, odd."""
    return 2 * round(4 * TO_FWHM * width) + 1


def measure_until_wide_enough(
    planes: dict[str, da.Array], peaks: np.ndarray, labels: np.ndarray, width: float, size: int | None, *,
    again: bool, **kwargs,
) -> tuple[dict[str, np.ndarray], int]:  # fmt: skip
    """
    Measure sources, and once more where stars turn out to be of another width than the windows were made for.

    Parameters
    ----------
    planes, peaks, labels
        As for :func:`measure_sources`.
    width : float
        Standard deviation in pixels of a star, as it was guessed.
    size : int or None
        Side of the box; None takes :func:`default_size`.
    again : bool
        Whether the guess may be mended.
    **kwargs
        Handed to :func:`measure_sources`.

    Returns
    -------
    dict of (n,) arrays, and the side of the box
    """
    for last in (not again, True):
        box = size or default_size(width)
        measured = measure_sources(planes, peaks, labels, width=width, size=box, **kwargs)
        good = np.isfinite(measured["width"]) & (measured["n_bad_core"] == 0)
        if last or not good.any():
            break
        found = float(np.exp(find_mode(np.log(measured["width"][good]), measured["snr"][good])))
        if abs(np.log(found / width)) < _FAR:
            break
        width = found
    return measured, box


def measure_sources(
    planes: dict[str, da.Array], peaks: np.ndarray, labels: np.ndarray, *, width: float, size: int,
    sky_std: float | None, saturate: float,
) -> dict[str, np.ndarray]:  # fmt: skip
    """
    Measure sources, a task for all those whose brightest pixels lie in one block.

    Parameters
    ----------
    planes : dict of (ny, nx) dask arrays
        "image", "labels", and where they are known "mask" and "sigma", all of the same chunks.
    peaks : (n, 2) int array
        Row and column of the brightest pixel of each source.
    labels : (n,) int array
        Their labels.
    width : float
        Standard deviation in pixels of a star, about.
    size : int
        Side of the box in pixels, odd.
    sky_std : float or None
        Noise of the sky; None takes "sigma".
    saturate : float
        Level of saturation.

    Returns
    -------
    dict of (n,) float64 arrays
        ``COLUMNS`` of :mod:`galprep_dask.psf._kernels.shapes`, positions in the image. No chunking changes a bit.
    """
    measured = np.full((len(labels), len(COLUMNS)), np.nan)
    image = planes["image"]
    margin = max(window_half(width), size // 2) + 1
    block = [np.searchsorted(block_edges(axis), peaks[:, i], side="right") - 1 for i, axis in enumerate(image.chunks)]
    number = block[0] * image.numblocks[1] + block[1]
    order = np.argsort(number, kind="stable")
    groups = [rows for rows in np.split(order, np.flatnonzero(np.diff(number[order])) + 1) if len(rows)]
    if groups:
        boxes = [_box(peaks[rows], margin, image.shape) for rows in groups]
        own = [(peaks[rows].astype(np.int64), labels[rows].astype(np.int64)) for rows in groups]
        parts = map_regions(
            _measure_region, boxes, list(planes.values()), own, names=list(planes), width=width, size=size,
            sky_std=sky_std, saturate=saturate,
        )  # fmt: skip
        for rows, part in zip(groups, _computed_by_rows(parts, [block[0][rows[0]] for rows in groups]), strict=True):
            measured[rows] = part
    return dict(zip(COLUMNS, measured.T, strict=True))


def _computed_by_rows(parts: da.Array, row_of: list[int]) -> list[np.ndarray]:
    """
    Compute regions, those of one row of blocks after those of the row before.

    Left to itself, the scheduler keeps many blocks of the image that wait for others around them.
    """
    token = tokenize(parts.name, row_of)
    row, collected = f"row-{token}", f"collected-{token}"
    keys, last, graph = [(parts.name, k) for k in range(len(row_of))], [], {}
    for i in sorted(set(row_of)):
        graph[row, i] = (_row_done, [key for key, its in zip(keys, row_of, strict=True) if its == i], *last)
        last = [(row, i)]
    graph[collected, 0] = (_as_one, keys, *last)
    graph = HighLevelGraph.from_collections(collected, graph, dependencies=[parts])
    return da.Array(graph, collected, ((1,),), meta=np.empty(0, object)).compute()[0]


def _row_done(parts, *before):
    return True


def _as_one(parts, done):
    boxed = np.empty(1, object)
    boxed[0] = [part[0] for part in parts]
    return boxed


def _box(peaks, margin: int, shape) -> tuple[int, int, int, int]:
    (y0, x0), (y1, x1) = peaks.min(axis=0) - margin, peaks.max(axis=0) + margin + 1
    return max(int(y0), 0), min(int(y1), shape[0]), max(int(x0), 0), min(int(x1), shape[1])


def _measure_region(regions, own, *, box, names, width, size, sky_std, saturate) -> np.ndarray:
    planes = dict(zip(names, regions, strict=True))
    peaks, labels = own
    image = planes["image"]
    bad = ~np.isfinite(image)
    if "mask" in planes:
        bad |= planes["mask"]
    variance = np.array([[0.0 if sky_std is None else float(sky_std) ** 2]])
    if sky_std is None:
        variance = planes["sigma"].astype(np.float64) ** 2
    image = image if image.dtype in (np.float32, np.float64) else image.astype(np.float64)
    measured = measure_shapes(
        image, planes["labels"], bad, variance, peaks - np.array([box[0], box[2]]), labels,
        width=width, size=size, saturate=saturate,
    )  # fmt: skip
    measured[:, 0] += peaks[:, 1]
    measured[:, 1] += peaks[:, 0]
    return measured
