"""
Graphs of many blocks, made ready to be computed in little time.

dask fuses functions of blocks that follow each other into one task a block, which is what we want. It does so by
rewriting what it has fused for every block and every argument, though: for a dozen functions that is a millisecond a
block, and our steps look at an image many times. Here what is fused is kept as it is, all blocks have it in common, and
a task of a block is nothing but that and its arguments. Everything else is left to dask.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import dask.array as da
import numpy as np
from dask._task_spec import convert_legacy_graph, fuse_linear_task_spec
from dask.array.optimization import GETTERS, _optimize_slices
from dask.blockwise import Blockwise, fuse_roots, optimize_blockwise
from dask.core import flatten
from dask.task_spec import Task, TaskRef

__all__ = ["compute_now", "persist_now"]


def compute_now(array: da.Array) -> np.ndarray:
    """
    Compute an array, as its method ``compute`` does.

    Parameters
    ----------
    array : dask array
        What is wanted.

    Returns
    -------
    array
    """
    return _ready(array).compute(optimize_graph=False)


def persist_now(array: da.Array) -> da.Array:
    """
    Compute the blocks of an array and keep them in memory, as its method ``persist`` does.

    Parameters
    ----------
    array : dask array
        What is needed more than once.

    Returns
    -------
    dask array
        Of the same name.
    """
    return _ready(array).persist(optimize_graph=False)


def _ready(array: da.Array) -> da.Array:
    """Give an array whose graph holds the tasks that will be computed."""
    keys = list(flatten(array.__dask_keys__()))
    graph = fuse_roots(optimize_blockwise(array.__dask_graph__(), keys=keys), keys=keys).cull(set(keys))
    tasks = {}
    for layer in graph.layers.values():
        tasks.update(_with_parts_in_common(layer))
    # As dask does, but for culling: what is not needed is not there.
    tasks = _optimize_slices(fuse_linear_task_spec(convert_legacy_graph(tasks), keys))
    return da.Array(tasks, array.name, array.chunks, meta=array._meta)


def _with_parts_in_common(layer) -> Mapping:
    if not isinstance(layer, Blockwise) or layer.task.func in GETTERS or not _is_plain(layer):
        return layer
    names = [f"__dask_blockwise__{n}" for n in range(len(layer.indices))]
    given = [pair for pair in zip(names, layer.indices, strict=True) if pair[0] in layer.task.dependencies]
    task = _Fused(layer.task, tuple(name for name, _ in given))
    takes = [_argument(layer, *indices) for _, indices in given]
    blocks = layer.output_blocks or product(*(range(layer.dims[axis]) for axis in layer.output_indices))
    tasks = {}
    for at in blocks:
        key = (layer.output, *at)
        tasks[key] = Task(key, task, *[take(at) for take in takes], _data_producer=layer.task.data_producer)
    return tasks


def _is_plain(layer: Blockwise) -> bool:
    """Whether every block takes one block of each of what it is made of."""
    axes = set(layer.output_indices)
    return all(index is None or axes.issuperset(index) for _, index in layer.indices) and not any(
        values.produces_keys for values in layer.io_deps.values()
    )


def _argument(layer: Blockwise, name, index):
    """Give what tells, for a block, an argument of its task."""
    if index is None:
        return lambda at: name
    places = [
        layer.output_indices.index(axis) if number > 1 else None
        for axis, number in zip(index, layer.numblocks[name], strict=True)
    ]

    if places == list(range(len(layer.output_indices))):  # the same block, as most arguments are
        place = tuple
    else:

        def place(at):
            return tuple(0 if n is None else at[n] for n in places)

    if name in layer.io_deps:
        return lambda at: layer.io_deps[name][place(at)]
    return lambda at: TaskRef((name, *place(at)))


class _Fused:
    """A function of what the placeholders ``names`` of a task stand for."""

    def __init__(self, task: Task, names: tuple[str, ...]):
        self.task, self.names = task, names

    def __call__(self, *values):
        return self.task(dict(zip(self.names, values, strict=True)))
