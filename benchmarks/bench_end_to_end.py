"""
From a mosaic to the files of a fit: time, memory and reads of every step, beside reading and writing alone.

Run ``python benchmarks/bench_end_to_end.py [--size N ...] [--peer N] [--workers N] [--without-products] [--folder F]``.
Steps are sky,
detection and catalogue, growth, stars, sigma and its check with the prepared mosaic, PSF, and 1000 cutout files; under
each step of threads stands what its processor time went into. A side of 32768 pixels writes 4 GiB of mosaic, 13
GiB of products, and the same again to time the disk; all is removed at the end. A side of 65536 is 16 GiB, with 52 GiB
of products: ``--without-products`` ends after sigma, and writes the catalogue alone. See README.md beside this file
for how to read the numbers.
"""

import argparse
import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from harness import machine

HERE = Path(__file__).resolve().parent

#: FWHM of the stars in pixels, boxes of the sky, threshold over the noise of the unsmoothed image, rings of growth,
#: sides of cutouts and stamps: the same for all.
FWHM, BOX, N_SIGMA, RINGS, CUT, STAMP = 3.0, 64, 0.7, 50, 101, 31
N_TARGETS, N_STARS = 1000, 300
#: Rows of a plain FITS file lie one after the other: chunks of whole rows are read and written in one piece each.
CHUNK_PIXELS = 2**22


def chunks_of(size):
    """Give the shape of the chunks of a mosaic."""
    return max(64, min(1024, CHUNK_PIXELS // size)), size


# Time, memory and reads of each step ---------------------------------------------------------------------


class Steps(dict):
    """Seconds of the clock and of processors, blocks read, and seconds of each kind, of each step."""

    def __init__(self):
        from galprep_dask.io.fits_reader import FitsPlane

        self.reads, lock = [0], threading.Lock()

        def counted(method):
            def count(plane, *arguments):
                with lock:
                    self.reads[0] += 1
                return method(plane, *arguments)

            return count

        FitsPlane._read, FitsPlane.windows = counted(FitsPlane._read), counted(FitsPlane.windows)
        self.spent = {}

    @contextmanager
    def __call__(self, name):
        """Take what happens in the block for a step of this name."""
        begin, core, reads = time.perf_counter(), time.process_time(), self.reads[0]
        self.spent.clear()
        yield
        self[name] = time.perf_counter() - begin, time.process_time() - core, self.reads[0] - reads, dict(self.spent)


#: What the processor time of a step goes into: the functions that do it, where they are called.
KINDS = {
    "reading": [("io.fits_reader", "FitsPlane._read"), ("io.fits_reader", "FitsPlane.windows")],
    "boxes of the sky": [("sky.mesh", "boxes_of_block"), ("sky.mesh", "join_boxes")],
    "subtracting": [("sky.mesh", "subtract_spline")],
    "smoothing": [("segmentation.smooth", "smooth_window")],
    "labelling": [("segmentation.detect", "_segmented"), ("segmentation.detect", "segment_runs"),
                  ("segmentation.detect", "merge_sources"), ("segmentation.detect", "_paint"),
                  ("masks.growth", "runs_of")],
    "sums of sources": [("segmentation.detect", "measure_runs")],
    "rings": [("masks.growth", "measure_rings"), ("masks.growth", "merge_rings")],
    "growing": [("masks.growth", "fill_growth")],
    "sigma": [("noise.sigma", "sigma_of_block"), ("noise.calibration", "pulls_of_block")],
    "writing": [("io.fits_writer", "_Region.__setitem__"), ("io.fits_writer", "_allocate")],
}  # fmt: skip


class Timed:
    """A function that adds the processor time of its thread to what ``spent`` says under ``kind``."""

    def __init__(self, function, kind, spent):
        self.function, self.kind, self.spent = function, kind, spent

    def __call__(self, *args, **kwargs):
        """Call the function."""
        begin = time.thread_time()
        try:
            return self.function(*args, **kwargs)
        finally:
            with LOCK:
                self.spent[self.kind] = self.spent.get(self.kind, 0.0) + time.thread_time() - begin

    def __get__(self, owner, kind=None):
        return self if owner is None else partial(self, owner)

    def __dask_tokenize__(self):
        return self.function.__qualname__


LOCK = threading.Lock()


def time_kinds(spent):
    """Put a watch on the functions of ``KINDS``, in this process."""
    for kind, functions in KINDS.items():
        for module, name in functions:
            owner = importlib.import_module(f"galprep_dask.{module}")
            *outer, name = name.split(".")
            for part in outer:
                owner = getattr(owner, part)
            setattr(owner, name, Timed(getattr(owner, name), kind, spent))


# galprep-dask ----------------------------------------------------------------------------------------------


def write_cutout(k, cut, *, folder, psf):
    """Write one target, with all that is not its own segment masked."""
    from galprep_dask.cutouts import write_product

    labels = cut["segmentation"].values
    others = (labels != 0) & (labels != labels[CUT // 2, CUT // 2])
    write_product(folder / f"{k:04d}.fits", cut.drop_vars("segmentation"), mask=cut["mask"] | others, psf=psf)


def ours(path, out, step, products=True):
    """Take the mosaic through every step with the package's public functions, or through those before the products."""
    import galprep_dask as gp
    from galprep_dask import cutouts, masks, noise, psf, segmentation

    with step("sky"):
        image = gp.open_image(path)
        chunks = chunks_of(image["data"].shape[1])
        image = gp.open_image(path, chunks=chunks)
        sky = image.galprep.fit_mesh_sky(box_size=BOX)
        flat = image.galprep.subtract_sky(sky)
    with step("detection, catalogue"):
        smoothed = flat.galprep.smooth(FWHM)
        found = segmentation.detect_sources(smoothed, N_SIGMA * sky.rms, 5, measure=flat["data"])
        catalog = flat.galprep.source_catalog(found)
        segmentation.write_catalog(catalog, out / "sources.parquet")
    with step("growth"):
        grown = masks.grow_segmentation(
            found, flat["data"].data, sky_level=0.0, sky_std=sky.rms, max_grow_size=RINGS
        )
    if products:
        with step("stars"):
            stars = psf.select_stars(
                flat["data"], found, catalog, sky_std=sky.rms, max_stars=N_STARS, header=flat.galprep.header
            )
            segmentation.write_catalog(stars, out / "stars.parquet")
    else:
        with step("sigma and its check"):
            noise.with_sigma(flat, grown > 0, sky_std=sky.rms)
        return {"sources": len(catalog), "stars": 0, "cutouts": 0}
    with step("sigma, its check, mosaic"):
        flat["segmentation"] = ("y", "x"), grown
        noise.write_with_sigma(flat, out / "prepared.fits", grown > 0, sky_std=sky.rms)
        prepared = gp.open_image(out / "prepared.fits", chunks=chunks)
    with step("PSF"):
        found = psf.star_stamps(prepared["data"], stars, STAMP, segmentation=prepared["segmentation"].data)
        gain = prepared.attrs["gain"] * prepared.attrs["exptime"]
        model = psf.fit_psf(found.stamps, mask=found.mask, sky_std=sky.rms, gain=gain)
        model.to_fits(out / "psf.fits")
    with step("cutouts"):
        ra, dec = targets(catalog, stars)
        (out / "cutouts").mkdir()
        sink = partial(write_cutout, folder=out / "cutouts", psf=model.image.astype(np.float32))
        _, table = cutouts.cutout_many(prepared, ra, dec, CUT, sink=sink)
    return {"sources": len(catalog), "stars": int(stars["used"].sum()), "cutouts": int(table["cut"].sum())}


def targets(catalog, stars):
    """Give positions of the brightest sources that are no stars, each once."""
    galaxies = catalog[~np.isin(catalog["label"], stars["label"][stars["used"]])]
    brightest = np.argsort(-np.asarray(galaxies["segment_flux"]), kind="stable")[:N_TARGETS]
    sky = galaxies["sky_centroid"][brightest]
    return sky.ra.deg, sky.dec.deg


def child(path, out, workers, warm, products=True):
    """Run the steps in a process of its own, which prints what it measured."""
    import dask

    path, out = Path(path), Path(out)
    step = Steps()
    dask.config.set(scheduler="threads", num_workers=2)
    if not workers:
        time_kinds(step.spent)
    if warm:  # compilers and imports are not what is measured
        warm_up = Path(tempfile.mkdtemp(dir=out.parent))
        ours(warm, warm_up, step)
        shutil.rmtree(warm_up)
        step.clear()
    print("ready", flush=True)
    sys.stdin.readline()
    if workers:
        from distributed import Client, LocalCluster

        with LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster):
            told = ours(path, out, step, products)
    else:
        told = ours(path, out, step, products)
    print(json.dumps({"steps": step, **told}))


# photutils and astropy, all in memory ------------------------------------------------------------------------


def peers(path, out, step):
    """Take the mosaic through the same steps in photutils, astropy and NumPy."""
    import warnings

    from astropy.convolution import convolve
    from astropy.io import fits
    from astropy.nddata import Cutout2D, NDData
    from astropy.table import Table
    from astropy.utils.exceptions import AstropyWarning
    from astropy.wcs import WCS
    from photutils.background import Background2D
    from photutils.psf import EPSFBuilder, extract_stars
    from photutils.segmentation import SourceCatalog, detect_sources

    from galprep_dask.segmentation._kernels.smooth import gaussian_weights

    warnings.simplefilter("ignore", AstropyWarning)
    with step("sky"):
        image, header = fits.getdata(path, header=True)
        image = image.astype(np.float32)
        wcs = WCS(header)
        sky = Background2D(image, BOX)
        image -= sky.background.astype(np.float32)
        rms = sky.background_rms_median
        del sky
    with step("detection, catalogue"):
        weights = gaussian_weights(FWHM)
        found = detect_sources(convolve(image, np.outer(weights, weights)), N_SIGMA * rms, 5)
        catalog = SourceCatalog(image, found, wcs=wcs).to_table()
        catalog.write(out / "sources.ecsv")
    with step("growth"):  # a fixed radius: photutils knows no growth that looks at the pixels
        from photutils.utils import circular_footprint

        mask = found.make_source_mask(footprint=circular_footprint(5))
    with step("sigma and its check"):
        sigma = np.sqrt(np.maximum(image, 0) / (header["GAIN"] * header["EXPTIME"]) + rms**2)
        np.std((image / sigma)[~mask])
    with step("prepared mosaic"):
        planes = [fits.PrimaryHDU(image, header), fits.ImageHDU(mask.astype("u1")), fits.ImageHDU(sigma),
                  fits.ImageHDU(found.data)]  # fmt: skip
        fits.HDUList(planes).writeto(out / "prepared.fits")
    with step("stars"):
        flux, size = np.asarray(catalog["segment_flux"]), np.asarray(catalog["semimajor_axis"])
        sharp = (size < 1.2 * np.median(size[flux > np.quantile(flux, 0.7)])) & (flux > 50 * rms * 5)
        chosen = catalog[sharp][np.argsort(-flux[sharp])[:N_STARS]]
        positions = Table({"x": chosen["x_centroid"], "y": chosen["y_centroid"]})
        stars = extract_stars(NDData(image), positions, size=STAMP)
    with step("PSF"):
        model, _ = EPSFBuilder(oversampling=1, maxiters=3, progress_bar=False)(stars)
        fits.writeto(out / "psf.fits", np.asarray(model.data))
    with step("cutouts"):
        (out / "cutouts").mkdir()
        at = catalog["sky_centroid"][np.argsort(-flux)[:N_TARGETS]]
        psf = np.asarray(model.data, np.float32)
        for k, place in enumerate(at):
            cut = Cutout2D(image, place, CUT, wcs=wcs, mode="partial")
            labels = Cutout2D(found.data, place, CUT, wcs=wcs, mode="partial", fill_value=0).data
            others = (labels != 0) & (labels != labels[CUT // 2, CUT // 2])
            error = Cutout2D(sigma, place, CUT, wcs=wcs, mode="partial").data
            hdus = [fits.PrimaryHDU(cut.data, cut.wcs.to_header()), fits.ImageHDU(others.astype("u1")),
                    fits.ImageHDU(error), fits.ImageHDU(psf)]  # fmt: skip
            fits.HDUList(hdus).writeto(out / "cutouts" / f"{k:04d}.fits")
    return {"sources": len(catalog), "stars": len(stars), "cutouts": len(at)}


def peer_child(path, out):
    """Run the peers' steps as :func:`child` runs ours."""
    step = Steps()
    print("ready", flush=True)
    sys.stdin.readline()
    told = peers(Path(path), Path(out), step)
    print(json.dumps({"steps": step, **told}))


# Measured from outside ---------------------------------------------------------------------------------------


def resident(pid):
    """MiB that a process and all that it started hold: all pages, and those that belong to no file."""
    total = private = 0.0
    waiting = [pid]
    while waiting:
        at = waiting.pop()
        try:
            status = Path(f"/proc/{at}/status").read_text()
            waiting += map(int, Path(f"/proc/{at}/task/{at}/children").read_text().split())
            for task in Path(f"/proc/{at}/task").iterdir():
                if task.name != str(at):
                    waiting += map(int, (task / "children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
        kib = {line.split(":")[0]: line.split()[1] for line in status.splitlines() if line.startswith(("VmRSS", "Rss"))}
        total += int(kib.get("VmRSS", 0)) / 1024
        private += int(kib.get("RssAnon", 0)) / 1024
    return total, private


def run(call):
    """Run code in a fresh process; give what it printed, its clock, and its memory before and at its peak."""
    command = [sys.executable, "-c", f"import bench_end_to_end as bench; bench.{call}"]
    process = subprocess.Popen(command, cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    if process.stdout.readline().strip() != "ready":
        sys.exit(process.wait() or 1)
    base, peak, private = resident(process.pid)[0], 0.0, 0.0
    begin = time.perf_counter()
    process.stdin.write("\n")
    process.stdin.flush()
    while process.poll() is None:
        now = resident(process.pid)
        peak, private = max(peak, now[0]), max(private, now[1])
        time.sleep(0.05)
    if process.returncode:
        sys.exit(process.returncode)
    told = json.loads(process.stdout.read().splitlines()[-1])
    return told | {"seconds": time.perf_counter() - begin, "base": base, "peak": peak, "private": private}


def make_mosaic(path, size):
    """Write the image in another process: what a process maps counts as the peak of those that it starts."""
    code = f"import bench_end_to_end as bench; bench.write_mosaic({str(path)!r}, {size})"
    subprocess.run([sys.executable, "-c", code], cwd=HERE, check=True)


def write_mosaic(path, size, tile=2048):
    """Write a simulated tile over and over, on a sky that slopes over the whole mosaic, a tile at a time."""
    from astropy.io import fits

    from galprep_dask.demo.mosaic import simulate_mosaic

    tile = min(tile, size)
    simulated, truth = simulate_mosaic((tile, tile), chunks=1024, defects=False)
    pixels = simulated["data"].data - truth.sky(1024) + truth.sky_coefficients[0][0]
    pixels = pixels.astype("f4").compute(scheduler="threads")
    header = fits.Header([("SIMPLE", True), ("BITPIX", -32), ("NAXIS", 2), ("NAXIS1", size), ("NAXIS2", size)])
    header.update(simulated.galprep.header)
    header.update(CRPIX1=(size + 1) / 2, CRPIX2=(size + 1) / 2)
    head = header.tostring().encode()
    slope = np.linspace(0, 0.2, size, dtype="f4")
    with open(path, "wb") as file:
        file.write(head)
        for y0 in range(0, size, tile):
            for y in range(min(tile, size - y0)):
                row = np.resize(pixels[y], size) + slope + slope[y0 + y]
                file.write(row.astype(">f4").tobytes())
        file.write(bytes(-file.tell() % 2880))


def evict(path):
    """Take a file out of the system's memory."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def read_and_write(path, out, passing):
    """
    Seconds to read the mosaic once from the disk, and to write as many files of as many bytes as were made.

    If they pass, what was written goes to the disk at once and out of memory soon after; if not, the system holds
    what it can. Either way the clock stops when all large files are on the disk.
    """
    evict(path)
    begin = time.perf_counter()
    with open(path, "rb", buffering=0) as file:
        while file.read(2**24):
            pass
    reading = time.perf_counter() - begin
    sizes = [made.stat().st_size for made in out.rglob("*") if made.is_file()]
    piece = os.urandom(2**24)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        begin = time.perf_counter()
        for n, size in enumerate(sizes):
            with open(f"{folder}/{n}", "wb", buffering=0) as file:
                for start in range(0, size, len(piece)):
                    file.write(piece[: size - start])
                    for far in (1, 8) if passing else ():
                        behind = start - far * len(piece)
                        if behind >= 0:
                            os.posix_fadvise(file.fileno(), behind, len(piece), os.POSIX_FADV_DONTNEED)
                if size > len(piece):
                    os.fsync(file.fileno())
        writing = time.perf_counter() - begin
    return reading, writing, sum(sizes)


def report(size, path, out, *, workers=0, warm=None, first=None, products=True):
    """Run ours on one mosaic and print the table."""
    evict(path)
    told = run(f"child({str(path)!r}, {str(out)!r}, {workers}, {warm and str(warm)!r}, {products})")
    plain = [read_and_write(path, out, passing) for passing in (False, True)]
    how = f"{workers} worker processes" if workers else "two threads"
    n_chunks = -(-size // chunks_of(size)[0])
    seconds = told["seconds"]
    print(f"\n{size} x {size} float32 ({4 * size**2 / 2**20:.0f} MiB), {how}: {told['sources']} sources, "
          f"{told['stars']} stars, {told['cutouts']} cutout files")  # fmt: skip
    total = {}
    for name, (taken, core, reads, spent) in told["steps"].items():
        print(f"  {name:24s} {taken:7.2f} s, {core:7.2f} s of processors {size**2 / taken / 1e6:7.1f} Mpix/s"
              + (f"   {reads / n_chunks:5.2f} reads a chunk" if reads else ""))  # fmt: skip
        if not workers:
            spent["else"] = core - sum(spent.values())
            print("      " + ", ".join(f"{kind} {core:.2f}" for kind, core in spent.items() if core >= 0.005))
        for kind, core in spent.items():
            total[kind] = total.get(kind, 0.0) + core
    per_pixel = "" if first is None else f"; time a pixel {seconds / size**2 / first:4.2f} x that of the first size"
    print(f"  {'all':24s} {seconds:7.2f} s {size**2 / seconds / 1e6:30.1f} Mpix/s{per_pixel}")
    if total:
        share = sorted(total.items(), key=lambda pair: -pair[1])
        print(f"  {'where it goes':24s} {sum(total.values()):7.2f} s of processors: "
              + ", ".join(f"{kind} {core:.2f}" for kind, core in share))  # fmt: skip
    for memory, (reading, writing, n_bytes) in zip(("stays in memory", "passes through it"), plain, strict=True):
        print(f"  {'read once, write once':24s} {reading:7.2f} s + {writing:.2f} s for {n_bytes / 2**20:.0f} MiB, "
              f"which {memory}: all takes {seconds / (reading + writing):4.2f} x that")  # fmt: skip
    print(f"  {'peak of all processes':24s} {told['peak']:7.0f} MiB, {told['peak'] - told['base']:.0f} beyond the "
          f"imports; {told['private']:.0f} but for mapped files", flush=True)  # fmt: skip
    return seconds / size**2


def report_peers(size, path, out, per_pixel):
    """Run the peers on one mosaic, and print the table beside our time per pixel on mosaics of several sides."""
    told = run(f"peer_child({str(path)!r}, {str(out)!r})")
    print(f"\n{size} x {size} in photutils and astropy, in memory: {told['sources']} sources, {told['stars']} stars, "
          f"{told['cutouts']} cutout files")  # fmt: skip
    for name, (taken, core, *_) in told["steps"].items():
        print(f"  {name:24s} {taken:7.2f} s, {core:7.2f} s of processors {size**2 / taken / 1e6:7.1f} Mpix/s")
    without = told["seconds"] - told["steps"]["PSF"][0]
    for name, seconds in (("all", told["seconds"]), ("all but the PSF", without)):
        beside = ", ".join(f"{seconds / size**2 / ours:5.2f} x at {side}" for side, ours in per_pixel.items())
        print(f"  {name:24s} {seconds:7.2f} s {size**2 / seconds / 1e6:30.1f} Mpix/s; our time a pixel: {beside}")
    print(f"  {'peak':24s} {told['peak']:7.0f} MiB, {told['peak'] - told['base']:.0f} beyond the imports", flush=True)


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.file_digest(path.open("rb"), "sha256").hexdigest()
        for path in sorted(folder.rglob("*")) if path.is_file()
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--size", type=int, nargs="+", default=[4096, 8192], help="sides of the mosaics in pixels")
    parser.add_argument("--peer", type=int, default=0, help="side of the mosaic for photutils and astropy")
    parser.add_argument("--workers", type=int, default=0, help="run the first size on worker processes, too")
    parser.add_argument("--without-products", action="store_true", help="end before the prepared mosaic")
    parser.add_argument("--folder", help="where to write; a temporary folder by default")
    given = parser.parse_args()
    print(machine())
    per_pixel = {}
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        folder = Path(folder)
        warm = folder / "small.fits"
        make_mosaic(warm, 1024)
        for size in dict.fromkeys([*given.size, *([given.peer] if given.peer else [])]):
            path, out = folder / f"mosaic-{size}.fits", folder / "products"
            make_mosaic(path, size)
            out.mkdir()
            first = next(iter(per_pixel.values()), None)
            per_pixel[size] = report(size, path, out, warm=warm, first=first, products=not given.without_products)
            if given.workers and first is None:
                made = digests(out)
                shutil.rmtree(out)
                out.mkdir()
                report(size, path, out, workers=given.workers, warm=warm, products=not given.without_products)
                different = [name for name, digest in digests(out).items() if made.get(name) != digest]
                print(f"  products beside those of threads: {len(made)} files, {len(different)} differ {different[:3]}")
            shutil.rmtree(out)
            path.unlink()
        if given.peer:
            make_mosaic(path, given.peer)
            out.mkdir()
            report_peers(given.peer, path, out, per_pixel)


if __name__ == "__main__":
    main()
