"""Segments as runs along rows: what blocks tell each other of their labels.

A run is a row of four int32: y, first x, end x, label. A block of sky with sources needs a few per cent of its bytes.
"""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["paint_ranks", "runs_in_sight", "runs_of"]


@njit(nogil=True, cache=True)
def runs_of(labels):
    """
    Give the runs of a block of labels, in the order of their rows.

    Parameters
    ----------
    labels : (ny, nx) int32 array
        0 = sky.

    Returns
    -------
    (n, 4) int32 array
    """
    ny, nx = labels.shape
    n = 0
    for y in range(ny):
        before = np.int32(0)
        for x in range(nx):
            n += labels[y, x] > 0 and labels[y, x] != before
            before = labels[y, x]
    runs = np.empty((n, 4), np.int32)
    n = 0
    for y in range(ny):
        before = np.int32(0)
        for x in range(nx):
            here = labels[y, x]
            if here > 0:
                if here != before:
                    runs[n, 0], runs[n, 1], runs[n, 3] = y, x, here
                    n += 1
                runs[n - 1, 2] = x + 1
            before = here
    return runs


def runs_in_sight(near, shape: tuple[int, int], depth: int) -> np.ndarray:
    """
    Collect the runs within ``depth`` pixels of a block, cut to that.

    Parameters
    ----------
    near : list of ((y, x), (n, 4) array)
        Runs of the block and its neighbours, each with the place of its first pixel as seen from the block's own.
    shape : (ny, nx)
        Of the block.
    depth : int
        How far it looks.

    Returns
    -------
    (n, 4) int32 array
        As seen from the block's first pixel: coordinates are negative before it.
    """
    ny, nx = shape
    seen = []
    for (y, x), runs in near:
        if len(runs):
            moved = runs + np.array([y, x, x, 0], np.int32)
            inside = (moved[:, 0] >= -depth) & (moved[:, 0] < ny + depth)
            moved = moved[inside & (moved[:, 2] > -depth) & (moved[:, 1] < nx + depth)]
            moved[:, 1:3] = np.clip(moved[:, 1:3], -depth, nx + depth)
            seen.append(moved)
    return np.concatenate(seen) if seen else np.empty((0, 4), np.int32)


def paint_ranks(runs: np.ndarray, present: np.ndarray, shape: tuple[int, int], halo: int) -> np.ndarray:
    """
    Paint runs into the window of a block, each as the number of its label among those present, from 1.

    The numbers are in the order of the labels, so that ties between them are what they are between labels, and tables
    need not be as long as the largest label.
    """
    window = np.zeros((shape[0] + 2 * halo, shape[1] + 2 * halo), np.int32)
    _paint(window, runs, np.searchsorted(present, runs[:, 3]) + 1, halo)
    return window


@njit(nogil=True, cache=True)
def _paint(window, runs, ranks, halo):
    for i in range(len(runs)):
        for x in range(runs[i, 1] + halo, runs[i, 2] + halo):
            window[runs[i, 0] + halo, x] = ranks[i]
