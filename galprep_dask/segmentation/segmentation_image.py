"""A label image, and what follows from it."""

from __future__ import annotations

from functools import cached_property

import dask.array as da
import numpy as np

from galprep_dask.arrays import ImageLike, as_image, as_labels, check_same_shape
from galprep_dask.blockwise import merge_blocks_at
from galprep_dask.cluster import computes_on_cluster, let_go
from galprep_dask.errors import ParameterError
from galprep_dask.fused import compute_now
from galprep_dask.segmentation._kernels.label import components_of_labels, runs_of_labels
from galprep_dask.segmentation._kernels.merge import Table, join_tables

__all__ = ["Segmentation", "as_segmentation", "labels_like"]


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
        The labels, lazily. Where :func:`detect_sources` found them they are made anew, block by block, at every
        computation: from the runs of their pixels where these were few enough to be kept, and else from the image.
    given : (ny, nx) dask array
        The labels as they were given: of a file, they can be read in parts. :func:`as_labels` checks them.

    Examples
    --------
    >>> found = Segmentation(np.array([[0, 7, 7], [2, 0, 7]]))
    >>> found.labels.tolist(), found.areas.tolist()
    ([2, 7], [1, 3])
    """

    def __init__(self, data: ImageLike):
        data = as_image(data, "segmentation")
        if data.dtype.kind not in "iu":
            raise ParameterError(f"segmentation has dtype {data.dtype}; expected integer labels.")
        self._given = data
        self._labels = self._painted = data.map_blocks(as_labels, dtype=np.int32, meta=np.empty((0, 0), np.int32))
        self._measured = None

    @classmethod
    def _of_detection(cls, labels: da.Array, painted: da.Array, table: Table, measured) -> Segmentation:
        """
        Make one of which the table is known.

        ``painted`` are the labels made of what is kept in this process; ``measured`` holds the planes of the sums of
        the table by name.
        """
        found = cls.__new__(cls)
        found._labels, found._painted, found._given = labels, painted, None
        found._table, found._measured = table, measured
        return found

    @property
    def data(self) -> da.Array:
        """The labels. What is kept in this process would travel to the workers of a cluster: they look at the image."""
        if not computes_on_cluster():
            return self._painted
        let_go()  # the labels are made in every computation that wants them
        return self._labels

    @property
    def given(self) -> da.Array:
        """The labels before they were checked, or as they were detected."""
        return self.data if self._given is None else self._given

    def measured_already(self, data: ImageLike, *, mask=None, error=None, convolved_data=None) -> bool:
        """Tell whether the sums over the good pixels of ``data`` were taken when the sources were detected."""
        if self._measured is None:
            return False
        # No pixel of a segment is in the mask of the detection; sums that were taken beside those wanted do no harm.
        return (
            _same_pixels(data, self._measured["data"])
            and _same_pixels(convolved_data, self._measured["convolved_data"])
            and (mask is None or _same_pixels(mask, self._measured["mask"]))
            and (error is None or _same_pixels(error, self._measured["error"]))
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the image."""
        return self.data.shape

    @cached_property
    def _table(self) -> Table:
        return compute_now(merge_blocks_at(table_of_block, join_tables, self.data))[0, 0]

    @property
    def labels(self) -> np.ndarray:
        """The labels that occur, sorted, without 0."""
        return self._table.labels

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
        return self._table.area

    @property
    def bbox_limits(self) -> np.ndarray:
        """Bounding boxes as a compact (n, 4) int32 array: x_min, x_max, y_min, y_max, the upper ones exclusive."""
        return self._table.limits

    @cached_property
    def bbox(self) -> list:
        """The ``photutils.aperture.BoundingBox`` of each source, in the order of :attr:`labels`."""
        from photutils.aperture import BoundingBox

        return [BoundingBox(*limits) for limits in self.bbox_limits.tolist()]

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.data, dtype=dtype)

    def __repr__(self) -> str:
        return f"<Segmentation {self.shape[0]} x {self.shape[1]}, {self.n_labels} sources>"


def _same_pixels(one: ImageLike | None, other: ImageLike | None) -> bool:
    """Tell whether two arrays are the same at a glance: NumPy arrays by identity, dask arrays by name."""
    one, other = (array.data if hasattr(array, "dims") else array for array in (one, other))
    return one is other or (isinstance(one, da.Array) and isinstance(other, da.Array) and one.name == other.name)


def table_of_block(labels: np.ndarray, *, origin) -> Table:
    """List the labels of a block, with their areas and limits in the image."""
    present, components = components_of_labels(*runs_of_labels(labels))
    return Table(present, components.area, components.limits_at(origin), None)


def as_segmentation(segmentation: Segmentation | ImageLike) -> Segmentation:
    """Take a Segmentation as it is, and make one of a label image."""
    return segmentation if isinstance(segmentation, Segmentation) else Segmentation(segmentation)


def labels_like(segmentation: Segmentation | ImageLike, data: da.Array) -> da.Array:
    """Give the labels with the chunks of ``data``; ImageShapeError where the shapes differ."""
    labels = as_segmentation(segmentation).data
    check_same_shape(labels, data.shape, "segmentation")
    return labels.rechunk(data.chunks)
