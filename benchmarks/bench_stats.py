"""
Clipped statistics: throughput as a ratio to astropy and to a plain sum, and peak memory.

Run ``python benchmarks/bench_stats.py [--size N] [--repeats N] [--large N]``. Every number is taken in a process of its
own, and ratios are between numbers of the same run. See README.md beside this file for how to read them.
"""

import argparse

from harness import least_of, machine

PREPARE = """
import resource, sys, time
import numpy as np, dask, dask.array as da
from astropy.stats import sigma_clipped_stats as astropy_stats
from galprep_dask.stats import sigma_clipped_stats
size = int(sys.argv[1])
def sky(y0, x0, ny, nx):
    rng = np.random.default_rng((y0, x0))
    block = rng.standard_normal((ny, nx), dtype="f4") * 3 + 100
    block.ravel()[:: 37] += 30 * rng.standard_exponential(block.ravel()[:: 37].size, dtype="f4") ** 3
    return block
def generate(block_info=None):
    (y0, y1), (x0, x1) = block_info[None]["array-location"]
    return sky(y0, x0, y1 - y0, x1 - x0)
def generated():
    sizes = da.core.normalize_chunks(2048, (size, size))
    return da.map_blocks(generate, chunks=sizes, dtype="f4", meta=np.empty((0, 0), "f4"))
def whole():
    image = np.empty((size, size), "f4")
    for y in range(0, size, 2048):
        for x in range(0, size, 2048):
            image[y:y + 2048, x:x + 2048] = sky(y, x, *image[y:y + 2048, x:x + 2048].shape)
    return image
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
for dtype in "f4", "f8":
    sigma_clipped_stats(sky(0, 0, 256, 256).astype(dtype))
"""

FINISH = """
seconds = time.perf_counter() - start
print(seconds, peak() - base, *(result if isinstance(result, tuple) else (0, 0, 0)))
"""

MEASURE = "\nbase, start = peak(), time.perf_counter()\nresult = "
LAZILY = "dask.config.set(num_workers=2)" + MEASURE + "sigma_clipped_stats(generated())"
ENTRIES = {
    "astropy, sigma_clipped_stats": "image = whole()" + MEASURE + "astropy_stats(image)",
    "galprep-dask, two threads": "image = whole()\ndask.config.set(num_workers=2)" + MEASURE
    + "sigma_clipped_stats(image)",
    "galprep-dask, one thread": "image = whole()\ndask.config.set(scheduler='sync')" + MEASURE
    + "sigma_clipped_stats(image)",
    "galprep-dask, float64": "image = whole().astype('f8')\ndask.config.set(num_workers=2)" + MEASURE
    + "sigma_clipped_stats(image)",
    "galprep-dask, maxiters=None": "image = whole()\ndask.config.set(num_workers=2)" + MEASURE
    + "sigma_clipped_stats(image, maxiters=None)",
    "galprep-dask, pixels made lazily": LAZILY,
    "np.sum": "image = whole()" + MEASURE + "np.sum(image, dtype='f8')",
}  # fmt: skip


def measure(code, size, repeats):
    """Give the least seconds, the greatest MiB beyond what was there, and the statistics."""
    return least_of(PREPARE + code + FINISH, size, repeats=repeats)


def show(name, size, seconds, memory, least=None):
    times = f"{least / seconds:7.2f}" if least else ""
    rate = size**2 / 1e6 / seconds
    return f"  {name:34s} {times:7s}   {seconds:7.3f} s {rate:7.0f} Mpix/s   peak {memory:6.0f} MiB"


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--size", type=int, default=8192, help="side of the image in pixels")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--large", type=int, help="side of a large image, made lazily, whose peak memory is compared")
    given = parser.parse_args()
    print(machine() + "\n")
    print(f"Clipped statistics: {given.size} x {given.size}, 3 sigma, 5 iterations; times faster than astropy")
    least = expected = None
    for name, code in ENTRIES.items():
        seconds, memory, found = measure(code, given.size, given.repeats)
        if least is None:
            least, expected = seconds, found
        line = show(name, given.size, seconds, memory, least)
        if any(found) and "None" not in name:
            off = max(abs(a - b) for a, b in zip(found, expected, strict=True)) / expected[2]
            line += f"   off by {off:.0e} std"
        print(line, flush=True)
    if given.large:
        print("\nPeak memory where pixels are made lazily, which takes most of the time")
        for size in given.size, given.large:
            seconds, memory, _ = measure(LAZILY, size, 1)
            print(show(f"{size} x {size}", size, seconds, memory), flush=True)


if __name__ == "__main__":
    main()
