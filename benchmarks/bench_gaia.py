"""
Gaia: a million rows read, moved to the image's epoch, selected and matched; ratios to astropy, and peak memory.

Run ``python benchmarks/bench_gaia.py [--rows N] [--repeats N]``. Every number is taken in a process of its own, and
ratios are between numbers of the same run. See README.md beside this file for how to read them.
"""

import argparse
import tempfile

from harness import machine, run_fresh

WRITE = """
import sys
import numpy as np
from astropy.table import Table
from astropy.wcs import WCS
def mosaic():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [180.0, 30.0], [16384.5, 16384.5]
    wcs.wcs.cdelt = [-0.2 / 3600, 0.2 / 3600]
    return wcs, (32768, 32768)
n, folder = int(sys.argv[1]), sys.argv[2]
rng = np.random.default_rng(0)
"""

TABLE = """
ra, dec = mosaic()[0].all_pix2world(*rng.uniform(0, 32767, (2, n)), 0)
table = Table({
    "source_id": np.arange(n), "ra": ra, "dec": dec, "ref_epoch": np.full(n, 2016.0), "pmra": rng.normal(0, 5, n),
    "pmdec": rng.normal(0, 5, n), "parallax": rng.exponential(1, n), "phot_g_mean_mag": rng.uniform(10, 20, n),
    "ruwe": rng.normal(1.05, 0.1, n), "astrometric_excess_noise": rng.exponential(0.3, n),
})
table.write(f"{folder}/stars.parquet")
table.write(f"{folder}/stars.fits")
"""

PREPARE = (
    WRITE
    + """
import resource, time
import pyarrow.csv, pyarrow.dataset
from astropy import units as u
from astropy.coordinates import Distance, SkyCoord
from astropy.time import Time
from galprep_dask import gaia
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
def positions(count):
    ra, dec = mosaic()[0].all_pix2world(*rng.uniform(0, 32767, (2, count)), 0)
    return ra, dec, ra + rng.normal(0, 3e-5, count), dec + rng.normal(0, 3e-5, count)
wcs, shape = mosaic()
gaia.gaia_sources(wcs, shape, 2024.5, catalog=Table({"ra": [180.0], "dec": [30.0]}))
"""
)

MEASURE = "\nbase, start = peak(), time.perf_counter()\n"
FINISH = "\nprint(time.perf_counter() - start, peak() - base)"

#: What is measured, and what it is relative to: the first of its group.
GROUPS = {
    "Stars of a mosaic of 32768 x 32768 pixels, from a table": {
        "astropy: Table.read, space motion, WCS": MEASURE + """
stars = Table.read(f"{folder}/stars.fits")
moved = SkyCoord(
    np.asarray(stars["ra"]) * u.deg, np.asarray(stars["dec"]) * u.deg, distance=Distance(100 * u.pc),
    pm_ra_cosdec=np.asarray(stars["pmra"]) * u.mas / u.yr, pm_dec=np.asarray(stars["pmdec"]) * u.mas / u.yr,
    obstime=Time(2016.0, format="jyear"),
).apply_space_motion(Time(2024.5, format="jyear"))
x, y = wcs.all_world2pix(moved.ra.deg, moved.dec.deg, 0)
stars[(x > 0) & (x < 32768) & (y > 0) & (y < 32768) & (stars["ruwe"] <= 1.4)]
""",
        "galprep-dask, gaia_sources, FITS": MEASURE
        + 'gaia.gaia_sources(wcs, shape, 2024.5, catalog=f"{folder}/stars.fits")',
        "galprep-dask, gaia_sources, Parquet": MEASURE
        + 'gaia.gaia_sources(wcs, shape, 2024.5, catalog=f"{folder}/stars.parquet")',
    },
    "Sources matched to as many stars": {
        "astropy, match_coordinates_sky": "ra, dec, other_ra, other_dec = positions(n)" + MEASURE
        + 'SkyCoord(ra, dec, unit="deg").match_to_catalog_sky(SkyCoord(other_ra, other_dec, unit="deg"))',
        "galprep-dask, match_sky": "ra, dec, other_ra, other_dec = positions(n)" + MEASURE
        + "gaia.match_sky(ra, dec, other_ra, other_dec, radius_arcsec=1.2)",
    },
}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(machine() + "\n")
    with tempfile.TemporaryDirectory() as folder:
        run_fresh(WRITE + TABLE, str(options.rows), folder)
        for title, entries in GROUPS.items():
            print(f"{title}: {options.rows} rows; time relative to the first")
            first = None
            for name, code in entries.items():
                runs = [run_fresh(PREPARE + code + FINISH, str(options.rows), folder) for _ in range(options.repeats)]
                seconds, memory = min(row[0] for row in runs), max(row[1] for row in runs)
                first = first or seconds
                print(f"  {name:40s} {seconds / first:6.2f}   {seconds:7.2f} s   peak {memory:6.0f} MiB", flush=True)
            print()


if __name__ == "__main__":
    main()
