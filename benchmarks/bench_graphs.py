"""
Graphs: tasks per chunk in every stage, their size, and how long 10^4 chunks take to build.

Run ``python benchmarks/bench_graphs.py [--side N ...] [--stage NAME ...]``. Chunks are 16 x 16 pixels, so that 10^4
of them are computed in seconds: what is counted here does not depend on how many pixels are in them. See README.md
beside this file for how to read the table.
"""

import argparse
import pickle
import tempfile
import time
import warnings
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import cloudpickle
import dask
import numpy as np
from astropy.table import Table
from harness import machine

from galprep_dask import open_image, write_image
from galprep_dask.blockwise import keep, keep_mask
from galprep_dask.cutouts import cutout_many, extract_stamps
from galprep_dask.demo.mosaic import simulate_mosaic
from galprep_dask.masks import combine_masks, ellipse_mask, grow_mask
from galprep_dask.noise import check_sigma, correlation_factor
from galprep_dask.psf import select_stars, star_stamps
from galprep_dask.segmentation import (
    deblend_sources,
    detect_sources,
    read_segmentation,
    smooth,
    source_catalog,
    write_segmentation,
)
from galprep_dask.sky import (
    compare_sky_models,
    fit_mesh_sky,
    fit_piecewise_sky,
    fit_polynomial_sky,
    fit_sky_between_sources,
    source_mask,
)
from galprep_dask.stats import sigma_clipped_stats

CHUNK = 16
BOX = CHUNK // 2  # boxes are smaller than chunks, as they are in an image that is taken apart in earnest
NEAR = CHUNK // 8  # and growth ends in the next one
FWHM = 3.0


class Counted:
    """Count the graphs that are computed, and the processor time that this thread takes between them."""

    def __init__(self):
        self.passes, self.seconds, self.longest = [], 0.0, 0.0

    def __enter__(self):
        self._config = dask.config.set(scheduler=self._get)
        self._config.__enter__()
        self._since = time.thread_time()
        return self

    def __exit__(self, *args):
        self.seconds += time.thread_time() - self._since
        self._config.__exit__(*args)

    def _get(self, graph, keys, **kwargs):
        took = time.thread_time() - self._since
        sent = len(cloudpickle.dumps(graph, protocol=pickle.HIGHEST_PROTOCOL))
        start = time.thread_time()
        tasks = dict(graph.__dask_graph__()) if hasattr(graph, "__dask_graph__") else dict(graph)
        took += time.thread_time() - start  # on a cluster the scheduler does this
        self.seconds += took
        self.longest = max(self.longest, took)
        self.passes.append((len(tasks), sent))
        result = dask.threaded.get(tasks, keys, **kwargs)
        self._since = time.thread_time()
        return result


def prepare(folder, side):
    """Write an image with sky and sources, its sky-subtracted image and its segmentation."""
    some = {"n_stars": side**2 // 8, "n_galaxies": side**2 // 16, "defects": False}
    simulated, truth = simulate_mosaic((side * CHUNK,) * 2, chunks=2048, pixel_scale=0.3, fwhm=FWHM * 0.3, **some)
    write_image(simulated, folder / "mosaic.fits")
    image = open_image(folder / "mosaic.fits", chunks=2048)
    model, masked = fit_sky_between_sources(image["data"], fit=fit_polynomial_sky, fwhm=FWHM)
    bad = np.random.default_rng(0).uniform(size=image["data"].shape) < 0.002
    flat = image.galprep.subtract_sky(model).assign(mask=(("y", "x"), bad))
    write_image(flat.galprep.with_sigma(masked), folder / "flat.fits")
    found = detect_sources(smooth(flat["data"], FWHM), 3 * truth.sky_std, mask=flat["mask"])
    write_segmentation(found, folder / "segmentation.fits")
    return truth


def stages(folder, side, truth):
    """Give each stage by its name: what is to be done, from files."""
    mosaic = open_image(folder / "mosaic.fits", chunks=CHUNK)
    flat = open_image(folder / "flat.fits", chunks=CHUNK)
    data, mask, sigma = flat["data"], flat["mask"], flat["sigma"]
    labels = read_segmentation(folder / "segmentation.fits", chunks=CHUNK)
    masked = mask.data | (labels.data > 0)
    std = truth.sky_std
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, side * CHUNK - 1, (2, side**2))
    targets = mosaic.galprep.wcs.all_pix2world(x, y, 0)
    stars = Table({"x": x[::10], "y": y[::10]})
    new = partial(Path, tempfile.mkdtemp(dir=folder))
    search = {"fwhm": FWHM, "max_grow_size": NEAR}
    between = partial(fit_sky_between_sources, fit=fit_polynomial_sky, rounds=2, **search)  # more are the same again
    grow = partial(grow_mask, sky_level=0.0, sky_std=std, max_grow_size=NEAR)

    def chain():
        model, masked = between(mosaic["data"])
        image = mosaic.galprep.subtract_sky(model)
        found = detect_sources(smooth(image["data"], FWHM), 3 * std, measure=image["data"])
        source_catalog(image["data"], found)
        grown = grow(found, image["data"])
        image = image.assign(mask=(("y", "x"), combine_masks(grown, masked).data)).galprep.with_sigma(grown)
        image = image.assign(segmentation=(("y", "x"), found.data))
        cutout_many(image, *targets, 9, sink=nothing)

    return {
        "read": lambda: keep(data.data),
        "clipped statistics": lambda: sigma_clipped_stats(data, masked),
        "source mask": lambda: source_mask(mosaic["data"].data, **search),
        "polynomial sky": lambda: fit_polynomial_sky(mosaic["data"], masked),
        "piecewise sky": lambda: fit_piecewise_sky(mosaic["data"], masked, piece_size=4 * CHUNK),
        "mesh sky": lambda: fit_mesh_sky(mosaic["data"], masked, box_size=BOX),
        "sky models compared": lambda: compare_sky_models(mosaic["data"], masked),
        "sky between sources": lambda: between(mosaic["data"]),
        "smooth, detect, measure": lambda: detect_sources(smooth(data, FWHM, mask), 3 * std, mask=mask, measure=data),
        "label image": lambda: write_segmentation(
            detect_sources(smooth(data, FWHM, mask), 3 * std, mask=mask), new("labels.fits")
        ),
        "deblend": lambda: write_segmentation(
            deblend_sources(smooth(data, FWHM), labels, mask=mask), new("children.fits")
        ),
        "catalogue": lambda: source_catalog(data, labels, mask=mask),
        "growth": lambda: keep_mask(grow(labels, data.data, mask=mask)),
        "ellipses": lambda: keep_mask(ellipse_mask(labels, data.data)),
        "sigma": lambda: flat.drop_vars("sigma").galprep.with_sigma(masked),
        "sigma checked": lambda: check_sigma(data, sigma, masked, box_size=BOX),
        "correlated noise": lambda: correlation_factor(data, masked, block_size=4),
        "image to FITS": lambda: write_image(flat, new("flat.fits")),
        "image to Zarr": lambda: write_image(flat[["data"]], new("flat.zarr")),
        "image to compressed FITS": lambda: write_image(flat[["data"]], new("packed.fits"), compression="GZIP_2"),
        "cutouts": lambda: cutout_many(flat, *targets, 9, sink=nothing),
        "stamps": lambda: extract_stamps(data, x, y, 9).sum().compute(),
        "stars": lambda: select_stars(data, labels, mask=mask, sigma=sigma, fwhm=FWHM, size=9),
        "stamps of stars": lambda: star_stamps(data, stars, 9, segmentation=labels, mask=mask, sigma=sigma),
        "all of it, nothing kept": chain,
    }  # fmt: skip


def nothing(k, cut):
    """Do nothing with a cutout."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--side", type=int, nargs="+", default=[8, 32, 100], help="chunks along a side of the image")
    parser.add_argument("--stage", nargs="*", help="only these")
    arguments = parser.parse_args()
    print(machine())
    warnings.simplefilter("ignore")
    sides = arguments.side
    head = f"{'':26}passes{'tasks per chunk':>{8 * len(sides)}}{'bytes per chunk':>17}"
    print(head + f"{'CPU s to build: all, longest':>30}")
    print(f"{'chunks':32}" + "".join(f"{side**2:8}" for side in sides) + f"{sides[-1] ** 2:17}{sides[-1] ** 2:30}")
    with ExitStack() as stack:
        prepared = []
        for side in sides:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            prepared.append(stages(folder, side, prepare(folder, side)))
        for stage in arguments.stage or prepared[0]:
            row = f"{stage:26}"
            for n, (side, work) in enumerate(zip(sides, prepared, strict=True)):
                with Counted() as counted:
                    work[stage]()
                tasks, sent = np.array(counted.passes).T / side**2
                row += f"{len(tasks):6}" * (n == 0) + f"{tasks.max():8.2f}"
            print(f"{row}{sent.max():17.0f}{counted.seconds:19.2f}{counted.longest:11.2f}", flush=True)


if __name__ == "__main__":
    main()
