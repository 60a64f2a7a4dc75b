"""The cuts that leave the stars of a catalogue, in their order, each source with the reason why it was left out."""

from __future__ import annotations

import numpy as np

from galprep_dask.errors import NoStarsError, ParameterError

__all__ = ["CUTS", "REASONS", "Verdicts", "numbered", "quota"]

#: The cuts in the order in which they are made. "quota" is made where a number of stars is asked for.
CUTS = (
    "raw", "Gaia match", "flux", "axis ratio", "FWHM", "isolation", "central bad pixels", "quota", "dropped by hand",
)  # fmt: skip

#: What the ``reason`` column may hold: the cut, and what it found. Used stars have "".
REASONS = (
    "", "raw: no source there", "Gaia match: none", "flux: too faint", "flux: too bright", "flux: saturated",
    "axis ratio: elongated", "FWHM: not measured", "FWHM: too small", "FWHM: too large", "FWHM: doubtful",
    "isolation: neighbours", "isolation: close pair", "central bad pixels", "quota", "dropped by hand",
)  # fmt: skip


class Verdicts:
    """
    Who is still in, and why the others are not.

    Parameters
    ----------
    n : int
        Sources.

    Attributes
    ----------
    codes : (n,) int8 array
        Index into ``REASONS``, 0 for those still in. What was left out stays out for its first reason.
    """

    def __init__(self, n: int):
        self.codes = np.zeros(n, np.int8)

    @property
    def left(self) -> np.ndarray:
        """Rows of the sources still in."""
        return np.flatnonzero(self.codes == 0)

    def drop(self, which: np.ndarray, reason: str) -> None:
        """Leave out the sources in ``which`` (a mask, or rows) that are still in, and stop if none is left."""
        out = np.zeros(len(self.codes), bool)
        out[which] = True
        out &= self.codes == 0
        n_left = int(np.count_nonzero(self.codes == 0))
        self.codes[out] = REASONS.index(reason)
        if n_left and n_left == np.count_nonzero(out):
            raise NoStarsError(
                f"no star is left: {reason!r} took the last {n_left} of {len(self.codes)} sources.\n"
                f"    Left after each cut: {self.in_words()}.\n    Loosen that cut, or one before it."
            )

    def counts(self) -> dict[str, int]:
        """Count the sources left after each cut."""
        cut_of = np.array([CUTS.index(reason.split(":")[0]) if reason else len(CUTS) for reason in REASONS])
        taken = np.bincount(cut_of[self.codes], minlength=len(CUTS) + 1)[: len(CUTS)]
        taken[0], found = 0, len(self.codes)
        left = found - np.cumsum(taken)
        return {cut: int(n) for cut, n in zip(CUTS, left, strict=True)}

    def in_words(self) -> str:
        """Tell how many sources are left after each cut that took some."""
        counts = self.counts()
        before = [-1, *counts.values()]
        return ", ".join(f"{cut} {n}" for (cut, n), m in zip(counts.items(), before, strict=False) if n != m)

    def reasons(self) -> np.ndarray:
        """Reason of every source."""
        return np.array(REASONS)[self.codes]


def quota(x, y, snr, shape: tuple[int, int], max_stars: int, regions: tuple[int, int]) -> np.ndarray:
    """
    Choose stars of all parts of the image.

    Parameters
    ----------
    x, y, snr : (n,) arrays
        Positions in pixels, signal-to-noise ratios.
    shape : (int, int)
        Of the image.
    max_stars : int
        How many to keep.
    regions : (int, int)
        Rows and columns of the regions.

    Returns
    -------
    (n,) bool array
        True for the best of each region, then the second best of each, and so on, until there are ``max_stars``: what
        a region cannot fill the others do.
    """
    rows, columns = (
        np.clip((np.asarray(position) + 0.5) * n // length, 0, n - 1).astype(np.int64)
        for position, n, length in ((y, regions[0], shape[0]), (x, regions[1], shape[1]))
    )
    region = rows * regions[1] + columns
    order = np.lexsort((-snr, region))
    first = np.searchsorted(region[order], region[order])
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - first
    kept = np.zeros(len(order), bool)
    kept[np.lexsort((-snr, rank))[:max_stars]] = True
    return kept


def numbered(drop, n: int) -> np.ndarray:
    """
    Check the numbers of stars that are to be left out.

    Parameters
    ----------
    drop : sequence of int
        As numbered.
    n : int
        Stars that there are.

    Returns
    -------
    int array

    Raises
    ------
    ParameterError
        One of them is no number of a star.
    """
    numbers = np.atleast_1d(np.asarray(drop))
    if numbers.size == 0:
        return np.zeros(0, int)
    if numbers.dtype.kind not in "iu" or numbers.ndim != 1:
        raise ParameterError(f"drop={drop!r}; expected numbers of stars.")
    wrong = numbers[(numbers < 0) | (numbers >= n)]
    if len(wrong):
        raise ParameterError(f"drop has {', '.join(map(str, wrong))}; stars are numbered 0 to {n - 1}.")
    return numbers
