"""Each step on two worker processes: the results of threads to the bit, when one dies as well; and no image passes."""

import copy
import logging
import os
import signal
import threading
import time
from pathlib import Path

import dask
import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from distributed import Client, LocalCluster
from fields import tan_header
from relay import Relay
from steps import Job, make_mosaic, writer

from galprep_dask import make_image, open_image, write_image
from galprep_dask.cutouts import cutout_many
from galprep_dask.errors import NotConvergedWarning, TooFewStarsError
from galprep_dask.masks import grow_mask
from galprep_dask.noise import write_with_sigma
from galprep_dask.psf import fit_psf
from galprep_dask.segmentation import detect_sources, smooth, source_catalog
from galprep_dask.sky import fit_mesh_sky, fit_polynomial_sky
from galprep_dask.stats import sigma_clipped_stats


@pytest.fixture(scope="module")
def cluster():
    with (
        # A cluster looks again, so long after a worker died, whether it is back, and gives it up where it happens to be
        # dead once more: here workers die every few seconds.
        dask.config.set(
            {"distributed.worker.multiprocessing-method": "spawn", "distributed.deploy.lost-worker-timeout": "1h"}
        ),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as workers,
    ):
        yield workers


@pytest.fixture(scope="module")
def on_threads(tmp_path_factory):
    """The job done by threads, and its results by step."""
    folder = tmp_path_factory.mktemp("job")
    job = Job(folder / "mosaic.fits", make_mosaic(folder / "mosaic.fits"), folder / "products", chunks=150)
    return job, job.run()


def test_each_step_gives_what_threads_give(cluster, on_threads, tmp_path):
    expected, expected_results = on_threads
    assert expected.found.n_labels > 20
    assert expected_results["stars"][0].sum() > 10
    said = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())
    logger = logging.getLogger("distributed.scheduler")
    logger.addHandler(handler)
    try:
        with Client(cluster) as client:
            results = Job(expected.path, expected.targets, tmp_path / "products", expected.chunks).run()
            threads = client.run(names_of_threads)
    finally:
        logger.removeHandler(handler)
    for step, values in expected_results.items():
        for value, result in zip(values, results[step], strict=True):
            np.testing.assert_equal(result, value, err_msg=step)
    # The same name for other tasks, for example: it may end in a deadlock.
    assert said == []
    # One of both workers fitted the PSF, with one thread; JAX is nowhere else.
    assert sorted(names.count("tf_XLAEigen") for names in threads.values()) == [0, 1]


class Killer(threading.Thread):
    """Kills one worker, at the first moment at which it is at work."""

    def __init__(self, cluster):
        super().__init__(daemon=True)
        self.cluster, self.killed, self.stopped = cluster, None, False
        self.start()

    def run(self):
        while self.killed is None and not self.stopped:
            busy = [state for state in list(self.cluster.scheduler.workers.values()) if state.processing]
            if busy:
                self.killed = busy[0].name
                os.kill(self.cluster.workers[self.killed].pid, signal.SIGKILL)
            time.sleep(0.001)


@pytest.mark.parametrize("step", Job.steps)
def test_a_worker_that_dies_changes_nothing(cluster, on_threads, tmp_path, step):
    expected, results = on_threads
    job = copy.copy(expected)  # goes on with what the other steps gave
    job.folder = tmp_path / "products"
    job.folder.mkdir()
    with Client(cluster) as client:
        client.wait_for_workers(2)
        killer = Killer(cluster)
        found = getattr(job, step)()
        killer.stopped = True
    assert killer.killed is not None
    for value, result in zip(results[step], found, strict=True):
        np.testing.assert_equal(result, value)
    # A writer that is killed may leave behind what it wrote into.
    written = [path.relative_to(job.folder) for path in job.folder.rglob("*") if path.suffix != ".part"]
    assert all((expected.folder / path).exists() for path in written)


def names_of_threads():
    return [task.joinpath("comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]


def test_warnings_and_errors_of_a_fit_come_back(cluster):
    rng = np.random.default_rng(0)
    iy, ix = np.mgrid[-7:8, -7:8]
    stars = [1e4 * np.exp(-((ix - a) ** 2 + (iy - b) ** 2) / 5.8) for a, b in rng.uniform(-0.5, 0.5, (8, 2))]
    stars += rng.normal(0, 1, (8, 15, 15))
    with Client(cluster):
        with pytest.warns(NotConvergedWarning, match="Raise num_steps"):
            fit_psf(stars, sky_std=1.0, solver="adam", num_steps=1)
        with pytest.raises(TooFewStarsError, match="no stamps"):
            fit_psf(stars[:0], sky_std=1.0)


def test_no_image_passes_the_client(cluster, tmp_path):
    pixels = np.random.default_rng(0).normal(100, 5, (2000, 3000)).astype("f4")
    pixels[::50, ::50] += 1000
    pixels[1::50, ::50] += 1000
    write_image(make_image(pixels, header=tan_header(pixels.shape)), tmp_path / "noise.fits")
    ra, dec = WCS(tan_header(pixels.shape)).all_pix2world(np.arange(100, 2900, 10), np.arange(100, 1500, 5), 0)
    with Relay(cluster.scheduler_address) as relay, Client(relay.address):
        image = open_image(tmp_path / "noise.fits", chunks=500)
        _, median, std = sigma_clipped_stats(image["data"])
        sky = fit_polynomial_sky(image["data"], order=2)
        fit_mesh_sky(image["data"], box_size=100)
        flat = image.galprep.subtract_sky(sky)
        found = detect_sources(smooth(flat["data"], 2.0), 5 * std, n_pixels=2)
        assert len(source_catalog(flat["data"], found)) == 2400
        grown = grow_mask(found, flat["data"], sky_level=0.0, sky_std=std, max_grow_size=5)
        write_with_sigma(flat, tmp_path / "flat.fits", grown, sky_std=std, gain=2.0, exptime=1.0)
        ready = open_image(tmp_path / "flat.fits", chunks=500)
        _, table = cutout_many(ready, ra, dec, 41, sink=writer(tmp_path))
        assert table["cut"].sum() == 280
        assert relay.total() < pixels.nbytes / 10
        before = relay.total()
        np.testing.assert_array_equal(image["data"][:500].values, pixels[:500])
        assert relay.total() - before > pixels[:500].nbytes  # it is seen when it does
    assert abs(fits.getdata(tmp_path / "flat.fits").mean()) < 1
