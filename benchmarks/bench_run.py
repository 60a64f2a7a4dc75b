"""
``galprep run`` as a whole: throughput, peak memory and reads of the image, and what a killed run does again.

Run ``python benchmarks/bench_run.py [--targets N] [--size N] [--kill N] [--seed S] [--folder F]``. The first two are
for one band; ``--kill`` starts runs of 40 targets in two bands, kills each at a moment of its own, starts it again and
compares the tree with that of a run that was left alone. See README.md beside this file for how to read them.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import dask.array as da
import numpy as np
from astropy.table import Table
from astropy.wcs import WCS
from harness import machine

from galprep_dask import make_image, write_image
from galprep_dask.blockwise import map_blocks_at

CELL = 96
FWHM = 3.5

RUN = """
import json, resource, sys, threading, time
from contextlib import contextmanager
import numpy as np
from galprep_dask.io.fits_reader import FitsPlane
from galprep_dask.pipeline.config import read_config
from galprep_dask.pipeline.run import run_config
config = read_config(sys.argv[1])
lock, reads = threading.Lock(), {}
def count(plane, region):
    with lock:
        grid = reads.setdefault(plane.path, np.zeros([-(-n // 2048) for n in plane.shape]))
        rows, columns = ([axis.start, axis.stop] for axis in region[-2:])
        for i in range(rows[0] // 2048, -(-rows[1] // 2048)):
            for j in range(columns[0] // 2048, -(-columns[1] // 2048)):
                y, x = (min(at[1], 2048 * (n + 1)) - max(at[0], 2048 * n) for at, n in ((rows, i), (columns, j)))
                grid[i, j] += y * x / 2048**2
read, windows = FitsPlane._read, FitsPlane.windows
def counted_read(self, region):
    count(self, region)
    return read(self, region)
def counted_windows(self, regions):
    for region in regions:
        count(self, region)
    return windows(self, regions)
FitsPlane._read, FitsPlane.windows = counted_read, counted_windows
steps = []
@contextmanager
def step(name):
    begin = time.perf_counter()
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    steps.append((name, time.perf_counter() - begin, peak))
    print(f"{name:20s} {steps[-1][1]:8.1f} s   peak so far {peak:6.0f} MiB", flush=True)
begin = time.perf_counter()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
result = run_config(config, step=step)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({
    "seconds": time.perf_counter() - begin, "imports": before, "peak": peak, "done": result.done,
    "failed": result.failed, "reads": {path: float(grid.max()) for path, grid in reads.items()},
}))
"""

#: Runs that may be killed are forked off a process that has imported what they need.
FORKED = """
import os, sys
from galprep_dask.pipeline.config import read_config
from galprep_dask.pipeline.run import run_config
import photutils.segmentation, xarray, zarr, astropy.table, pyarrow
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        try:
            status = 0 if run_config(read_config(line.strip())).ok else 1
        except BaseException as error:
            print(error, file=sys.stderr)
            status = 2
        os._exit(status)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def header_of(size, scale):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [150.0, 2.0], [size / 2, size / 2]
    wcs.wcs.cdelt = [-scale / 3600, scale / 3600]
    header = wcs.to_header()
    header.update(GAIN=2.0, EXPTIME=100.0, MAGZERO=25.0, BUNIT="ADU/s")
    return header


def objects_of(size, seed):
    """One object in every cell: one in four a star, the others exponential galaxies."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((size // CELL, size // CELL)).reshape(2, -1) * CELL + CELL / 2
    n = len(x)
    x, y = (at + rng.uniform(-20, 20, n) for at in (x, y))
    star = rng.random(n) < 0.25
    return Table({
        "x": x, "y": y, "star": star, "flux": 10 ** rng.uniform(2.5, 4.5, n), "radius": rng.uniform(3, 7, n),
        "q": rng.uniform(0.4, 1.0, n), "angle": rng.uniform(0, np.pi, n),
    })  # fmt: skip


def pixels(block, *, origin, objects, size, seed):
    ny, nx = block.shape
    rng = np.random.default_rng([seed, *origin])
    image = rng.normal(0, 0.5, (ny, nx))
    image += 20 + np.linspace(0, 1, size)[origin[0] : origin[0] + ny, None]
    image += 0.5 * np.linspace(-1, 1, size)[None, origin[1] : origin[1] + nx] ** 2
    reach = 40
    near = (np.abs(objects["y"] - origin[0] - ny / 2) < ny / 2 + reach) & (
        np.abs(objects["x"] - origin[1] - nx / 2) < nx / 2 + reach
    )
    for x, y, star, flux, radius, q, angle in objects[near].iterrows():
        x, y = x - origin[1], y - origin[0]
        rows = slice(max(0, int(y) - reach), min(ny, int(y) + reach))
        columns = slice(max(0, int(x) - reach), min(nx, int(x) + reach))
        gy, gx = np.ogrid[rows, columns]
        u = (gx - x) * np.cos(angle) + (gy - y) * np.sin(angle)
        v = (gy - y) * np.cos(angle) - (gx - x) * np.sin(angle)
        width = FWHM / 2.3548
        if star:
            light = np.exp(-(u**2 + v**2) / (2 * width**2)) / (2 * np.pi * width**2)
        else:
            light = np.exp(-1.678 * np.sqrt(u**2 + (v / q) ** 2 + width**2) / radius)
            light = light / (2 * np.pi * q * (radius / 1.678) ** 2)
        image[rows, columns] += flux * light
    return image.astype(np.float32)


def write_mosaic(path, size, scale, seed):
    objects = objects_of(size, seed)
    template = da.zeros((size, size), chunks=2048, dtype=bool)
    data = map_blocks_at(pixels, template, dtype=np.float32, objects=objects, size=size, seed=seed)
    write_image(make_image(data, header=header_of(size, scale)), path)
    return objects


def write_targets(path, size, scale, objects, n, seed):
    galaxies = objects[~objects["star"]]
    inside = np.minimum.reduce([galaxies["x"], galaxies["y"], size - galaxies["x"], size - galaxies["y"]]) > 20
    galaxies = galaxies[inside]
    rows = np.sort(np.random.default_rng(seed).choice(len(galaxies), n, replace=n > len(galaxies)))
    ra, dec = WCS(header_of(size, scale)).all_pix2world(galaxies["x"][rows], galaxies["y"][rows], 0)
    Table({"name": [f"G{k:05d}" for k in range(n)], "ra": ra, "dec": dec, "z": np.full(n, 0.1)}).write(path)


def write_config(path, bands, output, **sections):
    lines = ['targets = "targets.ecsv"', f'output = "{output}"']
    for name in bands:
        lines += ["[[bands]]", f'name = "{name}"', f'image = "{name}.fits"']
    for section, keys in sections.items():
        lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
    Path(path).write_text("\n".join(lines) + "\n")


def large(folder, size, n):
    print(f"{n} targets on {size} x {size} pixels", flush=True)
    objects = write_mosaic(folder / "r.fits", size, 0.2, 1)
    write_targets(folder / "targets.ecsv", size, 0.2, objects, n, 1)
    write_config(folder / "config.toml", ["r"], "out", psf={"size": 31}, cutout={"size": 20.0})
    said = []
    command = [sys.executable, "-c", RUN, folder / "config.toml"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        for line in run.stdout:
            said.append(line)
            print(line, end="", flush=True)
    if run.returncode:
        sys.exit(run.returncode)
    told = json.loads(said[-1])
    cuts = next(line for line in said if line.startswith("r: cutouts"))
    print(
        f"{told['seconds']:.0f} s, {told['done']} products done, {told['failed']} failed; "
        f"{n / float(cuts.split()[2]):.1f} cutouts a second, {size**2 / told['seconds'] / 1e6:.2f} Mpix/s in all; "
        f"peak {told['peak']:.0f} MiB of 2048, {told['imports']:.0f} of them imports; every chunk of the image was "
        f"read {max(told['reads'].values()):.2f} times at most"
    )


# Killed runs ---------------------------------------------------------------------------------------------------

#: The file by which a step of a band can be told to have been done anew.
FILES = {
    "sky": "sky.npz", "sources": "sources.parquet", "preview": "preview.npz", "stars": "stars.ecsv", "psf": "psf.fits",
}  # fmt: skip


def environment(cache):
    return os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


def tree(output):
    return {
        path.relative_to(output).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(output.rglob("*"))
        if path.is_file() and path.relative_to(output).parts[0] != "work"
    }


def finished(output):
    """List what is finished, step by step and product by product, with the inode of its file."""
    units = {}
    for record in output.glob("bands/*/band.json"):
        for name in json.loads(record.read_text())["steps"]:
            file = record.parent / FILES.get(name, "sky.npz")
            units[f"{record.parent.name} {name}"] = file.stat().st_ino if file.exists() else None
    for path in output.glob("targets/*/*"):
        if not path.name.startswith("."):
            units[path.name] = path.stat().st_ino
    return units


def killed(folder, n_kills, seed):
    size, n = 1024, 40
    bands = {"r": (0.2, size, 1), "k": (0.4, size // 2, 2)}
    for name, (scale, side, number) in bands.items():
        objects = write_mosaic(folder / f"{name}.fits", side, scale, number)
        if name == "r":
            write_targets(folder / "targets.ecsv", side, scale, objects, n, 3)
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", FORKED], env=environment(folder / "jax"), stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip

    def run(output, seconds=None):
        """Run to the end, or be killed after so many seconds; give the status and how long it took."""
        write_config(folder / "config.toml", bands, output, psf={"size": 15, "degree": 0}, cutout={"size": 12.0})
        begin = time.perf_counter()
        server.stdin.write(f"{folder / 'config.toml'}\n")
        server.stdin.flush()
        pid = int(server.stdout.readline())
        if seconds is not None:
            time.sleep(seconds)
            with suppress(ProcessLookupError):  # it was quicker than the one before
                os.kill(pid, signal.SIGKILL)
        return int(server.stdout.readline()), time.perf_counter() - begin

    run("warm")
    _, whole = run("whole")
    expected = tree(folder / "whole")
    print(f"{n} targets in 2 bands: {len(expected)} files, {whole:.1f} s", flush=True)
    assert expected == tree(folder / "warm"), "two runs that were left alone differ"
    rng, worst, redone, total, n_mid = random.Random(seed), 0.0, 0, 0, 0
    for k in range(n_kills):
        output = folder / f"killed-{k}"
        status, moment = run(output.name, whole * rng.random())
        before = finished(output)
        ended, again = run(output.name)
        after = finished(output)
        changed = [name for name, inode in before.items() if after.get(name) != inode]
        same = tree(output) == expected
        n_mid += status == -signal.SIGKILL
        worst = max(worst, len(changed) / max(len(before), 1))
        redone, total = redone + len(changed), total + len(before)
        print(
            f"  killed after {moment:5.1f} s with {len(before):3d} of {len(after)} pieces of work finished: "
            f"{len(changed)} redone, {again:5.1f} s, status {ended}, tree {'identical' if same else 'DIFFERS'}",
            flush=True,
        )
        assert same, [name for name in expected if tree(output).get(name) != expected[name]]
        shutil.rmtree(output)
    server.stdin.close()
    server.wait()
    print(
        f"{n_mid} of {n_kills} runs were killed before their end; {redone} of {total} finished pieces redone, "
        f"{100 * worst:.1f} % of a run at worst; 10 % allowed"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--size", type=int, default=4096, help="side of the mosaic, in pixels")
    parser.add_argument("--targets", type=int, default=300)
    parser.add_argument("--kill", type=int, default=0, help="runs to kill, in place of the large one")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", help="where to write; a temporary folder by default")
    given = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        if given.kill:
            killed(Path(folder), given.kill, given.seed)
        else:
            large(Path(folder), given.size, given.targets)


if __name__ == "__main__":
    main()
