"""
Faults: workers killed at random moments in every stage, and every chunk size from 512 to 8192.

Run ``python benchmarks/bench_faults.py [--kills N] [--stage NAME ...] [--size N] [--chunks]``. The stages are those of
tests/cluster/steps.py; each is compared with what threads make of it, array by array and file by file. Times are of
the clock. See README.md beside this file.
"""

import argparse
import hashlib
import os
import random
import signal
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import dask
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "cluster")]

from distributed import Client, LocalCluster  # noqa: E402
from harness import machine  # noqa: E402
from steps import Job, make_mosaic  # noqa: E402

from galprep_dask import make_image, open_image, write_image  # noqa: E402
from galprep_dask.masks import grow_mask  # noqa: E402
from galprep_dask.segmentation import detect_sources, smooth  # noqa: E402


def same(found, expected):
    try:
        np.testing.assert_equal(found, expected)
    except AssertionError as error:
        return str(error).strip().splitlines()[-1]
    return ""


def kill_one(cluster, after, hit):
    """Kill a worker with tasks in hand, the first time there is one after so many seconds."""
    time.sleep(after)
    while not hit.is_set():
        busy = [state for state in list(cluster.scheduler.workers.values()) if state.processing]
        if busy:
            os.kill(cluster.workers[random.choice(busy).name].pid, signal.SIGKILL)
            hit.set()
        time.sleep(0.001)


def soak(folder, size, kills, wanted):
    """Kill workers in stage after stage, and say what it took and whether anything changed."""
    targets = make_mosaic(folder / "mosaic.fits", (size, size))
    chunks = max(size // 4, 100)
    expected, job = (Job(folder / "mosaic.fits", targets, folder / name, chunks) for name in ("threads", "workers"))
    print(f"{size} x {size} pixels, two worker processes of one thread\n")
    print(f"{'stage':16}{'killed':>8}{'undisturbed':>14}{'with a kill, mean':>20}{'most':>8}   other results")
    # A cluster looks again, so long after a worker died, whether it is back, and gives it up where it happens to be
    # dead once more. Here workers die every few seconds.
    patient = dask.config.set({"distributed.deploy.lost-worker-timeout": "10h"})
    with patient, LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
        for stage in Job.steps:
            values = getattr(expected, stage)()
            with Client(cluster) as client:
                wrong, taken, killed = [], [], 0
                undisturbed = np.inf
                for _ in range(4):  # each worker loads and compiles, at its first, what the others find
                    start = time.perf_counter()
                    wrong.append(same(getattr(job, stage)(), values))
                    undisturbed = min(undisturbed, time.perf_counter() - start)
                for _ in range(kills if stage in wanted else 0):
                    client.wait_for_workers(2, timeout=120)
                    hit, start = threading.Event(), time.perf_counter()
                    arguments = (cluster, random.uniform(0, undisturbed), hit)
                    threading.Thread(target=kill_one, args=arguments, daemon=True).start()
                    wrong.append(same(getattr(job, stage)(), values))
                    taken.append(time.perf_counter() - start)
                    killed += hit.is_set()
                    hit.set()
            wrong = [text for text in wrong if text]
            times = f"{np.mean(taken):20.1f}{max(taken):8.1f}" if taken else f"{'':28}"
            print(f"{stage:16}{killed:8}{undisturbed:14.1f}{times}   {len(wrong)} {wrong[:1] or ''}", flush=True)


def compare_chunks(folder):
    """Detect, grow and subtract with chunks of every size; give what became of it as a hash."""
    shape = 4096, 8192
    rng = np.random.default_rng(0)
    pixels = rng.standard_normal(shape, dtype="f4")
    pixels += np.repeat(np.repeat((rng.uniform(size=(512, 1024)) < 0.02).astype("f4") * 5, 8, 0), 8, 1)
    write_image(make_image(pixels), folder / "image.fits")
    del pixels
    print(f"\n{shape[0]} x {shape[1]} pixels, threads; labels, grown mask")
    for chunk in (512, 1000, 1024, 2048, 4096, 8192):
        data = open_image(folder / "image.fits", chunks=chunk)["data"]
        start = time.perf_counter()
        found = detect_sources(smooth(data, 3.0), 1.5)
        grown = grow_mask(found, data, sky_level=0.0, sky_std=1.0, max_grow_size=20)
        write_image(make_image(found.data), folder / f"labels{chunk}.fits")
        write_image(make_image(grown.data.astype("u1")), folder / f"grown{chunk}.fits")
        hashes = []
        for name in (f"labels{chunk}.fits", f"grown{chunk}.fits"):
            hashes.append(hashlib.sha256((folder / name).read_bytes()).hexdigest()[:16])
            (folder / name).unlink()
        print(f"{chunk:6}  {'  '.join(hashes)}  {time.perf_counter() - start:6.1f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="in each stage")
    parser.add_argument("--stage", nargs="*", default=Job.steps, help="only in these")
    parser.add_argument("--size", type=int, default=600, help="of the image, pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--chunks", action="store_true", help="compare chunk sizes and kill none")
    arguments = parser.parse_args()
    print(machine() + "\n")
    warnings.simplefilter("ignore")
    random.seed(arguments.seed)
    dask.config.set({"distributed.worker.multiprocessing-method": "spawn"})
    with tempfile.TemporaryDirectory() as name:
        if arguments.chunks:
            compare_chunks(Path(name))
        else:
            soak(Path(name), arguments.size, arguments.kills, arguments.stage)


if __name__ == "__main__":
    main()
