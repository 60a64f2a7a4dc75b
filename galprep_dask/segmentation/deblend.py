"""Deblending: sources that overlap are split at the saddles between their peaks."""

from __future__ import annotations

import warnings

import numpy as np

from galprep_dask.arrays import ImageLike, as_image, as_mask, is_number
from galprep_dask.errors import NotDeblendedWarning, ParameterError
from galprep_dask.image import bad_pixels
from galprep_dask.segmentation._deblend_blocks import Splits, paint_blocks, split_segments
from galprep_dask.segmentation._kernels.cutouts import Rules
from galprep_dask.segmentation._photutils import is_compiled, parameters
from galprep_dask.segmentation.detect import check_detection
from galprep_dask.segmentation.segmentation_image import Segmentation, labels_like

__all__ = ["DeblendedSegmentation", "deblend_sources"]

#: Bounding box in pixels past which a segment is left whole: 2000 x 2000.
MAX_PIXELS = 4_000_000

#: Peaks past which a segment is left whole: as many as photutils calls too many.
MAX_PEAKS = 200


#: Side of the chunks of an image in memory: small enough that threads share a field of one megapixel or more.
_CHUNK_IN_MEMORY = 1024


class DeblendedSegmentation(Segmentation):
    """
    A segmentation whose sources were deblended.

    Parameters
    ----------
    data : (ny, nx) array, NumPy, dask or xarray
        Integer labels, 0 = sky.
    parent_to_deblended_labels : dict of int to array
        The labels that replace each label that was split, by the label it had before.
    left_whole : dict of int to str
        Why a source was not deblended, "pixels" or "peaks" for the budget it is past, by its label now.

    Examples
    --------
    >>> found = DeblendedSegmentation(np.array([[1, 2, 2]]), {1: np.array([1, 2])}, {})
    >>> found.n_labels, found.parent_to_deblended_labels[1].tolist()
    (2, [1, 2])
    """

    def __init__(self, data: ImageLike, parent_to_deblended_labels: dict[int, np.ndarray], left_whole: dict[int, str]):
        super().__init__(data)
        self.parent_to_deblended_labels = parent_to_deblended_labels
        self.left_whole = left_whole


def deblend_sources(
    data: ImageLike,
    segmentation: Segmentation | ImageLike,
    n_pixels: int = 5,
    *,
    labels: int | np.ndarray | None = None,
    n_levels: int = 32,
    contrast: float = 0.001,
    contrast_method: str | None = None,
    mode: str = "exponential",
    connectivity: int = 8,
    mask: ImageLike | None = None,
    relabel: bool = True,
    max_pixels: int = MAX_PIXELS,
    max_peaks: int = MAX_PEAKS,
) -> DeblendedSegmentation:
    """
    Split sources that overlap, by multi-threshold watershed.

    Parameters
    ----------
    data : (ny, nx) array, NumPy, dask or xarray
        The smoothed image that the sources were found on. Not modified. Labels do not depend on its unit.
    segmentation : Segmentation or (ny, nx) array
        What was found.
    n_pixels : int
        Pixels of the smallest source that is kept.
    labels : int or sequence of int, optional
        Sources to deblend; all by default.
    n_levels : int
        Thresholds between a source's faintest and brightest pixel.
    contrast : float
        Share of a source's flux that a peak must have to become a source of its own: 0 splits at every
        peak, 1 never.
    contrast_method : {None, "basin", "saddle"}
        Which flux that is, where the installed photutils offers the choice (3.1 does).
    mode : {"exponential", "linear", "sinh"}
        Spacing of the thresholds. Where a source has pixels that are not positive, photutils replaces
        "exponential" by another, and by "linear" where it finds more than 200 candidates.
    connectivity : {8, 4}
        As for :func:`detect_sources`.
    mask : (ny, nx) bool array, optional
        True marks bad pixels, which belong to no source; what they hold has no influence.
    relabel : bool
        Whether labels are made consecutive. Otherwise sources that are not split keep theirs, and children
        have labels above the largest.
    max_pixels : int
        Pixels in the bounding box of a source past which it is left whole.
    max_peaks : int
        Peaks of a source, told apart by ``n_levels`` thresholds, past which it is left whole.

    Returns
    -------
    DeblendedSegmentation
        Labels as ``photutils.segmentation.deblend_sources`` gives them on the whole array. Children are found
        here, and kept; labels are written where ``data`` of the result is computed.

    Raises
    ------
    ParameterError
        A parameter makes no sense, a label is not in the segmentation, or a segment is in pieces that
        ``connectivity`` does not connect and one of them has no peak.
    ImageShapeError
        Shapes differ.

    Warns
    -----
    NotDeblendedWarning
        Sources past ``max_pixels`` or ``max_peaks`` were left whole; ``left_whole`` of the result names them.

    Notes
    -----
    Every segment is gathered whole, however many chunks it crosses, and deblended by the installed photutils
    in its own bounding box. Peaks are the regions of ``n_pixels`` pixels or more that thresholds can separate.
    Where bad pixels cut off a piece without a peak, they take the segment's lowest value while it is split.

    The time for one segment goes with its bounding box times the number of peaks that ``contrast`` removes, about a
    second for a million pixels and one peak: without a budget one halo of a bright star holds up a run.

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
    _check_rules(n_levels, contrast, contrast_method, mode, max_pixels, max_peaks)
    wanted = _as_labels(labels)
    image = as_image(data, chunks=None if getattr(data, "chunks", None) else _CHUNK_IN_MEMORY)
    if image.dtype == bool:
        image = image.astype(np.float32)  # photutils takes the negative
    parents = labels_like(segmentation, image)
    bad = bad_pixels(image, as_mask(mask, image))
    rules = Rules(
        int(n_pixels), int(n_levels), float(contrast), contrast_method, mode, int(connectivity),
        int(max_pixels), int(max_peaks),
    )  # fmt: skip
    splits = split_segments(image, parents, bad, wanted, rules)
    present = np.unique(splits.rows["label"])
    if wanted is not None and not np.isin(wanted, present).all():
        absent = np.setdiff1d(wanted, present)
        raise ParameterError(f"labels {absent[:5].tolist()} are not in the segmentation ({len(absent)} in all).")
    if contrast == 1:
        relabel = relabel and is_compiled()  # photutils 3.0 gives the labels back as they are
    good, first = _first_numbers(splits, wanted, relabel)
    numbers = _looked_up(splits.rows["label"], good, first)
    past = np.array(sorted(splits.past), np.int32)
    left_whole = {
        label: splits.past[old]
        for label, old in zip(_looked_up(past, good, first).tolist(), past.tolist(), strict=True)
    }  # fmt: skip
    if left_whole:
        _warn_of(left_whole, splits, max_pixels, max_peaks)
    begins = _looked_up(splits.labels, good, first).astype(np.int32)
    each = zip(splits.labels.tolist(), begins.tolist(), splits.n_children.tolist(), strict=True)
    children = {label: np.arange(begin, begin + count, dtype=np.int32) for label, begin, count in each}
    return DeblendedSegmentation(paint_blocks(parents, bad, splits, numbers), children, left_whole)


def _first_numbers(splits: Splits, wanted: np.ndarray | None, relabel: bool) -> tuple[np.ndarray, np.ndarray]:
    """Give the segments that have pixels, and the final labels of them or their first children, as photutils does."""
    good = np.unique(splits.rows["label"][splits.rows["area"] > 0])
    n_children = _looked_up(good if wanted is None else wanted, splits.labels, splits.n_children)
    begins = int(good.max(initial=0)) + 1 + np.cumsum(n_children)  # beyond the last child of each
    if begins.max(initial=0) - 1 > np.iinfo(np.int32).max and not relabel:
        raise ParameterError(
            f"the last child would have the label {begins.max() - 1}; int32 ends at {np.iinfo(np.int32).max}. "
            "Pass relabel=True."
        )
    order = np.arange(len(good)) if wanted is None else np.searchsorted(good, wanted)
    is_split = n_children > 0
    first = good.astype(np.int64)
    # A label that is named twice counts twice, and its last numbers stand.
    first[order[is_split]] = (begins - n_children)[is_split]
    if not relabel:
        return good, first
    n_labels = np.maximum(_looked_up(good, splits.labels, splits.n_children), 1)
    by_number = np.argsort(first, kind="stable")
    first[by_number] = np.cumsum(n_labels[by_number]) - n_labels[by_number] + 1
    return good, first


def _looked_up(labels: np.ndarray, known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Give for each of ``labels`` the value of the sorted ``known`` one that equals it, or 0."""
    at = np.searchsorted(known, labels)
    found = np.append(known, -1)[at] == labels
    return np.where(found, np.append(values, 0)[at], 0).astype(np.int64)


def _check_rules(n_levels, contrast, contrast_method, mode, max_pixels, max_peaks) -> None:
    for name, value in (("n_levels", n_levels), ("max_pixels", max_pixels), ("max_peaks", max_peaks)):
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
            raise ParameterError(f"{name}={value!r}; expected a whole number, 1 or more.")
    if mode not in ("exponential", "linear", "sinh"):
        raise ParameterError(f"mode={mode!r}; expected 'exponential', 'linear' or 'sinh'.")
    if not (is_number(contrast) and 0 <= contrast <= 1):
        raise ParameterError(f"contrast={contrast!r}; expected a number from 0 to 1.")
    if contrast_method not in (None, "basin", "saddle"):
        raise ParameterError(f"contrast_method={contrast_method!r}; expected None, 'basin' or 'saddle'.")
    if contrast_method is not None and "contrast_method" not in parameters():
        raise ParameterError(
            f"contrast_method={contrast_method!r}: the installed photutils has no choice. "
            "Leave it out, or install photutils 3.1 or later."
        )


def _as_labels(labels) -> np.ndarray | None:
    if labels is None:
        return None
    wanted = np.atleast_1d(labels)
    if wanted.ndim != 1 or wanted.dtype.kind not in "iu":
        raise ParameterError(f"labels={labels!r}; expected whole numbers.")
    if wanted.size and (wanted.min() < 1 or wanted.max() > np.iinfo(np.int32).max):
        raise ParameterError(f"labels={labels!r}; expected labels of sources, 1 or more.")
    return wanted.astype(np.int32)


def _warn_of(left_whole, splits, max_pixels, max_peaks) -> None:
    rows = splits.rows[np.isin(splits.rows["label"], list(splits.past))]
    labels, rank = np.unique(rows["label"], return_inverse=True)
    areas = np.bincount(rank, weights=rows["area"]).astype(int)
    largest = labels[areas.argmax()]
    warnings.warn(
        f"{len(left_whole)} of the sources were left whole, past max_pixels={max_pixels} or max_peaks={max_peaks}; "
        f"the largest is label {largest} of the segmentation with {areas.max()} pixels, past max_"
        f"{splits.past[largest]}. See left_whole of the result.",
        NotDeblendedWarning, stacklevel=3,
    )  # fmt: skip
