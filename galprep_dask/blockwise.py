"""Graph building that all rooms share: origins of blocks, sums over blocks, objects in place of blocks.

Every function here adds a fixed, small number of tasks per chunk, whatever the number of chunks: none for
origins (they travel inside the task that uses them), about one for a sum.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import partial
from itertools import product
from uuid import uuid4

import dask
import dask.array as da
import numpy as np
from dask.base import clone_key, tokenize
from dask.highlevelgraph import HighLevelGraph
from dask.layers import ArrayBlockwiseDep
from dask.task_spec import Alias

from galprep_dask.cluster import computes_on_cluster, let_go, wait_for
from galprep_dask.fused import compute_now, persist_now

__all__ = [
    "as_object",
    "block_bounds",
    "block_edges",
    "collect_by_rows",
    "collect_in_turn",
    "give_back_memory",
    "keep",
    "keep_mask",
    "map_blocks_at",
    "map_blocks_each",
    "map_regions",
    "merge_blocks",
    "merge_blocks_at",
    "objects_of_blocks",
]


#: Blocks after which memory is given back: what is asked for again at once would have to be cleared again.
_BLOCKS_KEPT = 16


def block_edges(chunks: tuple[int, ...]) -> np.ndarray:
    """
    Pixel edges of the blocks along one axis: block ``i`` covers ``edges[i]:edges[i + 1]``.

    Examples
    --------
    >>> block_edges((3, 3, 1)).tolist()
    [0, 3, 6, 7]
    """
    return np.concatenate([[0], np.cumsum(chunks, dtype=np.int64)])


class OfBlocks(ArrayBlockwiseDep):
    """
    What belongs to each block, to be handed to ``dask.array.blockwise`` as an argument; it travels inside the tasks.

    Parameters
    ----------
    chunks : tuple of tuples of int
        Of the image.
    values : (rows, columns) object array
        One for each block.
    token : str or tuple
        Tells these values from all others: dask would look into every one of them for that, or at a few only.

    Examples
    --------
    >>> OfBlocks(((2, 1), (3,)), np.array([["a"], ["b"]], object), "letters")[1, 0]
    'b'
    """

    def __init__(self, chunks, values: np.ndarray, token):
        super().__init__(chunks)
        self.values, self.token = values, token

    def __getitem__(self, at):
        return self.values[at]

    def __dask_tokenize__(self):
        return type(self).__name__, self.chunks, self.token


def block_bounds(chunks) -> OfBlocks:
    """
    Rows and columns of each block, ``((y0, y1), (x0, x1))``, to be handed to ``dask.array.blockwise`` as an argument.

    They travel inside the tasks. An ``arange`` that all blocks of a row and of a column share would be a root of the
    graph, and whichever is made first would draw in its whole row and column: blocks then wait for each other.
    """
    edges = [block_edges(axis).tolist() for axis in chunks]
    values = np.empty([len(axis) for axis in chunks], dtype=object)
    for i, j in np.ndindex(values.shape):
        values[i, j] = ((edges[0][i], edges[0][i + 1]), (edges[1][j], edges[1][j + 1]))
    return OfBlocks(chunks, values, "bounds")


def map_blocks_at(func: Callable, *arrays: da.Array, dtype, **kwargs) -> da.Array:
    """
    Apply ``func(*blocks, origin=(y0, x0), **kwargs)`` to every block.

    Parameters
    ----------
    func : callable
        Gives an array of the shape of its blocks. ``y0, x0`` is the block's first pixel in the image.
    *arrays : (ny, nx) dask arrays
        Images of the same chunks.
    dtype : dtype
        Of what ``func`` gives.
    **kwargs
        Handed to ``func`` in every block; keep them small, they are part of the graph.

    Returns
    -------
    (ny, nx) dask array
    """
    arguments = [part for array in arrays for part in (array, "ij")]
    return da.blockwise(
        partial(_call_at, func, len(arrays), **kwargs), "ij", *arguments, _origins(arrays[0].chunks), "ij",
        dtype=dtype, meta=np.empty((0, 0), dtype), align_arrays=False,
    )  # fmt: skip


def map_blocks_each(func: Callable, own: np.ndarray, *arrays: da.Array, dtype) -> da.Array:
    """
    Apply ``func(*blocks, own=own[i, j], origin=(y0, x0))`` to every block.

    Parameters
    ----------
    func : callable
        Gives an array of the shape of its blocks.
    own : (rows, columns) object array
        What belongs to each block; it travels with the task of that block alone.
    *arrays : (ny, nx) dask arrays
        Images of the same chunks.
    dtype : dtype
        Of what ``func`` gives.

    Returns
    -------
    (ny, nx) dask array
    """
    arguments = [part for array in arrays for part in (array, "ij")]
    token = tokenize(func, own.tolist(), [array.name for array in arrays])
    return da.blockwise(
        partial(_call_each, func, len(arrays)), "ij", *arguments, OfBlocks(arrays[0].chunks, own, token), "ij",
        _origins(arrays[0].chunks), "ij", dtype=dtype, meta=np.empty((0, 0), dtype), align_arrays=False, token=token,
    )  # fmt: skip


def _call_each(func, n_arrays, *blocks_and_more):
    own, origin = blocks_and_more[n_arrays:]
    return func(*blocks_and_more[:n_arrays], own=own, origin=origin)


def merge_blocks(func: Callable, merge: Callable, *arrays: da.Array, **kwargs) -> da.Array:
    """
    Apply ``func(*blocks, **kwargs)`` to every block and merge what it gives, lazily, by a tree.

    Parameters
    ----------
    func : callable
        Gives any object for one block.
    merge : callable
        Takes a list of such objects and gives one. It is called on up to sixteen at a time.
    *arrays : (ny, nx) dask arrays
        Images of the same chunks.
    **kwargs
        Handed to ``func``.

    Returns
    -------
    (1, 1) dask array of objects
        Holds the one object that is left.
    """
    arguments = [part for array in arrays for part in (array, "ij")]
    per_block = da.blockwise(
        partial(as_object, func, **kwargs), "ij", *arguments,
        adjust_chunks={"i": 1, "j": 1}, dtype=object, meta=np.empty((0, 0), object), align_arrays=False,
    )  # fmt: skip
    return _merged(per_block, merge)


def merge_blocks_now(func: Callable, merge: Callable, *arrays: da.Array, **kwargs):
    """Give the object of :func:`merge_blocks`; of a block in memory without a graph, which would take milliseconds."""
    blocks = blocks_in_memory(*arrays)
    if blocks:
        return merge([func(*blocks, **kwargs)])
    return compute_now(merge_blocks(func, merge, *arrays, **kwargs))[0, 0]


def merge_blocks_now_at(func: Callable, merge: Callable, *arrays: da.Array, **kwargs):
    """Give the object of :func:`merge_blocks_at`; of a block in memory without a graph."""
    blocks = blocks_in_memory(*arrays)
    if blocks:
        return merge([func(*blocks, origin=(0, 0), **kwargs)])
    return compute_now(merge_blocks_at(func, merge, *arrays, **kwargs))[0, 0]


def objects_now(func: Callable, *arrays: da.Array, **kwargs) -> np.ndarray:
    """Give the objects of :func:`objects_of_blocks`, row by row; of a block in memory without a graph."""
    blocks = blocks_in_memory(*arrays)
    if blocks:
        return as_object(func, *blocks, origin=(0, 0), **kwargs)
    return compute_now(collect_by_rows(objects_of_blocks(func, *arrays, **kwargs)))[0]


def blocks_in_memory(*arrays: da.Array) -> tuple[np.ndarray, ...]:
    """Give the pixels of arrays, not to be modified, if each is one block in memory as it is; else nothing."""
    blocks = []
    for array in arrays:
        layers = array.__dask_graph__().layers
        layer = layers[array.name] if len(layers) == 1 else {}
        only = next(iter(layer.values())) if len(layer) == 1 else None
        if not isinstance(only, np.ndarray) or only.shape != array.shape:
            return ()
        blocks.append(only)
    return tuple(blocks)


def merge_blocks_at(func: Callable, merge: Callable, *arrays: da.Array, **kwargs) -> da.Array:
    """Merge as :func:`merge_blocks`, of what ``func(*blocks, origin=(y0, x0), **kwargs)`` gives."""
    return _merged(objects_of_blocks(func, *arrays, **kwargs), merge)


def objects_of_blocks(func: Callable, *arrays: da.Array, **kwargs) -> da.Array:
    """
    Apply ``func(*blocks, origin=(y0, x0), **kwargs)`` to every block and keep the objects that it gives.

    Parameters
    ----------
    func : callable
        Gives any object for one block.
    *arrays : (ny, nx) dask arrays
        Images of the same chunks.
    **kwargs
        Handed to ``func``.

    Returns
    -------
    (rows, columns) dask array of objects
        One for every block, as the blocks lie in the image.
    """
    arguments = [part for array in arrays for part in (array, "ij")]
    return da.blockwise(
        partial(as_object, partial(_call_at, func, len(arrays)), **kwargs), "ij",
        *arguments, _origins(arrays[0].chunks), "ij",
        adjust_chunks={"i": 1, "j": 1}, dtype=object, meta=np.empty((0, 0), object), align_arrays=False,
    )  # fmt: skip


def collect_by_rows(objects: da.Array) -> da.Array:
    """
    Collect what :func:`objects_of_blocks` gives, in an order of tasks that keeps few blocks.

    Blocks that wait for the rims of their neighbours stay in memory. Left to itself, the scheduler begins in the middle
    and works outwards, with the whole of a growing front waiting. Here each row of blocks waits for that before it, so
    that the front is two rows and no more. One task a row, and one at the end.

    Parameters
    ----------
    objects : (rows, columns) dask array of objects
        One for every block.

    Returns
    -------
    (1,) dask array
        Holds the (rows, columns) NumPy array of objects.
    """
    n_rows, n_columns = objects.numblocks
    rows = [[(objects.name, i, j) for j in range(n_columns)] for i in range(n_rows)]
    return _collected_in_turn(objects, rows, _collected, rows)


def collect_in_turn(objects: da.Array, turns: list[int]) -> da.Array:
    """
    Collect what :func:`map_regions` gives as :func:`collect_by_rows` does, turn after turn.

    Parameters
    ----------
    objects : (n,) dask array of objects
        One for every region.
    turns : list of int
        When it is the turn of each: the row of blocks in which it begins.

    Returns
    -------
    (1,) dask array
        Holds the list of the objects.
    """
    rows = {}
    for k in np.argsort(turns, kind="stable").tolist():
        rows.setdefault(turns[k], []).append((objects.name, k))
    return _collected_in_turn(objects, list(rows.values()), _listed, [(objects.name, k) for k in range(len(turns))])


def _collected_in_turn(objects: da.Array, turns: list[list[tuple]], collect: Callable, wanted: list) -> da.Array:
    token = tokenize(objects.name)
    row, collected = f"row-{token}", f"collected-{token}"
    graph, n_kept = {}, 0
    for i, keys in enumerate(turns):
        n_kept += len(keys)
        gives_back = n_kept >= _BLOCKS_KEPT or i == len(turns) - 1
        n_kept = 0 if gives_back else n_kept
        graph[row, i] = (partial(_row_done, gives_back), keys, *([(row, i - 1)] if i else []))
    graph[collected, 0] = (collect, wanted, (row, len(turns) - 1))
    graph = HighLevelGraph.from_collections(collected, graph, dependencies=[objects])
    return da.Array(graph, collected, ((1,),), meta=np.empty(0, object))


def _row_done(gives_back, blocks, *before):
    if gives_back:
        give_back_memory()
    return True


def _collected(blocks, done):
    collected = np.empty(1, object)
    collected[0] = np.empty((len(blocks), len(blocks[0])), object)
    for i, j in np.ndindex(collected[0].shape):
        collected[0][i, j] = blocks[i][j][0, 0]
    return collected


def _listed(boxes, done):
    collected = np.empty(1, object)
    collected[0] = [boxed[0] for boxed in boxes]
    return collected


def map_regions(func: Callable, boxes: list, arrays: list[da.Array], own: list, **kwargs) -> da.Array:
    """
    Apply ``func(regions, own[k], box=boxes[k], **kwargs)`` to regions that lie across blocks as they like.

    One task a region, which takes what it needs of all the blocks that it meets.

    Parameters
    ----------
    func : callable
        ``regions`` is a list of arrays, one for each of ``arrays``. Gives any object.
    boxes : list of (y0, y1, x0, x1)
        Rows and columns of each region, inside the image.
    arrays : list of (ny, nx) dask arrays
        Images of the same chunks.
    own : list
        What belongs to each region.
    **kwargs
        Handed to ``func``.

    Returns
    -------
    (n,) dask array of objects
        One for every region, a chunk each.
    """
    edges = [block_edges(axis) for axis in arrays[0].chunks]
    name = f"regions-{tokenize(func, boxes, own, [array.name for array in arrays], kwargs)}"
    graph = {}
    for k, (y0, y1, x0, x1) in enumerate(boxes):
        rows, columns = (
            range(*np.searchsorted(axis, [low + 1, high]) + np.array([-1, 0]))
            for axis, (low, high) in zip(edges, ((y0, y1), (x0, x1)), strict=True)
        )
        origins = [(int(edges[0][i]), int(edges[1][j])) for i, j in product(rows, columns)]
        apply = partial(_gather_and_apply, func, own[k], boxes[k], origins, kwargs)
        graph[name, k] = (apply, [[(array.name, i, j) for i, j in product(rows, columns)] for array in arrays])
    graph = HighLevelGraph.from_collections(name, graph, dependencies=arrays)
    return da.Array(graph, name, ((1,) * len(boxes),), meta=np.empty(0, object))


def _gather_and_apply(func, own, box, origins, kwargs, blocks):
    y0, y1, x0, x1 = box
    regions = []
    for parts in blocks:
        region = np.empty((y1 - y0, x1 - x0), parts[0].dtype)
        for part, (top, left) in zip(parts, origins, strict=True):
            bottom, right = top + part.shape[0], left + part.shape[1]
            rows, columns = (max(y0, top), min(y1, bottom)), (max(x0, left), min(x1, right))
            region[rows[0] - y0 : rows[1] - y0, columns[0] - x0 : columns[1] - x0] = part[
                rows[0] - top : rows[1] - top, columns[0] - left : columns[1] - left
            ]
        regions.append(region)
    boxed = np.empty(1, object)
    boxed[0] = func(regions, own, box=box, **kwargs)
    return boxed


def _merged(per_block: da.Array, merge: Callable) -> da.Array:
    return da.reduction(
        per_block, _same, partial(_merge_objects, merge), axis=(0, 1), keepdims=True, concatenate=False,
        split_every=4**2, dtype=object, meta=np.empty((0, 0), object),
    )  # fmt: skip


def as_object(func, *blocks, **kwargs):
    """Call ``func``, and put whatever it gives into an array of one element."""
    boxed = np.empty((1, 1), object)
    boxed[0, 0] = func(*blocks, **kwargs)
    return boxed


def _same(block, axis=None, keepdims=None):
    return block


def _merge_objects(merge, boxes, axis=None, keepdims=None):
    while not isinstance(boxes[0], np.ndarray):
        boxes = [box for row in boxes for box in row]
    return as_object(merge, [box[0, 0] for box in boxes])


def _origins(chunks) -> OfBlocks:
    edges = [block_edges(axis)[:-1] for axis in chunks]
    values = np.empty([len(axis) for axis in chunks], dtype=object)
    for i, j in np.ndindex(values.shape):
        values[i, j] = (int(edges[0][i]), int(edges[1][j]))
    return OfBlocks(chunks, values, "origins")


def _call_at(func, n_arrays, *blocks_and_origin, **kwargs):
    return func(*blocks_and_origin[:n_arrays], origin=blocks_and_origin[n_arrays], **kwargs)


def keep(array: da.Array) -> da.Array:
    """
    Compute an array now, once, and keep its blocks in memory, on a cluster in that of the workers.

    A cluster remembers how to make again what it keeps, by the names of tasks; dask fuses tasks as a graph allows, so
    that the same name may come again with other tasks in it, which a scheduler does not expect. So what is made there
    has names of its own. And it is waited for, or what it is made of could be given up before the scheduler has seen
    that it is needed.

    Parameters
    ----------
    array : dask array
        What is needed more than once.

    Returns
    -------
    dask array
    """
    if not computes_on_cluster():
        return persist_now(array)
    let_go()
    return wait_for(_under_own_names(array).persist())


def _under_own_names(array: da.Array) -> da.Array:
    """Give a graph whose tasks are fused as they will be and have names that none else has, but for what is kept."""
    with dask.config.set({"optimization.fuse.active": None}):  # not fused, tasks might be tuples still
        (array,) = dask.optimize(array)
    nodes = dict(array.__dask_graph__())
    kept = {key for key, node in nodes.items() if isinstance(node, Alias) and node.target == key}
    token = uuid4().hex
    names = {key: clone_key(key, token) for key in nodes if key not in kept}
    graph = {names[key]: nodes[key].substitute(names, key=names[key]) for key in names} | {
        key: nodes[key] for key in kept
    }
    return da.Array(graph, clone_key(array.name, token), array.chunks, meta=array._meta)


def keep_mask(mask: da.Array) -> da.Array:
    """
    Compute a mask now, once, and keep it in memory, a bit a pixel.

    Parameters
    ----------
    mask : (ny, nx) bool dask array
        What is needed more than once, and costs more than a look at its bits.

    Returns
    -------
    (ny, nx) bool dask array
        Of the same chunks. On a cluster the workers keep the bits.
    """
    packed = keep(mask.map_blocks(
        np.packbits, axis=1, dtype=np.uint8, meta=np.empty((0, 0), np.uint8),
        chunks=(mask.chunks[0], tuple(-(-width // 8) for width in mask.chunks[1])),
    ))  # fmt: skip
    widths = np.empty(mask.numblocks, object)
    widths[:] = mask.chunks[1]
    return da.blockwise(
        _unpacked, "ij", _inside_tasks(packed), "ij", OfBlocks(packed.chunks, widths, mask.chunks), "ij",
        name=f"unpacked-{tokenize(packed.name)}", dtype=bool, meta=np.empty((0, 0), bool), align_arrays=False,
        adjust_chunks={"j": mask.chunks[1]},
    )  # fmt: skip


def _inside_tasks(kept: da.Array) -> da.Array | OfBlocks:
    """Give kept blocks, if this process has them, as what travels inside tasks and is none itself."""
    blocks = dict(kept.__dask_graph__())
    if not all(isinstance(block, np.ndarray) for block in blocks.values()):
        return kept
    values = np.empty(kept.numblocks, object)
    for at in np.ndindex(values.shape):
        values[at] = blocks[kept.name, *at]
    return OfBlocks(kept.chunks, values, kept.name)


def _unpacked(bits, width):
    return np.unpackbits(bits, axis=1, count=width).view(bool)


def give_back_memory() -> None:
    """
    Give what a pass over the blocks has freed back to the system.

    glibc keeps freed memory, for each thread apart: after a pass over a large image that was most of what the process
    held, and the next pass, by other threads, came on top. Elsewhere there is nothing to do.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if trim is not None:
        trim(0)
