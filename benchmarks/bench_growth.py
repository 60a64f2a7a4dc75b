"""
Growth of segments: the nearest segment as a ratio to scipy's transform, and growth of mosaics made as they are read.

Run ``python benchmarks/bench_growth.py [--sizes N ...] [--repeats R]``. Every number is taken in a process of its own,
and ratios are between numbers of the same run. See README.md beside this file for how to read them.
"""

import argparse
import subprocess
import sys

NEAREST = """
import sys, time
import numpy as np
from scipy import ndimage
from galprep_dask.masks._kernels.nearest import nearest_segment
side, spacing, size, reach, repeats = map(int, sys.argv[1:])
rng = np.random.default_rng(0)
window = np.zeros((side + 2 * reach,) * 2, np.int32)
for label, (y, x) in enumerate(rng.integers(0, len(window), (len(window) ** 2 // spacing**2, 2))):
    ny, nx = rng.integers(1, size + 1, 2)
    window[y : y + ny, x : x + nx] = label + 1
sky = window[reach : reach + side, reach : reach + side] == 0
nearest_segment(window, reach, reach)
def least(call):
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return min(taken)
print(least(lambda: nearest_segment(window, reach, reach)),
      least(lambda: ndimage.distance_transform_edt(sky, return_indices=True)))
"""

MOSAIC = """
import resource, sys, time
import dask, dask.array as da
import numpy as np
from numba import njit
from galprep_dask.masks import grow_mask
size, chunk, rings = map(int, sys.argv[1:4])
dask.config.set(scheduler="threads", num_workers=2)

@njit(nogil=True)
def draw(labels, light, y0, x0):
    # A source in every cell of 32 x 32 pixels, an exponential disc; its brightest pixels are its segment.
    ny, nx = labels.shape
    for row in range(y0 // 32 - 1, (y0 + ny) // 32 + 2):
        for column in range(x0 // 32 - 1, (x0 + nx) // 32 + 2):
            if row < 0 or column < 0:
                continue
            mixed = np.uint32(row * 73856093 ^ column * 19349663) * np.uint32(2654435761)
            y, x = 32 * row + (mixed >> 8) % 32, 32 * column + (mixed >> 16) % 32
            scale, peak = 0.8 + (mixed >> 24) / 128, 5 + mixed % 61
            radius = int(scale * np.log(peak / 3))
            for yy in range(max(y - 16, y0), min(y + 17, y0 + ny)):
                for xx in range(max(x - 16, x0), min(x + 17, x0 + nx)):
                    apart = np.hypot(yy - y, xx - x)
                    light[yy - y0, xx - x0] += peak * np.exp(-apart / scale)
                    if apart <= radius:
                        labels[yy - y0, xx - x0] = row * 4096 + column + 1

def scene(block, which, block_info=None):
    (y0, y1), (x0, x1) = block_info[0]["array-location"]
    labels = np.zeros(block.shape, np.int32)
    light = np.zeros(block.shape, np.float32)
    if which == 1:
        light += np.random.default_rng([y0, x0]).standard_normal(block.shape, dtype=np.float32)
    draw(labels, light, y0, x0)
    return (labels, light)[which]

def lazily(size, chunk):
    blank = da.zeros((size, size), chunks=chunk, dtype="u1")
    return [blank.map_blocks(scene, which, dtype=kind, meta=np.empty((0, 0), kind)) for which, kind in ((0, "i4"), (1, "f4"))]

def sums(array):
    return array.map_blocks(np.sum, keepdims=True, dtype=float, chunks=(1, 1), meta=np.empty((0, 0)))

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

keywords = {"sky_level": 0.0, "sky_std": 1.0, "max_grow_size": rings}
labels, data = lazily(600, 300)
dask.compute(sums(grow_mask(labels, data, **keywords)), sums(labels), sums(data))
labels, data = lazily(size, chunk)
base, clock = peak(), [time.perf_counter()]
sums(labels).compute(); clock.append(time.perf_counter())
sums(data).compute(); clock.append(time.perf_counter())
grown = grow_mask(labels, data, **keywords); clock.append(time.perf_counter())
total = sums(grown).compute().sum(); clock.append(time.perf_counter())
print(*np.diff(clock), peak() - base, total / size**2)
"""

SCENES = {"sparse": (300, 20), "crowded": (32, 8), "touching": (8, 4)}


def run(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return [float(word) for word in done.stdout.split()]


def report_nearest(repeats, side=2048):
    print(f"\nNearest segment of {side} x {side} pixels, one thread; scipy.ndimage.distance_transform_edt with indices = 1")
    for name, (spacing, size) in SCENES.items():
        for reach in (20, 100, 400):
            ours, theirs = run(NEAREST, side, spacing, size, reach, repeats)
            print(
                f"  {name:9s} one in {spacing:3d} x {spacing:3d} px, reach {reach:3d} px   {theirs / ours:5.1f}   "
                f"{side**2 / ours / 1e6:5.0f} against {side**2 / theirs / 1e6:4.1f} Mpix/s"
            )


def report_mosaics(sizes, chunk, rings):
    print(
        f"\ngrow_mask of up to {rings} rings, float32, a source in every 32 x 32 pixels, chunks of {chunk} x {chunk}, "
        f"two dask threads.\nSeconds without those that making the pixels takes; time per pixel, the first size = 1"
    )
    first = None
    for size in sizes:
        labels, data, measured, filled, peak, share = run(MOSAIC, size, chunk, rings)
        measured, filled = measured - labels - data, filled - labels
        per_pixel = (measured + filled) / size**2
        first = first or per_pixel
        print(
            f"  {size:6d}   {per_pixel / first:4.2f}   rings {measured:6.2f} s, mask {filled:6.2f} s "
            f"(pixels {labels + data:6.2f} s)   {1e-6 / per_pixel:6.1f} Mpix/s   peak {peak:5.0f} MiB   "
            f"{(size // 32) ** 2} sources, {100 * share:.0f} % masked"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[4096, 16384], help="sides of the mosaics in pixels")
    parser.add_argument("--chunk", type=int, default=2048)
    parser.add_argument("--rings", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    report_nearest(given.repeats)
    report_mosaics(given.sizes, given.chunk, given.rings)


if __name__ == "__main__":
    main()
