"""Rings of sky around segments: what the pixels of a block add to them, and where growth stops.

Ring r of a label holds the sky pixels that are nearest to it, at a distance in (r - 1, r]. A block that holds all
rings of a label up to the one where it stops decides about the label by itself; of others it hands on the exact sums
of its pixels, and :func:`merge_rings` decides.

Most segments stop soon. So a block looks at the first rings alone where that is less work, and at all of them if a
label has not stopped by then.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from galprep_dask._kernels.exact_sums import (
    add_pixel,
    as_float,
    float_format,
    normalise,
    piece_of,
    pieces_between,
)
from galprep_dask.masks._kernels.nearest import nearest_segment
from galprep_dask.masks._kernels.runs import paint_ranks
from galprep_dask.masks._kernels.spread import are_few, sum_rings

__all__ = ["BlockRings", "Radii", "measure_rings", "merge_rings", "rings_of"]


class BlockRings(NamedTuple):
    """What a block knows about the growth of the labels in its sight."""

    present: np.ndarray
    """Labels in sight of the block, sorted."""
    decided: np.ndarray
    """Labels whose growth is decided here."""
    stop: np.ndarray
    """Ring at which each of them stops, the first that it does not take."""
    label: np.ndarray
    """Label and ring of each sum handed on."""
    ring: np.ndarray
    count: np.ndarray
    """Good pixels in it."""
    pieces: np.ndarray
    """The sums, (n, n_pieces) as in :mod:`galprep_dask._kernels.exact_sums`."""
    first: int
    """Number of the first piece."""
    n_rings: int
    """Rings that the block has looked at."""


class Radii(NamedTuple):
    """Rings that labels take; those that are not listed take none."""

    labels: np.ndarray
    rings: np.ndarray


def measure_rings(
    runs, values, mask=None, *, halo, open_sides, max_ring, sky_level, sky_std, first_rings=0, only=None
) -> BlockRings:
    """
    Measure the rings in a block, and decide about the labels that stop within it.

    Parameters
    ----------
    runs : (n, 4) int32 array
        Segments within ``halo`` pixels of the block (:func:`runs_in_sight`).
    values : (ny, nx) float32 or float64 array
        The block.
    mask : (ny, nx) bool array, optional
        Pixels that count for nothing, as those that are not finite do.
    halo : int
        How far the runs reach, ``max_ring`` or more.
    open_sides : tuple of bool
        Whether the image goes on at the top, bottom, left and right.
    max_ring : int
        Rings at most.
    sky_level, sky_std : float
        Growth stops where the mean of n good pixels is not above ``sky_level`` by more than ``sky_std / sqrt(n)``.
    first_rings : int
        Rings to be looked at first.
    only : int32 array, optional
        Labels to hand on all sums of, and of no others; nothing is decided.
    """
    present, ranks = np.unique(runs[:, 3], return_inverse=True)
    if len(present) == 0 or max_ring == 0:
        none = np.empty(0, np.int32)
        empty = np.empty((0, 0), np.int64)
        return BlockRings(present, none, none, none, none, np.empty(0, np.int64), empty, 0, max_ring)
    # From here on a label is its number among those present.
    mask = np.empty((0, 0), bool) if mask is None else mask
    integer, mantissa, shift = float_format(values.dtype)
    bits = values.view(integer)
    low, high = _range_of_pieces(bits, mask, mantissa, shift)
    if only is None and 0 < first_rings < max_ring and are_few(runs, first_rings**2, values.size):
        pieces = pieces_between(low, high, mantissa), low, mantissa, shift
        count, sums = sum_rings(runs, ranks, len(present), first_rings, bits, mask, *pieces)
        _normalise_all(sums)
        rows = np.arange(len(present) + 1) * first_rings
        ring = np.tile(np.arange(1, first_rings + 1), len(present))
        stop = _stopping_rings(rows, ring, count, sums, low, float(sky_level), float(sky_std), first_rings)
        if stop.max() <= first_rings:
            seen = np.add.reduceat(count, rows[:-1]) > 0
            decided = seen & (stop <= _complete_rings(runs, present, values.shape, open_sides))
            kept = np.repeat(seen & ~decided, first_rings) & (count > 0)
            label = np.repeat(present, first_rings)
            return BlockRings(
                present, present[decided], stop[decided], label[kept], ring[kept], count[kept], sums[kept], low,
                first_rings,
            )  # fmt: skip
    window = paint_ranks(runs, present, values.shape, halo)
    owner, square = nearest_segment(window, halo, max_ring)
    nearest, furthest = _survey(owner, square, bits, mask, len(present), mantissa)
    rows = np.concatenate([[0], np.cumsum(np.maximum(furthest - nearest + 1, 0))])
    sums = np.zeros((rows[-1], pieces_between(low, high, mantissa)), np.int64)
    count = np.zeros(rows[-1], np.int64)
    _add_up(owner, square, bits, rows, nearest, count, sums, low, mantissa, shift)
    ring = np.arange(rows[-1]) + np.repeat(nearest - rows[:-1], np.diff(rows))

    handed_on = np.diff(rows) > 0
    decided = np.zeros(len(present), bool)
    if only is None:
        stop = _stopping_rings(rows, ring, count, sums, low, float(sky_level), float(sky_std), max_ring)
        decided = handed_on & (np.minimum(stop, max_ring) <= _complete_rings(runs, present, values.shape, open_sides))
        handed_on &= ~decided
        stop = stop[decided]
    else:
        handed_on &= np.isin(present, only)
        stop = np.empty(0, np.int64)
    kept = np.repeat(handed_on, np.diff(rows)) & (count > 0)
    label = np.repeat(present, np.diff(rows))
    return BlockRings(present, present[decided], stop, label[kept], ring[kept], count[kept], sums[kept], low, max_ring)


def merge_rings(blocks: list[BlockRings], *, max_ring, sky_level, sky_std) -> tuple[Radii, np.ndarray]:
    """
    Radii from what all blocks know, and the labels about which they disagree.

    A block decides by what it sees. It has not seen all of a label with pieces far from each other; then another
    block has a ring of it that the decision should have known. Such labels are measured again, with ``only``.
    """
    decided, stop = (np.concatenate([getattr(block, name) for block in blocks]) for name in ("decided", "stop"))
    order = np.argsort(decided, kind="stable")
    decided, stop = decided[order], stop[order]
    label, ring, count = (np.concatenate([getattr(b, name) for b in blocks]) for name in ("label", "ring", "count"))

    elsewhere = _lookup(decided, label)
    known = elsewhere >= 0
    disputed = np.concatenate([
        decided[1:][decided[1:] == decided[:-1]], label[known][ring[known] <= stop[elsewhere[known]]]
    ])  # fmt: skip
    disputed = np.unique(disputed)

    sums, first = _aligned(blocks, ~known)
    label, ring, count = label[~known], ring[~known], count[~known]
    order = np.lexsort((ring, label))
    label, ring = label[order], ring[order]
    new = np.ones(len(label), bool)
    new[1:] = (label[1:] != label[:-1]) | (ring[1:] != ring[:-1])
    starts = np.flatnonzero(new)
    if len(starts):
        count, sums = np.add.reduceat(count[order], starts), np.add.reduceat(sums[order], starts)
    label, ring = label[starts], ring[starts]
    _normalise_all(sums)
    labels, rows = np.unique(label, return_index=True)
    rows = np.append(rows, len(label))
    stops = _stopping_rings(rows, ring, count, sums, first, float(sky_level), float(sky_std), max_ring)

    labels, rings = np.concatenate([decided, labels]), np.concatenate([stop, stops]) - 1
    near = [block for block in blocks if block.n_rings < max_ring]
    if near:
        far = labels[rings >= min(block.n_rings for block in near)]
        seen = np.isin(far, np.concatenate([block.present for block in near]))
        disputed = np.union1d(disputed, far[seen])
    kept = (rings > 0) & ~np.isin(labels, disputed)
    labels, rings = labels[kept], rings[kept]
    order = np.argsort(labels)
    return Radii(labels[order], rings[order]), disputed


def rings_of(radii: Radii, labels: np.ndarray) -> np.ndarray:
    """Rings that each of ``labels`` takes."""
    at = _lookup(radii.labels, labels)
    return np.where(at >= 0, radii.rings[at] if len(radii.rings) else 0, 0)


def _lookup(table: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Index of each label in a sorted table, -1 where it is not in it."""
    if len(table) == 0:
        return np.full(len(labels), -1)
    at = np.minimum(np.searchsorted(table, labels), len(table) - 1)
    return np.where(table[at] == labels, at, -1)


def _aligned(blocks, kept) -> tuple[np.ndarray, int]:
    """Give the ``kept`` sums of all blocks with the same pieces, and the number of the first piece."""
    filled = [block for block in blocks if len(block.label)]
    first = min((block.first for block in filled), default=0)
    last = max((block.first + block.pieces.shape[1] for block in filled), default=1)
    sums = np.zeros((np.count_nonzero(kept), last - first), np.int64)
    row = position = 0
    for block in filled:
        mine = kept[position : position + len(block.label)]
        n = np.count_nonzero(mine)
        sums[row : row + n, block.first - first :][:, : block.pieces.shape[1]] = block.pieces[mine]
        row, position = row + n, position + len(block.label)
    return sums, first


@njit(nogil=True, cache=True)
def _range_of_pieces(bits, mask, mantissa, shift):
    """Pieces of the lowest bits of the smallest and of the largest good pixel, other than zero."""
    infinite = np.int64(0xFF if mantissa < 32 else 0x7FF)
    least, most = infinite, np.int64(-1)
    ny, nx = bits.shape
    for y in range(ny):
        for x in range(nx):
            without_sign = np.int64(bits[y, x]) & ((infinite << mantissa) | ((np.int64(1) << mantissa) - 1))
            exponent = without_sign >> mantissa
            good = (exponent < infinite) & (without_sign > 0)
            if mask.size > 0:
                good &= not mask[y, x]
            least = min(least, exponent if good else infinite)
            most = max(most, exponent if good else np.int64(-1))
    if most < 0:
        return np.int64(0), np.int64(0)
    return piece_of(least, shift), piece_of(most, shift)


@njit(nogil=True, cache=True)
def _survey(owner, square, bits, mask, n_labels, mantissa):
    """
    Nearest and furthest ring of each label, of the good sky pixels of a block.

    In place, the square becomes the ring; the owner loses one, and becomes -1 where a pixel counts for no label.
    """
    nearest = np.full(n_labels, 2**40, np.int64)
    furthest = np.full(n_labels, -1, np.int64)
    infinite = np.int64(0xFF if mantissa < 32 else 0x7FF)
    ny, nx = owner.shape
    for y in range(ny):
        for x in range(nx):
            finite = (np.int64(bits[y, x]) >> mantissa) & infinite != infinite
            counts = finite & (square[y, x] > 0)
            if mask.size > 0:
                counts &= not mask[y, x]
            owner[y, x] = owner[y, x] - 1 if counts else -1
            # Exact: the root of a square is, and that of any other number does not reach the next.
            square[y, x] = np.int64(np.ceil(np.sqrt(np.float64(square[y, x]))))
        for x in range(nx):
            label = owner[y, x]
            if label >= 0:
                ring = np.int64(square[y, x])
                nearest[label] = min(nearest[label], ring)
                furthest[label] = max(furthest[label], ring)
    return nearest, furthest


@njit(nogil=True, cache=True)
def _add_up(index, ring, bits, rows, nearest, count, sums, first, mantissa, shift):
    start = rows[:-1] - nearest
    ny, nx = index.shape
    for y in range(ny):
        for x in range(nx):
            label = index[y, x]
            if label >= 0:
                row = start[label] + ring[y, x]
                count[row] += 1
                add_pixel(sums[row], first, bits[y, x], mantissa, shift)
    _normalise_all(sums)


@njit(nogil=True, cache=True)
def _normalise_all(sums):
    for row in range(len(sums)):
        normalise(sums[row])


@njit(nogil=True, cache=True)
def _stopping_rings(rows, ring, count, sums, first, sky_level, sky_std, max_ring):
    """First ring of each label that is sky, or that has no good pixel; ``max_ring + 1`` where none is."""
    stop = np.ones(len(rows) - 1, np.int64)
    for label in range(len(stop)):
        for row in range(rows[label], rows[label + 1]):
            n = count[row]
            if ring[row] != stop[label] or n == 0 or stop[label] > max_ring:
                break
            if not as_float(sums[row], first) / n - sky_level > sky_std / np.sqrt(n):
                break
            stop[label] += 1
    return stop


def _complete_rings(runs, present, shape, open_sides) -> np.ndarray:
    """Rings of each label that lie inside the block, negative where it reaches out of the block itself."""
    ny, nx = shape
    y, start, end = (runs[:, column].astype(np.int64) for column in range(3))
    far = np.full(len(runs), 2**40)
    sides = zip((y, ny - 1 - y, start, nx - end), open_sides, strict=True)
    nearest_side = np.minimum.reduce([distance if goes_on else far for distance, goes_on in sides])
    complete = np.full(len(present), 2**40)
    np.minimum.at(complete, np.searchsorted(present, runs[:, 3]), nearest_side)
    return complete
