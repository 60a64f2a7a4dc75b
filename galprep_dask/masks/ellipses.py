"""Ellipses with the shapes of the segments, in place of grown segments."""

from __future__ import annotations

import math

import numpy as np

from galprep_dask.arrays import ImageLike, as_image, as_mask, like
from galprep_dask.blockwise import whole_image
from galprep_dask.errors import ParameterError
from galprep_dask.image import bad_pixels
from galprep_dask.masks.growth import addgrow_of, check_addgrow
from galprep_dask.segmentation import Segmentation
from galprep_dask.segmentation.detect import labels_like, ranked

__all__ = ["ellipse_labels", "ellipse_mask"]


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
    drawn = whole_image(
        ellipse_labels, labels, image, bad, dtype=np.int32, magnification=magnification, addgrow=addgrow
    )
    return like(drawn > 0, data)


def check_ellipses(magnification, addgrow) -> None:
    """Raise ParameterError unless ``magnification`` and ``addgrow`` make sense."""
    if not (math.isfinite(magnification) and magnification > 0):
        raise ParameterError(f"magnification={magnification!r}; expected a positive number.")
    check_addgrow(addgrow)


def ellipse_labels(labels, image, bad, magnification, addgrow=0) -> np.ndarray:
    """Draw the ellipses of all sources into a label image; where they overlap, the lower label wins."""
    from photutils.segmentation import SegmentationImage, SourceCatalog

    drawn = np.zeros(labels.shape, dtype=np.int32)
    ranks, originals = ranked(labels)
    if len(originals) == 1:
        return drawn
    catalog = SourceCatalog(np.where(bad, 0.0, image), SegmentationImage(ranks), mask=bad)
    extra = addgrow_of(originals, addgrow)
    shapes = zip(
        catalog.label, catalog.x_centroid, catalog.y_centroid, catalog.semimajor_axis.value,
        catalog.semiminor_axis.value, catalog.orientation.to_value("rad"), strict=True,
    )  # fmt: skip
    for rank, x, y, major, minor, angle in reversed(list(shapes)):
        more = float(extra[rank])
        if np.isfinite([x, y, major, minor, angle]).all():
            _draw(drawn, rank, x, y, magnification * major + more, magnification * minor + more, angle)
        else:
            # Without a positive pixel a source has no moments; its segment is all that is known of it.
            drawn[ranks == rank] = rank
    return originals[drawn]


def _draw(drawn, value, x, y, major, minor, angle) -> None:
    ny, nx = drawn.shape
    rows = slice(max(math.floor(y - major), 0), min(math.ceil(y + major) + 1, ny))
    columns = slice(max(math.floor(x - major), 0), min(math.ceil(x + major) + 1, nx))
    dy, dx = np.mgrid[rows, columns].astype(np.float64)
    dy, dx = dy - y, dx - x
    along = dx * math.cos(angle) + dy * math.sin(angle)
    across = dy * math.cos(angle) - dx * math.sin(angle)
    inside = (along / max(major, 0.5)) ** 2 + (across / max(minor, 0.5)) ** 2 <= 1
    drawn[rows, columns][inside] = value
