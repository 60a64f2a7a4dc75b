"""
Fitting the sky: pixels per second as a ratio to astropy, photutils and SEP, and peak memory.

Run ``python benchmarks/bench_sky.py [--size N] [--large N] [--repeats R]``. Every number is taken in a process of
its own, and ratios are between numbers of the same run. See README.md beside this file for how to read them.
"""

import argparse
from importlib.util import find_spec

from harness import least_of, machine

PREPARE = """
import resource, sys, time
import numpy as np, dask, dask.array as da
from galprep_dask.sky import fit_mesh_sky, fit_polynomial_sky
size = int(sys.argv[1])
v = np.linspace(-1, 1, size, dtype="f4")
image = np.random.default_rng(0).standard_normal((size, size), dtype="f4")
for row in range(size):  # no second image, whose memory would hide what a fit takes
    image[row] += 100 + 3 * v[row] + 2 * v[row] * v
blocks = da.from_array(image, chunks=2048, name=False)
tiny = image[:128, :128].copy()
fit_polynomial_sky(tiny); fit_mesh_sky(tiny, box_size=64).evaluate().compute()
def every(step):
    return image[::step, ::step]
def evaluated(sky):
    # Every block is made, and given up: whoever subtracts a sky needs no more.
    sky.evaluate(image.shape, 2048).map_blocks(np.max, dtype="f8", chunks=(1, 1), keepdims=True,
                                               meta=np.empty((0, 0))).compute()
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
"""

ASTROPY = """
from astropy.modeling.fitting import LinearLSQFitter
from astropy.modeling.models import Polynomial2D
"""
PHOTUTILS = """
from photutils.background import Background2D
"""
SEP = """
import sep
"""

START = """
base, start = peak(), time.perf_counter()
"""

FINISH = """
print(time.perf_counter() - start, peak() - base)
"""

DENSE = """
part = every(8).astype("f8")
y, x = np.meshgrid(v[::8], v[::8], indexing="ij")
design = np.stack([(y**i * x**j).ravel() for i in range(4) for j in range(4 - i)], axis=1).astype("f8")
np.linalg.lstsq(design, part.ravel(), rcond=None)
"""

#: Name: what to import before the clock starts, the code, and the step between the pixels that it takes.
POLYNOMIAL = {
    "galprep-dask, dask threads": ("", "fit_polynomial_sky(blocks, sigma_clip=None)", 1),
    "galprep-dask, one thread": (
        "dask.config.set(scheduler='sync')", "fit_polynomial_sky(blocks, sigma_clip=None)", 1,
    ),
    "galprep-dask, clipping, threads": ("", "fit_polynomial_sky(blocks)", 1),
    "astropy LinearLSQFitter, 1 px in 16": (
        ASTROPY, "part = every(4); y, x = np.indices(part.shape); LinearLSQFitter()(Polynomial2D(3), x, y, part)", 4,
    ),
    "dense lstsq, 1 px in 64": ("", DENSE, 8),
}  # fmt: skip

MESH = {
    "galprep-dask, dask threads": ("", "fit_mesh_sky(blocks, box_size=64)", 1),
    "galprep-dask, one thread": ("dask.config.set(scheduler='sync')", "fit_mesh_sky(blocks, box_size=64)", 1),
    "galprep-dask, and evaluated": ("", "evaluated(fit_mesh_sky(blocks, box_size=64))", 1),
    "photutils Background2D": (PHOTUTILS, "Background2D(image, 64)", 1),
    "photutils, and evaluated": (PHOTUTILS, "Background2D(image, 64).background", 1),
    "SEP Background": (SEP, "sep.Background(image, bw=64, bh=64, fw=3, fh=3)", 1),
    "SEP, and evaluated": (SEP, "sep.Background(image, bw=64, bh=64, fw=3, fh=3).back()", 1),
}


LAZY = """
import resource, sys, time
import numpy as np, dask, dask.array as da
from galprep_dask.sky import fit_mesh_sky, fit_polynomial_sky
size = int(sys.argv[1])
dask.config.set(num_workers=2)
tile = np.random.default_rng(0).standard_normal((2048, 2048), dtype="f4")
def generate(block_info=None):
    (y0, y1), (x0, x1) = block_info[None]["array-location"]
    return tile[: y1 - y0, : x1 - x0] + np.float32(100 + 1e-4 * y0 - 2e-4 * x0)
def made(side):
    chunks = da.core.normalize_chunks(2048, (side, side))
    return da.map_blocks(generate, chunks=chunks, dtype="f4", meta=np.empty((0, 0), "f4"))
blocks = made(size)
fit_polynomial_sky(made(2048)); fit_mesh_sky(made(2048), box_size=64).evaluate().compute()
def evaluated(sky):
    sky.evaluate(blocks.shape, 2048).map_blocks(np.max, dtype="f8", chunks=(1, 1), keepdims=True,
                                                meta=np.empty((0, 0))).compute()
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
"""

#: Pixels are made when a block is asked for, so that the peak is that of the fit.
OUT_OF_CORE = {
    "fit_polynomial_sky, clipping": "fit_polynomial_sky(blocks)",
    "fit_mesh_sky, and evaluated": "evaluated(fit_mesh_sky(blocks, box_size=64))",
}


def measure(before, code, size, repeats, prepare=PREPARE):
    """Give the least seconds and the greatest MiB beyond image and imports of a few fresh processes."""
    return least_of(prepare + before + START + code + FINISH, size, repeats=repeats)[:2]


def report(title, entries, size, repeats, reference):
    results = {
        name: (*measure(before, code, size, repeats), step)
        for name, (before, code, step) in entries.items()
        if before != SEP or find_spec("sep")
    }
    rates = {name: (size / step) ** 2 / seconds / 1e6 for name, (seconds, _, step) in results.items()}
    print(f"\n{title}: {size} x {size} float32; time per pixel relative to: {reference}")
    for name, (seconds, memory, _) in results.items():
        ratio = rates[reference] / rates[name]
        print(f"  {name:36s} {ratio:6.3f}   {seconds:7.3f} s {rates[name]:7.1f} Mpix/s   peak {memory:6.0f} MiB")


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--size", type=int, default=4096, help="side of the image in pixels")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--large", type=int, default=16384, help="side of the image whose peak is compared with 4096")
    given = parser.parse_args()
    print(machine())
    reference = "astropy LinearLSQFitter, 1 px in 16"
    report("Polynomial of order 3", POLYNOMIAL, given.size, given.repeats, reference)
    report("Mesh of 64 x 64 boxes", MESH, given.size, given.repeats, "photutils Background2D")
    print("\nOut of core, chunks of 2048 x 2048 made as they are read, two threads; seconds for a million pixels")
    for name, code in OUT_OF_CORE.items():
        for size in (4096, given.large):
            seconds, memory = measure("", code, size, 1, LAZY)
            print(f"  {name:30s} {size:6d}   {seconds / size**2 * 1e6:7.4f} s   peak {memory:6.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
