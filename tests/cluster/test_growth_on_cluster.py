"""Growth on worker processes: the labels of threads to the bit, and the passes through pickled tables and runs."""

import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster

from galprep_dask.masks import combine_masks, ellipse_mask, flag_mask, grow_mask, grow_segmentation

SHAPE = (420, 380)


@pytest.fixture(scope="module")
def client():
    with (
        LocalCluster(n_workers=2, threads_per_worker=2, processes=True, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_two_processes_grow_as_one_block_does(client, dtype):
    rng = np.random.default_rng(3)
    labels = np.zeros(SHAPE, np.int32)
    for label, (y, x) in enumerate(rng.integers(0, SHAPE, (150, 2))):
        labels[y : y + rng.integers(1, 9), x : x + rng.integers(1, 25)] = 13_000_000 * (label + 1)
    data = (rng.choice([1.0, -1.0, 1e16, -1e16, 1e30, -1e30, 1e-12], SHAPE) * rng.uniform(1, 2, SHAPE)).astype(dtype)
    mask = rng.uniform(size=SHAPE) < 0.05
    keywords = {"sky_level": 0.0, "sky_std": 0.5, "max_grow_size": 15, "addgrow": 1.5, "mask": mask}
    expected = grow_segmentation(labels, data, **keywords)
    assert 0.1 < (expected > 0).mean() < 0.95
    lazy, lazy_labels = da.from_array(data, chunks=(90, 77)), da.from_array(labels, chunks=(100, 380))
    np.testing.assert_array_equal(grow_segmentation(lazy_labels, lazy, **keywords).compute(), expected)
    np.testing.assert_array_equal(grow_mask(lazy_labels, lazy, **keywords).compute(), expected > 0)
    shapes = np.where(np.abs(data) < 1e10, np.abs(data), 1.0)
    ellipses = ellipse_mask(lazy_labels, da.from_array(shapes, chunks=(90, 77)))
    quality = (100 * rng.uniform(size=SHAPE)).astype("u1")
    flagged = flag_mask(da.from_array(quality, chunks=(64, 64)), "2,8")
    found = combine_masks(ellipses, flagged, mask).compute()
    np.testing.assert_array_equal(found, ellipse_mask(labels, shapes) | ((quality & 10) > 0) | mask)
