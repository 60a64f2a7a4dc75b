"""
Cutouts and stamps: speed as a ratio to astropy's ``Cutout2D``, to slicing and to NumPy's windows, and peak memory.

Run ``python benchmarks/bench_cutouts.py [--size N] [--targets N] [--stamps N] [--folder F] [--repeats R]``. Every line
is taken in a process of its own, lines of a part in turn, and ratios are between numbers of the same run. The folder
needs 7 N^2 bytes, and the stamps 4 GiB of memory. See README.md beside this file for how to read them.
"""

import argparse
import tempfile
from pathlib import Path

from harness import machine, run_fresh

START = """
import os, resource, sys, threading, time
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.wcs import WCS
from numpy.lib.stride_tricks import sliding_window_view
import dask
from galprep_dask import make_image, open_image
from galprep_dask.cutouts import cutout_many, extract_stamps
from galprep_dask.io.fits_reader import FitsPlane
path, size, n, side = sys.argv[1], *map(int, sys.argv[2:5])
dask.config.set(scheduler="threads", num_workers=2)
rng = np.random.default_rng(1)
x, y = rng.uniform(side, size - side, (2, n))
reads, lock = [], threading.Lock()
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
def begin():
    global base, clock
    reads.clear()
    base, clock = peak(), (time.perf_counter(), time.process_time())
def end():
    print(time.perf_counter() - clock[0], time.process_time() - clock[1], peak() - base, len(reads))
def counted(method):
    def count(self, *arguments):
        with lock:
            reads.append(arguments)
        return method(self, *arguments)
    return count
FitsPlane._read, FitsPlane.windows = counted(FitsPlane._read), counted(FitsPlane.windows)
"""

MAKE_MOSAIC = """
step = 1 / 3600
header = fits.Header(dict(CTYPE1="RA---TAN", CTYPE2="DEC--TAN", CRVAL1=150.0, CRVAL2=2.0,
                          CRPIX1=size / 2, CRPIX2=size / 2, CD1_1=-step, CD1_2=0.0, CD2_1=0.0, CD2_2=step))
rng = np.random.default_rng(0)
rows = rng.standard_normal((256, size), dtype=np.float32)
with open(path, "wb") as file:
    for name, kind, bitpix in (("DATA", ">f4", -32), ("MASK", "u1", 8), ("WEIGHT", ">i2", 16)):
        first = ("SIMPLE", True) if name == "DATA" else ("XTENSION", "IMAGE   ")
        own = fits.Header([first, ("BITPIX", bitpix), ("NAXIS", 2), ("NAXIS1", size), ("NAXIS2", size)])
        if name != "DATA":
            own.update(PCOUNT=0, GCOUNT=1, EXTNAME=name)
        own.update(header)
        file.write(own.tostring().encode())
        part = (rows if name == "DATA" else rows > 3 if name == "MASK" else 100 + 10 * rows).astype(kind)
        for _ in range(size // 256):
            file.write(part.tobytes())
        file.write(bytes(-file.tell() % 2880))
"""

TARGETS = """
with fits.open(path) as hdus:
    wcs = WCS(hdus[0].header)
ra, dec = wcs.all_pix2world(x, y, 0)
image = open_image(path, mask=1, weight=2)
cutout_many(image, ra[:1], dec[:1], 9)
Cutout2D(np.zeros((99, 99)), wcs.pixel_to_world(40, 40), 9, wcs=wcs, mode="partial")
begin()
"""

#: Every entry has the three planes of each target as arrays that it owns.
CUTTERS = {
    "galprep-dask, cutout_many": "cutout_many(image, ra, dec, side, sink=lambda k, cut: cut['data'].shape)",
    "galprep-dask, all cutouts kept": "cuts, table = cutout_many(image, ra, dec, side)",
    "Cutout2D, sky positions and WCS": """
with fits.open(path, memmap=True) as hdus:
    for k in range(n):
        at = SkyCoord(ra[k], dec[k], unit="deg")
        for hdu in hdus:
            Cutout2D(hdu.data, at, side, wcs=wcs, mode="partial", fill_value=0, copy=True)
""",
    "Cutout2D, pixel positions, no WCS": """
with fits.open(path, memmap=True) as hdus:
    for k in range(n):
        for hdu in hdus:
            Cutout2D(hdu.data, (x[k], y[k]), side, mode="partial", fill_value=0, copy=True)
""",
}

IN_MEMORY = """
data = rng.standard_normal((size, size), dtype=np.float32)
x0, y0 = (np.floor(at + 0.5).astype(int) - side // 2 for at in (x, y))
extract_stamps(data[:99, :99].copy(), [9.0], [9.0], 3)
extract_stamps(data, x[:2000], y[:2000], side)
begin()
"""

STAMPS = {
    "galprep-dask, extract_stamps": "extract_stamps(data, x, y, side)",
    "galprep-dask, out= used before": """
out = np.zeros((n, side, side), np.float32)
out[...] = 1
begin()
extract_stamps(data, x, y, side, out=out)
""",
    "NumPy, sliding_window_view[y, x]": "sliding_window_view(data, (side, side))[y0, x0]",
    "NumPy, a loop of slices": """
stamps = np.empty((n, side, side), np.float32)
for k in range(n):
    stamps[k] = data[y0[k] : y0[k] + side, x0[k] : x0[k] + side]
""",
    "a loop of Cutout2D": """
stamps = np.empty((n, side, side), np.float32)
for k in range(n):
    stamps[k] = Cutout2D(data, (x[k], y[k]), side, mode="partial", fill_value=np.nan).data
""",
}

ON_DISK = """
x0, y0 = (np.floor(at + 0.5).astype(int) - side // 2 for at in (x, y))
image = open_image(path)["data"].data
extract_stamps(image, x[:9], y[:9], side).compute()
extract_stamps(image, x[:9], y[:9], side, out=np.empty((9, side, side), np.float32))
stamps = np.zeros((n, side, side), np.float32)
stamps[...] = 1
descriptor = os.open(path, os.O_RDONLY)
os.fsync(descriptor)
os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
begin()
"""

DISK_STAMPS = {
    "galprep-dask, into out=": "extract_stamps(image, x, y, side, out=stamps)",
    "galprep-dask, lazy and computed": "extract_stamps(image, x, y, side).compute()",
    "a loop of slices of a memmap": """
with fits.open(path, memmap=True) as hdus:
    mapped = hdus[0].data
    for k in range(n):
        stamps[k] = mapped[y0[k] : y0[k] + side, x0[k] : x0[k] + side]
""",
}


def report(title, prepare, entries, peer, repeats, *arguments):
    print(f"\n{title}")
    codes = [START + f"{prepare}\n{code}\nend()" for code in entries.values()]
    runs = [[run_fresh(code, *arguments) for code in codes] for _ in range(repeats)]
    least = {name: [min(turn[n][i] for turn in runs) for i in (0, 1)] for n, name in enumerate(entries)}
    for n, (name, (seconds, processor)) in enumerate(least.items()):
        memory, reads = (max(turn[n][i] for turn in runs) for i in (2, 3))
        read = f"   {reads:.0f} blocks read" if reads else ""
        print(
            f"  {name:34s} {least[peer][0] / seconds:6.2f}   {seconds:7.2f} s, {processor:6.2f} s of processors   "
            f"peak {memory:5.0f} MiB{read}",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--size", type=int, default=16384, help="side of the mosaic of cutouts, in pixels")
    parser.add_argument("--targets", type=int, default=1000)
    parser.add_argument("--stamp-image", type=int, default=8192, help="side of the image of stamps, in pixels")
    parser.add_argument("--stamps", type=int, default=100_000)
    parser.add_argument("--folder", help="where to write; a temporary folder by default")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--parts", nargs="+", default=["cutouts", "memory", "disk"])
    given = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        path = Path(folder, "mosaic.fits")
        if "cutouts" in given.parts:
            run_fresh(START + MAKE_MOSAIC, path, given.size, 1, 201)
            report(
                f"{given.targets} cutouts of 201 x 201 x 3 planes, from a file of {given.size} x {given.size} pixels "
                f"({path.stat().st_size / 2**20:.0f} MiB);\ntimes faster than Cutout2D at sky positions",
                TARGETS, CUTTERS, "Cutout2D, sky positions and WCS", given.repeats,
                path, given.size, given.targets, 201,
            )  # fmt: skip
        size, n = given.stamp_image, given.stamps
        if "memory" in given.parts:
            report(
                f"{n} stamps of 81 x 81, from {size} x {size} float32 in memory; times faster than a loop of Cutout2D",
                IN_MEMORY, STAMPS, "a loop of Cutout2D", given.repeats, path, size, n, 81,
            )  # fmt: skip
        if "disk" in given.parts:
            run_fresh(START + MAKE_MOSAIC, path, size, 1, 81)
            report(
                f"{n} stamps of 81 x 81, from a file of {size} x {size} float32; times faster than slices of a memmap",
                ON_DISK, DISK_STAMPS, "a loop of slices of a memmap", given.repeats, path, size, n, 81,
            )  # fmt: skip


if __name__ == "__main__":
    main()
