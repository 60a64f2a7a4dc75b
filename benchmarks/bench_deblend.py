"""
Deblending: time for one source as a ratio to photutils on the whole array, and peak memory.

Run ``python benchmarks/bench_deblend.py [--size N] [--repeats N]``. Every number is taken in a process of its own, and
ratios are between numbers of the same run. See README.md beside this file for how to read them.
"""

import argparse
import subprocess
import sys

PREPARE = """
import inspect, sys, time, warnings
import numpy as np, dask, dask.array as da
from photutils.segmentation import SegmentationImage, detect_sources
from photutils.segmentation import deblend_sources as photutils_deblend
from scipy.ndimage import gaussian_filter
from galprep_dask.segmentation import deblend_sources
warnings.simplefilter("ignore")
def crowd(size):
    rng = np.random.default_rng(0)
    image = rng.normal(0, 2, (size, size)).astype("f4")
    count = size * size // 500
    for y, x, flux, width in zip(*rng.uniform(0, size, (2, count)), 10 ** rng.uniform(1, 3, count),
                                 rng.uniform(1, 4, count)):
        reach = int(6 * width) + 1
        rows, columns = slice(max(int(y) - reach, 0), int(y) + reach), slice(max(int(x) - reach, 0), int(x) + reach)
        yy, xx = np.ogrid[rows.start:min(rows.stop, size), columns.start:min(columns.stop, size)]
        image[rows, columns] += flux / width**2 * np.exp(-((yy - y) ** 2 + (xx - x) ** 2) / (2 * width**2))
    return gaussian_filter(image, 1.2)
def ours(image, labels):
    children = deblend_sources(*(da.from_array(one, chunks=1024, name=False) for one in (image, labels))).data
    return int(children.max().compute())
def photutils():
    known = inspect.signature(photutils_deblend).parameters
    quiet = {} if "n_threads" in known else {"progress_bar": False}
    return int(photutils_deblend(image, SegmentationImage(labels), 5, **quiet).data.max())
def peak():
    # Of this process alone: the maximum that the system reports is handed on to the children of a process.
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024
if __name__ == "__main__":
    image = crowd(int(sys.argv[1]))
    labels = detect_sources(image, 1.5, 5).data
    ours(image[:300, :300], labels[:300, :300])
"""

MEASURE = """
    base, start = peak(), time.perf_counter()
    found = {call}
    print(time.perf_counter() - start, {peak}, found, labels.max())
"""
CLUSTER = """
    from distributed import Client, LocalCluster
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as c, Client(c) as client:
        client.run(ours, image[:300, :300], labels[:300, :300])
        before = client.run(peak)
""" + MEASURE.replace("\n    ", "\n        ")
IN_WORKERS = "max(after - before[name] for name, after in client.run(peak).items())"
ENTRIES = {
    "photutils, whole array": MEASURE.format(call="photutils()", peak="peak() - base"),
    "galprep-dask, one thread": "\n    dask.config.set(scheduler='sync')"
    + MEASURE.format(call="ours(image, labels)", peak="peak() - base"),
    "galprep-dask, two threads": "\n    dask.config.set(num_workers=2)"
    + MEASURE.format(call="ours(image, labels)", peak="peak() - base"),
    "galprep-dask, two processes": CLUSTER.format(call="ours(image, labels)", peak=IN_WORKERS),
}


def measure(code, size, repeats):
    """Give the least seconds, the greatest MiB beyond what was there, and the numbers of sources."""
    runs = []
    for _ in range(repeats):
        done = subprocess.run(
            [sys.executable, "-c", PREPARE + code, str(size)], capture_output=True, text=True, check=True
        )
        runs.append([float(word) for word in done.stdout.split()])
    return min(run[0] for run in runs), max(run[1] for run in runs), runs[0][2:]


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--size", type=int, default=2048, help="side of the image in pixels")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    expected = None
    for name, code in ENTRIES.items():
        seconds, memory, (children, parents) = measure(code, given.size, given.repeats)
        if expected is None:
            expected, reference = children, seconds
            print(
                f"Deblending: {given.size} x {given.size}, {parents:.0f} sources that become {children:.0f}; "
                "time relative to photutils"
            )
        assert children == expected
        print(
            f"  {name:<30s} {seconds / reference:5.2f}   {seconds:7.2f} s   {1e3 * seconds / parents:6.2f} ms a source"
            f"   peak {memory:5.0f} MiB"
        )


if __name__ == "__main__":
    main()
