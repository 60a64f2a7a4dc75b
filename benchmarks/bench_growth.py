"""
Growth of segments: the nearest segment as a ratio to scipy's transform, and growth of mosaics made as they are read.

Run ``python benchmarks/bench_growth.py [--sizes N ...] [--repeats R]``. Every line is taken in a process of its own.
Ratios are between numbers of the same run, and of processor time, which other jobs on the machine disturb less than
that of the clock. See README.md beside this file for how to read them.
"""

import argparse

from harness import machine, run_fresh

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
def transformed():
    distance, (y, x) = ndimage.distance_transform_edt(window == 0, return_indices=True)
    return window[y, x], distance
nearest_segment(window, reach, reach)
def least(call):
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        taken.append(time.process_time() - start)
    return min(taken)
print(least(lambda: nearest_segment(window, reach, reach)),
      least(transformed))
"""

MOSAIC = """
import resource, sys, time
import dask, dask.array as da
import numpy as np
from galprep_dask.masks import grow_mask
size, chunk, rings = map(int, sys.argv[1:4])
dask.config.set(scheduler="threads", num_workers=2)

# A source in every 32 x 32 pixels, an exponential disc on noise; its brightest pixels are its segment. Every block is
# the same scene, which goes on at its other side, with labels of its own: making a block is hardly more than a copy.
rng = np.random.default_rng(0)
light = rng.standard_normal((chunk, chunk), dtype=np.float32)
segments = np.zeros((chunk, chunk), np.int32)
n = (chunk // 32) ** 2
near = np.arange(-16, 17)
for label in range(n):
    y, x = rng.integers(0, 32, 2) + 32 * np.array(divmod(label, chunk // 32))
    scale, peak = rng.uniform(0.8, 2.8), rng.uniform(5, 66)
    at = np.ix_((y + near) % chunk, (x + near) % chunk)
    disc = peak * np.exp(-np.hypot(*np.meshgrid(near, near)) / scale)
    light[at] += disc
    segments[at] = np.where(disc > 4, label + 1, segments[at])

def labels_of(block, block_info=None):
    i, j = block_info[0]["chunk-location"]
    return np.where(segments > 0, segments + n * (i * block_info[0]["num-chunks"][1] + j), 0).astype(np.int32)

def light_of(block):
    return light.copy()

def lazily(size):
    blank = da.zeros((size, size), chunks=chunk, dtype="u1")
    return [blank.map_blocks(made, dtype=kind, meta=np.empty((0, 0), kind))
            for made, kind in ((labels_of, "i4"), (light_of, "f4"))]

def count(mask):
    return mask.map_blocks(np.sum, keepdims=True, dtype=int, chunks=(1, 1), meta=np.empty((0, 0), int)).compute().sum()

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

keywords = {"sky_level": 0.0, "sky_std": 1.0, "max_grow_size": rings}
grow_mask(segments[:300, :300].copy(), light[:300, :300].copy(), **keywords)
labels, data = lazily(size)
base, clock = peak(), [(time.perf_counter(), time.process_time())]
grown = grow_mask(labels, data, **keywords)
clock.append((time.perf_counter(), time.process_time()))
masked = count(grown)
clock.append((time.perf_counter(), time.process_time()))
print(*np.diff(clock, axis=0).T.ravel(), peak() - base, masked / size**2)
"""

SCENES = {"sparse": (300, 20), "crowded": (32, 8), "touching": (8, 4)}


def report_nearest(repeats, side=2048):
    print(
        f"\nDistance and label of the segment nearest to each of {side} x {side} pixels, one thread; both are given "
        "the pixels within\nreach around them. Times faster than scipy.ndimage.distance_transform_edt and the labels "
        "at its indices"
    )
    for name, (spacing, size) in SCENES.items():
        for reach in (20, 100, 400):
            ours, theirs = run_fresh(NEAREST, side, spacing, size, reach, repeats)
            print(
                f"  {name:9s} one in {spacing:3d} x {spacing:3d} px, reach {reach:3d} px   {theirs / ours:5.1f}   "
                f"{side**2 / ours / 1e6:5.0f} against {side**2 / theirs / 1e6:4.1f} Mpix/s"
            )


def report_mosaics(sizes, chunk, rings):
    print(
        f"\ngrow_mask of up to {rings} rings, float32, a source in every 32 x 32 pixels, chunks of {chunk} x {chunk} "
        "made as they are\nread, two dask threads; processor time per pixel relative to the first size"
    )
    first = None
    for size in sizes:
        measured, filled, measured_core, filled_core, peak, share = run_fresh(MOSAIC, size, chunk, rings)
        per_pixel = (measured_core + filled_core) / size**2
        first = first or per_pixel
        print(
            f"  {size:6d}   {per_pixel / first:4.2f}   radii {measured:6.2f} s, mask {filled:6.2f} s   "
            f"{1e-6 / per_pixel:5.1f} Mpix/s a core   peak {peak:5.0f} MiB   "
            f"{(size // 32) ** 2} sources, {100 * share:.0f} % masked"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[4096, 16384], help="sides of the mosaics in pixels")
    parser.add_argument("--chunk", type=int, default=2048)
    parser.add_argument("--rings", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    print(machine())
    report_nearest(given.repeats)
    report_mosaics(given.sizes, given.chunk, given.rings)


if __name__ == "__main__":
    main()
