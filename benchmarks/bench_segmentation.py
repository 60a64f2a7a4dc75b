"""
Detection and catalogue: pixels per second as a ratio to scipy, SEP and photutils, and peak memory.

Run ``python benchmarks/bench_segmentation.py [--size N] [--large N] [--repeats R] [--folder DIR]``, or with
``--all-at-once N ...`` for growth as well, on files of these sides. Every number is taken in a process of its
own, and ratios are between numbers of the same run. A side of 32768 writes a file of 4 GiB to the folder, and removes
it. See README.md beside this file for how to read the numbers.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from astropy.io import fits
from harness import machine

#: Full width at half maximum of the smoothing Gaussian, in pixels, and threshold in units of the unsmoothed noise.
FWHM, N_SIGMA = 3.0, 0.5

PREPARE = """
import resource, sys, time
from pathlib import Path
import numpy as np
path, fwhm, n_sigma, threads = sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
def peak_of_children():
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
"""

OURS = """
import dask, galprep_dask
from galprep_dask.segmentation import detect_sources, smooth, source_catalog
dask.config.set(scheduler="threads", num_workers=threads)
def measured(image):
    sky = image.galprep.fit_mesh_sky(box_size=64)
    flat = image.galprep.subtract_sky(sky)
    smoothed = flat.galprep.smooth(fwhm)
    found = detect_sources(smoothed, n_sigma * sky.rms, 5, measure=flat["data"])
    return flat.galprep.source_catalog(found, wcs=None)
measured(galprep_dask.open_image(np.random.default_rng(0).standard_normal((256, 256), dtype="f4")))
"""

SEP = """
import sep
from astropy.io import fits
from galprep_dask.segmentation._kernels.smooth import gaussian_weights
sep.set_extract_pixstack(2 * 10**7)
sep.set_sub_object_limit(10**6)
weights = gaussian_weights(fwhm)
"""

SEP_RUN = """
image = fits.getdata(path).astype(np.float32)
sky = sep.Background(image, bw=64, bh=64, fw=3, fh=3)
sky.subfrom(image)
result = sep.extract(image, {n_sigma} * sky.globalrms, minarea=5, filter_kernel={kernel}, filter_type="conv",
                     deblend_cont=1.0, clean=False)
"""

PHOTUTILS = """
import warnings
from astropy.io import fits
from astropy.convolution import convolve
from photutils.background import Background2D
from photutils.segmentation import SourceCatalog, detect_sources
from galprep_dask.segmentation._kernels.smooth import gaussian_weights
weights = gaussian_weights(fwhm)
columns = ["label", "x_centroid", "y_centroid", "bbox_xmin", "bbox_xmax", "bbox_ymin", "bbox_ymax", "area",
           "semimajor_axis", "semiminor_axis", "orientation", "eccentricity", "ellipticity", "elongation", "fwhm",
           "min_value", "max_value", "segment_flux"]
"""

PHOTUTILS_RUN = """
image = fits.getdata(path).astype(np.float32)
sky = Background2D(image, 64)
image = image - sky.background
found = detect_sources(convolve(image, np.outer(weights, weights)), n_sigma * sky.background_rms_median, 5)
result = SourceCatalog(image, found).to_table(columns=columns)
"""

SEXTRACTOR = """
import subprocess, tempfile
from galprep_dask.segmentation._kernels.smooth import gaussian_weights
folder = Path(tempfile.mkdtemp())
weights = gaussian_weights(fwhm)
rows = [" ".join(f"{value:.9g}" for value in row) for row in np.outer(weights, weights)]
(folder / "own.conv").write_text("\\n".join(["CONV NORM", *rows, ""]))
wanted = ["NUMBER", "X_IMAGE", "Y_IMAGE", "A_IMAGE", "B_IMAGE", "THETA_IMAGE", "FLUX_ISO", "ISOAREA_IMAGE"]
(folder / "own.param").write_text("\\n".join(wanted) + "\\n")
settings = dict(CATALOG_NAME=folder / "found.cat", PARAMETERS_NAME=folder / "own.param",
                FILTER_NAME=folder / "own.conv", DETECT_THRESH=n_sigma, ANALYSIS_THRESH=n_sigma, DETECT_MINAREA=5,
                DEBLEND_MINCONT=1, CLEAN="N", BACK_SIZE=64, MEMORY_PIXSTACK=10_000_000, MEMORY_OBJSTACK=60_000,
                VERBOSE_TYPE="QUIET", NTHREADS=1)
command = ["source-extractor", path, "-c", "/dev/null"]
command += [str(part) for name, value in settings.items() for part in (f"-{name}", value)]
"""

SEXTRACTOR_RUN = """
subprocess.run(command, check=True)
result = [line for line in open(folder / "found.cat") if not line.startswith("#")]
base = peak() - peak_of_children()
"""

START = """
base, start = peak(), time.perf_counter()
"""

FINISH = """
print(time.perf_counter() - start, peak() - base, len(result))
"""

#: Name: what to import before the clock starts, the code, and the number of threads.
PIPELINES = {
    "galprep-dask, two threads": (OURS, "result = measured(galprep_dask.open_image(path))", 2),
    "galprep-dask, one thread": (OURS, "result = measured(galprep_dask.open_image(path))", 1),
    "SEP": (SEP, SEP_RUN.format(kernel="np.outer(weights, weights)", n_sigma="n_sigma"), 1),
    "SEP, 3 x 3 kernel, 1.5 sigma": (
        SEP,
        SEP_RUN.format(kernel="np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1.]])", n_sigma=1.5),
        1,
    ),
    "SExtractor": (SEXTRACTOR, SEXTRACTOR_RUN, 1),
}

LABELLING = """
from scipy import ndimage
from galprep_dask.segmentation._kernels.label import components_of, paint, runs_above
size = 4096
rng = np.random.default_rng(0)
image = ndimage.gaussian_filter(rng.standard_normal((size, size)), 1.3)
image /= image.std()
for y, x in rng.integers(0, size - 11, (20_000, 2)):
    image[y : y + 11, x : x + 11] += 20 * np.exp(-np.add.outer(np.arange(-5, 6) ** 2, np.arange(-5, 6) ** 2) / 6)
above = image > 2.5
def found(connectivity):
    runs = runs_above(image, 2.5, None)
    return runs, components_of(runs, size, connectivity, 5, (False,) * 4)
found(8)
runs, components = found(4)
paint(runs, components.of_run, np.arange(len(components.area), dtype=np.int32), image.shape)
"""

#: On one 4096 x 4096 block, in one thread.
BLOCK = {
    "scipy.ndimage.label alone": "result = ndimage.label(above, np.ones((3, 3)))",
    "scipy, threshold and areas": "result = np.bincount(ndimage.label(image > 2.5, np.ones((3, 3)))[0].ravel())",
    "threshold, components, areas": "result = found(8)[1].area",
    "and the label image": (
        "runs, result = found(8); "
        "paint(runs, result.of_run, np.arange(len(result.area), dtype=np.int32), image.shape)"
    ),
}  # fmt: skip

DASK_IMAGE = """
import dask.array as da
from dask_image import ndmeasure
"""

GRAPH = """
import dask.array as da
from galprep_dask import blockwise
from galprep_dask.blockwise import objects_of_blocks
from galprep_dask.segmentation import detect, smooth, source_catalog
class Built(Exception):
    pass
def stop(*args, **kwargs):
    result = objects_of_blocks(*args, **kwargs)
    result.__dask_optimize__(result.__dask_graph__(), result.__dask_keys__())
    raise Built
blockwise.objects_of_blocks = stop
"""

GRAPH_RUN = """
image = da.zeros((32 * 2048, 32 * 2048), chunks=2048, dtype="f4")
try:
    detect.detect_sources(smooth(image, fwhm), 1.0, measure=image)
except Built:
    result = []
"""


#: One file segmented, catalogued and grown. What is grown is made block by block, counted and given up.
ALL_AT_ONCE = """
from galprep_dask.masks import grow_segmentation
def count(grown):
    return np.array([[np.count_nonzero(grown)]])
def all_at_once(image):
    sky = image.galprep.fit_mesh_sky(box_size=64)
    flat = image.galprep.subtract_sky(sky)
    found = detect_sources(flat.galprep.smooth(fwhm), n_sigma * sky.rms, 5, measure=flat["data"])
    catalog = flat.galprep.source_catalog(found, wcs=None)
    grown = grow_segmentation(found, flat["data"].data, sky_level=0.0, sky_std=sky.rms, max_grow_size=100)
    counts = grown.map_blocks(count, dtype=int, chunks=(1, 1), meta=np.empty((0, 0), int))
    return len(catalog), counts.compute().sum() / grown.size
all_at_once(galprep_dask.open_image(np.random.default_rng(0).standard_normal((256, 256), dtype="f4")))
base, start, core = peak(), time.perf_counter(), time.process_time()
n_sources, masked = all_at_once(galprep_dask.open_image(path))
print(time.perf_counter() - start, time.process_time() - core, peak() - base, n_sources, masked)
"""


def make_field(path, size):
    """Write the image in another process: what a process maps counts as the peak of those that it starts."""
    code = f"from bench_segmentation import write_field; write_field({str(path)!r}, {size})"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, check=True)


def write_field(path, size, tile=2048):
    """Write noise on a sloping sky with 1500 stars and galaxies a megapixel, a tile at a time."""
    header = fits.Header([("SIMPLE", True), ("BITPIX", -32), ("NAXIS", 2), ("NAXIS1", size), ("NAXIS2", size)])
    head = header.tostring().encode()
    with open(path, "wb") as file:
        file.write(head)
        file.truncate(len(head) + -(-4 * size * size // 2880) * 2880)
    y, x = np.mgrid[-15:16, -15:16].astype("f4")
    rng = np.random.default_rng(1)
    profiles = []
    for _ in range(32):
        ratio, angle, length = rng.uniform(0.4, 1), rng.uniform(0, np.pi), rng.uniform(1.5, 4)
        along, across = x * np.cos(angle) + y * np.sin(angle), (y * np.cos(angle) - x * np.sin(angle)) / ratio
        profiles += [np.exp(-1.2 * np.hypot(along, across) / length), np.exp(-(x**2 + y**2) / 4)]
    pixels = np.memmap(path, ">f4", "r+", len(head), (size, size))
    for y0, x0 in np.ndindex(-(-size // tile), -(-size // tile)):
        place = np.s_[y0 * tile : (y0 + 1) * tile, x0 * tile : (x0 + 1) * tile]
        shape = pixels[place].shape
        rng = np.random.default_rng([y0, x0])
        image = rng.standard_normal(shape, dtype="f4") + np.linspace(100, 105, shape[1], dtype="f4")
        n = image.size * 15 // 10_000
        corners = np.stack([rng.integers(0, side - 31, n) for side in shape], axis=1)
        fluxes = np.minimum(5 * (1 - rng.random(n)) ** (-1 / 1.2), 2000)
        for k, ((y, x), flux) in enumerate(zip(corners.tolist(), fluxes.tolist(), strict=True)):
            image[y : y + 31, x : x + 31] += np.float32(flux) * profiles[k % 64]
        pixels[place] = image
    pixels.flush()


def measure(before, code, path, threads, repeats):
    """Give the least seconds and the greatest MiB beyond imports of a few fresh processes, and the length found."""
    seconds, memory = [], []
    for _ in range(repeats):
        done = subprocess.run(
            [sys.executable, "-c", PREPARE + before + START + code + FINISH, str(path), str(FWHM), str(N_SIGMA),
             str(threads)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        taken, peak, found = map(float, done.stdout.split()[-3:])
        seconds.append(taken)
        memory.append(peak)
    return min(seconds), max(memory), int(found)


def report(title, results, n_pixels, reference):
    print(f"\n{title}; speed relative to: {reference}", flush=True)
    for name, (seconds, memory, found) in results.items():
        ratio = results[reference][0] / seconds
        print(
            f"  {name:32s} {ratio:6.2f}   {seconds:7.3f} s {n_pixels / seconds / 1e6:7.1f} Mpix/s"
            f"   peak {memory:6.0f} MiB" + (f"   {found} found" if found else ""),
            flush=True,
        )


def block(repeats):
    results = {name: measure(LABELLING, f"\n{code}; result = []", "", 1, repeats) for name, code in BLOCK.items()}
    if find_spec("dask_image"):
        code = "\nresult = ndmeasure.label(da.from_array(above, chunks=1024))[0].compute(scheduler='sync'); result = []"
        results["dask-image label"] = measure(LABELLING + DASK_IMAGE, code, "", 1, repeats)
    report("One block of 4096 x 4096, one thread", results, 4096**2, "scipy.ndimage.label alone")
    seconds, _, _ = measure(OURS + GRAPH, GRAPH_RUN, "", 1, repeats)
    print(f"\nGraph of smoothing and detection on 1024 chunks, built and optimised: {seconds:.2f} s")


def _is_there(before):
    if before == SEP:
        return find_spec("sep") is not None
    return before != SEXTRACTOR or shutil.which("source-extractor") is not None


def pipeline(size, folder, repeats, only=None):
    path = Path(folder) / f"field-{size}.fits"
    make_field(path, size)
    try:
        entries = {
            name: entry for name, entry in PIPELINES.items() if _is_there(entry[0]) and (only is None or name in only)
        }
        results = {
            name: measure(before, code, path, threads, repeats) for name, (before, code, threads) in entries.items()
        }
        reference = "SEP" if "SEP" in results else next(iter(results))
        report(f"File to catalogue, {size} x {size} float32", results, size**2, reference)
    finally:
        path.unlink()


def against_photutils(size, folder, repeats):
    path = Path(folder) / f"field-{size}.fits"
    make_field(path, size)
    try:
        before, code, threads = PIPELINES["galprep-dask, one thread"]
        results = {
            "photutils": measure(PHOTUTILS, PHOTUTILS_RUN, path, 1, repeats),
            "galprep-dask, one thread": measure(before, code, path, threads, repeats),
            "galprep-dask, two threads": measure(before, code, path, 2, repeats),
        }
        report(f"File to catalogue, {size} x {size} float32", results, size**2, "photutils")
    finally:
        path.unlink()


def grown_too(sizes, folder):
    print(
        "\nFile to catalogue and to segments grown by up to 100 rings, two threads; processor time per pixel relative\n"
        "to the first size, which other jobs disturb less than the clock's"
    )
    first = None
    for size in sizes:
        path = Path(folder) / f"field-{size}.fits"
        make_field(path, size)
        try:
            done = subprocess.run(
                [sys.executable, "-c", PREPARE + OURS + ALL_AT_ONCE, str(path), str(FWHM), str(N_SIGMA), "2"],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
        finally:
            path.unlink()
        seconds, core, peak, found, masked = map(float, done.stdout.split()[-5:])
        first = first or core / size**2
        print(
            f"  {size:6d}   {core / size**2 / first:4.2f}   {seconds:7.2f} s, {core:7.2f} s of processors"
            f"   peak {peak:5.0f} MiB of 2048   {found:.0f} sources, {100 * masked:.0f} % masked",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--size", type=int, default=8192, help="side of the image in pixels")
    parser.add_argument("--large", type=int, default=0, help="side of a further image, for peak memory")
    parser.add_argument("--large-peers", action="store_true", help="run the peers on the large image too")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where images are written")
    parser.add_argument("--all-at-once", type=int, nargs="+", metavar="N", help="sides of files to grow in too")
    given = parser.parse_args()
    print(machine())
    block(given.repeats)
    least = min(4096, given.size)
    against_photutils(least, given.folder, 1)
    for size in dict.fromkeys((least, given.size)):
        pipeline(size, given.folder, given.repeats)
    if given.large:
        ours = ["galprep-dask, two threads", "galprep-dask, one thread"]
        pipeline(given.large, given.folder, 1, None if given.large_peers else ours)
    if given.all_at_once:
        grown_too(given.all_at_once, given.folder)


if __name__ == "__main__":
    main()
