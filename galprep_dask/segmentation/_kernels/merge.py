"""Sources across the borders of blocks: which parts touch, and what they are together."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from galprep_dask.segmentation._kernels.label import Components, Runs
from galprep_dask.segmentation._kernels.pixel_sums import PixelSums, Sums, concatenate_sums, finish, join_sums

__all__ = ["BlockSources", "Merged", "Table", "join_tables", "merge_sources", "sources_of_block"]


class BlockSources(NamedTuple):
    """What one block hands over of its sources; memory is set by their number and by the runs on open sides."""

    first: np.ndarray  # (n,) int64, flat index in the image of the first pixel
    area: np.ndarray  # (n,) int64
    limits: np.ndarray  # (n, 4) int32, x_min, x_max, y_min, y_max in the image
    rims: tuple[np.ndarray, ...]  # above, below, left, right: (m, 3) int64, start and stop in the image, number
    sums: Sums | None
    open: np.ndarray  # numbers of those that reach an open side, sorted
    open_sums: PixelSums | None  # exact, of these alone


class Merged(NamedTuple):
    """The sources of the image, in the order of their first pixels."""

    area: np.ndarray
    limits: np.ndarray
    sums: Sums | None
    numbers: np.ndarray  # object array, a block each: the label of every component of the block, 0 if dropped


def sources_of_block(
    runs: Runs, components: Components, sums: PixelSums | None, shape, origin, nx_image, open_sides
) -> BlockSources:  # fmt: skip
    """
    Collect what the merge needs of a block of ``shape`` at ``origin``.

    Exact sums take several times the memory of numbers: they are kept where something may still be added to them.
    """
    y0, x0 = origin
    first = (components.first[:, 0].astype(np.int64) + y0) * nx_image + components.first[:, 1] + x0
    empty = np.empty((0, 3), np.int64)
    above, below, left, right = open_sides
    rims = (
        _row_rim(runs, components.of_run, 0, x0) if above else empty,
        _row_rim(runs, components.of_run, shape[0] - 1, x0) if below else empty,
        _column_rim(*runs, components.of_run, 0, y0) if left else empty,
        _column_rim(*runs, components.of_run, shape[1] - 1, y0) if right else empty,
    )
    known = first, components.area, components.limits_at(origin), rims
    reaching = np.unique(np.concatenate([rim[:, 2] for rim in rims]))  # none of these was dropped
    if sums is None:
        return BlockSources(*known, None, reaching, None)
    return BlockSources(*known, finish(sums), reaching, sums.of(reaching))


def _row_rim(runs, of_run, row, x0):
    here = slice(runs.first[row], runs.first[row + 1])
    return np.stack([runs.start[here] + np.int64(x0), runs.stop[here] + np.int64(x0), of_run[here]], axis=1)


@njit(nogil=True, cache=True)
def _column_rim(first, start, stop, of_run, column, y0):
    """Rows in which a run covers the first or last column, joined to runs down it."""
    ny = len(first) - 1
    rim = np.empty((ny, 3), np.int64)
    n = 0
    for y in range(ny):
        if first[y] == first[y + 1]:
            continue
        run = first[y] if column == 0 else first[y + 1] - 1
        if start[run] <= column < stop[run]:
            if n > 0 and rim[n - 1, 1] == y0 + y and rim[n - 1, 2] == of_run[run]:
                rim[n - 1, 1] += 1
            else:
                rim[n, 0], rim[n, 1], rim[n, 2] = y0 + y, y0 + y + 1, of_run[run]
                n += 1
    return rim[:n].copy()


def merge_sources(blocks: np.ndarray, connectivity: int, n_pixels: int) -> Merged:
    """
    Unite the parts that touch across borders, drop sources that are too small, and number the others.

    Parameters
    ----------
    blocks : (rows, columns) object array of BlockSources
        As the blocks lie in the image.
    connectivity, n_pixels : int
        As for the blocks.

    Returns
    -------
    Merged
        Label ``i + 1`` is the source of index ``i``.
    """
    flat = blocks.ravel()
    counts = np.array([len(block.first) for block in flat])
    offsets = np.concatenate([[0], np.cumsum(counts)])
    first = np.concatenate([block.first for block in flat])
    area = np.concatenate([block.area for block in flat])
    limits = np.concatenate([block.limits for block in flat])
    sums = None
    if flat[0].sums is not None:
        sums = Sums(*map(np.concatenate, zip(*(block.sums for block in flat), strict=True)))

    owner = np.arange(len(first))
    parts, edges = _united_parts(_touching_parts(blocks, offsets[:-1].reshape(blocks.shape), connectivity), first)
    if len(parts):
        leaders = parts[edges[:-1]]  # the part with a source's first pixel stands for all of it
        owner[parts] = np.repeat(leaders, np.diff(edges))
        area[leaders] = np.add.reduceat(area[parts], edges[:-1])
        limits[leaders] = _join_limits(limits[parts], edges[:-1])
        if sums is not None:
            reaching = np.concatenate([block.open + offset for block, offset in zip(flat, offsets[:-1], strict=True)])
            exact = concatenate_sums([block.open_sums for block in flat]).of(np.searchsorted(reaching, parts))
            for values, joined in zip(sums, finish(join_sums(exact, edges[:-1])), strict=True):
                values[leaders] = joined

    kept = np.flatnonzero((owner == np.arange(len(first))) & (area >= n_pixels))
    kept = kept[np.argsort(first[kept])]
    label = np.zeros(len(first), np.int64)
    label[kept] = np.arange(1, len(kept) + 1)
    label = label[owner]
    numbers = np.empty(blocks.shape, object)
    for place, begin, end in zip(np.ndindex(blocks.shape), offsets[:-1], offsets[1:], strict=True):
        numbers[place] = label[begin:end].astype(np.int32)
    return Merged(area[kept], limits[kept], None if sums is None else Sums(*(values[kept] for values in sums)), numbers)


def _touching_parts(blocks, offsets, connectivity) -> np.ndarray:
    """
    Pairs of parts that touch across a border, (n, 2).

    A border is followed through the whole image, so that corners where four blocks meet are nothing special.
    """
    reach = 1 if connectivity == 8 else 0
    pairs = [np.empty((0, 2), np.int64)]
    for axis, (one, other) in enumerate([(1, 0), (3, 2)]):  # below meets above, right meets left
        lines, line_offsets = (blocks, offsets) if axis == 0 else (blocks.T, offsets.T)
        for i in range(lines.shape[0] - 1):
            here = _line(lines[i], line_offsets[i], one)
            there = _line(lines[i + 1], line_offsets[i + 1], other)
            pairs.append(_touching(here, there, reach))
    return np.concatenate(pairs)


def _line(blocks, offsets, side):
    rims = [block.rims[side] + np.array([0, 0, offset]) for block, offset in zip(blocks, offsets, strict=True)]
    return np.concatenate(rims)


@njit(nogil=True, cache=True)
def _touching(here, there, reach):
    pairs = np.empty((2 * (len(here) + len(there)), 2), np.int64)
    n, i = 0, 0
    for j in range(len(there)):
        while i < len(here) and here[i, 1] + reach <= there[j, 0]:
            i += 1
        k = i
        while k < len(here) and here[k, 0] < there[j, 1] + reach:
            pairs[n, 0], pairs[n, 1] = here[k, 2], there[j, 2]
            n += 1
            k += 1
    return pairs[:n].copy()


def _united_parts(pairs, first) -> tuple[np.ndarray, np.ndarray]:
    """Parts that touch others, those of a source side by side in the order of first pixels, and where each begins."""
    parts, index = np.unique(pairs, return_inverse=True)
    index = index.reshape(pairs.shape)
    links = coo_array((np.ones(len(pairs), np.int8), (index[:, 0], index[:, 1])), shape=(len(parts), len(parts)))
    n_groups, group = connected_components(links, directed=False) if len(parts) else (0, np.empty(0, np.int32))
    order = np.lexsort((first[parts], group))
    return parts[order], np.concatenate([[0], np.cumsum(np.bincount(group, minlength=n_groups))])


def _join_limits(limits, begin):
    low = np.minimum.reduceat(limits, begin, axis=0)
    high = np.maximum.reduceat(limits, begin, axis=0)
    return np.stack([low[:, 0], high[:, 1], low[:, 2], high[:, 3]], axis=1)


# Labels given by someone else ------------------------------------------------------------------------------


class Table(NamedTuple):
    """What is known of the labels that occur, sorted."""

    labels: np.ndarray
    area: np.ndarray
    limits: np.ndarray
    sums: PixelSums | Sums | None  # exact as long as parts are to come


def join_tables(tables: list[Table]) -> Table:
    """Unite the tables of parts of an image."""
    labels = np.concatenate([table.labels for table in tables])
    order = np.argsort(labels, kind="stable")
    labels = labels[order]
    begin = np.flatnonzero(np.concatenate([[True], labels[1:] != labels[:-1]])) if len(labels) else np.empty(0, int)
    area = np.concatenate([table.area for table in tables])[order]
    limits = np.concatenate([table.limits for table in tables])[order]
    sums = None
    if tables[0].sums is not None:
        sums = concatenate_sums([table.sums for table in tables]).of(order)
    if len(begin) == len(labels):
        return Table(labels, area, limits, sums)
    return Table(
        labels[begin], np.add.reduceat(area, begin), _join_limits(limits, begin),
        None if sums is None else join_sums(sums, begin),
    )  # fmt: skip
