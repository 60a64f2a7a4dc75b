"""Light too faint for single pixels: detection on an image averaged over squares of pixels, at several scales."""

from __future__ import annotations

from typing import NamedTuple

import dask.array as da
import numpy as np

from galprep_dask.blockwise import keep, keep_mask
from galprep_dask.image import no_good_pixels
from galprep_dask.masks import grow_mask
from galprep_dask.segmentation import smooth
from galprep_dask.segmentation.detect import find_sources
from galprep_dask.sky.squares import Grid, coarser_squares, mark_pixels, squares_of
from galprep_dask.stats.clipped import clipped_together

__all__ = ["FaintLight", "detect_faint_light", "stats_outside"]

_LEAST_SIGMA = 3.0
_BRIGHT, _DARK = 1, 2


class FaintLight(NamedTuple):
    """Pixels that are significantly above and below the sky at some scale, (ny, nx) bool dask arrays."""

    bright: da.Array
    dark: da.Array


def stats_outside(*planes: tuple[da.Array, da.Array | None, da.Array | None]) -> list[tuple[float, float, float]]:
    """
    Take clipped statistics of the good pixels outside known sources, or of all good ones if none is outside.

    ``planes`` are (image, mask of bad pixels, mask of known sources), all looked at in the same passes.
    """
    outside = [(image, bad if known is None else known if bad is None else bad | known) for image, bad, known in planes]
    found = clipped_together(*outside)
    if any(one is None for one in found):
        inside = iter(clipped_together(*(plane[:2] for plane, one in zip(planes, found, strict=True) if one is None)))
        found = [next(inside) if one is None else one for one in found]
    if any(one is None for one in found):
        raise no_good_pixels("take statistics")
    return found


def detect_faint_light(
    image: da.Array, smoothed: da.Array, smoothed_std: float, mask: da.Array | None, known: da.Array | None, *,
    sky_level, sky_std, max_grow_size, scales, fwhm, n_sigma, **detection,
) -> FaintLight:  # fmt: skip
    """
    Mark what stands out of the sky by ``n_sigma`` standard deviations of the smoothed image, at any of ``scales``.

    By fewer than three nothing is taken for faint light: too much of it would be noise, and the sky come out low.
    What was found at one scale, and its growth, is left out at the wider ones, where it would drown its surroundings.

    Means over squares of pixels are taken on a grid that begins at the first pixel of the image, so that chunks do
    not matter. They are kept in memory while they are looked at: a sixteenth of the image for a scale of 4. Those of
    a scale that is a multiple of the one before are taken from its means, without a look at the image.
    """
    n_sigma = max(n_sigma, _LEAST_SIGMA)
    wide = sorted({int(scale) for scale in scales} - {1})
    bright, left_out = None, mask
    if 1 in scales:
        found = find_sources(smoothed, sky_level + n_sigma * smoothed_std, mask=None, **detection)
        bright = keep_mask(found.data > 0)
        grown = grow_mask(found, image, sky_level=sky_level, sky_std=sky_std, max_grow_size=max_grow_size, mask=mask)
        left_out = grown if mask is None else grown | mask
    if not wide:
        return FaintLight(bright, da.zeros(image.shape, chunks=image.chunks, dtype=bool))
    grid, marks = Grid(image.chunks, wide), {}
    squares = None
    for scale in wide:
        if squares is not None and scale % squares.side == 0:
            squares = coarser_squares(squares, marks[squares.side], _BRIGHT, scale)
        else:
            beside = mark_pixels(grid, marks, _BRIGHT, left_out) if marks else left_out
            squares = squares_of(grid, scale, image, beside, known)
        smoothed = smooth(squares.means, fwhm)
        ((_, _, std),) = stats_outside((smoothed, None, None if known is None else squares.mostly_known))
        marked = (
            find_sources(sign * smoothed, sign * sky_level + n_sigma * std, mask=None, **detection).data
            for sign in (1, -1)
        )
        marks[scale] = keep(da.map_blocks(_marks, *marked, dtype=np.uint8, meta=np.empty((0, 0), np.uint8)))
    return FaintLight(mark_pixels(grid, marks, _BRIGHT, bright), mark_pixels(grid, marks, _DARK))


def _marks(bright, dark):
    return _BRIGHT * (bright > 0).astype(np.uint8) + _DARK * (dark > 0).astype(np.uint8)
