"""Sources are connected pixels above a threshold."""

from __future__ import annotations

import warnings
from functools import cached_property

import dask.array as da
import numpy as np
from scipy import ndimage

from galprep_dask.arrays import ImageLike, as_image, as_mask, check_same_shape
from galprep_dask.blockwise import whole_image
from galprep_dask.errors import NoSourcesWarning, ParameterError
from galprep_dask.image import bad_pixels
from galprep_dask.segmentation._kernels import label_sources

__all__ = ["Segmentation", "detect_sources"]


class Segmentation:
    """
    A label image and what follows from it, with the names of photutils' ``SegmentationImage``.

    Parameters
    ----------
    data : (ny, nx) array, NumPy, dask or xarray
        Integer labels, 0 = sky.

    Attributes
    ----------
    data : (ny, nx) int32 dask array
        The labels.
    """

    def __init__(self, data: ImageLike):
        data = as_image(data, "segmentation")
        if data.dtype.kind not in "iu":
            raise ParameterError(f"segmentation has dtype {data.dtype}; expected integer labels.")
        self.data = data.map_blocks(_as_int32, dtype=np.int32, meta=np.empty((0, 0), np.int32))

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the image."""
        return self.data.shape

    @cached_property
    def _labels_and_areas(self) -> tuple[np.ndarray, np.ndarray]:
        labels = np.asarray(self.data)
        # Sorted rather than counted into bins: labels need not be consecutive, and one may be 2e9.
        return np.unique(labels[labels > 0], return_counts=True)

    @property
    def labels(self) -> np.ndarray:
        """The labels that occur, sorted, without 0."""
        return self._labels_and_areas[0]

    @property
    def n_labels(self) -> int:
        """Number of sources."""
        return len(self.labels)

    @property
    def max_label(self) -> int:
        """The largest label, 0 if there is none."""
        return int(self.labels[-1]) if self.n_labels else 0

    @property
    def areas(self) -> np.ndarray:
        """Pixels of each source, in the order of :attr:`labels`."""
        return self._labels_and_areas[1]

    @cached_property
    def bbox(self) -> list:
        """The ``photutils.aperture.BoundingBox`` of each source, in the order of :attr:`labels`."""
        from photutils.aperture import BoundingBox

        ranks, _ = ranked(np.asarray(self.data))
        return [
            BoundingBox(columns.start, columns.stop, rows.start, rows.stop)
            for rows, columns in ndimage.find_objects(ranks)
        ]

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.data, dtype=dtype)

    def __repr__(self) -> str:
        return f"<Segmentation {self.shape[0]} x {self.shape[1]}, {self.n_labels} sources>"


def detect_sources(
    data: ImageLike,
    threshold: float | ImageLike,
    n_pixels: int = 5,
    *,
    connectivity: int = 8,
    mask: ImageLike | None = None,
) -> Segmentation:
    """
    Find the connected regions of at least ``n_pixels`` pixels above ``threshold``.

    Parameters
    ----------
    data : (ny, nx) array, NumPy, dask or xarray
        Image, usually smoothed (:func:`smooth`). Not modified.
    threshold : float or (ny, nx) array
        A pixel belongs to a source where ``data > threshold``.
    n_pixels : int
        Pixels of the smallest source that is kept.
    connectivity : {8, 4}
        Whether pixels that share a corner only are connected.
    mask : (ny, nx) bool array, optional
        True marks pixels that belong to no source; non-finite pixels never do.

    Returns
    -------
    Segmentation
        Labels as ``photutils.segmentation.detect_sources`` numbers them on the whole array. They are computed
        here, in one task that holds the image whole, and kept.

    Raises
    ------
    ParameterError
        ``n_pixels``, ``connectivity`` or a scalar ``threshold`` makes no sense.
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
    found = find_sources(data, threshold, n_pixels, connectivity, mask)
    if found.n_labels == 0:
        warnings.warn(
            f"no source of {n_pixels} connected pixels lies above the threshold. Lower it, or n_pixels.",
            NoSourcesWarning, stacklevel=2,
        )  # fmt: skip
    return found


def find_sources(data, threshold, n_pixels: int, connectivity: int, mask) -> Segmentation:
    """Do the work of :func:`detect_sources`, without a warning where a field of pure sky is none."""
    check_detection(n_pixels, connectivity)
    image = as_image(data)
    if np.ndim(threshold) == 0:
        if not np.isfinite(threshold):
            raise ParameterError(f"threshold={threshold!r}; expected a finite number.")
    else:
        check_same_shape(threshold, image.shape, "threshold")
        threshold = as_image(threshold, "threshold", chunks=image.chunks)
    above = (image > threshold) & ~bad_pixels(image, as_mask(mask, image))
    labels = whole_image(label_sources, above, dtype=np.int32, n_pixels=int(n_pixels), connectivity=connectivity)
    return Segmentation(labels.persist())


def check_detection(n_pixels, connectivity) -> None:
    """Raise ParameterError unless ``n_pixels`` and ``connectivity`` make sense."""
    if not isinstance(n_pixels, int | np.integer) or n_pixels < 1:
        raise ParameterError(f"n_pixels={n_pixels!r}; expected a whole number, 1 or more.")
    if connectivity not in (4, 8):
        raise ParameterError(f"connectivity={connectivity!r}; expected 4 or 8.")


def _as_int32(block: np.ndarray) -> np.ndarray:
    low, high = int(block.min(initial=0)), int(block.max(initial=0))
    if low < 0 or high > np.iinfo(np.int32).max:
        raise ParameterError(f"segmentation has labels from {low} to {high}; expected 0 to 2147483647.")
    return block.astype(np.int32, copy=False)


def as_segmentation(segmentation: Segmentation | ImageLike) -> Segmentation:
    """Take a Segmentation as it is, and make one of a label image."""
    return segmentation if isinstance(segmentation, Segmentation) else Segmentation(segmentation)


def ranked(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Renumber the labels of an array 1, 2 ..., in their order, and give the labels that these numbers stand for.

    Labels need not be consecutive: what keeps something for every number up to the largest would otherwise
    need gigabytes for a single label of 2e9.
    """
    present = np.unique(labels[labels > 0])
    ranks = np.where(labels > 0, np.searchsorted(present, labels) + 1, 0).astype(np.int32)
    return ranks, np.concatenate([[0], present]).astype(np.int32)


def labels_like(segmentation: Segmentation | ImageLike, data: da.Array) -> da.Array:
    """Give the labels with the chunks of ``data``; ImageShapeError where the shapes differ."""
    labels = as_segmentation(segmentation).data
    check_same_shape(labels, data.shape, "segmentation")
    return labels.rechunk(data.chunks)
