"""Light too faint for single pixels: detection on an image averaged over squares of pixels, at several scales."""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import dask
import dask.array as da
import numpy as np

from galprep_dask.blockwise import block_edges, keep_mask
from galprep_dask.errors import NoGoodPixelsError
from galprep_dask.segmentation import smooth
from galprep_dask.segmentation.detect import find_sources
from galprep_dask.sky._kernels.bins import bin_means, unite_scales
from galprep_dask.stats import sigma_clipped_stats

__all__ = ["FaintLight", "detect_faint_light", "stats_outside"]


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
    image: da.Array, bad: da.Array, known: da.Array | None, level: float, *, scales, fwhm, n_sigma, **detection
) -> FaintLight:
    """
    Mark what stands out of the sky by ``n_sigma`` standard deviations of the smoothed image, at any of ``scales``.

    Means over squares of pixels are taken on a grid that begins at the first pixel of the image, so that chunks do
    not matter. They are kept in memory while they are looked at: a sixteenth of the image for a scale of 4.
    """
    wide = sorted({int(scale) for scale in scales} - {1})
    chunks = image.chunks
    on_grid = tuple(_on_grid(axis, math.lcm(*wide)) for axis in chunks)
    bright, dark = [], []
    if 1 in scales:
        above = _standing_out(smooth(image, fwhm, bad), level, known, n_sigma, **detection)
    else:
        above = da.zeros(image.shape, chunks=image.chunks, dtype=bool)
    above, *planes = (None if plane is None else plane.rechunk(on_grid) for plane in (above, image, bad, known))
    image, bad, known = planes
    means_of = dask.persist(*(_over_squares(scale, image, bad) for scale in wide))  # one pass over the image
    for scale, means in zip(wide, means_of, strict=True):
        outside = None if known is None else _over_squares(scale, known.astype(np.float32)) > 0.5
        smoothed = smooth(means, fwhm)
        bright.append(_standing_out(smoothed, level, outside, n_sigma, **detection))
        dark.append(_standing_out(-smoothed, -level, outside, n_sigma, **detection))
    below = da.zeros(image.shape, chunks=on_grid, dtype=bool)
    return FaintLight(_kept(above, bright, wide, chunks), _kept(below, dark, wide, chunks))


def _standing_out(smoothed, level, known, n_sigma, *, n_pixels, connectivity) -> da.Array:
    _, _, std = stats_outside(smoothed, None, known)
    return find_sources(smoothed, level + n_sigma * std, n_pixels, connectivity, None).data > 0


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


def _kept(pixels: da.Array, squares: list[da.Array], factors, chunks) -> da.Array:
    arguments = [part for array in (pixels, *squares) for part in (array, "ij")]
    united = da.blockwise(
        partial(unite_scales, factors=tuple(factors)), "ij", *arguments, dtype=bool, meta=np.empty((0, 0), bool),
        align_arrays=False,
    )  # fmt: skip
    return keep_mask(united.rechunk(chunks))
