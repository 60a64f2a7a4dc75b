"""Deblending over blocks, as dask graphs: two passes that find the children of segments, and one that writes labels.

The first pass deblends the segments that end inside their block and cuts out the parts of those that go on. The
second puts the parts of a segment together, in the block where it begins, and deblends it. What stays in memory are
the children of segments that split, on the worker that found them. The last pass writes labels, lazily.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import NamedTuple

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from dask.task_spec import Task, TaskRef
from numba import njit

from galprep_dask.blockwise import block_edges, keep, merge_blocks_now, objects_of_blocks
from galprep_dask.segmentation._kernels.cutouts import (
    Children,
    Cutout,
    Rules,
    cut_out,
    join_children,
    join_parts,
    measure,
    paint_children,
    split_block,
    split_cutouts,
)

__all__ = ["Splits", "paint_blocks", "split_segments"]

#: Pixels in the bounding box of a part that is handed over as soon as it is seen. A larger one may belong to a
#: segment past the budget, and many would fill the memory: it is read again when its segment is known to be within.
_SMALL_PART = 2**16


class Splits(NamedTuple):
    """What was found."""

    rows: np.ndarray  # of ``ROW``, by label and then by block
    blocks: da.Array  # one _Found a block, or one _Seen
    labels: np.ndarray  # the segments that split, sorted
    n_children: np.ndarray  # of each
    past: dict[int, str]  # "pixels" or "peaks", for segments left whole past that budget


class _Seen(NamedTuple):
    rows: np.ndarray
    children: Children
    past_peaks: list[int]
    parts: dict[int, Cutout]


class _Found(NamedTuple):
    children: Children
    past_peaks: list[int]


def split_segments(image: da.Array, labels: da.Array, bad: da.Array, wanted: np.ndarray | None, rules: Rules) -> Splits:
    """Deblend the segments ``wanted``, or all, and keep the children of those that split."""
    seen = keep(objects_of_blocks(_see, image, labels, bad, shape=image.shape, wanted=wanted, rules=rules))
    rows = merge_blocks_now(_rows_of, _join_rows, seen)
    rows = rows[np.lexsort((rows["block_x0"], rows["block_y0"], rows["label"]))]
    joining, past_pixels = _to_be_joined(rows, wanted, rules)
    found = _found_blocks(seen, image, labels, bad, rows, joining, rules)
    split, n_children, past_peaks = merge_blocks_now(_counts_of, _merge_counts, found)
    order = np.argsort(split)
    past = dict.fromkeys(past_pixels.tolist(), "pixels") | dict.fromkeys(past_peaks, "peaks")
    return Splits(rows, found, split[order], n_children[order], past)


def _see(values, labels, bad, origin, shape, wanted, rules) -> _Seen:
    """Deblend what ends inside a block, and cut out the small parts of what does not."""
    rows = measure(labels, bad, origin, shape)
    work = _is_wanted(rows["label"], wanted) & (rules.contrast < 1)
    pixels = _box_pixels(rows)
    rows["was_cut"] = work & rows["crosses"] & (pixels <= _SMALL_PART)
    whole = work & ~rows["crosses"] & (rows["area"] >= 2 * rules.n_pixels) & (pixels <= rules.max_pixels)
    parts = {int(row["label"]): cut_out(values, labels, bad, row) for row in rows[rows["was_cut"]]}
    children, past_peaks = split_block(values, labels, bad, rows[whole], rules)
    return _Seen(rows, children, past_peaks, parts)


def _is_wanted(labels, wanted):
    return np.ones(len(labels), bool) if wanted is None else np.isin(labels, wanted)


def _box_pixels(rows):
    return (rows["y1"] - rows["y0"]).astype(np.int64) * (rows["x1"] - rows["x0"])


def _rows_of(boxed):
    return boxed[0, 0].rows


def _join_rows(rows):
    return np.concatenate(rows)


def _to_be_joined(rows, wanted, rules) -> tuple[np.ndarray, np.ndarray]:
    """Give the labels of segments that lie in several blocks or may do so, and those past the budget of pixels."""
    labels, first, n_blocks = np.unique(rows["label"], return_index=True, return_counts=True)
    if len(labels) == 0 or rules.contrast == 1:
        return labels[:0], labels[:0]
    area = np.add.reduceat(rows["area"], first)
    whole = np.zeros(len(labels), rows.dtype)
    for name, reduce in (("y0", np.minimum), ("x0", np.minimum), ("y1", np.maximum), ("x1", np.maximum)):
        whole[name] = reduce.reduceat(rows[name], first)
    work = _is_wanted(labels, wanted) & (area >= 2 * rules.n_pixels)
    within = _box_pixels(whole) <= rules.max_pixels
    several = (n_blocks > 1) | rows["crosses"][first]
    return labels[work & within & several], labels[work & ~within]


def _found_blocks(seen, image, labels, bad, rows, joining, rules) -> da.Array:
    """Join the segments of ``joining`` in the blocks where they begin, beside what these found themselves."""
    edges = [block_edges(axis) for axis in image.chunks]
    blocks = _block_indices(rows, edges)
    drop, take, again, beginning = (defaultdict(list) for _ in range(4))
    _, rank, n_blocks = np.unique(rows["label"], return_inverse=True, return_counts=True)
    for n in np.flatnonzero((n_blocks[rank] > 1) & ~rows["crosses"]):
        drop[blocks[n]].append(int(rows["label"][n]))  # it seemed to end here, and was deblended without the rest
    if not drop and len(joining) == 0:
        return seen
    for label, group in _groups(rows["label"], joining):
        home = blocks[group.start]
        beginning[home].append(label)
        for n in range(group.start, group.stop):
            block = blocks[n]
            if rows["was_cut"][n]:
                take[home].append(("parts", block))
            else:
                again[block].append(n)
                take[home].append(("again", block))
    token = tokenize(seen.name, image.name, labels.name, bad.name, joining)
    names = {name: f"deblend-{name}-{token}" for name in ("parts", "again", "found")}
    graph = {}
    for name, block in {key for keys in take.values() for key in keys}:
        key = (names[name], *block)
        if name == "parts":
            graph[key] = Task(key, _parts_of, TaskRef((seen.name, *block)))
        else:
            planes = (TaskRef((array.name, *block)) for array in (image, labels, bad))
            graph[key] = Task(key, _cut_again, rows[again[block]], *planes)
    find = partial(_find, rules)
    for block in np.ndindex(seen.numblocks):
        key = (names["found"], *block)
        parts = [TaskRef((names[name], *source)) for name, source in dict.fromkeys(take.get(block, ()))]
        own = tuple(beginning.get(block, ())), tuple(drop.get(block, ()))
        graph[key] = Task(key, find, *own, TaskRef((seen.name, *block)), *parts)
    # What no task asks for is left out: dask may send it along.
    dependencies = [seen, *((image, labels, bad) if again else ())]
    graph = HighLevelGraph.from_collections(names["found"], graph, dependencies=dependencies)
    return keep(da.Array(graph, names["found"], seen.chunks, meta=np.empty((0, 0), object)))


def _block_indices(rows, edges) -> list[tuple[int, int]]:
    i, j = (
        np.searchsorted(edge, rows[name], side="right") - 1
        for edge, name in zip(edges, ("block_y0", "block_x0"), strict=True)
    )
    return list(zip(i.tolist(), j.tolist(), strict=True))


def _groups(sorted_labels, labels):
    """Give for every one of ``labels`` where it lies among the sorted ones."""
    starts = np.searchsorted(sorted_labels, labels, side="left").tolist()
    stops = np.searchsorted(sorted_labels, labels, side="right").tolist()
    return zip(labels.tolist(), map(slice, starts, stops), strict=True)


def _parts_of(boxed):
    return boxed[0, 0].parts


def _cut_again(rows, values, labels, bad):
    return {int(row["label"]): cut_out(values, labels, bad, row) for row in rows}


def _find(rules, joining, drop, boxed, *parts):
    seen = boxed[0, 0]
    whole = [join_parts([part[label] for part in parts if label in part]) for label in joining]
    joined, past_peaks = split_cutouts(whole, rules)
    rows = seen.children.rows
    kept = seen.children._replace(rows=rows[~np.isin(rows["label"], drop)] if drop else rows)
    found = np.empty((1, 1), object)
    found[0, 0] = _Found(
        join_children([kept, joined]), past_peaks + [label for label in seen.past_peaks if label not in drop]
    )
    return found


def _counts_of(boxed):
    found = boxed[0, 0]
    return found.children.rows["label"], found.children.rows["count"], found.past_peaks


def _merge_counts(parts):
    labels, counts, past = zip(*parts, strict=True)
    return np.concatenate(labels), np.concatenate(counts), [label for some in past for label in some]


def paint_blocks(labels: da.Array, bad: da.Array, splits: Splits, first: np.ndarray) -> da.Array:
    """
    Write final labels, lazily.

    Parameters
    ----------
    labels, bad : (ny, nx) dask arrays
        The segmentation that was deblended, and the pixels that belong to no segment.
    splits : Splits
        What it was split into.
    first : (n,) int array
        For every row of ``splits.rows`` the number of its segment, or of the first of its children.

    Returns
    -------
    (ny, nx) int32 dask array
    """
    rows, edges = splits.rows, [block_edges(axis) for axis in labels.chunks]
    blocks = _block_indices(rows, edges)
    here, sources = defaultdict(list), defaultdict(dict)
    for n, block in enumerate(blocks):
        here[block].append(n)
    for _, group in _groups(rows["label"], splits.labels):
        for n in range(group.start, group.stop):
            sources[blocks[n]][blocks[group.start]] = None  # found where the segment begins
    name = f"deblended-{tokenize(labels.name, bad.name, splits.blocks.name, first)}"
    graph = {}
    for block in np.ndindex(labels.numblocks):
        key, mine = (name, *block), np.array(here[block], np.intp)
        origin = tuple(int(edge[n]) for edge, n in zip(edges, block, strict=True))
        own = origin, rows["label"][mine], first[mine].astype(np.int32)
        # The pixels are read again only where some of them leave a segment.
        hidden = TaskRef((bad.name, *block)) if rows["has_bad"][mine].any() else None
        found = [TaskRef((splits.blocks.name, *source)) for source in sources.get(block, ())]
        graph[key] = Task(key, _paint, *own, TaskRef((labels.name, *block)), hidden, *found)
    # What no task asks for is left out: dask may send it along.
    dependencies = [labels, *([bad] if rows["has_bad"].any() else []), *([splits.blocks] if sources else [])]
    graph = HighLevelGraph.from_collections(name, graph, dependencies=dependencies)
    return da.Array(graph, name, labels.chunks, meta=np.empty((0, 0), np.int32))


def _paint(origin, present, first, labels, bad, *found):
    out = _renumber(labels, present, first)
    if bad is not None:
        out[bad] = 0
    for boxed in found:
        children = boxed[0, 0].children
        label = children.rows["label"]
        at = np.searchsorted(present, label)
        at[at == len(present)] = 0
        numbers = np.where(present[at] == label, first[at], 0) if len(present) else np.zeros(len(label), first.dtype)
        paint_children(out, origin, children, numbers.astype(np.int64))
    return out


@njit(nogil=True, cache=True)
def _renumber(labels, present, first):
    out = np.zeros(labels.shape, np.int32)
    for y in range(labels.shape[0]):
        last, number = 0, 0
        for x in range(labels.shape[1]):
            label = labels[y, x]
            if label != 0:
                if label != last:
                    last, number = label, first[np.searchsorted(present, label)]
                out[y, x] = number
    return out
