"""Ellipses with the shapes of the segments, in place of grown segments."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import NamedTuple

import dask.array as da
import numpy as np

from galprep_dask.arrays import ImageLike, as_image, as_mask, is_finite, like
from galprep_dask.blockwise import block_edges, map_blocks_each
from galprep_dask.errors import ParameterError
from galprep_dask.image import bad_pixels
from galprep_dask.masks._kernels.ellipses import paint_ellipses
from galprep_dask.masks.growth import addgrow_of, check_addgrow
from galprep_dask.segmentation import Segmentation, source_catalog
from galprep_dask.segmentation.segmentation_image import labels_like

__all__ = ["Ellipses", "draw_ellipses", "ellipse_labels", "ellipse_mask", "ellipses_from", "scaled"]


def ellipse_mask(
    segmentation: Segmentation | ImageLike,
    data: ImageLike,
    *,
    magnification: float = 3.0,
    addgrow: float | np.ndarray = 0,
    mask: ImageLike | None = None,
) -> ImageLike:
    """
    Mask an ellipse around every source.

    Parameters
    ----------
    segmentation : Segmentation or (ny, nx) integer array
        Segments, 0 = sky.
    data : (ny, nx) array, NumPy, dask or xarray
        Sky-subtracted image whose second moments give the ellipses. Not modified.
    magnification : float
        Semi-axes in units of ``semimajor_axis`` and ``semiminor_axis``, the 1-sigma axes of the source.
    addgrow : float or array
        Pixels added to both semi-axes; an array gives each label its own, index 0 unused.
    mask : (ny, nx) bool array, optional
        True marks pixels left out of the moments, as non-finite ones are.

    Returns
    -------
    (ny, nx) bool array, of the kind of ``data``
        The moments are measured at the call, in one pass over the blocks; of a dask or xarray image the mask itself
        is drawn lazily.

    Raises
    ------
    ParameterError
        ``magnification`` is not positive, or ``addgrow`` is negative or has no value for some label.
    ImageShapeError
        Shapes differ.

    Examples
    --------
    >>> y, x = np.mgrid[:41, :41]
    >>> image = np.exp(-((x - 20) ** 2 / 18 + (y - 20) ** 2 / 8))
    >>> ellipse = ellipse_mask((image > 1e-4).astype(int), image, magnification=3.0)
    >>> ellipse[20].sum().item(), ellipse[:, 20].sum().item()  # 3 x (3, 2) px to each side
    (17, 11)
    """
    check_ellipses(magnification, addgrow)
    image = as_image(data)
    labels = labels_like(segmentation, image)
    bad = bad_pixels(image, as_mask(mask, image))
    # From the segmentation itself, which may have its sums already.
    ellipses = scaled(ellipses_of(segmentation, image, bad), magnification, addgrow)
    return like(draw_ellipses(ellipses, labels, dtype=bool), data)


class Ellipses(NamedTuple):
    """Ellipses of sources, an element each, in the order of the labels; NaN where a source has no moments."""

    label: np.ndarray
    x: np.ndarray
    y: np.ndarray
    major: np.ndarray
    """Semi-axes in pixels."""
    minor: np.ndarray
    angle: np.ndarray
    """From x towards y, in radians."""


def ellipses_of(segmentation: Segmentation | ImageLike, image: ImageLike, bad: ImageLike) -> Ellipses:
    """Give the 1-sigma ellipses of all sources, from sums over blocks."""
    columns = ["label", "x_centroid", "y_centroid", "semimajor_axis", "semiminor_axis", "orientation"]
    catalog = source_catalog(image, segmentation, mask=bad, columns=columns)
    shape = (catalog[name] for name in columns[1:3])
    axes = (catalog[name].to_value("pix") for name in columns[3:5])
    return ellipses_from(catalog["label"], *shape, *axes, catalog["orientation"].to_value("rad"))


def ellipses_from(label, x_centroid, y_centroid, semimajor_axis, semiminor_axis, orientation) -> Ellipses:
    """Make ellipses of the columns of a catalogue, axes in pixels and orientation in radians."""
    shape = (x_centroid, y_centroid, semimajor_axis, semiminor_axis, orientation)
    return Ellipses(np.asarray(label, np.int32), *(np.asarray(column, np.float64) for column in shape))


def scaled(ellipses: Ellipses, magnification: float, addgrow=0) -> Ellipses:
    """Magnify the axes, and lengthen them by ``addgrow`` pixels."""
    extra = addgrow_of(ellipses.label, addgrow)
    return ellipses._replace(
        major=magnification * ellipses.major + extra, minor=magnification * ellipses.minor + extra
    )


def draw_ellipses(ellipses: Ellipses, labels: da.Array, dtype=np.int32) -> da.Array:
    """
    Draw ellipses into a label image or a mask, lazily; where they overlap, the lower label has the pixel.

    Parameters
    ----------
    ellipses : Ellipses
        As they are to be drawn. Without moments a source keeps its segment, which is all that is known of it.
    labels : (ny, nx) int32 dask array
        The segments.
    dtype : dtype
        int32 or bool.
    """
    own = np.empty(labels.numblocks, object)
    boxes = _boxes(ellipses)
    y_edges, x_edges = (block_edges(axis) for axis in labels.chunks)
    for i, row in enumerate(_reaching(boxes[0], y_edges)):
        for j, at in enumerate(_reaching(boxes[1], x_edges, row)):
            own[i, j] = Ellipses(*(column[at] for column in ellipses))
    return map_blocks_each(partial(_draw_block, kind=np.dtype(dtype).name), own, labels, dtype=dtype)


def ellipse_labels(labels, image, bad, magnification, addgrow=0) -> np.ndarray:
    """Draw the ellipses of all sources into a label image, of arrays in memory."""
    ellipses = scaled(ellipses_of(labels, image, bad), magnification, addgrow)
    return _draw_block(labels, own=ellipses, origin=(0, 0), kind="int32")


def check_ellipses(magnification, addgrow) -> None:
    """Raise ParameterError unless ``magnification`` and ``addgrow`` make sense."""
    if not (is_finite(magnification) and magnification > 0):
        raise ParameterError(f"magnification={magnification!r}; expected a positive number.")
    check_addgrow(addgrow)


def _boxes(ellipses: Ellipses) -> list[tuple[np.ndarray, np.ndarray]]:
    """First and last row, and first and last column, that each ellipse may reach; all where it has no moments."""
    known = _have_moments(ellipses)
    reach = np.maximum(ellipses.major, 0.5)
    return [
        (np.where(known, np.floor(centre - reach), -np.inf), np.where(known, np.ceil(centre + reach), np.inf))
        for centre in (ellipses.y, ellipses.x)
    ]


def _reaching(box, edges, among=None):
    """For each block of an axis the indices of what reaches it, of those in ``among``."""
    first, last = box if among is None else (box[0][among], box[1][among])
    for low, high in pairwise(edges):
        inside = np.flatnonzero((last >= low) & (first < high))
        yield inside if among is None else among[inside]


def _have_moments(ellipses: Ellipses) -> np.ndarray:
    return np.isfinite(ellipses[1:]).all(axis=0)


def _draw_block(labels, *, own, origin, kind) -> np.ndarray:
    drawn = np.zeros(labels.shape, np.int32)
    known = _have_moments(own)
    paint_ellipses(drawn, *origin, *(column[known] for column in own))
    bare = own.label[~known]
    if len(bare):
        segment = np.where(np.isin(labels, bare), labels, 0)
        drawn = np.where((segment > 0) & ((drawn == 0) | (segment < drawn)), segment, drawn)
    return drawn.astype(kind, copy=False)
