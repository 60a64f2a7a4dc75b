"""
Selection of stars: purity and completeness on simulated fields, and time and memory for a million sources.

Run ``python benchmarks/bench_stars.py [--areas A ...] [--seeds N] [--gradient G] [--rows R]``. Fields come from
tests/star_fields.py, whose docstrings tell what is in them: 20 galaxies a star, 5 % of the stars binaries, FWHM from
2 to 6 pixels, and no FWHM told. See README.md beside this file for how to read them.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from harness import machine

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path.insert(0, str(TESTS))

MILLION = """
import resource, sys, time
sys.path.insert(0, sys.argv[1])
import dask, dask.array as da
import numpy as np
from astropy.table import QTable, vstack
from star_fields import detected, field_of_density
from galprep_dask.psf import select_stars
from galprep_dask.segmentation import source_catalog
rows = int(sys.argv[2])
dask.config.set(scheduler="threads", num_workers=2)

# Every block is one scene, with labels of its own: making a block is hardly more than a copy.
field = field_of_density(25, 0, fwhm=2.0, n_stars=1900)
side = field.image.shape[0]
segmentation = detected(field.image)
labels = np.asarray(segmentation.data, np.int32)
columns = ["label", "x_centroid", "y_centroid", "segment_flux", "max_value", "area", "max_value_xindex",
           "max_value_yindex"]
catalog = source_catalog(field.image, segmentation, columns=columns)
across = int(np.ceil(np.sqrt(rows / len(catalog))))

def image_of(block):
    return field.image.copy()

def labels_of(block, block_info=None):
    i, j = block_info[0]["chunk-location"]
    mosaic = labels.copy()
    np.add(mosaic, len(catalog) * (i * across + j), out=mosaic, where=mosaic > 0)
    return mosaic

blank = da.zeros((across * side,) * 2, chunks=side, dtype="u1")
image, mosaic = (blank.map_blocks(made, dtype=kind, meta=np.empty((0, 0), kind))
                 for made, kind in ((image_of, "f4"), (labels_of, "i4")))
parts = []
for i in range(across):
    for j in range(across):
        part = catalog.copy()
        part["label"] += len(catalog) * (i * across + j)
        for name in ("x_centroid", "max_value_xindex"):
            part[name] += j * side
        for name in ("y_centroid", "max_value_yindex"):
            part[name] += i * side
        parts.append(part)
whole = vstack(parts)
select_stars(field.image, labels, catalog, sky_std=1.0)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

clocks = time.perf_counter, time.process_time, time.thread_time
base, start = peak(), [clock() for clock in clocks]
stars = select_stars(image, mosaic, whole, sky_std=1.0)
took = [clock() - before for clock, before in zip(clocks, start)]
measured = np.isfinite(stars["snr"]).sum()
print(len(stars), measured, stars["used"].sum(), image.shape[0], *took, peak() - base)
"""


def report_fields(area, seeds, gradient):
    from star_fields import detected, field_of_density, score

    from galprep_dask.psf import select_stars

    print(f"\nA source in every {area} FWHM^2, FWHM changing by {100 * gradient:.0f} % to the edges")
    print("  seed  FWHM/px  found   sources  stars   purity  completeness   seconds")
    worst = np.ones(2)
    for seed in range(seeds):
        field = field_of_density(area, seed, gradient=gradient)
        segmentation = detected(field.image)
        start = time.perf_counter()
        stars = select_stars(field.image, segmentation)
        took = time.perf_counter() - start
        purity, completeness = score(field, stars)
        worst = np.minimum(worst, (purity, completeness))
        print(
            f"  {seed:4d}  {field.fwhm:7.2f}  {stars.meta['fwhm']:5.2f}  {len(stars):8d}  {stars['used'].sum():5d}   "
            f"{purity:6.3f}  {completeness:12.3f}   {took:7.2f}",
            flush=True,
        )
    print(f"  least: purity {worst[0]:.3f}, completeness {worst[1]:.3f}")


def report_million(rows):
    print("\nselect_stars on a catalogue and a lazy mosaic, two dask threads; memory is the peak above the start")
    print("                                               seconds                                  memory/MiB")
    print("       rows    pixels  measured   stars   by the clock   of processors   if two are free   peak   of pixels")
    peaks = []
    for part in (rows // 16, rows // 4, rows):
        done = subprocess.run(
            [sys.executable, "-c", MILLION, str(TESTS), str(part)], capture_output=True, text=True, check=True
        )
        n, measured, used, side, took, worked, alone, memory = (float(word) for word in done.stdout.split())
        peaks.append((n, memory))
        # What the thread that asks does the others wait for; the rest they share.
        free = alone + (worked - alone) / 2
        print(
            f"  {n:9.0f}  {side:6.0f}^2  {measured:8.0f}  {used:6.0f}  {took:13.1f}  {worked:14.1f}  {free:16.1f}  "
            f"{memory:5.0f}  {8 * side**2 / 2**20:10.0f}",
            flush=True,
        )
    (few, least), (many, most) = peaks[0], peaks[-1]
    print(f"  {(most - least) * 2**20 / (many - few):.0f} bytes a row")


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--areas", type=float, nargs="*", default=[80, 40, 25], help="FWHM^2 for a source")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--gradient", type=float, default=0.0)
    parser.add_argument("--rows", type=int, default=1_000_000, help="0 leaves the large catalogue out")
    given = parser.parse_args()
    print(machine() + "\n")
    for area in given.areas:
        report_fields(area, given.seeds, given.gradient)
    if given.rows:
        report_million(given.rows)


if __name__ == "__main__":
    main()
