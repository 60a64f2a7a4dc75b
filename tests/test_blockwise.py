import sys

import dask
import dask.array as da
import numpy as np
import pytest
from concurrency import run_fresh
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from strategies import chunked

from galprep_dask.arrays import as_image
from galprep_dask.blockwise import (
    block_edges,
    blocks_in_memory,
    collect_by_rows,
    collect_in_turn,
    give_back_memory,
    map_blocks_at,
    map_blocks_each,
    map_regions,
    merge_blocks_at,
    merge_blocks_now,
    merge_blocks_now_at,
    objects_now,
    objects_of_blocks,
)
from galprep_dask.neighbours import gather_neighbours, map_halo, map_neighbours, unite_chunks


def box_sum(window, depth):
    """Sum of the (2 depth + 1)^2 pixels around every pixel: exact for integers, and its reach is ``depth``."""
    return ndimage.convolve(window, np.ones((2 * depth + 1,) * 2, window.dtype), mode="constant", cval=0)


def lopsided(window, depth):
    """Looks ``depth`` pixels into one corner only, so that mixed-up sides show."""
    return np.roll(window, (depth, -depth), axis=(0, 1)) + 2 * window


def united(parts):
    return {place: value for part in parts for place, value in part.items()}


def tasks_of(array):
    return len(dict(array.__dask_graph__()))


@given(chunked("i4"), st.integers(0, 30), st.sampled_from([box_sum, lopsided]), st.sampled_from([0, -7, 10**6]))
def test_map_halo_equals_the_function_on_the_whole_padded_image(images, depth, func, fill):
    whole, lazy = images
    padded = np.pad(whole, depth, constant_values=fill)
    expected = func(padded, depth=depth)[depth : depth + whole.shape[0], depth : depth + whole.shape[1]]
    # With depth 0 the window is the block.
    kwargs = {"dtype": "i4", "fill": fill}
    if depth == 0:
        found = map_halo(lambda window: func(window, depth=0), lazy, 0, **kwargs)
    else:
        found = map_halo(lambda window, reach: func(window, depth=reach), lazy, depth, reach=depth, **kwargs)
    assert found.chunks == lazy.chunks
    np.testing.assert_array_equal(found.compute(scheduler="sync"), expected)


@pytest.mark.parametrize("depth", [1, 3, 11])
def test_map_halo_on_chunks_of_one_pixel(depth):
    whole = np.arange(63, dtype="i4").reshape(7, 9)
    lazy = da.from_array(whole, chunks=1, name=False)
    found = map_halo(lambda window: box_sum(window, depth), lazy, depth, dtype="i4")
    np.testing.assert_array_equal(found.compute(scheduler="sync"), box_sum(whole, depth))


@pytest.mark.parametrize("blocks", [8, 32])
def test_map_halo_costs_three_tasks_a_chunk_with_the_source_at_64_and_1024_chunks(blocks, no_compute):
    with no_compute():
        source = da.from_array(np.zeros((blocks * 4, blocks * 4), "f4"), chunks=4, name=False, inline_array=True)
        result = map_halo(np.negative, source, 2, dtype="f4")
    assert source.npartitions == blocks**2
    assert tasks_of(result) == 3 * blocks**2


def test_map_halo_does_not_write_into_its_blocks_or_keep_the_window():
    whole = np.ones((8, 8), "f4")
    whole.flags.writeable = False
    result = map_halo(lambda w: w, da.from_array(whole, chunks=4, name=False), 3, dtype="f4")
    block = result.blocks[0, 0].compute(scheduler="sync")
    assert block.base is None
    assert (whole == 1).all()


@given(chunked("f4", finite=True))
def test_map_blocks_at_knows_the_origin_of_every_block(images):
    whole, lazy = images

    def flat_index(block, other, origin, width):
        y, x = np.indices(block.shape)
        return (y + origin[0]) * width + x + origin[1]

    found = map_blocks_at(flat_index, lazy, lazy * 2, dtype="i8", width=whole.shape[1])
    assert found.dtype == np.int64
    assert found.chunks == lazy.chunks
    np.testing.assert_array_equal(found.compute(scheduler="sync"), np.arange(whole.size).reshape(whole.shape))


def moments(block, mask, origin, n):
    y = np.arange(block.shape[0], dtype=float) + origin[0]
    good = np.where(mask, 0.0, block.astype(float))
    return np.stack([good.sum() * np.ones(n), y @ good @ np.ones((good.shape[1], n))])


@given(chunked("f4", finite=True))
def test_what_blocks_give_is_merged_with_their_origins(images):
    whole, lazy = images
    found = merge_blocks_at(moments, sum, abs(lazy), lazy > 5, n=3)
    assert found.npartitions == 1
    expected = moments(np.abs(whole), whole > 5, (0, 0), 3)
    # All terms have one sign, so that the bound is one of rounding alone.
    np.testing.assert_allclose(found.compute(scheduler="sync")[0, 0], expected, rtol=1e-12, atol=0)
    np.testing.assert_array_equal(merge_blocks_now_at(moments, sum, abs(lazy), lazy > 5, n=3), found.compute()[0, 0])
    in_memory = [as_image(np.abs(whole)), as_image(whole > 5)]
    np.testing.assert_array_equal(merge_blocks_now_at(moments, sum, *in_memory, n=3), expected)


def test_nothing_is_computed_when_graphs_are_built(no_compute):
    def refuse(*blocks, **kwargs):
        raise AssertionError("called while the graph was built")

    lazy = da.map_blocks(refuse, da.zeros((20, 20), chunks=7), dtype="f8", meta=np.empty((0, 0)))
    with no_compute():
        map_halo(refuse, lazy, 3, dtype="f8")
        map_halo(refuse, lazy, 0, dtype="f8")
        map_blocks_at(refuse, lazy, dtype="f8")
        merge_blocks_at(refuse, refuse, lazy)


def test_origins_and_sums_cost_two_tasks_a_chunk_with_the_source():
    for blocks in (8, 32):
        source = da.from_array(np.zeros((blocks * 4,) * 2), chunks=4, name=False, inline_array=True)
        at = map_blocks_at(lambda b, origin: b, source, dtype="f8")
        summed = merge_blocks_at(lambda b, origin: b.sum(), sum, source)
        assert tasks_of(dask.optimize(at)[0]) <= 2 * blocks**2
        assert tasks_of(dask.optimize(summed)[0]) <= 2.1 * blocks**2


def test_block_edges_do_not_overflow():
    assert block_edges((2**31, 2**31)).tolist() == [0, 2**31, 2**32]


def bright_pixels(block, origin):
    return np.argwhere(block > 0)


def around_of(near, shape, depth, own=0):
    """The window that these pixels fill, and how many blocks it took."""
    window = np.zeros(np.add(shape, 2 * depth), int)
    for place, at in near:
        y, x = (at + place + depth).T
        inside = (y >= 0) & (x >= 0) & (y < window.shape[0]) & (x < window.shape[1])
        window[y[inside], x[inside]] += 1
    return window + own


def sum_around(near, shape, depth, own=0):
    window = around_of(near, shape, depth)
    return box_sum(window, depth)[depth : depth + shape[0], depth : depth + shape[1]] + own


@given(chunked("i4"), st.integers(0, 30))
def test_map_neighbours_sees_all_within_depth_and_each_block_once(images, depth):
    whole, lazy = images
    objects = objects_of_blocks(bright_pixels, lazy)
    own = np.arange(lazy.npartitions).reshape(lazy.numblocks).astype(object)
    found = map_neighbours(sum_around, objects, lazy.chunks, depth, dtype=int, own=own)
    expected = box_sum(np.pad(whole > 0, depth).astype(int), depth)
    expected = expected[depth : depth + whole.shape[0], depth : depth + whole.shape[1]]
    number = np.repeat(np.repeat(own.astype(int), lazy.chunks[0], axis=0), lazy.chunks[1], axis=1)
    assert found.chunks == lazy.chunks
    np.testing.assert_array_equal(found.compute(scheduler="sync"), expected + number)


@given(chunked("i4"), st.integers(0, 30))
def test_gather_neighbours_gives_an_object_for_every_block(images, depth):
    whole, lazy = images
    found = gather_neighbours(around_of, objects_of_blocks(bright_pixels, lazy), lazy.chunks, depth)
    windows = found.compute(scheduler="sync")
    assert windows.shape == lazy.numblocks
    padded = np.pad(whole > 0, depth).astype(int)
    y, x = (block_edges(axis) for axis in lazy.chunks)
    for i, j in np.ndindex(*lazy.numblocks):
        expected = padded[y[i] : y[i + 1] + 2 * depth, x[j] : x[j + 1] + 2 * depth]
        np.testing.assert_array_equal(windows[i, j], expected)


def counted_tasks(array):
    (optimised,) = dask.optimize(array)
    return len(dict(optimised.__dask_graph__()))


@pytest.mark.parametrize("blocks", [8, 32])
def test_neighbours_cost_two_tasks_a_chunk_with_the_source_at_64_and_1024_chunks(blocks, no_compute):
    with no_compute():
        source = da.zeros((blocks * 4, blocks * 4), "f4", chunks=4) + 1
        objects = objects_of_blocks(bright_pixels, source)
        found = map_neighbours(sum_around, objects, source.chunks, 2, dtype=int)
        assert counted_tasks(found) == 2 * blocks**2


def numbered(block, own, origin):
    return np.full(block.shape, own + 1000 * origin[0] + origin[1])


@given(chunked("i4"))
def test_map_blocks_each_gives_each_block_its_own(images):
    _, lazy = images
    own = np.arange(lazy.npartitions).reshape(lazy.numblocks).astype(object) * 10**6
    found = map_blocks_each(numbered, own, lazy, dtype=int).compute(scheduler="sync")
    y, x = (block_edges(axis) for axis in lazy.chunks)
    for i, j in np.ndindex(*lazy.numblocks):
        assert (found[y[i] : y[i + 1], x[j] : x[j + 1]] == own[i, j] + 1000 * y[i] + x[j]).all()


@given(chunked("i4"), st.integers(0, 30))
def test_unite_chunks_gives_no_thinner_ones_and_cuts_nowhere_else(images, least):
    _, lazy = images
    for before, after in zip(lazy.chunks, unite_chunks(lazy.chunks, least), strict=True):
        assert sum(after) == sum(before)
        assert set(block_edges(after)) <= set(block_edges(before))
        assert min(after) >= least or len(after) == 1
        if least <= min(before):
            assert after == before
def test_a_function_that_trims_gives_the_block_alone():
    image = np.random.default_rng(0).normal(size=(20, 30))
    lazy = da.from_array(image, chunks=(7, 11))
    padded = np.pad(image, 2)
    expected = padded[:-4, 4:]
    found = map_halo(lambda window: window[:-4, 4:], lazy, 2, dtype="f8", trims=True)
    np.testing.assert_array_equal(found, expected)


@given(chunked("i4"))
def test_objects_of_blocks_know_where_they_lie(images):
    whole, lazy = images
    found = objects_of_blocks(lambda block, origin, sign: (origin, sign * block.astype("i8")), lazy, sign=-1).compute()
    assert found.shape == lazy.numblocks
    for (y, x), block in found.ravel():
        np.testing.assert_array_equal(-block, whole[y : y + block.shape[0], x : x + block.shape[1]])
    merged = merge_blocks_at(lambda block, origin: {origin: int(block[0, 0])}, united, lazy)
    corners = merged.compute()[0, 0]
    assert len(corners) == lazy.npartitions
    assert all(whole[place] == value for place, value in corners.items())


def test_every_block_gets_its_own():
    lazy = da.zeros((9, 8), chunks=(4, 5))
    own = np.empty(lazy.numblocks, object)
    for i, j in np.ndindex(own.shape):
        own[i, j] = 10 * i + j
    found = map_blocks_each(lambda block, own, origin: block + own, own, lazy, dtype="f8")
    np.testing.assert_array_equal(found, (10 * (np.arange(9) // 4))[:, None] + np.arange(8) // 5)
    own[0, 0] = 100
    assert map_blocks_each(lambda block, own, origin: block + own, own, lazy, dtype="f8").name != found.name


@given(chunked("i4"), st.data())
def test_regions_are_those_of_the_whole_image(images, data):
    whole, lazy = images
    boxes = []
    for _ in range(data.draw(st.integers(1, 4))):
        rows, columns = (
            sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True))) for n in whole.shape
        )
        boxes.append((*rows, *columns))
    found = map_regions(lambda regions, own, box: (own, regions), boxes, [lazy, lazy * 2], list("abcd")[: len(boxes)])
    for (y0, y1, x0, x1), name, (own, (one, two)) in zip(boxes, "abcd", found.compute(), strict=False):
        assert own == name
        np.testing.assert_array_equal(one, whole[y0:y1, x0:x1])
        np.testing.assert_array_equal(two, (whole * 2)[y0:y1, x0:x1])


@given(chunked("i4"))
def test_objects_are_collected_where_they_lie(images):
    _, lazy = images
    objects = objects_of_blocks(lambda block, origin: [origin], lazy)
    collected = collect_by_rows(objects).compute()[0]
    expected = objects.compute()
    assert collected.shape == lazy.numblocks
    assert collected.tolist() == expected.tolist()


def most_alive(image, collected):
    """Compute, and count how many blocks of ``image`` were in memory at once at most."""
    alive = [0]

    class Watch(dask.callbacks.Callback):
        def _posttask(self, key, result, graph, state, worker):
            alive.append(sum(name[0] == image.name for name in state["cache"]))

    with Watch():
        result = collected.compute(scheduler="sync")
    return max(alive), result[0]


def test_few_blocks_are_kept_while_halos_are_exchanged_row_by_row():
    blocks = 16
    image = da.random.default_rng(0).normal(size=(blocks * 8, blocks * 8), chunks=8).map_blocks(np.negative)
    objects = objects_of_blocks(
        lambda window, block, origin: window.sum(), map_halo(np.negative, image, 2, dtype="f8"), image
    )
    most, _ = most_alive(image, collect_by_rows(objects))
    assert 0 < most <= 2 * blocks + 3


def test_few_blocks_are_kept_while_regions_are_gathered_in_turn():
    blocks = 16
    image = da.random.default_rng(0).normal(size=(blocks * 8, blocks * 8), chunks=8).map_blocks(np.negative)
    begins = [(8 * i, 8 * j) for j in range(blocks - 1) for i in range(blocks - 1)]  # column by column
    boxes = [(y + 3, y + 12, x + 3, x + 12) for y, x in begins]
    regions = map_regions(lambda regions, own, box: (own, regions[0].sum()), boxes, [image], begins)
    most, found = most_alive(image, collect_in_turn(regions, [y for y, _ in begins]))
    assert found == regions.compute().tolist()
    assert [own for own, _ in found] == begins
    assert 0 < most <= 2 * blocks + 3


def test_freed_memory_is_given_back_to_the_system():
    code = """
import ctypes
import numpy as np
from galprep_dask.blockwise import give_back_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

pieces = [np.ones(60_000, "u1") for _ in range(4000)]
del pieces[:-1]  # the last lies on top, and holds all of them
before = resident()
give_back_memory()
print(hasattr(ctypes.CDLL(None), "malloc_trim"), before - resident())
"""
    if sys.platform.startswith("linux"):
        can_be_given_back, n_bytes = run_fresh(code).split()
        assert can_be_given_back == "False" or int(n_bytes) > 2e8
    else:
        give_back_memory()


def test_blocks_in_memory_are_taken_as_they_are(no_compute):
    """A small image needs no graph; whatever else it is made of, does."""
    pixels = np.arange(12.0).reshape(3, 4)
    pixels.flags.writeable = False
    image, same = as_image(pixels), as_image(pixels > 5)
    assert [block.tolist() for block in blocks_in_memory(image, same)] == [pixels.tolist(), (pixels > 5).tolist()]
    for other in (image + 1, image.rechunk(2), image[1:], da.ones((3, 4), chunks=-1)):
        assert blocks_in_memory(image, other) == ()
    with no_compute():
        assert merge_blocks_now(np.add, sum, image, image).tolist() == (2 * pixels).tolist()
        found = objects_now(lambda block, origin, times: (origin, times * block.sum()), image, times=2)
    assert found.shape == (1, 1)
    assert found[0, 0] == ((0, 0), 132.0)


def test_what_is_made_of_blocks_in_memory_is_what_is_made_of_a_graph():
    pixels = np.arange(12.0).reshape(3, 4)
    lazy = da.from_array(pixels, chunks=-1) + 0
    assert merge_blocks_now(np.sum, max, lazy) == merge_blocks_now(np.sum, max, as_image(pixels)) == 66.0
    one, other = (objects_now(lambda block, origin: (origin, block.sum()), image) for image in (lazy, as_image(pixels)))
    assert one.tolist() == other.tolist()
