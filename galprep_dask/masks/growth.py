"""Growth of segments, ring by ring, until they fade into the sky."""

from __future__ import annotations

import math
from functools import partial

import dask.array as da
import numpy as np

from galprep_dask.arrays import ImageLike, as_image, as_mask, like
from galprep_dask.blockwise import gather_windows, map_windows, unite_chunks
from galprep_dask.errors import ParameterError
from galprep_dask.masks._kernels.fill import fill_growth
from galprep_dask.masks._kernels.rings import Radii, measure_rings, merge_rings
from galprep_dask.segmentation import Segmentation
from galprep_dask.segmentation.detect import as_segmentation, labels_like

__all__ = ["grow_by", "grow_mask", "grow_segmentation", "growth_rings"]


def grow_mask(
    segmentation: Segmentation | ImageLike,
    data: ImageLike,
    *,
    sky_level: float,
    sky_std: float,
    max_grow_size: int,
    addgrow: float = 0,
    mask: ImageLike | None = None,
) -> ImageLike:
    """
    Mask the segments and their growth.

    Every sky pixel belongs to its nearest segment, the one of the lower label on a tie. Ring r of a segment is
    its sky pixels at a distance in (r - 1, r]. A segment grows ring by ring, and stops before the first whose
    mean over its n good pixels is no longer above ``sky_level`` by more than ``sky_std / sqrt(n)``, or that has
    no good pixel.

    Parameters
    ----------
    segmentation : Segmentation or (ny, nx) integer array
        Segments, 0 = sky.
    data : (ny, nx) array, NumPy, dask or xarray
        The image. Not modified.
    sky_level, sky_std : float
        Level and standard deviation of the sky, in the unit of ``data``.
    max_grow_size : int
        Rings at most, in pixels.
    addgrow : float
        Pixels by which every segment grows further, whatever they hold.
    mask : (ny, nx) bool array, optional
        True marks bad pixels: grown over, but left out of the means, as non-finite ones are.

    Returns
    -------
    (ny, nx) bool array, of the kind of ``data``
        Same for every chunking.

    Raises
    ------
    ParameterError
        A parameter is negative or not finite.
    ImageShapeError
        Shapes differ.

    Examples
    --------
    >>> image = np.zeros((30, 30))
    >>> image[10:20, 10:20] = 1.0
    >>> segments = np.zeros((30, 30), int)
    >>> segments[14:16, 14:16] = 1
    >>> grown = grow_mask(segments, image, sky_level=0.0, sky_std=0.1, max_grow_size=20)
    >>> bool(grown[10:20, 14:16].all()), bool(grown[0].any())
    (True, False)
    """
    grown = _grown(segmentation, data, sky_level, sky_std, max_grow_size, addgrow, mask, bool)
    return like(grown, data)


def grow_segmentation(
    segmentation: Segmentation | ImageLike,
    data: ImageLike,
    *,
    sky_level: float,
    sky_std: float,
    max_grow_size: int,
    addgrow: float | np.ndarray = 0,
    mask: ImageLike | None = None,
) -> ImageLike:
    """
    Grow as :func:`grow_mask`, and say which segment each pixel went to.

    Parameters
    ----------
    segmentation, data : (ny, nx) array
        As for :func:`grow_mask`.
    sky_level, sky_std, max_grow_size : float, float, int
        As for :func:`grow_mask`.
    addgrow : float or array
        As for :func:`grow_mask`; an array gives each label its own, index 0 unused.
    mask : (ny, nx) bool array, optional
        As for :func:`grow_mask`.

    Returns
    -------
    (ny, nx) int32 array, of the kind of ``data``
        Labels of the segments and their growth, 0 = sky.
    """
    grown = _grown(segmentation, data, sky_level, sky_std, max_grow_size, addgrow, mask, np.int32)
    return like(grown, data)


#: Side of the blocks that are grown, in units of how far they must look around, at least.
_SIDE_PER_HALO = 4

_NOTHING = (np.empty(0, np.int32), np.empty(0, np.int64))


def _grown(segmentation, data, sky_level, sky_std, max_grow_size, addgrow, mask, dtype) -> da.Array:
    _check(sky_level, sky_std, max_grow_size, addgrow)
    image = as_image(data)
    labels = labels_like(segmentation, image)
    mask = as_mask(mask, image)
    if image.dtype not in (np.float32, np.float64):
        image = image.astype(np.float64)  # or every integer type would be compiled for
    max_ring = min(int(max_grow_size), math.ceil(math.hypot(*image.shape)))
    reach = max_ring + min(math.ceil(np.max(addgrow, initial=0)), math.ceil(math.hypot(*image.shape)))

    chunks, planes = image.chunks, [image] if mask is None else [image, mask]
    united = unite_chunks(chunks, _SIDE_PER_HALO * reach)
    labels, *planes = (plane.rechunk(united, method="tasks") for plane in (labels, *planes))
    stop = {"max_ring": max_ring, "sky_level": float(sky_level), "sky_std": float(sky_std)}
    per_block = np.empty(labels.numblocks, object)
    default = 0 if np.ndim(addgrow) else _largest_square(float(addgrow), reach)
    if max_ring or np.ndim(addgrow):
        radii, present = _measure(labels, planes, reach, stop)
        tables = [_limits(radii, in_sight, addgrow, reach) for in_sight in present]
    else:
        tables = [_NOTHING] * per_block.size
    per_block.flat = [{"table": table} for table in tables]
    furthest = max(default, *(int(limits.max(initial=0)) for _, limits in tables))
    halo = math.isqrt(furthest - 1) + 1 if furthest else 0
    grown = map_windows(
        partial(fill_growth, halo=halo, default=default, dtype=np.dtype(dtype)), labels, halo, dtype=dtype,
        per_block=per_block,
    )  # fmt: skip
    return grown.rechunk(chunks, method="tasks")


def _measure(labels, planes, halo, stop) -> tuple[Radii, list[np.ndarray]]:
    """Read the image once: the rings that each label takes, and the labels in sight of each block."""
    n_rows, n_columns = labels.numblocks
    per_block = np.empty(labels.numblocks, object)
    for i, j in np.ndindex(*labels.numblocks):
        per_block[i, j] = {"open_sides": (i > 0, i < n_rows - 1, j > 0, j < n_columns - 1)}

    def measured(only=None):
        blocks = gather_windows(
            measure_rings, labels, halo, *planes, per_block=per_block, halo=halo, only=only, **stop
        )
        return blocks.compute().ravel().tolist()

    blocks = measured()
    radii, disputed = merge_rings(blocks, **stop)
    if len(disputed):
        again, _ = merge_rings(measured(disputed), **stop)
        radii = Radii(np.append(radii.labels, again.labels), np.append(radii.rings, again.rings))
    order = np.argsort(radii.labels)
    return Radii(radii.labels[order], radii.rings[order]), [block.present for block in blocks]


def _limits(radii: Radii, present: np.ndarray, addgrow, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels in sight of a block that grow by other than the default, and the largest square that each takes."""
    if np.ndim(addgrow):
        extra = addgrow_of(present, addgrow)
        rings = np.zeros(len(present))
        _, at, mine = np.intersect1d(present, radii.labels, assume_unique=True, return_indices=True)
        rings[at] = radii.rings[mine]
        limits = _largest_square(rings + extra, reach)
        return present[limits > 0], limits[limits > 0]
    mine = np.searchsorted(radii.labels, np.intersect1d(present, radii.labels, assume_unique=True))
    return radii.labels[mine], _largest_square(radii.rings[mine] + float(addgrow), reach)


def _largest_square(radius, reach: int):
    """Largest whole number that is not above the square of ``radius``; nothing is further off than ``reach``."""
    radius = np.minimum(radius, reach)
    return np.floor(radius * radius).astype(np.int64)


def _check(sky_level, sky_std, max_grow_size, addgrow) -> None:
    if not math.isfinite(sky_level):
        raise ParameterError(f"sky_level={sky_level!r}; expected a finite number.")
    if not (math.isfinite(sky_std) and sky_std >= 0):
        raise ParameterError(f"sky_std={sky_std!r}; expected zero or a positive number.")
    if not isinstance(max_grow_size, int | np.integer) or max_grow_size < 0:
        raise ParameterError(f"max_grow_size={max_grow_size!r}; expected a whole number of pixels, 0 or more.")
    check_addgrow(addgrow)


def check_addgrow(addgrow) -> None:
    """Raise ParameterError unless every ``addgrow`` is a number of pixels."""
    if not (np.all(np.isfinite(addgrow)) and np.all(np.asarray(addgrow) >= 0)):
        raise ParameterError(f"addgrow={addgrow!r}; expected a number of pixels, 0 or more.")


def addgrow_of(labels: np.ndarray, addgrow: float | np.ndarray) -> np.ndarray:
    """Give ``addgrow`` of each of the sorted ``labels``; ParameterError where an array does not reach to the last."""
    extra = np.asarray(addgrow, dtype=np.float64)
    if extra.ndim == 0:
        return np.full(len(labels), float(extra))
    if len(labels) and len(extra) <= labels[-1]:
        raise ParameterError(
            f"addgrow has {len(extra)} values, but the largest label is {labels[-1]}. Give it one for every label, "
            "and one for index 0."
        )
    return extra[labels]


def growth_rings(
    segmentation: Segmentation | ImageLike,
    data: ImageLike,
    *,
    sky_level: float,
    sky_std: float,
    max_grow_size: int,
    mask: ImageLike | None = None,
) -> np.ndarray:
    """
    Rings that every segment would take in :func:`grow_mask`, without growing it.

    Parameters
    ----------
    segmentation, data : (ny, nx) array
        As for :func:`grow_mask`.
    sky_level, sky_std, max_grow_size : float, float, int
        As for :func:`grow_mask`.
    mask : (ny, nx) bool array, optional
        As for :func:`grow_mask`.

    Returns
    -------
    (n_labels,) int64 array
        In the order of ``Segmentation.labels``.
    """
    _check(sky_level, sky_std, max_grow_size, 0)
    segmentation = as_segmentation(segmentation)
    image = as_image(data)
    labels = labels_like(segmentation, image)
    mask = as_mask(mask, image)
    if image.dtype not in (np.float32, np.float64):
        image = image.astype(np.float64)
    max_ring = min(int(max_grow_size), math.ceil(math.hypot(*image.shape)))
    united = unite_chunks(image.chunks, _SIDE_PER_HALO * max_ring)
    planes = [plane.rechunk(united, method="tasks") for plane in ([image] if mask is None else [image, mask])]
    labels = labels.rechunk(united, method="tasks")
    rings = np.zeros(segmentation.n_labels, np.int64)
    if max_ring and len(rings):
        stop = {"max_ring": max_ring, "sky_level": float(sky_level), "sky_std": float(sky_std)}
        radii, _ = _measure(labels, planes, max_ring, stop)
        rings[np.searchsorted(segmentation.labels, radii.labels)] = radii.rings
    return rings


def grow_by(segmentation: Segmentation | ImageLike, radius: float | np.ndarray) -> da.Array:
    """
    Mask the segments and all pixels within ``radius`` of them, lazily.

    Parameters
    ----------
    segmentation : Segmentation or (ny, nx) integer array
        Segments, 0 = sky.
    radius : float or (n_labels,) array
        In pixels; an array gives each segment its own, in the order of ``Segmentation.labels``, and a sky
        pixel belongs to its nearest segment.

    Returns
    -------
    (ny, nx) bool dask array
    """
    segmentation = as_segmentation(segmentation)
    labels = segmentation.data
    if segmentation.n_labels == 0:
        return da.zeros(labels.shape, chunks=labels.chunks, dtype=bool)
    by_label = np.zeros(segmentation.max_label + 1)
    by_label[segmentation.labels] = radius
    return _grown(segmentation, labels, 0.0, 0.0, 0, by_label, None, bool)
