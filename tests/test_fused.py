import pickle

import dask
import dask.array as da
import numpy as np
import pytest
from dask.highlevelgraph import HighLevelGraph
from dask.task_spec import Task, TaskRef
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import chunkings

from galprep_dask.blockwise import keep_mask, map_blocks_at, map_blocks_each, merge_blocks
from galprep_dask.fused import compute_now, persist_now
from galprep_dask.neighbours import map_halo


def plus_origin(block, origin):
    return block + origin[0] * 1000 + origin[1]


def add_own(block, own, origin):
    return block + own + origin[0]


def three_wide(window):
    return window[:-2, 1:-1] + window[1:-1, 1:-1] + window[2:, 1:-1]


def chain(image):
    """Functions of blocks of every kind, one after the other."""
    here = map_blocks_at(plus_origin, image, dtype=float)
    own = np.empty(image.numblocks, object)
    for n, at in enumerate(np.ndindex(own.shape)):
        own[at] = n
    owned = map_blocks_each(add_own, own, here, dtype=float)
    seen = map_halo(three_wide, owned, 1, fill=0.0, dtype=float, trims=True)
    masked = keep_mask(image > 0.5)
    columns = da.arange(image.shape[1], chunks=image.chunks[1])
    return da.where(masked, seen, -owned) + image.mean(axis=0, keepdims=True) + columns


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_what_is_computed_is_what_dask_computes(data):
    shape = 12, 17
    chunks = tuple(data.draw(chunkings(length)) for length in shape)
    image = da.from_array(np.random.default_rng(0).normal(size=shape), chunks=chunks)
    lazy = chain(image)
    expected = lazy.compute(scheduler="sync")
    np.testing.assert_array_equal(compute_now(lazy), expected)
    kept = persist_now(lazy)
    assert kept.name == lazy.name
    assert kept.chunks == lazy.chunks
    np.testing.assert_array_equal((kept * 2).compute(scheduler="sync"), expected * 2)
    np.testing.assert_array_equal(compute_now(kept[3:7, ::2]), expected[3:7, ::2])


def test_only_what_is_wanted_is_computed():
    seen = []
    image = da.ones((40, 40), chunks=10).map_blocks(lambda block: seen.append(1) or block, meta=np.empty((0, 0)))
    compute_now((image + 1).blocks[1, 2])
    assert len(seen) == 1


def tasks_of(array, compute, **kwargs):
    counted = []

    def count(graph, keys, **kwargs):
        counted.append((len(dict(graph.__dask_graph__())), len(pickle.dumps(dict(graph.__dask_graph__())))))
        return dask.threaded.get(graph, keys, **kwargs)

    with dask.config.set(scheduler=count):
        compute(array, **kwargs)
    return counted[-1]


@pytest.mark.parametrize("order", [1, -1])  # in which dask goes through layers
def test_layers_that_no_task_asks_for_are_not_sent(order):
    beside, kept = da.ones((40, 40), chunks=10) + 1, (da.ones((40, 40), chunks=10) + 2).persist()
    graph = {("chosen", 0, 0): Task(("chosen", 0, 0), np.negative, TaskRef((kept.name, 2, 3)))}
    graph = HighLevelGraph.from_collections("chosen", graph, dependencies=[kept, beside][::order])
    chosen = da.Array(graph, "chosen", ((10,), (10,)), meta=np.empty((0, 0)))
    assert tasks_of(chosen, compute_now)[0] <= 3
    assert (compute_now(chosen) == -3.0).all()


@pytest.mark.parametrize("blocks", [8, 32])
def test_tasks_are_as_many_as_dask_makes_and_travel_in_no_more_bytes(blocks):
    lazy = merge_blocks(np.sum, sum, chain(da.zeros((blocks * 4,) * 2, chunks=4)))
    ours, theirs = tasks_of(lazy, compute_now), tasks_of(lazy, da.Array.compute)
    assert ours[0] == theirs[0] <= 8 * blocks**2
    assert ours[1] <= theirs[1]


def test_masks_that_are_kept_are_no_tasks_and_are_told_apart():
    shape = 3000, 500
    one, other = np.zeros((2, *shape), bool)
    other[1500, 250] = True  # where no summary of an array looks
    kept = [keep_mask(da.from_array(mask, chunks=(3000, 500))) for mask in (one, other)]
    differing = (kept[0] ^ kept[1]).sum()
    assert compute_now(differing) == 1 == differing.compute(scheduler="sync")
    many = keep_mask(da.from_array(other, chunks=100))
    assert tasks_of(many, compute_now)[0] <= many.npartitions + 1


def test_errors_come_through():
    def fail(block):
        raise ValueError("of a block")

    with pytest.raises(ValueError, match="of a block"):
        compute_now(da.ones((4, 4), chunks=2).map_blocks(fail, meta=np.empty((0, 0))) + 1)
