"""
Reading and writing images: throughput as a ratio to astropy and to a raw copy, and peak memory.

Run ``python benchmarks/bench_io.py [--size N] [--folder F]``. Every number is taken in a process of its own, and
ratios are between numbers of the same run. See README.md beside this file for how to read them.
"""

import argparse
import tempfile
from pathlib import Path

from harness import least_of, machine

PREPARE = """
import os, resource, sys, time, shutil
import numpy as np, dask, dask.array as da
from astropy.io import fits
from galprep_dask import make_image, open_image, write_image
folder, size = sys.argv[1], int(sys.argv[2])
source, target = folder + "/source.fits", folder + "/target.fits"
tiny = make_image(np.zeros((64, 64), "f4"))
open_image(write_image(tiny, folder + "/tiny.fits", overwrite=True))["data"].values
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
def ramp(block_info=None):
    (y0, y1), (x0, x1) = block_info[None]["array-location"]
    return np.add.outer(np.arange(y0, y1, dtype="f4"), np.arange(x0, x1, dtype="f4"))
def generated():
    sizes = da.core.normalize_chunks(2048, (size, size))
    return make_image(da.map_blocks(ramp, chunks=sizes, dtype="f4", meta=np.empty((0, 0), "f4")))
base, start = peak(), time.perf_counter()
"""

#: All writers end when the disk has the pixels; write_image sees to that by itself.
SYNC = """
with open(target, "rb+") as file:
    os.fsync(file.fileno())
"""

FINISH = """
print(time.perf_counter() - start, peak() - base)
"""

WRITE = "write_image(generated(), target, overwrite=True)"

#: Every entry reads the whole of the source, or writes all pixels, to be fair to each other.
READERS = {
    "galprep-dask, dask threads": 'open_image(source)["data"].data.map_blocks(np.sum, dtype="f8", chunks=(1, 1), '
    'keepdims=True, meta=np.empty((0, 0))).compute()',
    "galprep-dask, one thread": 'open_image(source)["data"].data.map_blocks(np.sum, dtype="f8", chunks=(1, 1), '
    'keepdims=True, meta=np.empty((0, 0))).compute(scheduler="sync")',
    "astropy, .data whole": "fits.getdata(source, memmap=False).astype('f4').sum()",
    "astropy, .section by blocks": """with fits.open(source) as hdus:
    for y in range(0, size, 2048):
        for x in range(0, size, 2048):
            hdus[0].section[y:y + 2048, x:x + 2048].astype("f4").sum()""",
    "raw read, 16 MiB at a time": """with open(source, "rb") as file:
    while file.read(2**24):
        pass""",
}  # fmt: skip

WRITERS = {
    "galprep-dask, write_image": WRITE,
    "galprep-dask, copy of a file": "write_image(open_image(source), target, overwrite=True)",
    "astropy, writeto whole": "axis = np.arange(size, dtype='f4'); "
    "fits.writeto(target, np.add.outer(axis, axis), overwrite=True)",
    "raw copy of the file": "shutil.copyfile(source, target)",
}


def measure(code, folder, size, repeats):
    """Give the least seconds and the greatest MiB beyond the imports of a few fresh processes."""
    return least_of(PREPARE + code + FINISH, folder, size, repeats=repeats)[:2]


def writing(entries):
    return {name: code + SYNC for name, code in entries.items()}


def report(title, entries, folder, size, repeats, reference):
    results = {name: measure(code, folder, size, repeats) for name, code in entries.items()}
    least = results[reference][0]
    print(f"\n{title}: {size} x {size} float32, {4 * size**2 / 2**20:.0f} MiB; time relative to: {reference}")
    for name, (seconds, memory) in results.items():
        rate = 4 * size**2 / 2**20 / seconds
        print(f"  {name:32s} {seconds / least:6.2f}   {seconds:7.2f} s {rate:7.0f} MiB/s   peak {memory:6.0f} MiB")
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--size", type=int, default=16384, help="side of the image in pixels")
    parser.add_argument("--folder", help="where to write; a temporary folder by default")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        measure("write_image(generated(), source)", folder, given.size, 1)
        report("Reading", READERS, folder, given.size, given.repeats, "astropy, .data whole")
        Path(folder, "target.fits").unlink(missing_ok=True)
        written = report("Writing", writing(WRITERS), folder, given.size, given.repeats, "astropy, writeto whole")
        peak = written["galprep-dask, write_image"][1]
        print(f"\nwrite_image of {given.size}^2 float32: peak {peak:.0f} MiB beyond the imports, 1024 MiB allowed")


if __name__ == "__main__":
    main()
