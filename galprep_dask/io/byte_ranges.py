"""
Byte ranges of a file that is far away, in few requests.

Every request waits for an answer, however little it is for. So what lies close together is asked for at once, together
with what is between, as long as that is little beside what is wanted; and a long range in several pieces side by side.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

import fsspec
import numpy as np
from fsspec.asyn import AsyncFileSystem

__all__ = ["Ranges", "read_ranges"]

#: What lies in gaps is read along up to this fraction of what is wanted, or up to so many bytes.
_ALONG, _LITTLE = 0.25, 256 * 1024
#: But for no gap of more bytes: an answer takes some 50 ms, and 32 are waited for at once, so that in the time of one a
#: connection of 20 to 100 MB/s delivers 32 to 150 KB.
_GAP = 32 * 1024
#: Longer ranges are asked for in pieces.
_PIECE = 8 * 2**20
#: Requests of a call that wait for an answer at the same time.
_AT_ONCE = 32


class Ranges(NamedTuple):
    """
    Parts of a file, by where they begin.

    Attributes
    ----------
    starts : list of int
        In ascending order.
    parts : list of bytes
        What is there; shorter than was asked for where the file ends.
    """

    starts: list[int]
    parts: list[bytes]

    def at(self, start: int, stop: int) -> memoryview | None:
        """Give bytes of the file, or None where they are not all there in one part."""
        n = bisect_right(self.starts, start) - 1
        first = start - self.starts[n]
        part = memoryview(self.parts[n])[first : first + stop - start]
        return part if len(part) == stop - start else None


def read_ranges(path: str, options: dict, starts: np.ndarray, stops: np.ndarray) -> Ranges:
    """
    Read ranges of one file.

    Parameters
    ----------
    path : str
        URL.
    options : dict
        Of its file system.
    starts, stops : (n,) int arrays
        The ranges, in any order; they may overlap. None of them is empty.

    Returns
    -------
    Ranges
        Of which each of the ranges is in one part.
    """
    order = np.argsort(starts, kind="stable")
    starts, reached = starts[order], np.maximum.accumulate(stops[order])
    gaps = np.maximum(starts[1:] - reached[:-1], 0)
    smallest = np.argsort(gaps, kind="stable")
    wanted = reached[-1] - starts[0] - gaps.sum()
    along = np.empty(len(gaps), bool)
    along[smallest] = np.cumsum(gaps[smallest]) <= max(_ALONG * wanted, _LITTLE)
    first = np.flatnonzero(np.r_[True, ~along | (gaps > _GAP)])
    merged = list(zip(starts[first].tolist(), reached[np.r_[first[1:] - 1, len(reached) - 1]].tolist(), strict=True))
    pieces = [(at, min(at + _PIECE, stop)) for start, stop in merged for at in range(start, stop, _PIECE)]

    filesystem, inner = fsspec.core.url_to_fs(path, **options)
    how = {"batch_size": _AT_ONCE} if isinstance(filesystem, AsyncFileSystem) else {}
    froms, tos = (list(bounds) for bounds in zip(*pieces, strict=True))
    read = iter(filesystem.cat_ranges([inner] * len(pieces), froms, tos, on_error="raise", **how))
    parts = [[next(read) for _ in range(start, stop, _PIECE)] for start, stop in merged]
    return Ranges([start for start, _ in merged], [part[0] if len(part) == 1 else b"".join(part) for part in parts])
