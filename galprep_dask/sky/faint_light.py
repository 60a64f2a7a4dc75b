"""Light too faint for single pixels: detection on an image averaged over squares of pixels, at several scales."""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import dask.array as da
import numpy as np

from galprep_dask.blockwise import block_edges, keep, keep_mask
from galprep_dask.errors import NoGoodPixelsError
from galprep_dask.masks import grow_mask
from galprep_dask.segmentation import smooth
from galprep_dask.segmentation.detect import find_sources
from galprep_dask.sky._kernels.bins import bin_means, unite_scales
from galprep_dask.stats import sigma_clipped_stats

__all__ = ["FaintLight", "detect_faint_light", "stats_outside"]

_LEAST_SIGMA = 3.0


class FaintLight(NamedTuple):
    """Pixels that are significantly above and below the sky at some scale, (ny, nx) bool dask arrays."""

    bright: da.Array
    dark: da.Array


def stats_outside(data: da.Array, bad: da.Array | None, known: da.Array | None) -> tuple[float, float, float]:
    """Take clipped statistics of the good pixels outside known sources, or of all good ones if none is outside."""
    if known is not None:
        try:
            return sigma_clipped_stats(data, known if bad is None else bad | known)
        except NoGoodPixelsError:
            pass
    return sigma_clipped_stats(data, bad)


def detect_faint_light(
    image: da.Array, mask: da.Array | None, known: da.Array | None, *, sky_level, sky_std, max_grow_size, scales, fwhm,
    n_sigma, **detection,
) -> FaintLight:  # fmt: skip
    """
    Mark what stands out of the sky by ``n_sigma`` standard deviations of the smoothed image, at any of ``scales``.

    By fewer than three nothing is taken for faint light: too much of it would be noise, and the sky come out low.
    What was found at one scale, and its growth, is left out at the wider ones, where it would drown its surroundings.

    Means over squares of pixels are taken on a grid that begins at the first pixel of the image, so that chunks do
    not matter. They are kept in memory while they are looked at: a sixteenth of the image for a scale of 4.
    """
    n_sigma = max(n_sigma, _LEAST_SIGMA)
    chunks, wide = image.chunks, sorted({int(scale) for scale in scales} - {1})
    on_grid = tuple(_on_grid(axis, math.lcm(*wide)) for axis in chunks)
    bright = da.zeros(image.shape, chunks=chunks, dtype=bool)
    left_out = mask
    if 1 in scales:
        smoothed = smooth(image, fwhm, mask)
        _, _, std = stats_outside(smoothed, None, known)
        found = find_sources(smoothed, sky_level + n_sigma * std, mask=None, **detection)
        bright = keep_mask(found.data > 0)
        grown = grow_mask(found, image, sky_level=sky_level, sky_std=sky_std, max_grow_size=max_grow_size, mask=mask)
        left_out = keep_mask(grown if mask is None else grown | mask)
    squares_bright, squares_dark = [], []
    image, left_out, known = (plane if plane is None else plane.rechunk(on_grid) for plane in (image, left_out, known))
    nothing = da.zeros(image.shape, chunks=on_grid, dtype=bool)
    for scale in wide:
        means = keep(_over_squares(scale, image, left_out))
        outside = None if known is None else _over_squares(scale, known.astype(np.float32)) > 0.5
        smoothed = smooth(means, fwhm)
        _, _, std = stats_outside(smoothed, None, outside)
        for sign, squares in ((1, squares_bright), (-1, squares_dark)):
            found = find_sources(sign * smoothed, sign * sky_level + n_sigma * std, mask=None, **detection)
            squares.append(found.data > 0)
        left_out = _in_pixels(squares_bright[-1:], [scale], nothing if left_out is None else left_out)
    return FaintLight(
        keep_mask(bright | _in_pixels(squares_bright, wide, nothing).rechunk(chunks)),
        keep_mask(_in_pixels(squares_dark, wide, nothing).rechunk(chunks)),
    )


def _on_grid(sizes: tuple[int, ...], step: int) -> tuple[int, ...]:
    """Chunks of an axis whose borders are the nearest multiples of ``step``."""
    edges = block_edges(sizes)
    inner = np.unique(np.round(edges[1:-1] / step).astype(int) * step)
    inner = inner[(inner > 0) & (inner < edges[-1])]
    return tuple(np.diff([0, *inner, int(edges[-1])]).tolist())


def _over_squares(scale: int, plane: da.Array, bad: da.Array | None = None) -> da.Array:
    """Means over squares of ``scale`` pixels."""
    sizes = tuple(tuple(-(-size // scale) for size in axis) for axis in plane.chunks)
    planes = [plane] if bad is None else [plane, bad]
    return da.map_blocks(
        partial(_bin_block, factor=scale), *planes, chunks=sizes, dtype=plane.dtype,
        meta=np.empty((0, 0), plane.dtype),
    )  # fmt: skip


def _bin_block(block, bad=None, *, factor):
    return bin_means(block, bad, factor)


def _in_pixels(squares: list[da.Array], factors, pixels: da.Array) -> da.Array:
    """Mark the pixels that are set in ``pixels`` or lie in a marked square."""
    arguments = [part for array in (pixels, *squares) for part in (array, "ij")]
    return da.blockwise(
        partial(unite_scales, factors=tuple(factors)), "ij", *arguments, dtype=bool, meta=np.empty((0, 0), bool),
        align_arrays=False,
    )  # fmt: skip
