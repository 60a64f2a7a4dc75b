"""Files that are large beside the memory pass through it and do not fill it.

The system keeps in memory what was read from a file or written to it, as long as there is room. Of a file that is
large beside the memory this serves nobody: a pass over it has pushed out its first part when the next pass asks for
it. It costs, though. Memory that lay free must be found and cleared, and a virtual machine may have to get it from
its host page by page, at several times the price of a copy; and once the memory is full, every new page waits for
an old one to be written. So blocks of such a file are let go soon after their turn, and a pass takes the memory of
a few rows of chunks, over and over.
"""

from __future__ import annotations

import math
import os

__all__ = ["is_passing", "let_go_beside"]


def is_passing(n_bytes: int) -> bool:
    """
    Say whether a file is to pass through the memory and not to stay in it: it is more than half of what there is.

    Parameters
    ----------
    n_bytes : int
        Size of the file.

    Returns
    -------
    bool
        False where the system takes no such advice.
    """
    return hasattr(os, "posix_fadvise") and n_bytes > _memory() // 2


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def let_go_beside(descriptor: int, offset: int, shape: tuple[int, ...], item: int, starts, block, rows) -> None:
    """
    Let go of what lies some rows of blocks before and after a block that was just read or written.

    Whether dask goes through an image downwards or upwards is its own affair: one side has had its turn, the other
    is not in memory yet. Every block sees to as many bytes as it has itself, so that no task need know of the others.
    Of what has changed, the first call starts the writing, and one that finds it written lets it go; what is
    let go too early is read again. Nothing but speed depends on it.

    Parameters
    ----------
    descriptor : int
        The open file.
    offset : int
        Where in the file the first pixel of the plane lies.
    shape : tuple of int
        Shape of the plane.
    item : int
        Bytes to a pixel.
    starts, block : sequence of int
        Where the block begins, and its shape.
    rows : sequence of int
        How many rows of blocks away.
    """
    before = item * sum(
        start * math.prod(block[:n]) * math.prod(shape[n + 1 :]) for n, start in enumerate(starts)
    )  # in the order of blocks
    n_bytes, row = item * math.prod(block), item * block[0] * math.prod(shape[1:])
    for n in rows:
        for start in (before - n * row, before + n * row):
            stop = min(start + n_bytes, item * math.prod(shape))
            if 0 <= start < stop:
                os.posix_fadvise(descriptor, offset + start, stop - start, os.POSIX_FADV_DONTNEED)
