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

#: Bytes of a plane that may be on their way to the disk.
_WINDOW = 128 * 2**20


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


def let_go_beside(descriptor: int, offset: int, shape: tuple[int, ...], item: int, starts, block) -> None:
    """
    Have the rows of blocks beside a block that was just written go to the disk, and let go of those further away.

    Whether dask goes through an image downwards or upwards is its own affair: on one side blocks have had their turn,
    and on the other there is nothing yet. Every block sees to as many bytes as it has itself, so that no task need
    know of the others. The system starts to write what it is told to let go, and lets go what it has written.
    Nothing but speed depends on it.

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
    """
    before = sum(start * math.prod(block[:n]) * math.prod(shape[n + 1 :]) for n, start in enumerate(starts))
    row = item * block[0] * math.prod(shape[1:])
    far = row * max(2, _WINDOW // row)
    for start in (item * before + away for away in (-far, -row, row, far)):
        stop = min(start + item * math.prod(block), item * math.prod(shape))
        if 0 <= start < stop:
            os.posix_fadvise(descriptor, offset + start, stop - start, os.POSIX_FADV_DONTNEED)
