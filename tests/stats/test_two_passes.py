"""What the two passes promise: exact order statistics, two reads, bounded memory and graphs, any values."""

import subprocess
import sys
from collections import Counter

import dask.array as da
import numpy as np
import pytest
from clipping import NAMES, assert_matches, clip_sorted, field
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from strategies import chunks_for

from galprep_dask.stats import sigma_clipped_stats


@pytest.mark.parametrize("chunks", [(300, 257), (64, 50), (7, 257)])
@pytest.mark.parametrize("name", NAMES)
def test_exact_for_every_kind_of_values_and_chunks(name, chunks):
    image = field(name)
    for maxiters, sigma in [(0, 3.0), (1, 2.0), (5, 3.0), (None, 3.0), (None, 2.0), (None, 1.5)]:
        lazy = da.from_array(image, chunks=chunks, name=False)
        assert_matches(sigma_clipped_stats(lazy, sigma=sigma, maxiters=maxiters), clip_sorted(image, sigma, maxiters))


@pytest.mark.parametrize("name", ["sky and sources", "Cauchy", "high level", "tiny"])
def test_float32(name):
    image = field(name).astype("f4")
    assert_matches(sigma_clipped_stats(da.from_array(image, chunks=(70, 99))), clip_sorted(image, 3.0, 5))


@pytest.mark.parametrize("dtype", ["i2", "u2", "i4", "i8", "u1"])
def test_integers(dtype):
    image = np.random.default_rng(0).poisson(60, (90, 80)).astype(dtype)
    image[3:5] = np.iinfo(dtype).max // 2
    assert_matches(sigma_clipped_stats(da.from_array(image, chunks=(17, 80))), clip_sorted(image, 3.0, 5))


@given(
    hnp.arrays(
        st.sampled_from([np.dtype("f8"), np.dtype("f4"), np.dtype("i2")]),
        (9, 11),
        elements=st.sampled_from([0, -1, 1, 2, 3, 5, 8, 100, 1000]) | st.integers(-20, 20),
    ),
    chunks_for((9, 11)),
    st.sampled_from([1.0, 1.5, 2.5, 3.0]),
    st.sampled_from([0, 1, 2, None]),
)
def test_values_exactly_on_a_bound(image, chunks, sigma, maxiters):
    lazy = da.from_array(image, chunks=chunks, name=False)
    assert_matches(sigma_clipped_stats(lazy, sigma=sigma, maxiters=maxiters), clip_sorted(image, sigma, maxiters))


class Reader:
    """An array that counts how often each of its blocks is read."""

    def __init__(self, pixels):
        self.pixels, self.reads = pixels, Counter()
        self.shape, self.dtype, self.ndim = pixels.shape, pixels.dtype, pixels.ndim

    def __getitem__(self, where):
        block = self.pixels[where]
        if block.size:
            self.reads[str(where)] += 1
        return block


@pytest.mark.parametrize("name", ["sky and sources", "tiny", "lognormal over 40 decades", "mostly equal"])
@pytest.mark.parametrize(("maxiters", "sigma"), [(0, 3.0), (5, 3.0), (None, 2.0), (None, 1.5)])
def test_every_block_is_read_twice_however_many_iterations(name, maxiters, sigma):
    reader = Reader(field(name))
    lazy = da.from_array(reader, chunks=(50, 50), name=False)
    reader.reads.clear()
    sigma_clipped_stats(lazy, reader.pixels == 0, sigma=sigma, maxiters=maxiters)
    assert len(reader.reads) == lazy.npartitions
    assert set(reader.reads.values()) == {2}


def test_values_that_cells_tell_apart_are_read_once():
    reader = Reader(np.random.default_rng(0).poisson(50, (90, 80)).astype("u2"))
    lazy = da.from_array(reader, chunks=(30, 30), name=False)
    reader.reads.clear()
    sigma_clipped_stats(lazy)
    assert set(reader.reads.values()) == {1}


def test_tasks_per_chunk_are_few_and_do_not_grow(monkeypatch):
    graphs = []
    compute = da.Array.compute

    def spy(array, **kwargs):
        graphs.append(len(dict(array.__dask_graph__())))
        return compute(array, **kwargs)

    monkeypatch.setattr(da.Array, "compute", spy)
    per_chunk = []
    for side in (8, 32):
        image = da.random.default_rng(0).normal(size=(side * 8, side * 8), chunks=8)
        sigma_clipped_stats(image, image > 2)
        per_chunk += [tasks / side**2 for tasks in graphs]
        graphs.clear()
    assert len(per_chunk) == 4
    assert max(per_chunk) <= 8
    assert max(per_chunk) - min(per_chunk) < 0.2


GROWTH = """
import resource, sys
import dask, dask.array as da, numpy as np
from galprep_dask.stats import sigma_clipped_stats
def noise(block_info=None):
    (y0, y1), (x0, x1) = block_info[None]["array-location"]
    return np.random.default_rng((y0, x0)).normal(100, 3, (y1 - y0, x1 - x0)).astype("f4")
def image(size):
    return da.map_blocks(noise, chunks=da.core.normalize_chunks(1024, (size, size)), dtype="f4", meta=np.empty((0, 0)))
with dask.config.set(scheduler="threads", num_workers=2):
    sigma_clipped_stats(image(64).astype("f4"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(sigma_clipped_stats(image(int(sys.argv[1])).astype("f4"))[1])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_memory_does_not_grow_with_the_image():
    peaks = []
    for size in (2048, 8192):
        done = subprocess.run([sys.executable, "-c", GROWTH, str(size)], capture_output=True, text=True, check=True)
        median, peak = map(float, done.stdout.split())
        assert abs(median - 100) < 0.01
        peaks.append(peak)
    assert peaks[1] - peaks[0] < 200
