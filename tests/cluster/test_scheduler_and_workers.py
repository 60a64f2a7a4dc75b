"""``dask scheduler`` and ``dask worker`` as processes that share files with the client, or an object store only."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import cloudpickle
import dask
import numpy as np
import pytest
import s3fs
from distributed import Client, default_client
from object_store import object_store
from steps import Job, digest, make_mosaic, writer

import galprep_dask
from galprep_dask import open_image, write_image
from galprep_dask.cli._session import session
from galprep_dask.cutouts import cutout_many
from galprep_dask.errors import ClusterError, ParameterError
from galprep_dask.masks import grow_mask
from galprep_dask.segmentation import detect_sources, smooth
from galprep_dask.sky import fit_polynomial_sky

cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Processes:
    """A scheduler and two workers."""

    def __init__(self, folder):
        said = folder / "scheduler.json"
        here = ("--host", "127.0.0.1")
        self.scheduler = self._start(folder, "scheduler", *here, "--port", "0", "--scheduler-file", said)
        while not said.exists():
            assert self.scheduler.poll() is None
            time.sleep(0.05)
        self.address = json.loads(said.read_text())["address"]
        worker = ("worker", self.address, *here, "--nthreads", "1", "--local-directory", folder)
        self.workers = [self._start(folder, *worker) for _ in range(2)]

    def _start(self, folder, *arguments):
        with (folder / "log").open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "dask", *map(str, arguments), "--no-dashboard"], cwd=folder, stdout=log,
                stderr=log, env=os.environ | {"PYTHONPATH": str(Path(galprep_dask.__file__).parents[1])},
            )  # fmt: skip

    def stop(self):
        for process in (*self.workers, self.scheduler):
            process.terminate()
        for process in (*self.workers, self.scheduler):
            process.wait()


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    started = Processes(tmp_path_factory.mktemp("elsewhere"))
    with Client(started.address) as client:
        client.wait_for_workers(2)
    yield started
    started.stop()


@pytest.fixture(scope="module")
def mosaic(tmp_path_factory):
    path = tmp_path_factory.mktemp("mosaic") / "mosaic.fits"
    return path, make_mosaic(path)


def test_workers_that_share_files(processes, mosaic, tmp_path):
    steps = ("sky", "segmentation", "growth", "sigma", "cutouts")
    expected = Job(*mosaic, tmp_path / "threads", chunks=150).run(steps)
    with Client(processes.address):
        found = Job(*mosaic, tmp_path / "cluster", chunks=150).run(steps)
    for step in steps:
        np.testing.assert_equal(found[step], expected[step], err_msg=step)


@pytest.mark.parametrize("name", ["copy.fits", "copy.zarr"])
def test_relative_paths_are_those_of_the_client(processes, mosaic, tmp_path, monkeypatch, name):
    """Workers wrote into a file that they looked for in the folder that they were started in."""
    monkeypatch.chdir(tmp_path)
    os.symlink(mosaic[0], "mosaic.fits")
    with Client(processes.address):
        assert write_image(open_image("mosaic.fits", chunks=200), name) == Path(name)
    np.testing.assert_array_equal(open_image(name)["data"], open_image(mosaic[0])["data"])


def test_workers_with_another_version_are_refused(processes, monkeypatch):
    monkeypatch.setattr(galprep_dask, "__version__", "99.0")
    with pytest.raises(ParameterError, match=r"has galprep-dask \d.*, and this is 99.0"), session(0, processes.address):
        pass


def blocked_signals():
    return signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_an_interrupt_ends_a_command_and_not_its_workers():
    """A terminal sends it to all processes; each of those of workers ended with a traceback."""
    before = blocked_signals()
    with session(workers=1, quiet=True):
        assert [signal.SIGINT in signals for signals in default_client().run(blocked_signals).values()] == [True]
        assert signal.SIGINT not in blocked_signals() == before


def job(image, targets, sink):
    """The main job from an image anywhere to products anywhere."""
    flat = image.galprep.subtract_sky(fit_polynomial_sky(image["data"], order=2))
    found = detect_sources(smooth(flat["data"], 3.0), 0.3)
    grown = grow_mask(found, flat["data"], sky_level=0.0, sky_std=0.1, max_grow_size=20)
    ready = flat.assign(mask=(("y", "x"), grown.data), segmentation=(("y", "x"), found.data))
    return cutout_many(ready.galprep.with_sigma(grown), *targets, 41, sink=sink)


def uploader(options):
    def upload(k, cut):
        with tempfile.TemporaryDirectory() as folder:
            pid = writer(Path(folder))(k, cut)
            s3fs.S3FileSystem(**options).put(f"{folder}/{k}.fits", f"survey/products/{k}.fits")
        return pid

    return upload


def test_workers_that_share_an_object_store(processes, mosaic, tmp_path):
    path, targets = mosaic
    for name in ("products", "found"):
        (tmp_path / name).mkdir()
    job(open_image(path, chunks=(100, 500)), targets, writer(tmp_path / "products"))
    with object_store(tmp_path, "survey") as options:
        store = s3fs.S3FileSystem(**options)
        store.put(str(path), "survey/mosaic.fits")
        with Client(processes.address):
            # Whole rows: a block is one request.
            image = open_image("s3://survey/mosaic.fits", storage_options=options, chunks=(100, 500))
            pids, table = job(image, targets, uploader(options))
        assert os.getpid() not in pids
        store.get("survey/products", str(tmp_path / "found"), recursive=True)
    assert table["cut"].all()
    assert digest(tmp_path / "found" / "products") == digest(tmp_path / "products")


def write_on(processes, path, target):
    def slow(block):
        time.sleep(0.2)
        return block

    image = open_image(path, chunks=50)
    image = image.assign(data=(("y", "x"), image["data"].data.map_blocks(slow, dtype="f4")))
    with session(scheduler=processes.address, quiet=True):
        threading.Timer(1.0, processes.scheduler.send_signal, [signal.SIGKILL]).start()
        image.galprep.write(target)


def test_a_scheduler_that_dies_is_one_clear_error(processes, mosaic, tmp_path):
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(ClusterError, match=r"(?s)the scheduler was lost while it computed.*start it and run this again"),
    ):
        write_on(processes, mosaic[0], tmp_path / "slow.fits")
    assert os.listdir(tmp_path) == []
