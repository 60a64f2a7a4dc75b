"""Sources are connected pixels above a threshold."""

from __future__ import annotations

import warnings
from functools import partial

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from galprep_dask.arrays import ImageLike, as_image, as_mask, check_same_shape, is_finite, take_off_unit
from galprep_dask.blockwise import give_back_memory, map_blocks_each, objects_now
from galprep_dask.cluster import computes_on_cluster
from galprep_dask.errors import ImageShapeError, NoSourcesWarning, ParameterError
from galprep_dask.segmentation._kernels.label import SegmentRuns, components_of, paint, runs_above, segment_runs
from galprep_dask.segmentation._kernels.merge import BlockSources, Table, merge_sources, sources_of_block
from galprep_dask.segmentation._kernels.moments import MOST_PIXELS, measure_runs
from galprep_dask.segmentation.segmentation_image import Segmentation

__all__ = ["detect_sources"]

#: What an int32 label image can number.
MAX_LABEL = np.iinfo(np.int32).max

#: Bytes of runs, in all, that are kept so that labels need no pixels; every block has the same share. Sources fill a
#: tenth of it in an image of 32768 x 32768 pixels.
KEPT_BYTES = 128 * 2**20


def detect_sources(
    data: ImageLike,
    threshold: float | ImageLike,
    n_pixels: int = 5,
    *,
    connectivity: int = 8,
    mask: ImageLike | None = None,
    measure: ImageLike | None = None,
    error: ImageLike | None = None,
    convolved_data: ImageLike | None = None,
) -> Segmentation:
    """
    Find the connected regions of at least ``n_pixels`` pixels above ``threshold``.

    Parameters
    ----------
    data : (ny, nx) array, NumPy, dask or xarray
        Image, usually smoothed (:func:`smooth`). Not modified.
    threshold : float or (ny, nx) array
        A pixel belongs to a source where ``data > threshold``. Both are Quantities of the same unit, or none is.
    n_pixels : int
        Pixels of the smallest source that is kept.
    connectivity : {8, 4}
        Whether pixels that share a corner only are connected.
    mask : (ny, nx) bool array, optional
        True marks pixels that belong to no source; non-finite pixels never do.
    measure : (ny, nx) array, optional
        An image, usually that before smoothing, of which the sums that :func:`source_catalog` needs are taken in the
        same pass over the pixels.
    error : (ny, nx) array, optional
        1-sigma uncertainty of ``measure``, for the sums.
    convolved_data : (ny, nx) array, optional
        The image that centroids and shapes are taken of, ``data`` as a rule, where it is not ``measure``.

    Returns
    -------
    Segmentation
        Labels as ``photutils.segmentation.detect_sources`` numbers them on the whole array. What sources there are is
        found here, in one pass over the blocks that keeps no pixels; the label image itself is lazy. It is painted
        from where the sources of a block begin and end in its rows, which is kept where it takes less than the share
        of a block of 128 MiB. Blocks with more, and all blocks on a cluster, are read and labelled again.

    Raises
    ------
    ParameterError
        ``n_pixels``, ``connectivity`` or a scalar ``threshold`` makes no sense; units differ; there are more sources
        than int32 can number.
    ImageShapeError
        Shapes differ.

    Warns
    -----
    NoSourcesWarning
        There is none; the segmentation is empty.

    Examples
    --------
    >>> image = np.zeros((20, 20))
    >>> image[3:6, 3:6] = image[10:14, 10:14] = 5.0
    >>> detect_sources(image, 1.0, n_pixels=5).areas.tolist()
    [9, 16]
    """
    found = find_sources(data, threshold, n_pixels, connectivity, mask, measure, error, convolved_data)
    if found.n_labels == 0:
        warnings.warn(
            f"no source of {n_pixels} connected pixels lies above the threshold. Lower it, or n_pixels.",
            NoSourcesWarning, stacklevel=2,
        )  # fmt: skip
    return found


def find_sources(
    data, threshold, n_pixels: int, connectivity: int, mask, measure=None, error=None, convolved_data=None
) -> Segmentation:
    """Do the work of :func:`detect_sources`, without a warning where a field of pure sky is none."""
    check_detection(n_pixels, connectivity)
    (data, threshold), _ = take_off_unit(data=data, threshold=threshold)
    image = as_image(data)
    level, levels = _level(threshold, image)
    planes = {"image": image, "levels": levels, "mask": as_mask(mask, image)}
    given = {"data": measure, "error": error, "convolved_data": convolved_data}
    measured = {} if measure is None else {"measure": measure, "error": error, "convolved_data": convolved_data}
    measured = dict(zip(measured, take_off_unit(**measured)[0], strict=True))
    if measured:
        check_measurable(image.shape)
    for name, plane in measured.items():
        if plane is not None:
            check_same_shape(plane, image.shape, name)
            measured[name] = as_image(plane, name, chunks=image.chunks)
    planes, measured = (
        {name: plane for name, plane in some.items() if plane is not None} for some in (planes, measured)
    )
    how = {"level": level, "n_pixels": int(n_pixels), "connectivity": int(connectivity), "image_shape": image.shape}

    # Workers of a cluster would send through the client what they find, and get it back.
    share = 0 if computes_on_cluster() else KEPT_BYTES // image.npartitions
    found = objects_now(
        partial(_found_in_block, names=[*planes, *measured], share=share, **how), *planes.values(), *measured.values()
    )
    sources, runs = np.empty(found.shape, object), np.empty(found.shape, object)
    for block in np.ndindex(found.shape):
        sources[block], runs[block] = found[block]
    merged = merge_sources(sources, how["connectivity"], how["n_pixels"])
    give_back_memory()
    n_labels = len(merged.area)
    if n_labels > MAX_LABEL:
        raise ParameterError(
            f"{n_labels} sources lie above the threshold, more than the {MAX_LABEL} that int32 labels can number. "
            "Raise threshold or n_pixels."
        )
    labels = map_blocks_each(
        partial(_labels_of_block, names=list(planes), **how), merged.numbers, *planes.values(), dtype=np.int32
    )
    painted = _painted(labels, runs, merged.numbers)
    table = Table(np.arange(1, n_labels + 1, dtype=np.int32), merged.area, merged.limits, merged.sums)
    return Segmentation._of_detection(labels, painted, table, None if measure is None else given | {"mask": mask})


def _level(threshold, image: da.Array) -> tuple:
    """Give the threshold as a number or as an image, and None for the other."""
    if np.ndim(threshold) == 0:
        level = threshold if isinstance(threshold, int | float) else np.asarray(threshold)[()]
        if not is_finite(level):
            raise ParameterError(f"threshold={threshold!r}; expected a finite number.")
        return level, None
    check_same_shape(threshold, image.shape, "threshold")
    return None, as_image(threshold, "threshold", chunks=image.chunks)


def check_detection(n_pixels, connectivity) -> None:
    """Raise ParameterError unless ``n_pixels`` and ``connectivity`` make sense; 5.0 is 5."""
    is_number = isinstance(n_pixels, int | float | np.integer | np.floating)
    if not is_number or n_pixels < 1 or n_pixels % 1 != 0:  # of nan and inf the rest is nan
        raise ParameterError(f"n_pixels={n_pixels!r}; expected a whole number, 1 or more.")
    if connectivity not in (4, 8):
        raise ParameterError(f"connectivity={connectivity!r}; expected 4 or 8.")


def check_measurable(shape: tuple[int, int]) -> None:
    """Raise ImageShapeError where positions are too many for the exact sums of sources."""
    if max(shape) > MOST_PIXELS:
        raise ImageShapeError(
            f"data has shape {shape}; sources are measured in images of up to {MOST_PIXELS} pixels a side. "
            "Measure parts of it, one after the other."
        )


def _painted(labels: da.Array, runs: np.ndarray, numbers: np.ndarray) -> da.Array:
    """Paint the blocks of which the runs were kept; the others stay as they are in ``labels``."""
    if all(kept is None for kept in runs.flat):
        return labels
    name = f"painted-{tokenize(labels.name)}"
    graph = {}
    for block, kept in np.ndenumerate(runs):
        graph[name, *block] = (labels.name, *block) if kept is None else (partial(_paint, kept, numbers[block]),)
    rest = [labels] if any(kept is None for kept in runs.flat) else []
    graph = HighLevelGraph.from_collections(name, graph, dependencies=rest)
    return da.Array(graph, name, labels.chunks, meta=labels._meta)


# One block -------------------------------------------------------------------------------------------------


def _found_in_block(
    *blocks, names, share, origin, level, n_pixels, connectivity, image_shape
) -> tuple[BlockSources, SegmentRuns | None]:
    """Give the sources of a block, and its runs if they take no more bytes than its share."""
    planes = dict(zip(names, blocks, strict=True))
    measured, error, shape_image = (planes.pop(name, None) for name in ("measure", "error", "convolved_data"))
    runs, components, open_sides = _segmented(planes, origin, level, n_pixels, connectivity, image_shape)
    sums = None
    if measured is not None:
        sums = measure_runs(runs, components, measured, shape_image, error, planes.get("mask"), origin, image_shape[1])
    kept = segment_runs(runs, components, blocks[0].shape)
    sources = sources_of_block(runs, components, sums, blocks[0].shape, origin, image_shape[1], open_sides)
    return sources, kept if kept.n_bytes <= share else None


def _labels_of_block(*blocks, names, own, origin, level, n_pixels, connectivity, image_shape) -> np.ndarray:
    planes = dict(zip(names, blocks, strict=True))
    runs, components, _ = _segmented(planes, origin, level, n_pixels, connectivity, image_shape)
    if len(components.area) != len(own):
        raise ParameterError(
            f"the pixels at row {origin[0]}, column {origin[1]} are no longer those in which sources were detected. "
            "Detect them again, in an image that does not change."
        )
    return paint(runs, components.of_run, own, blocks[0].shape)


def _paint(kept: SegmentRuns, numbers: np.ndarray) -> np.ndarray:
    return paint(kept.runs, kept.of_run, numbers, kept.shape)


def _segmented(planes, origin, level, n_pixels, connectivity, image_shape):
    image, levels = planes["image"], planes.get("levels")
    (ny, nx), (y0, x0) = image.shape, origin
    open_sides = (y0 > 0, y0 + ny < image_shape[0], x0 > 0, x0 + nx < image_shape[1])
    runs = runs_above(image, level if levels is None else levels, planes.get("mask"))
    return runs, components_of(runs, nx, connectivity, n_pixels, open_sides), open_sides
