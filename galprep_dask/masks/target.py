"""The mask of a cutout: everything that is not the target."""

from __future__ import annotations

import dask.array as da
import numpy as np
from scipy import ndimage

from galprep_dask.arrays import ImageLike, as_image, as_mask, is_finite, like
from galprep_dask.blockwise import blocks_in_memory
from galprep_dask.errors import ParameterError
from galprep_dask.masks.ellipses import check_ellipses, ellipse_labels
from galprep_dask.masks.growth import grow_segmentation
from galprep_dask.segmentation import deblend_sources, smooth
from galprep_dask.segmentation.detect import find_sources
from galprep_dask.stats import sigma_clipped_stats

__all__ = ["target_mask"]

_TOUCHING = np.ones((3, 3), dtype=bool)


def target_mask(
    data: ImageLike,
    x: float,
    y: float,
    *,
    fwhm: float,
    mask: ImageLike | None = None,
    n_sigma: float = 3.0,
    n_pixels: int = 5,
    connectivity: int = 8,
    deblend: bool = False,
    n_levels: int = 32,
    contrast: float = 0.001,
    source_diameter: float = 1.0,
    sky_level: float | None = None,
    shape: str = "growth",
    max_grow_size: int = 100,
    magnification: float = 3.0,
    addgrow: float = 0,
    nearby_grow: float = 0,
    keep_target: bool = True,
    always: ImageLike | None = None,
) -> ImageLike:
    """
    Mask everything in a cutout that is not the target at (x, y).

    Sources are detected as for the sky (:func:`galprep_dask.sky.source_mask`), and deblended if asked for. The
    target is every segment that touches a circle around (x, y); the others are masked.

    Parameters
    ----------
    data : (ny, nx) array, NumPy, dask or xarray
        Sky-subtracted cutout; it is held in memory. Not modified.
    x, y : float
        Position of the target in pixels, 0-based.
    fwhm : float
        Full width at half maximum of the PSF in pixels.
    mask : (ny, nx) bool array, optional
        Bad pixels: nothing depends on what they hold, and they are in the result, as non-finite ones are.
    n_sigma, n_pixels, connectivity : float, int, int
        As for :func:`galprep_dask.sky.source_mask`.
    deblend : bool
        Whether overlapping sources are split, with ``n_levels`` and ``contrast``.
    n_levels, contrast : int, float
        As for :func:`galprep_dask.segmentation.deblend_sources`.
    source_diameter : float
        Diameter in pixels of the circle. A pixel touches it where any part of its square does, so that the pixel
        under the target always counts.
    sky_level : float, optional
        Level at which growth stops; by default the clipped median.
    shape : {"growth", "ellipses"}
        Whether segments are grown (:func:`grow_mask`) or drawn as ellipses (:func:`ellipse_mask`).
    max_grow_size : int
        Rings of growth at most.
    magnification : float
        Size of the ellipses.
    addgrow : float
        Pixels added to every mask.
    nearby_grow : float
        Pixels added further to neighbours whose mask touches the target's segment.
    keep_target : bool
        False masks the target, grown like the others, too.
    always : (ny, nx) bool array, optional
        Pixels masked in any case, the target's included.

    Returns
    -------
    (ny, nx) bool array, of the kind given
        True = not to be fitted. No growth enters the target's segments.

    Raises
    ------
    NoGoodPixelsError, ParameterError, ImageShapeError
        Every pixel is bad; a parameter makes no sense; shapes differ.

    Examples
    --------
    >>> gy, gx = np.mgrid[:61, :91]
    >>> image = np.random.default_rng(0).normal(0, 0.01, (61, 91))
    >>> for cx in (30, 65):
    ...     image += np.exp(-((gx - cx) ** 2 + (gy - 30) ** 2) / 18)
    >>> masked = target_mask(image, 30, 30, fwhm=2.5, max_grow_size=20)
    >>> bool(masked[30, 30]), bool(masked[30, 65])
    (False, True)
    """
    if shape not in ("growth", "ellipses"):
        raise ParameterError(f"shape={shape!r}; expected 'growth' or 'ellipses'.")
    if not (is_finite(source_diameter) and source_diameter >= 0):
        raise ParameterError(f"source_diameter={source_diameter!r}; expected a number of pixels, 0 or more.")
    if not (is_finite(nearby_grow) and nearby_grow >= 0):
        raise ParameterError(f"nearby_grow={nearby_grow!r}; expected a number of pixels, 0 or more.")
    check_ellipses(magnification, addgrow)
    image = as_image(data)
    if not (is_finite(x) and is_finite(y)):
        raise ParameterError(f"the target is at x={x!r}, y={y!r}; expected finite pixel coordinates.")
    given = {"bad": as_mask(mask, image), "always": as_mask(always, image, "always")}
    planes = {"pixels": image} | {name: plane for name, plane in given.items() if plane is not None}
    planes = dict(zip(planes, blocks_in_memory(*planes.values()) or da.compute(*planes.values()), strict=True))
    pixels = planes["pixels"]
    bad = ~np.isfinite(pixels) | planes.get("bad", False)

    _, median, std = sigma_clipped_stats(pixels, bad)
    smoothed = smooth(pixels, fwhm, bad)
    segments = find_sources(smoothed, median + n_sigma * std, n_pixels, connectivity, bad)
    if deblend:
        segments = deblend_sources(
            smoothed, segments, n_pixels, n_levels=n_levels, contrast=contrast, connectivity=connectivity, mask=bad
        )
    labels = np.asarray(segments.data)

    targets = _touching_circle(labels, x, y, source_diameter / 2)
    segment = np.isin(labels, targets)

    def cover(extra):
        """Label images of the neighbours' and of the target's masks, with ``extra`` pixels for each label."""
        if shape == "ellipses":
            # Apart, or a neighbour within the target's ellipse would be masked or not as the labels happen to be.
            parts = np.where(segment, 0, labels), np.where(segment, labels, 0)
            return [ellipse_labels(part, pixels - median, bad, magnification, extra) for part in parts]
        grown = grow_segmentation(
            labels, pixels, sky_level=median if sky_level is None else sky_level, sky_std=std,
            max_grow_size=max_grow_size, addgrow=extra, mask=bad,
        )  # fmt: skip
        target = np.isin(grown, targets)
        return np.where(target, 0, grown), np.where(target, grown, 0)

    extra = np.full(labels.max(initial=0) + 1, float(addgrow))
    neighbours, target = cover(extra)
    if nearby_grow > 0:
        near = np.setdiff1d(neighbours[ndimage.binary_dilation(segment, _TOUCHING)], [0])
        extra[near] += nearby_grow
        neighbours, target = cover(extra)
    masked = (neighbours > 0) & ~segment
    if not keep_target:
        masked |= segment | (target > 0)
    masked |= bad | planes.get("always", False)
    if isinstance(data, np.ndarray):
        return masked
    return like(da.from_array(masked, chunks=image.chunks, name=False), data)


def _touching_circle(labels: np.ndarray, x: float, y: float, radius: float) -> np.ndarray:
    """Labels of the segments with a pixel whose square comes within ``radius`` of (x, y)."""
    ny, nx = labels.shape
    dy = np.maximum(np.abs(np.arange(ny) - y) - 0.5, 0.0)
    dx = np.maximum(np.abs(np.arange(nx) - x) - 0.5, 0.0)
    found = np.unique(labels[np.add.outer(dy**2, dx**2) <= radius**2])
    return found[found > 0]
