"""What goes wrong on a cluster: want of memory, a slow disk, a client that goes."""

import os
import threading
import time

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client, KilledWorker, LocalCluster
from served import RangeServer

from galprep_dask import make_image, open_image, write_image
from galprep_dask.stats import sigma_clipped_stats


@pytest.fixture(scope="module")
def cluster():
    with (
        dask.config.set({"distributed.worker.multiprocessing-method": "spawn"}),
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", memory_limit="1.5 GiB"
        ) as workers,
    ):
        yield workers


def hungry(block, folder, often):
    """Ask for more memory than there is, in the first block, once or as often as it is called."""
    once = os.path.join(folder, "once")
    if block[0, 0] == 0 and (often or not os.path.exists(once)):
        open(once, "w").close()
        held = np.ones(2**28)  # 2 GiB
        time.sleep(30)
        return block + held[0]
    return block * 2


def test_a_worker_without_memory_is_started_again(cluster, tmp_path):
    ramp = da.arange(160000, chunks=20000).reshape(400, 400)
    with Client(cluster) as client:
        client.wait_for_workers(2)
        hungry_once = ramp.map_blocks(hungry, str(tmp_path), often=False, dtype=float, meta=np.empty((0, 0)))
        image = write_image(make_image(hungry_once), tmp_path / "image.fits")
        assert os.path.exists(tmp_path / "once")
        np.testing.assert_array_equal(open_image(image)["data"], 2.0 * np.arange(160000).reshape(400, 400))
        cluster.scheduler.allowed_failures = 0
        always = ramp.map_blocks(hungry, str(tmp_path), often=True, dtype=float, meta=np.empty((0, 0)))
        with pytest.raises(KilledWorker, match="all those workers died"):
            write_image(make_image(always), tmp_path / "never.fits")
        cluster.scheduler.allowed_failures = 3
    assert sorted(os.listdir(tmp_path)) == ["image.fits", "once"]


def test_a_slow_disk_changes_nothing(cluster, tmp_path):
    pixels = np.random.default_rng(0).normal(100, 5, (300, 400)).astype("f4")
    write_image(make_image(pixels), tmp_path / "image.fits")
    with RangeServer(tmp_path, delay=0.05) as server, Client(cluster):
        image = open_image(server.url("image.fits"), chunks=100)
        near = open_image(tmp_path / "image.fits", chunks=100)
        assert sigma_clipped_stats(image["data"]) == sigma_clipped_stats(near["data"])
        np.testing.assert_array_equal(open_image(write_image(image, tmp_path / "copy.fits"))["data"], pixels)


def slow(block):
    time.sleep(0.3)
    return block


@pytest.mark.parametrize("name", ["image.fits", "image.zarr"])
def test_a_client_that_goes_leaves_nothing_behind(cluster, tmp_path, name):
    image = make_image(da.ones((400, 400), chunks=40).map_blocks(slow, dtype=float))
    client = Client(cluster)
    threading.Timer(1.0, client.close).start()
    with pytest.raises(Exception, match="cancelled"):  # distributed's own, whichever it is
        write_image(image, tmp_path / name)
    client.close()
    for _ in range(8):  # what workers have in hand goes on for a while
        assert os.listdir(tmp_path) == []
        time.sleep(0.1)
