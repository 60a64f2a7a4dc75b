"""Rings of sky around segments: what the pixels of a block add to them, and where growth stops.

Ring r of a label holds the sky pixels that are nearest to it, at a distance in (r - 1, r]. A block that holds all rings of
a label up to the one where it stops decides about the label by itself; of others it hands on the exact sums of
its pixels, and :func:`merge_blocks` decides.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from galprep_dask.masks._kernels.nearest import nearest_segment
from galprep_dask.masks._kernels.sums import (
    add_pixel,
    as_float,
    float_format,
    lowest_piece,
    normalise,
    pieces_between,
)

__all__ = ["BlockRings", "Radii", "labels_in", "measure_rings", "merge_rings"]


class BlockRings(NamedTuple):
    """What a block knows about the growth of the labels in its window."""

    present: np.ndarray
    """Labels in the window, sorted."""
    decided: np.ndarray
    """Labels whose growth is decided here."""
    stop: np.ndarray
    """Ring at which each of them stops, the first that it does not take."""
    label: np.ndarray
    """Label of each sum handed on; sorted, its rings in ascending order."""
    ring: np.ndarray
    count: np.ndarray
    """Good pixels in the sum."""
    pieces: np.ndarray
    """The sums, (n, n_pieces) as in :mod:`galprep_dask.masks._kernels.sums`."""
    first: int
    """Number of the first piece."""


class Radii(NamedTuple):
    """Rings that labels take; those that are not listed take none."""

    labels: np.ndarray
    rings: np.ndarray


def measure_rings(
    window, values, mask=None, only=None, *, halo, open_sides, max_ring, sky_level, sky_std
) -> BlockRings:
    """
    Measure the rings in a block, and decide about the labels that stop within it.

    Parameters
    ----------
    window : (ny + 2 halo, nx + 2 halo) int32 array
        Labels of the block and its surroundings.
    values : (ny, nx) float32 or float64 array
        The block.
    mask : (ny, nx) bool array, optional
        Pixels that count for nothing, as those that are not finite do.
    only : int32 array, optional
        Sorted labels to hand on all sums of, and of no others; nothing is decided.
    halo : int
        Width of the surroundings in the window, ``max_ring`` or more.
    open_sides : tuple of bool
        Whether the image goes on at the top, bottom, left and right.
    max_ring : int
        Rings at most.
    sky_level, sky_std : float
        Growth stops where the mean of n good pixels is not above ``sky_level`` by more than ``sky_std / sqrt(n)``.
    """
    present = labels_in(window)
    integer, mantissa, shift = float_format(values.dtype)
    if len(present) == 0 or max_ring == 0:
        none = np.empty(0, np.int32)
        return BlockRings(present, none, none, none, none, np.empty(0, np.int64), np.empty((0, 0), np.int64), 0)
    owner, square = nearest_segment(window, halo, max_ring)
    bits = values.view(integer)
    mask = np.empty((0, 0), bool) if mask is None else mask
    nearest, furthest, pieces = _survey(window, halo, owner, square, bits, mask, present, mantissa, shift)
    rows = np.concatenate([[0], np.cumsum(np.maximum(furthest - nearest + 1, 0))])
    low, high = pieces if pieces[1] >= 0 else (0, 0)
    sums = np.zeros((rows[-1], pieces_between(low, high, mantissa)), np.int64)
    count = np.zeros(rows[-1], np.int64)
    _add_up(owner, square, bits, rows, nearest, count, sums, low, mantissa, shift)
    ring = np.arange(rows[-1]) + np.repeat(nearest - rows[:-1], np.diff(rows))

    handed_on = np.diff(rows) > 0
    decided = np.zeros(len(present), bool)
    if only is None:
        stop = _stopping_rings(rows, ring, count, sums, low, float(sky_level), float(sky_std), max_ring)
        decided = handed_on & (np.minimum(stop, max_ring) <= _complete_rings(window, halo, present, *open_sides))
        handed_on &= ~decided
        stop = stop[decided]
    else:
        handed_on &= np.isin(present, only)
        stop = np.empty(0, np.int64)
    kept = np.repeat(handed_on, np.diff(rows)) & (count > 0)
    return BlockRings(
        present, present[decided], stop, np.repeat(present, np.diff(rows))[kept], ring[kept], count[kept], sums[kept], low
    )


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
    kept = (rings > 0) & ~np.isin(labels, disputed)
    labels, rings = labels[kept], rings[kept]
    order = np.argsort(labels)
    return Radii(labels[order], rings[order]), disputed


def _lookup(table: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Index of each label in a sorted table, -1 where it is not in it."""
    if len(table) == 0:
        return np.full(len(labels), -1)
    at = np.minimum(np.searchsorted(table, labels), len(table) - 1)
    return np.where(table[at] == labels, at, -1)


def _aligned(blocks, kept) -> tuple[np.ndarray, int]:
    """Sums of all blocks, the ``kept`` of them, with the same pieces, and the number of the first."""
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


def labels_in(window: np.ndarray) -> np.ndarray:
    """Labels of a window, sorted, without 0."""
    # One pixel of every run of a row that does not go on from the row above: few, and sorted at once.
    return np.unique(_heads(window))


@njit(nogil=True, cache=True)
def _heads(window):
    ny, nx = window.shape
    n = 0
    for y in range(ny):
        for x in range(nx):
            here = window[y, x]
            n += here > 0 and (x == 0 or window[y, x - 1] != here) and (y == 0 or window[y - 1, x] != here)
    heads = np.empty(n, np.int32)
    n = 0
    for y in range(ny):
        for x in range(nx):
            here = window[y, x]
            if here > 0 and (x == 0 or window[y, x - 1] != here) and (y == 0 or window[y - 1, x] != here):
                heads[n] = here
                n += 1
    return heads


@njit(nogil=True, cache=True)
def _survey(window, halo, owner, square, bits, mask, present, mantissa, shift):
    """
    Nearest and furthest ring of each label, and the range of pieces, of the good sky pixels of a block.

    In place, the owner becomes its index in ``present``, -1 where there is none, and the square becomes the ring.
    """
    nearest = np.full(len(present), np.iinfo(np.int64).max, np.int64)
    furthest = np.full(len(present), -1, np.int64)
    low, high = np.int64(2**31), np.int64(-1)
    masked = mask.size > 0
    ny, nx = owner.shape
    for y in range(ny):
        last, index = np.int32(0), np.int64(-1)
        for x in range(nx):
            label = owner[y, x]
            owner[y, x] = -1
            if label == 0 or window[y + halo, x + halo] > 0 or (masked and mask[y, x]):
                continue
            piece = lowest_piece(bits[y, x], mantissa, shift)
            if piece == -2:
                continue
            if piece >= 0:
                low, high = min(low, piece), max(high, piece)
            if label != last:
                last, index = label, np.searchsorted(present, label)
            ring = np.int64(np.ceil(np.sqrt(np.float64(square[y, x]))))  # exact: float64 has roots of squares exactly
            owner[y, x] = index
            square[y, x] = ring
            nearest[index] = min(nearest[index], ring)
            furthest[index] = max(furthest[index], ring)
    for index in range(len(present)):
        if furthest[index] < 0:
            nearest[index] = 0
    return nearest, furthest, (low, high)


@njit(nogil=True, cache=True)
def _add_up(index, ring, bits, rows, nearest, count, sums, first, mantissa, shift):
    ny, nx = index.shape
    for y in range(ny):
        for x in range(nx):
            label = index[y, x]
            if label >= 0:
                row = rows[label] + ring[y, x] - nearest[label]
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


@njit(nogil=True, cache=True)
def _complete_rings(window, halo, present, top, bottom, left, right):
    """Rings of each label that lie inside the block, negative where it reaches out of the block itself."""
    far = np.int64(2**40)
    ny, nx = window.shape[0] - 2 * halo, window.shape[1] - 2 * halo
    complete = np.full(len(present), far)
    for y in range(window.shape[0]):
        from_top = y - halo if top else far
        from_bottom = ny - 1 - (y - halo) if bottom else far
        last, index = np.int32(0), np.int64(-1)
        for x in range(window.shape[1]):
            label = window[y, x]
            if label > 0:
                if label != last:
                    last, index = label, np.searchsorted(present, label)
                from_left = x - halo if left else far
                from_right = nx - 1 - (x - halo) if right else far
                complete[index] = min(complete[index], from_top, from_bottom, from_left, from_right)
    return complete
