"""Deblending: sources that overlap are split at the saddles between their peaks."""

from __future__ import annotations

import inspect
import warnings

import numpy as np
from astropy.utils.exceptions import AstropyUserWarning

from galprep_dask.arrays import ImageLike, as_image, as_mask
from galprep_dask.blockwise import whole_image
from galprep_dask.errors import ParameterError
from galprep_dask.image import WARNINGS_LOCK, bad_pixels
from galprep_dask.segmentation.detect import Segmentation, check_detection, labels_like, ranked

__all__ = ["deblend_sources"]


def deblend_sources(
    data: ImageLike,
    segmentation: Segmentation | ImageLike,
    n_pixels: int = 5,
    *,
    n_levels: int = 32,
    contrast: float = 0.001,
    mode: str = "exponential",
    connectivity: int = 8,
    mask: ImageLike | None = None,
) -> Segmentation:
    """
    Split sources that overlap, by multi-threshold watershed.

    Parameters
    ----------
    data : (ny, nx) array, NumPy, dask or xarray
        The smoothed image that the sources were found on. Not modified.
    segmentation : Segmentation or (ny, nx) array
        What was found.
    n_pixels : int
        Pixels of the smallest source that is kept.
    n_levels : int
        Thresholds between a source's faintest and brightest pixel.
    contrast : float
        Share of a source's flux that a peak must have to become a source of its own: 0 splits at every
        peak, 1 never.
    mode : {"exponential", "linear", "sinh"}
        Spacing of the thresholds. Where a source has pixels that are not positive, photutils replaces
        "exponential" by another.
    connectivity : {8, 4}
        As for :func:`detect_sources`.
    mask : (ny, nx) bool array, optional
        True marks bad pixels; what they hold has no influence.

    Returns
    -------
    Segmentation
        As ``photutils.segmentation.deblend_sources`` gives it on the whole array. It is computed here, in
        one task that holds the image whole, and kept.

    Raises
    ------
    ParameterError
        ``n_pixels``, ``n_levels``, ``contrast``, ``mode`` or ``connectivity`` makes no sense.
    ImageShapeError
        Shapes differ.

    References
    ----------
    Bertin & Arnouts 1996, A&AS 117, 393, section 5.

    Examples
    --------
    >>> y, x = np.mgrid[:40, :40]
    >>> image = sum(np.exp(-((x - c) ** 2 + (y - 20) ** 2) / 20) for c in (13, 26))
    >>> deblend_sources(image, (image > 0.01).astype(int), contrast=0.01).n_labels
    2
    """
    check_detection(n_pixels, connectivity)
    if not isinstance(n_levels, int | np.integer) or n_levels < 1:
        raise ParameterError(f"n_levels={n_levels!r}; expected a whole number, 1 or more.")
    if mode not in ("exponential", "linear", "sinh"):
        raise ParameterError(f"mode={mode!r}; expected 'exponential', 'linear' or 'sinh'.")
    if not 0 <= contrast <= 1:
        raise ParameterError(f"contrast={contrast!r}; expected a number from 0 to 1.")
    image = as_image(data)
    labels = labels_like(segmentation, image)
    bad = bad_pixels(image, as_mask(mask, image))
    children = whole_image(
        _deblend_whole, image, labels, bad, dtype=np.int32, n_pixels=n_pixels, n_levels=n_levels,
        contrast=contrast, mode=mode, connectivity=connectivity,
    )  # fmt: skip
    return Segmentation(children.persist())


def _deblend_whole(image, labels, bad, n_pixels, **how):
    from photutils.segmentation import SegmentationImage
    from photutils.segmentation import deblend_sources as deblend_whole

    labels = np.where(bad, 0, labels)
    if not labels.any():
        return labels
    if labels.max() > labels.size:
        labels, _ = ranked(labels)  # children get new numbers in any case
    # photutils 3.0 draws a progress bar unless told not to; 3.1 has none, and warns of the argument.
    quiet = {"progress_bar": False} if "n_threads" not in inspect.signature(deblend_whole).parameters else {}
    with WARNINGS_LOCK, warnings.catch_warnings():
        # It points to an attribute that nobody gets to see here, and ``mode`` is documented to be replaced.
        warnings.filterwarnings("ignore", "The deblending mode", AstropyUserWarning)
        parents = SegmentationImage(labels)
        children = deblend_whole(np.where(bad, 0.0, image), parents, n_pixels, **how, **quiet)
    return children.data.astype(np.int32)
