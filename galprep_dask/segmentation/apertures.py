"""Quantities that need pixels beyond a source's own: Kron apertures, windowed centroids, half-light radii."""

from __future__ import annotations

from typing import NamedTuple

import dask.array as da
import numpy as np
from astropy import units as u

from galprep_dask.blockwise import block_edges, collect_in_turn, map_regions
from galprep_dask.fused import compute_now
from galprep_dask.image import WARNINGS_LOCK

__all__ = ["PER_SOURCE", "measure_apertures"]

#: Columns that photutils works out source by source, and their units.
PER_SOURCE = {
    "kron_radius": u.pix,
    "kron_flux": None,
    "kron_flux_err": None,
    "flux_radius": u.pix,
    "x_centroid_win": None,
    "y_centroid_win": None,
    "gini": None,
    "perimeter": u.pix,
}

#: Kron radii are at most 6 semimajor axes, and apertures 2.5 times as large: 15. The half-light radius is no larger,
#: and the window reaches over 4 x 2 / 2.3548 of it, about a centre that moves a little.
_REACH, _WINDOW_REACH = 15.0, 15.0 * 8 / 2.3548 + 2.0
#: Pixels of the largest region that is gathered for a source.
_LARGEST = 1 << 26
#: Side of the tiles whose sources are measured together.
_TILE = 1024


class _Group(NamedTuple):
    """Sources that are measured together."""

    rows: np.ndarray  # of the table
    box: tuple[int, int, int, int]  # y0, y1, x0, x1: all pixels that they need


def measure_apertures(planes: dict[str, da.Array], labels, limits, x, y, semimajor, names, method: str) -> dict:
    """
    Let photutils measure every source on a region that holds all pixels it looks at.

    Parameters
    ----------
    planes : dict of (ny, nx) dask arrays
        "image" and "labels", and where they are known "convolved_data", "error", "mask", all of the same chunks.
    labels, limits, x, y, semimajor : arrays
        Of each source: its label, the limits of its segment, centroid and semimajor axis.
    names : list of str
        Keys of ``PER_SOURCE``.
    method : {"correct", "mask", "none"}
        What photutils does with the pixels of neighbours.

    Returns
    -------
    dict of arrays or Quantities
        NaN where a source has no shape, or needs more pixels than are gathered at once.
    """
    columns = np.full((len(names), len(labels)), np.nan)
    groups = _groups(planes["image"], limits, x, y, semimajor, any("win" in name for name in names))
    if groups:
        measured = map_regions(
            _measure_region, [group.box for group in groups], list(planes.values()),
            [labels[group.rows] for group in groups], planes=list(planes), names=names, method=method,
        )  # fmt: skip
        begins = [group.box[0] for group in groups]
        turns = np.searchsorted(block_edges(planes["image"].chunks[0]), begins, side="right").tolist()
        for group, values in zip(groups, compute_now(collect_in_turn(measured, turns))[0], strict=True):
            columns[:, group.rows] = values
    return {
        name: values if PER_SOURCE[name] is None else values * PER_SOURCE[name]
        for name, values in zip(names, columns, strict=True)
    }


def _groups(image: da.Array, limits, x, y, semimajor, windowed: bool) -> list[_Group]:
    """
    Put the sources that begin in a tile of the image together, and each large one by itself.

    Tiles lie as they lie in the image, whatever the chunks: where a region begins decides about the last digits.
    """
    boxes = _boxes(image.shape, limits.astype(np.int64), x, y, semimajor, windowed)
    sides = boxes[:, 1::2] - boxes[:, ::2]
    measurable = np.flatnonzero(np.isfinite(x) & np.isfinite(semimajor) & (sides.prod(axis=1) <= _LARGEST))
    tiles = [-(-length // _TILE) for length in image.shape]
    number = limits[:, 2].astype(np.int64) // _TILE * tiles[1] + limits[:, 0] // _TILE
    alone = (sides > _TILE // 2).any(axis=1)
    number[alone] = tiles[0] * tiles[1] + np.flatnonzero(alone)
    order = measurable[np.argsort(number[measurable], kind="stable")]
    groups = []
    for rows in np.split(order, np.flatnonzero(np.diff(number[order])) + 1):
        if len(rows):
            low, high = boxes[rows].min(axis=0), boxes[rows].max(axis=0)
            groups.append(_Group(rows, (int(low[0]), int(high[1]), int(low[2]), int(high[3]))))
    return groups


def _boxes(shape, limits, x, y, semimajor, windowed) -> np.ndarray:
    """
    Pixels that each source needs, (n, 4): y0, y1, x0, x1.

    A box that crosses an edge of the image is moved inside, not cut: photutils gives up on apertures that are larger
    than its whole image, which must not happen because the region is small.
    """
    reach = np.ceil(np.nan_to_num((_WINDOW_REACH if windowed else _REACH) * semimajor)) + 3
    boxes = np.empty((len(x), 4), np.int64)
    for axis, (length, centre) in enumerate(zip(shape, (y, x), strict=True)):
        begin, end = limits[:, 2 - 2 * axis], limits[:, 3 - 2 * axis]
        centre = np.where(np.isfinite(centre), centre, (begin + end) / 2)
        low = np.minimum(np.floor(centre - reach).astype(np.int64), begin - 1)
        high = np.maximum(np.ceil(centre + reach).astype(np.int64) + 1, end + 1)
        size = np.minimum(high - low, length)
        boxes[:, 2 * axis] = np.clip(low, 0, length - size)
        boxes[:, 2 * axis + 1] = boxes[:, 2 * axis] + size
    return boxes


def _measure_region(regions, labels, *, box, planes, names, method) -> np.ndarray:
    from photutils.segmentation import SegmentationImage, SourceCatalog

    planes = dict(zip(planes, regions, strict=True))
    # Labels in the millions would make photutils keep something for every number below.
    present, ranks = np.unique(planes["labels"], return_inverse=True)
    ranks = ranks.reshape(planes["labels"].shape).astype(np.int32) + (0 if present[0] == 0 else 1)
    wanted = np.searchsorted(present, labels) + (0 if present[0] == 0 else 1)
    image = planes["image"]
    image = image if image.dtype in (np.float32, np.float64) else image.astype(np.float64)
    with WARNINGS_LOCK, np.errstate(all="ignore"):
        catalog = SourceCatalog(
            image, SegmentationImage(ranks), convolved_data=planes.get("convolved_data"), error=planes.get("error"),
            mask=planes.get("mask"), aperture_mask_method=method,
        ).select_labels(wanted)  # fmt: skip
        values = np.empty((len(names), len(labels)))
        for row, name in zip(values, names, strict=True):
            column = catalog.flux_radius(0.5) if name == "flux_radius" else getattr(catalog, name)
            row[:] = getattr(column, "value", column)
    if "x_centroid_win" in names:
        values[names.index("x_centroid_win")] += box[2]
    if "y_centroid_win" in names:
        values[names.index("y_centroid_win")] += box[0]
    return values
