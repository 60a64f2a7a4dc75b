"""Growth of segments, ring by ring, until they fade into the sky."""

from __future__ import annotations

import math

import dask.array as da
import numpy as np

from galprep_dask.arrays import ImageLike, as_image, as_mask, like
from galprep_dask.blockwise import whole_image
from galprep_dask.errors import ParameterError
from galprep_dask.image import bad_pixels
from galprep_dask.masks._kernels import grow_labels
from galprep_dask.segmentation import Segmentation
from galprep_dask.segmentation.detect import labels_like, ranked

__all__ = ["grow_mask", "grow_segmentation"]


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
    grown = _grown_labels(segmentation, data, sky_level, sky_std, max_grow_size, addgrow, mask)
    return like(grown > 0, data)


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
    return like(_grown_labels(segmentation, data, sky_level, sky_std, max_grow_size, addgrow, mask), data)


def _grown_labels(segmentation, data, sky_level, sky_std, max_grow_size, addgrow, mask) -> da.Array:
    if not math.isfinite(sky_level):
        raise ParameterError(f"sky_level={sky_level!r}; expected a finite number.")
    if not (math.isfinite(sky_std) and sky_std >= 0):
        raise ParameterError(f"sky_std={sky_std!r}; expected zero or a positive number.")
    if not isinstance(max_grow_size, int | np.integer) or max_grow_size < 0:
        raise ParameterError(f"max_grow_size={max_grow_size!r}; expected a whole number of pixels, 0 or more.")
    check_addgrow(addgrow)
    image = as_image(data)
    labels = labels_like(segmentation, image)
    bad = bad_pixels(image, as_mask(mask, image))

    if image.dtype not in (np.float32, np.float64):
        image = image.astype(np.float64)  # or every integer type would be compiled for

    return whole_image(
        _grow_whole, labels, image, bad, dtype=np.int32, sky_level=sky_level, sky_std=sky_std,
        max_grow_size=max_grow_size, addgrow=addgrow,
    )  # fmt: skip


def _grow_whole(labels, image, bad, *, sky_level, sky_std, max_grow_size, addgrow) -> np.ndarray:
    ranks, originals = ranked(labels)
    extra = addgrow_of(originals, addgrow)
    return originals[grow_labels(ranks, image, bad, sky_level, sky_std, max_grow_size, extra)]


def check_addgrow(addgrow) -> None:
    """Raise ParameterError unless every ``addgrow`` is a number of pixels."""
    if not (np.all(np.isfinite(addgrow)) and np.all(np.asarray(addgrow) >= 0)):
        raise ParameterError(f"addgrow={addgrow!r}; expected a number of pixels, 0 or more.")


def addgrow_of(labels: np.ndarray, addgrow: float | np.ndarray) -> np.ndarray:
    """Give ``addgrow`` of each of the sorted ``labels``; ParameterError where an array does not reach to the last."""
    extra = np.asarray(addgrow, dtype=np.float64)
    if extra.ndim == 0:
        return np.full(len(labels), float(extra))
    if len(extra) <= labels[-1]:
        raise ParameterError(
            f"addgrow has {len(extra)} values, but the largest label is {labels[-1]}. Give it one for every label, "
            "and one for index 0."
        )
    return extra[labels]
