"""
Sigma images: throughput against the formula in NumPy, and peak memory.

Run ``python benchmarks/bench_noise.py [--size N] [--large N] [--repeats N]``. Every number is taken in a process of its
own, and ratios are between numbers of the same run. See README.md beside this file for how to read them.
"""

import argparse

from harness import least_of, machine

PREPARE = """
import resource, sys, time
import numpy as np, dask, dask.array as da
from galprep_dask.noise import check_sigma, correlation_factor, sigma_image
size = int(sys.argv[1])
dask.config.set(num_workers=2)
def block(y0, x0, ny, nx):
    return np.random.default_rng((y0, x0)).standard_normal((ny, nx), dtype="f4") * 3
def generate(block_info=None):
    (y0, y1), (x0, x1) = block_info[None]["array-location"]
    return block(y0, x0, y1 - y0, x1 - x0)
def lazily():
    chunks = da.core.normalize_chunks(2048, (size, size))
    return da.map_blocks(generate, chunks=chunks, dtype="f4", meta=np.empty((0, 0), "f4"))
def whole():
    return np.concatenate([block(y, 0, min(1024, size - y), size) for y in range(0, size, 1024)])
def drop(array):
    # Each block is made, and let go: what a writer does with it.
    array.map_blocks(lambda b: np.zeros((1, 1), "u1"), chunks=(1, 1), dtype="u1").sum().compute()
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
how = {"sky_std": 3.0, "gain": 20.0}
tiny = block(0, 0, 64, 64)
sigma_image(tiny, **how)
sigma_image(tiny, exptime=np.ones((64, 64), "f4"), weight=np.ones((64, 64), "f4"), **how)
check_sigma(tiny, tiny * 0 + 3)
correlation_factor(tiny, block_size=8)
"""
MEASURE = "\nbase, start = peak(), time.perf_counter()\n"
FINISH = "\nprint(time.perf_counter() - start, peak() - base)"

IN_MEMORY = "image = whole()"
MAPS = IN_MEMORY + "\nexposure, weight = np.full(image.shape, 90, 'f4'), np.full(image.shape, 0.1, 'f4')"
TILED = "image = da.from_array(whole(), chunks=2048, name=False)"
PLAIN = "numpy, float64", IN_MEMORY + MEASURE + "np.sqrt(np.maximum(image.astype('f8'), 0) / 20 + 9.0).astype('f4')"
ENTRIES = {
    "numpy, float32": IN_MEMORY + MEASURE + "np.sqrt(np.maximum(image, 0) / np.float32(20) + np.float32(9))",
    "sigma_image": IN_MEMORY + MEASURE + "sigma_image(image, **how)",
    "sigma_image, one thread": IN_MEMORY + "\ndask.config.set(scheduler='sync')" + MEASURE
    + "sigma_image(image, **how)",
    "sigma_image, in chunks": TILED + MEASURE + "drop(sigma_image(image, **how))",
    "sigma_image, exposures and weights": MAPS + MEASURE
    + "sigma_image(image, exptime=exposure, weight=weight, **how)",
    "check_sigma": TILED + MEASURE + "check_sigma(image, da.full_like(image, 3.0))",
    "correlation_factor": TILED + MEASURE + "correlation_factor(image)",
}  # fmt: skip
LAZY = {
    "pixels alone": MEASURE + "drop(lazily())",
    "sigma_image": MEASURE + "drop(sigma_image(lazily(), **how))",
    "check_sigma of it": MEASURE + "image = lazily()\ncheck_sigma(image, sigma_image(image, **how))",
    "correlation_factor": MEASURE + "correlation_factor(lazily())",
}


def measure(code, size, repeats):
    """Give the least seconds, and the greatest MiB beyond what was there."""
    return least_of(PREPARE + code + FINISH, size, repeats=repeats)[:2]


def show(name, size, seconds, memory, least=None):
    times = f"{least / seconds:7.2f}" if least else ""
    rate = size**2 / 1e6 / seconds
    print(f"  {name:36s} {times:7s}   {seconds:7.3f} s {rate:7.0f} Mpix/s   peak {memory:6.0f} MiB", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--size", type=int, default=8192, help="side of the image in memory in pixels")
    parser.add_argument("--large", type=int, default=16384, help="side of the image that is made lazily")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    print(machine() + "\n")
    print(f"In memory, {given.size} x {given.size} float32; times faster than the formula in NumPy in float64")
    least, memory = measure(PLAIN[1], given.size, given.repeats)
    show(PLAIN[0], given.size, least, memory, least)
    for name, code in ENTRIES.items():
        show(name, given.size, *measure(code, given.size, given.repeats), least)
    print(f"\nMade lazily in chunks of 2048, {given.large} x {given.large}; one float32 plane has", end=" ")
    print(f"{given.large**2 * 4 / 2**20:.0f} MiB")
    for name, code in LAZY.items():
        show(name, given.large, *measure(code, given.large, 1))


if __name__ == "__main__":
    main()
