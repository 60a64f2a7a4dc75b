"""Segments of one block, cut out: what a block tells of them, and the deblending of those that are whole.

Functions of NumPy arrays. Segments that end inside a block are deblended where they lie. A segment that crosses
blocks travels as :class:`Cutout`: its own pixels in its own bounding box, whatever lies around it left out. Its parts
are put together, and many such segments are laid side by side, so that photutils is called once for all of them. It
deblends every source in its bounding box alone, so its answer does not depend on what lies beside.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from galprep_dask.errors import ParameterError
from galprep_dask.segmentation._kernels.peaks import count_candidates, count_peaks
from galprep_dask.segmentation._photutils import deblend_ranks, is_compiled

__all__ = [
    "ROW", "Children", "Cutout", "Rules", "cut_out", "join_children", "join_parts", "measure", "paint_children",
    "split_block", "split_cutouts",
]  # fmt: skip

#: What one block knows of one segment: its good pixels, the bounding box of all its pixels in the image, where the
#: block begins, whether it touches an edge of the block that is none of the image, whether bad pixels lie in it, and
#: whether its part was cut out already.
ROW = np.dtype(
    [("label", "i4"), ("area", "i8"), ("y0", "i4"), ("y1", "i4"), ("x0", "i4"), ("x1", "i4")]
    + [("block_y0", "i4"), ("block_x0", "i4"), ("crosses", "?"), ("has_bad", "?"), ("was_cut", "?")]
)


#: One segment that was split: its bounding box in the image, the number of its children, and where its pixels begin
#: among those of all that were split with it.
SPLIT = np.dtype(
    [("label", "i4"), ("y0", "i4"), ("x0", "i4"), ("ny", "i4"), ("nx", "i4"), ("count", "i4"), ("at", "i8")]
)

#: Candidates above which photutils turns to linear thresholds.
_TOO_MANY = 200


class Rules(NamedTuple):
    """Parameters of a run, as :func:`galprep_dask.segmentation.deblend_sources` describes them."""

    n_pixels: int
    n_levels: int
    contrast: float
    contrast_method: str | None
    mode: str
    connectivity: int
    max_pixels: int
    max_peaks: int


class Cutout(NamedTuple):
    """The pixels of one segment, or of its part in one block."""

    label: int
    y0: int
    x0: int
    state: np.ndarray  # of the bounding box: 0 is outside the segment, 1 a good pixel of it, 2 a bad one
    values: np.ndarray  # of the good pixels, row by row


class Children(NamedTuple):
    """What some segments were split into; few large arrays, for there may be a million segments."""

    rows: np.ndarray  # of ``SPLIT``
    numbers: np.ndarray  # box after box, row by row: 1, 2 ... for the children of a segment, 0 outside


def join_children(parts: list[Children]) -> Children:
    """Put together what was split in several calls."""
    if len(parts) == 1:
        return parts[0]
    rows = np.concatenate([np.empty(0, SPLIT), *(part.rows for part in parts)])
    begins = np.cumsum([0, *(len(part.numbers) for part in parts)])[:-1]
    rows["at"] += np.repeat(begins, [len(part.rows) for part in parts])
    return Children(rows, np.concatenate([np.empty(0, np.uint8), *(part.numbers for part in parts)]))


def measure(labels: np.ndarray, bad: np.ndarray, origin: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
    """List the segments of one block of an image of ``shape``, by label, as an array of ``ROW``."""
    begins = labels[:, 1:] != labels[:, :-1]
    present = np.unique(np.concatenate([labels[:, 0], labels[:, 1:][begins]]))
    rows = np.zeros(np.count_nonzero(present), ROW)
    rows["label"] = present[present != 0]
    areas, all_pixels, boxes = _areas_and_boxes(labels, bad, rows["label"].copy())
    rows["area"], rows["has_bad"] = areas, areas < all_pixels
    ny, nx = labels.shape
    for name, column, start, size, length in (
        ("y", 0, origin[0], ny, shape[0]), ("x", 2, origin[1], nx, shape[1])
    ):  # fmt: skip
        first, stop = boxes[:, column], boxes[:, column + 1]
        rows[f"{name}0"], rows[f"{name}1"], rows[f"block_{name}0"] = first + start, stop + start, start
        rows["crosses"] |= ((first == 0) & (start > 0)) | ((stop == size) & (start + size < length))
    return rows


@njit(nogil=True, cache=True)
def _areas_and_boxes(labels, bad, present):
    ny, nx = labels.shape
    areas = np.zeros(len(present), np.int64)
    all_pixels = np.zeros(len(present), np.int64)
    boxes = np.empty((len(present), 4), np.int64)
    boxes[:, 0], boxes[:, 1], boxes[:, 2], boxes[:, 3] = ny, 0, nx, 0
    for y in range(ny):
        last, k = 0, 0
        for x in range(nx):
            label = labels[y, x]
            if label == 0:
                continue
            if label != last:
                last, k = label, np.searchsorted(present, label)
                boxes[k, 0], boxes[k, 1] = min(boxes[k, 0], y), max(boxes[k, 1], y + 1)
                boxes[k, 2] = min(boxes[k, 2], x)
            boxes[k, 3] = max(boxes[k, 3], x + 1)
            all_pixels[k] += 1
            areas[k] += not bad[y, x]
    return areas, all_pixels, boxes


def cut_out(values: np.ndarray, labels: np.ndarray, bad: np.ndarray, row: np.void) -> Cutout:
    """Cut one segment, or its part, out of a block."""
    box = _box(row)
    state = (labels[box] == row["label"]).astype(np.uint8)
    if row["has_bad"]:
        state[bad[box] & (state == 1)] = 2
    return Cutout(int(row["label"]), int(row["y0"]), int(row["x0"]), state, values[box][state == 1])


def _box(row: np.void) -> tuple[slice, slice]:
    """Give the bounding box of a segment in its block."""
    dy, dx = row["block_y0"], row["block_x0"]
    return slice(row["y0"] - dy, row["y1"] - dy), slice(row["x0"] - dx, row["x1"] - dx)


def join_parts(parts: list[Cutout]) -> Cutout:
    """Put the parts of one segment together."""
    if len(parts) == 1:
        return parts[0]
    y0, x0 = min(part.y0 for part in parts), min(part.x0 for part in parts)
    y1 = max(part.y0 + part.state.shape[0] for part in parts)
    x1 = max(part.x0 + part.state.shape[1] for part in parts)
    state = np.zeros((y1 - y0, x1 - x0), np.uint8)
    values = np.zeros(state.shape, parts[0].values.dtype)
    for part in parts:
        ny, nx = part.state.shape
        box = slice(part.y0 - y0, part.y0 - y0 + ny), slice(part.x0 - x0, part.x0 - x0 + nx)
        state[box] |= part.state  # the boxes of parts of different blocks do not overlap
        values[box][part.state == 1] = part.values
    return Cutout(parts[0].label, y0, x0, state, values[state == 1])


def split_block(
    values: np.ndarray, labels: np.ndarray, bad: np.ndarray, rows: np.ndarray, rules: Rules
) -> tuple[Children, list[int]]:
    """
    Deblend the segments ``rows`` of one block, which end inside it, where they lie.

    Parameters
    ----------
    values, labels, bad : (ny, nx) arrays
        The block.
    rows : array of ROW
        Segments with at least ``2 * n_pixels`` good pixels, by label.
    rules : Rules
        Parameters.

    Returns
    -------
    children : Children
        The segments that were split.
    past_peaks : list of int
        Labels of those that were left whole because more than ``max_peaks`` peaks are to be told apart.
    """
    peaks = np.full(len(rows), 2)
    for n in np.flatnonzero(_need_count(rows["area"], rules)):
        peaks[n] = _count_peaks(cut_out(values, labels, bad, rows[n]), rules)
    several = rows[(peaks >= 2) & (peaks <= rules.max_peaks)]
    past_peaks = rows["label"][peaks > rules.max_peaks].tolist()
    if len(several) == 0:
        return join_children([]), past_peaks
    ranks = _rank(labels, bad, several["label"].copy())
    numbers = _deblend(values, ranks, rules)
    if numbers is None:
        return _split([cut_out(values, labels, bad, row) for row in several], rules), past_peaks
    boxes = np.zeros(len(several), SPLIT)
    for name in ("label", "y0", "x0"):
        boxes[name] = several[name]
    boxes["ny"], boxes["nx"] = several["y1"] - several["y0"], several["x1"] - several["x0"]
    y, x = (several[f"{name}0"] - several[f"block_{name}0"] for name in "yx")
    return _children(numbers, ranks, boxes, y, x), past_peaks


@njit(nogil=True, cache=True)
def _rank(labels, bad, wanted):
    """Give the good pixels of each segment its place in ``wanted``, from 1 on; 0 elsewhere."""
    ranks = np.zeros(labels.shape, np.int32)
    for y in range(labels.shape[0]):
        last, rank = 0, 0
        for x in range(labels.shape[1]):
            label = labels[y, x]
            if label == 0:
                continue
            if label != last:
                last, n = label, np.searchsorted(wanted, label)
                rank = n + 1 if n < len(wanted) and wanted[n] == label else 0
            if not bad[y, x]:
                ranks[y, x] = rank
    return ranks


def split_cutouts(cutouts: list[Cutout], rules: Rules) -> tuple[Children, list[int]]:
    """Deblend segments that were put together; they are given, and so is what is returned, as for one block."""
    areas = np.array([len(cutout.values) for cutout in cutouts])
    counted = _need_count(areas, rules)
    peaks = [_count_peaks(cutout, rules) if count else 2 for cutout, count in zip(cutouts, counted, strict=True)]
    several = [cutout for cutout, n in zip(cutouts, peaks, strict=True) if 2 <= n <= rules.max_peaks]
    past_peaks = [cutout.label for cutout, n in zip(cutouts, peaks, strict=True) if n > rules.max_peaks]
    return _split(several, rules), past_peaks


def _need_count(areas: np.ndarray, rules: Rules) -> np.ndarray:
    """Mark the segments whose peaks are to be counted: those that may have too many, and all where it saves time."""
    if is_compiled():  # it finds a single peak sooner than the count does
        return areas > rules.max_peaks * rules.n_pixels
    return np.ones(len(areas), bool)


def _count_peaks(cutout: Cutout, rules: Rules) -> int:
    """Count the peaks of a segment, by the thresholds of ``rules`` where there may be too many."""
    segment = cutout.state == 1, cutout.values, rules.n_pixels, rules.connectivity
    peaks = count_peaks(*segment)
    if peaks > rules.max_peaks:
        peaks = count_candidates(*segment, rules.n_levels, rules.mode)
        if peaks > _TOO_MANY and rules.contrast_method != "saddle":
            peaks = min(peaks, count_candidates(*segment, rules.n_levels, "linear"))
    return peaks


def _split(cutouts: list[Cutout], rules: Rules) -> Children:
    if not cutouts:
        return join_children([])
    ranks, values, slots = _side_by_side(cutouts)
    numbers = _deblend(values, ranks, rules)
    if numbers is not None:
        boxes = np.array([(cut.label, cut.y0, cut.x0, *cut.state.shape, 0, 0) for cut in cutouts], SPLIT)
        return _children(numbers, ranks, boxes, *slots.T)
    if len(cutouts) == 1:
        return _split_across_bad_pixels(cutouts[0], rules)
    return join_children([_split([cutout], rules) for cutout in cutouts])


def _deblend(values: np.ndarray, ranks: np.ndarray, rules: Rules) -> np.ndarray | None:
    how = {name: getattr(rules, name) for name in ("n_levels", "contrast", "mode", "connectivity")}
    if rules.contrast_method is not None:
        how["contrast_method"] = rules.contrast_method
    return deblend_ranks(values, ranks, rules.n_pixels, **how)


def _children(numbers, ranks, boxes, y, x) -> Children:
    """
    Take the children of every segment that was split from the numbers that photutils gave them.

    ``boxes`` are the segments as ``SPLIT``, by rank, and lie at ``y`` and ``x`` in both images.
    """
    first, last = _number_ranges(ranks, numbers, boxes, y, x)
    split = np.flatnonzero(last)
    rows = boxes[split]
    rows["count"] = last[split] - first[split] + 1
    sizes = rows["ny"].astype(np.int64) * rows["nx"]
    rows["at"] = np.cumsum(sizes) - sizes
    taken = np.empty(sizes.sum(), np.min_scalar_type(rows["count"].max(initial=0)))
    _take_numbers(numbers, ranks, split + 1, first[split], y[split], x[split], rows, taken)
    return Children(rows, taken)


@njit(nogil=True, cache=True)
def _take_numbers(numbers, ranks, rank, first, y, x, rows, taken):
    for n in range(len(rows)):
        i = rows[n].at
        for row in range(y[n], y[n] + rows[n].ny):
            for column in range(x[n], x[n] + rows[n].nx):
                inside = ranks[row, column] == rank[n]
                taken[i] = numbers[row, column] - first[n] + 1 if inside else 0
                i += 1


def paint_children(out: np.ndarray, origin: tuple[int, int], children: Children, first: np.ndarray) -> None:
    """
    Write final labels of children over a block.

    Parameters
    ----------
    out : (ny, nx) int32 array
        Labels of the block, which begins at ``origin`` in the image.
    origin : (int, int)
        Row and column.
    children : Children
        Segments that were split, here or elsewhere.
    first : (n,) int64 array
        The label of the first child of each; 0 for those that are not to be written.
    """
    _paint_numbers(out, *origin, children.rows, children.numbers, first)


@njit(nogil=True, cache=True)
def _paint_numbers(out, y0, x0, rows, numbers, first):
    ny, nx = out.shape
    for n in range(len(rows)):
        if first[n] == 0:
            continue
        top, left = rows[n].y0 - y0, rows[n].x0 - x0
        width = rows[n].nx
        for y in range(max(top, 0), min(top + rows[n].ny, ny)):
            line = rows[n].at + (y - top) * width - left
            for x in range(max(left, 0), min(left + width, nx)):
                if numbers[line + x] > 0:
                    out[y, x] = first[n] + numbers[line + x] - 1


@njit(nogil=True, cache=True)
def _number_ranges(ranks, numbers, boxes, y, x):
    """Give the first and the last number of the children of each rank; they are above all ranks, 0 for none."""
    first = np.zeros(len(boxes), np.int64)
    last = np.zeros(len(boxes), np.int64)
    for n in range(len(boxes)):
        for row in range(y[n], y[n] + boxes[n].ny):
            for column in range(x[n], x[n] + boxes[n].nx):
                number = numbers[row, column]
                if number > len(boxes) and ranks[row, column] == n + 1:
                    if last[n] == 0 or number < first[n]:
                        first[n] = number
                    last[n] = max(last[n], number)
    return first, last


def _split_across_bad_pixels(cutout: Cutout, rules: Rules) -> Children:
    """
    Deblend a segment of which a piece without a peak is cut off, which photutils refuses.

    Where bad pixels cut it off, they take the segment's lowest value: they carry the flood to the piece, and leave
    the segment afterwards. What was in pieces before is an error.
    """
    bad = cutout.state == 2
    if not bad.any():
        raise ParameterError(
            f"label {cutout.label} of the segmentation is in pieces that are not connected "
            f"(connectivity={rules.connectivity}), and one of them has no peak of its own to become. "
            "Pass the connectivity that the sources were found with."
        )
    values = np.full(cutout.state.shape, cutout.values.min())
    values[cutout.state == 1] = cutout.values
    whole = Cutout(cutout.label, cutout.y0, cutout.x0, (cutout.state > 0).astype(np.uint8), values[cutout.state > 0])
    found = _split([whole], rules)
    if len(found.rows):
        found.numbers[bad.ravel()] = 0
    return found


def _side_by_side(cutouts: list[Cutout]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lay cutouts on shelves: an image of their ranks 1, 2 ..., one of their values, and the row and column of each."""
    heights = np.array([cutout.state.shape[0] for cutout in cutouts])
    widths = np.array([cutout.state.shape[1] for cutout in cutouts])
    width = max(int(widths.max()), int(np.sqrt(np.sum(heights * widths))))
    slots, y, x, shelf = np.empty((len(cutouts), 2), np.int64), 0, 0, 0
    for n in np.argsort(-heights, kind="stable"):  # those of one height share a shelf
        if x + widths[n] > width:
            y, x, shelf = y + shelf, 0, 0
        slots[n] = y, x
        x, shelf = x + widths[n], max(shelf, heights[n])
    ranks = np.zeros((y + shelf, width), np.int32)
    values = np.zeros(ranks.shape, cutouts[0].values.dtype)
    for n, (cutout, (y, x)) in enumerate(zip(cutouts, slots.tolist(), strict=True)):
        good = cutout.state == 1
        slot = slice(y, y + heights[n]), slice(x, x + widths[n])
        ranks[slot][good] = n + 1
        values[slot][good] = cutout.values
    return ranks, values, slots
