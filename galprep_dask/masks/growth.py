"""Growth of segments, ring by ring, until they fade into the sky."""

from __future__ import annotations

import math

import dask
import dask.array as da
import numpy as np

from galprep_dask.arrays import ImageLike, as_image, as_mask, is_finite, like, take_off_unit
from galprep_dask.blockwise import collect_by_rows, give_back_memory, keep, objects_of_blocks
from galprep_dask.cluster import computes_on_cluster
from galprep_dask.errors import ParameterError
from galprep_dask.fused import compute_now
from galprep_dask.masks._kernels.fill import fill_growth
from galprep_dask.masks._kernels.rings import Radii, measure_rings, merge_rings, rings_of
from galprep_dask.masks._kernels.runs import runs_in_sight, runs_of
from galprep_dask.neighbours import gather_neighbours, map_neighbours, unite_chunks
from galprep_dask.segmentation import Segmentation
from galprep_dask.segmentation.segmentation_image import as_segmentation, labels_like

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
        Level and standard deviation of the sky, in the unit of ``data``: Quantities if it is one.
    max_grow_size : int
        Rings at most, in pixels.
    addgrow : float
        Pixels by which every segment grows further, whatever they hold.
    mask : (ny, nx) bool array, optional
        True marks bad pixels: grown over, but left out of the means, as non-finite ones are.

    Returns
    -------
    (ny, nx) bool array, of the kind of ``data``
        Same for every chunking. The image is read once at the call, to find how far each segment grows; of a dask
        or xarray image the mask itself is made lazily, from the labels alone.

    Raises
    ------
    ParameterError
        A parameter is negative or not finite; units differ.
    ImageShapeError
        Shapes differ.

    Notes
    -----
    Distances are compared as squares, in integers [1]_. The sum of a ring's pixels is exact and is rounded once, to the
    nearest float64; the mean and the comparison follow in float64. So nothing depends on the order of the pixels, and
    blocks can share a ring. Only the labels that a block has in sight and how far they grow are kept with it.

    References
    ----------
    .. [1] Meijster, Roerdink, Hesselink 2000, "A general algorithm for computing distance transforms in linear time".

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
    Grow as :func:`~galprep_dask.masks.grow_mask`, and say which segment each pixel went to.

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
        Labels of the segments and their growth, 0 = sky; lazy where ``data`` is, as of :func:`grow_mask`.

    Raises
    ------
    ImageShapeError, ParameterError
        As for :func:`grow_mask`.

    Examples
    --------
    >>> segments = np.zeros((9, 9), np.int32)
    >>> segments[2, 2] = 1
    >>> grow_segmentation(segments, 5.0 * (segments > 0), sky_level=0, sky_std=1, max_grow_size=9, addgrow=1)[1:4, 1:4]
    array([[0, 1, 0],
           [1, 1, 1],
           [0, 1, 0]], dtype=int32)
    """
    grown = _grown(segmentation, data, sky_level, sky_std, max_grow_size, addgrow, mask, np.int32)
    return like(grown, data)


#: Where blocks and what they look at around them are more than so many times the pixels of the image, thinner chunks
#: are united for the purpose, to be this many times as wide as they look around.
_MOST_LOOKED_AT, _SIDE_PER_HALO = 2.25, 4

#: Rings that blocks look at before others; most segments stop within.
_FIRST_RINGS = 12


def _grown(segmentation, data, sky_level, sky_std, max_grow_size, addgrow, mask, dtype) -> da.Array:
    (data, sky_level, sky_std), _ = take_off_unit(data=data, sky_level=sky_level, sky_std=sky_std)
    _check(sky_level, sky_std, max_grow_size, addgrow)
    addgrow = np.asarray(addgrow, np.float64)
    image = as_image(data)
    across = math.ceil(math.hypot(*image.shape))  # nothing is further off
    max_ring = min(int(max_grow_size), across)
    reach = max_ring + min(math.ceil(addgrow.max(initial=0)), across)
    runs, planes = _runs_and_planes(segmentation, image, mask, reach)

    default = 0 if addgrow.ndim else int(_largest_square(float(addgrow), reach))
    tables = np.full(runs.shape, None)
    if max_ring or addgrow.ndim:
        radii, in_sight = _measure(runs, planes, reach, _stop(max_ring, sky_level, sky_std))
        for at, present in np.ndenumerate(in_sight):
            tables[at] = _limits(radii, present, addgrow, reach, default)
    furthest = max([default] + [int(table[1].max(initial=0)) for table in tables.flat if table])
    halo = math.isqrt(furthest - 1) + 1 if furthest else 0
    grown = map_neighbours(
        _fill_block, runs, planes[0].chunks, halo, dtype=dtype, own=tables, default=default, kind=np.dtype(dtype).name
    )
    return grown.rechunk(image.chunks, method="tasks")


def _runs_and_planes(segmentation, image: da.Array, mask, reach: int) -> tuple[da.Array, list[da.Array]]:
    """Give the runs of labels, image and, if there is one, mask, in blocks wider than ``reach``."""
    if reach >= 2**15:
        raise ParameterError(f"max_grow_size and addgrow reach {reach} px; expected less than 32768 together.")
    labels, mask = labels_like(segmentation, image), as_mask(mask, image)
    if image.dtype not in (np.float32, np.float64):
        image = image.astype(np.float64)  # or every integer type would be compiled for
    planes = [labels, image] if mask is None else [labels, image, mask]
    if math.prod(1 + 2 * reach * len(axis) / sum(axis) for axis in image.chunks if sum(axis)) > _MOST_LOOKED_AT:
        united = unite_chunks(image.chunks, _SIDE_PER_HALO * reach)
        planes = [plane.rechunk(united, method="tasks") for plane in planes]
    labels, *planes = planes
    runs = objects_of_blocks(_runs_of_block, labels)
    # Here labels of what was detected are painted from memory; workers of a cluster would detect them again each time.
    return keep(runs) if computes_on_cluster() else runs, planes


def _stop(max_ring, sky_level, sky_std) -> dict:
    return {"max_ring": max_ring, "sky_level": float(sky_level), "sky_std": float(sky_std)}


def _measure(runs, planes, halo, stop) -> tuple[Radii, np.ndarray]:
    """Read the image once, a few blocks twice: the rings of each label, and the labels in sight of each block."""
    # Two steps, so that the pixels of a block can be read in the task that measures them.
    in_sight = gather_neighbours(runs_in_sight, runs, planes[0].chunks, halo)

    def measured(**how):
        how |= {"image_shape": planes[0].shape, "halo": halo, **stop}
        return objects_of_blocks(_measure_block, *planes, in_sight, **how)

    blocks = compute_now(collect_by_rows(measured(first_rings=_FIRST_RINGS)))[0]
    radii, disputed = merge_rings(list(blocks.flat), **stop)
    if len(disputed):
        concerned = measured(only=disputed)
        seen = [at for at, block in np.ndenumerate(blocks) if np.isin(disputed, block.present).any()]
        parts = dask.compute(*(concerned.blocks[at] for at in seen))
        again, _ = merge_rings([part[0, 0] for part in parts], **stop)
        radii = Radii(np.append(radii.labels, again.labels), np.append(radii.rings, again.rings))
        order = np.argsort(radii.labels)
        radii = Radii(radii.labels[order], radii.rings[order])
    present = np.empty(blocks.shape, object)
    for at, block in np.ndenumerate(blocks):
        present[at] = block.present
    give_back_memory()
    return radii, present


def _runs_of_block(labels, origin):
    return runs_of(labels)


def _measure_block(*planes_and_runs, origin, image_shape, **kwargs):
    *planes, runs = planes_and_runs
    ends = np.add(origin, planes[0].shape)
    open_sides = (origin[0] > 0, ends[0] < image_shape[0], origin[1] > 0, ends[1] < image_shape[1])
    return measure_rings(runs[0, 0], *planes, open_sides=open_sides, **kwargs)


def _fill_block(near, *, shape, depth, own, default, kind):
    labels, limits = own or (np.empty(0, np.int32), np.empty(0, np.int64))
    return fill_growth(runs_in_sight(near, shape, depth), shape, depth, labels, limits, default, np.dtype(kind))


def _limits(radii: Radii, present: np.ndarray, addgrow, reach: int, default: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels in sight of a block for which the largest square is not the default, and what it is."""
    limits = _largest_square(rings_of(radii, present) + addgrow_of(present, addgrow), reach)
    return present[limits != default], limits[limits != default]


def _largest_square(radius, reach: int):
    """Largest whole number that is not above the square of ``radius``; nothing is further off than ``reach``."""
    radius = np.minimum(radius, reach)
    return np.floor(radius * radius).astype(np.int64)


def _check(sky_level, sky_std, max_grow_size, addgrow) -> None:
    if not is_finite(sky_level):
        raise ParameterError(f"sky_level={sky_level!r}; expected a finite number.")
    if not (is_finite(sky_std) and sky_std >= 0):
        raise ParameterError(f"sky_std={sky_std!r}; expected zero or a positive number.")
    if not isinstance(max_grow_size, int | np.integer) or max_grow_size < 0:
        raise ParameterError(f"max_grow_size={max_grow_size!r}; expected a whole number of pixels, 0 or more.")
    check_addgrow(addgrow)


def check_addgrow(addgrow) -> None:
    """Raise ParameterError unless every ``addgrow`` is a number of pixels."""
    extra = np.asarray(addgrow)
    if extra.ndim > 1 or extra.dtype.kind not in "biuf" or not (np.isfinite(extra) & (extra >= 0)).all():
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
    Rings that every segment would take in :func:`~galprep_dask.masks.grow_mask`, without growing it.

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

    Raises
    ------
    ParameterError, ImageShapeError
        As for :func:`grow_mask`.

    Examples
    --------
    >>> image = np.zeros((30, 30))
    >>> image[10:20, 10:20] = 1.0
    >>> segments = np.zeros((30, 30), int)
    >>> segments[14:16, 14:16] = 3
    >>> growth_rings(segments, image, sky_level=0.0, sky_std=0.1, max_grow_size=20).tolist()
    [6]
    """
    (data, sky_level, sky_std), _ = take_off_unit(data=data, sky_level=sky_level, sky_std=sky_std)
    _check(sky_level, sky_std, max_grow_size, 0)
    segmentation = as_segmentation(segmentation)
    image = as_image(data)
    max_ring = min(int(max_grow_size), math.ceil(math.hypot(*image.shape)))
    if max_ring == 0 or segmentation.n_labels == 0:
        return np.zeros(segmentation.n_labels, np.int64)
    runs, planes = _runs_and_planes(segmentation, image, mask, max_ring)
    radii, _ = _measure(runs, planes, max_ring, _stop(max_ring, sky_level, sky_std))
    return rings_of(radii, segmentation.labels)


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
        The labels are read once at the call, and again when it is computed.

    Raises
    ------
    ParameterError
        A radius is negative or not finite.

    Examples
    --------
    >>> segments = np.zeros((9, 9), int)
    >>> segments[4, 4] = 1
    >>> grow_by(segments, 2.0)[4].compute().astype(int).tolist()
    [0, 0, 1, 1, 1, 1, 1, 0, 0]
    """
    check_addgrow(radius)
    segmentation = as_segmentation(segmentation)
    labels = segmentation.data
    if segmentation.n_labels == 0:
        return da.zeros(labels.shape, chunks=labels.chunks, dtype=bool)
    by_label = np.zeros(segmentation.max_label + 1)
    by_label[segmentation.labels] = radius
    return _grown(segmentation, labels, 0.0, 0.0, 0, by_label, None, bool)
