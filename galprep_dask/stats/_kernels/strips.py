"""The values of a block by strips that stay in the fastest memory, where compiled loops take many values at a time."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["ANY_ORDER", "STRIP", "flat_block", "load_strip", "n_up_to", "with_room"]

#: Values at a time: the buffers of both passes fit beside their tables.
STRIP = 512
#: Sums may be taken in any order, so that several are added up at a time; NaN and infinity stay what they are.
ANY_ORDER = {"reassoc", "nsz", "contract"}


def flat_block(block: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """
    Give a block and its mask one-dimensional, the block in float32 or float64 of the same values.

    Both are read-only, whatever they were, and no mask is an empty one: each combination would be compiled anew.
    """
    if block.dtype not in (np.float32, np.float64):
        block = block.astype(np.float32 if block.dtype.itemsize <= 2 else np.float64)
    mask = np.empty(0, bool) if mask is None else mask
    flat = tuple(np.ascontiguousarray(array).reshape(-1) for array in (block, mask))
    for array in flat:
        array.flags.writeable = False
    return flat


@njit(nogil=True, cache=True)
def load_strip(values, bad, start, strip):
    """Copy the values from ``start`` on into a strip, NaN for the bad ones; give how many they are."""
    size = min(len(strip), len(values) - start)
    some, into = values[start : start + size], strip[:size]
    if len(bad) == 0:
        for i in range(size):
            into[i] = some[i]
    else:
        dropped = bad[start : start + size]
        for i in range(size):
            into[i] = np.nan if dropped[i] else some[i]
    return size


@njit(nogil=True, cache=True)
def with_room(row, used, more):
    """Give the row, or a longer one with the same start, in which there is room for some more numbers."""
    if used + more <= len(row):
        return row
    longer = np.empty(2 * (used + more), row.dtype)
    for i in range(used):
        longer[i] = row[i]
    return longer


@njit(nogil=True, cache=True)
def n_up_to(ascending, value):
    """How many numbers of an ascending row are not above a value."""
    low, high = 0, len(ascending)
    while low < high:
        half = (low + high) // 2
        if ascending[half] <= value:
            low = half + 1
        else:
            high = half
    return low
