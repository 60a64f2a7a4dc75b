"""
Deblending: time for one source as a ratio to photutils on the whole array, and peak memory.

Run ``python benchmarks/bench_deblend.py [--size N] [--repeats N]``, with ``--many N ...`` for images of these sides as
well, made as they are read, with a source in every 16 x 16 pixels. Every number is taken in a process of its own,
and ratios are between numbers of the same run. See README.md beside this file for how to read them.
"""

import argparse
import subprocess
import sys

from harness import least_of, machine

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

MANY = """
import sys, time
import dask, dask.array as da
import numpy as np
from galprep_dask.segmentation import deblend_sources
dask.config.set(scheduler="threads", num_workers=2)
size, chunk, cell = int(sys.argv[1]), 2048, 16

# Every block is the same scene, which goes on at its other side, with labels of its own. Every fourth source has two
# peaks. Sources lie on the corners of the blocks, so that many cross a border.
across = chunk // cell
place, offset = np.divmod(np.arange(chunk) + cell // 2, cell)
offset = offset - cell // 2
rng = np.random.default_rng(0)
peak, is_pair = rng.uniform(10, 40, (across, across)), np.arange(across**2).reshape(across, across) % 4 == 0
of_pixel = np.ix_(place % across, place % across)
def disc(x0):
    return np.exp(-(offset[:, None] ** 2 + (offset - x0) ** 2) / 5)
light = peak[of_pixel] * np.where(is_pair[of_pixel], disc(-3) + disc(3), disc(0))
light = light.astype(np.float32)

def light_of(block):
    return light.copy()

def labels_of(block, block_info=None):
    y, x = np.array(block_info[0]["chunk-location"]) * across
    n_across = size // cell + 1
    number = 1 + (y + place)[:, None] * n_across + (x + place)
    return np.where(light > 1, number, 0).astype(np.int32)

def lazily(size):
    blank = da.zeros((size, size), chunks=chunk, dtype="u1")
    return [blank.map_blocks(made, dtype=kind, meta=np.empty((0, 0), kind))
            for made, kind in ((light_of, "f4"), (labels_of, "i4"))]

def used():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024

deblend_sources(light[:100, :100], labels_of(None, {0: {"chunk-location": (0, 0)}})[:100, :100]).data.compute()
base, start, core = used(), time.perf_counter(), time.process_time()
found = deblend_sources(*lazily(size))
split = time.process_time() - core
n_labels = int(found.data.max().compute())
print(time.perf_counter() - start, split, time.process_time() - core, used() - base, n_labels,
      len(found.parent_to_deblended_labels))
"""


def measure(code, size, repeats):
    """Give the least seconds, the greatest MiB beyond what was there, and the numbers of sources."""
    return least_of(PREPARE + code, size, repeats=repeats)


def many(sizes):
    print(
        "Deblending of images made as they are read, a source in every 16 x 16 pixels, chunks of 2048 x 2048, two dask "
        "threads;\nprocessor time per source relative to the first size"
    )
    first = None
    for size in sizes:
        done = subprocess.run([sys.executable, "-c", MANY, str(size)], capture_output=True, text=True, check=True)
        seconds, split, core, memory, found, n_split = map(float, done.stdout.split())
        first = first or core / size**2
        print(
            f"  {size:6d}   {core / size**2 / first:4.2f}   {seconds:7.2f} s, split {split:7.2f} s and labels "
            f"{core - split:6.2f} s of processors   peak {memory:5.0f} MiB   {found - n_split:.0f} sources, "
            f"{n_split:.0f} of them split in two",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--size", type=int, default=2048, help="side of the image in pixels")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--many", type=int, nargs="+", metavar="N", help="sides of images with very many sources")
    given = parser.parse_args()
    print(machine() + "\n")
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
    if given.many:
        print()
        many(given.many)


if __name__ == "__main__":
    main()
