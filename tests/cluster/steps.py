"""Each step of the main job, from an image on disk: what it gives as arrays, and the files that it writes.

Tests compare what threads, workers and workers that die make of them.
"""

import hashlib
import os
import sys
from pathlib import Path

import cloudpickle
import dask
import numpy as np
from astropy.io import fits

from galprep_dask import open_image, write_image
from galprep_dask.cutouts import cutout_many, write_product
from galprep_dask.demo.mosaic import simulate_mosaic
from galprep_dask.masks import combine_masks, ellipse_mask, grow_mask
from galprep_dask.noise import check_sigma, correlation_factor
from galprep_dask.psf import fit_psf, select_stars, star_stamps
from galprep_dask.segmentation import (
    deblend_sources,
    detect_sources,
    read_segmentation,
    smooth,
    source_catalog,
    write_segmentation,
)
from galprep_dask.sky import fit_mesh_sky, fit_piecewise_sky, fit_polynomial_sky, fit_sky_between_sources
from galprep_dask.stats import sigma_clipped_stats

__all__ = ["Job", "digest", "make_mosaic", "writer"]

FWHM = 3.0


def make_mosaic(path, shape=(400, 500)):
    """Write a mosaic of stars and galaxies; give its targets' coordinates."""
    ny, nx = shape
    image, _ = simulate_mosaic(shape, n_stars=ny * nx // 6000, n_galaxies=ny * nx // 40000, fwhm=FWHM * 0.3)
    with dask.config.set(scheduler="threads"):
        write_image(image, path)
        wcs = image.galprep.wcs
    return wcs.all_pix2world(*np.random.default_rng(0).uniform(30, [nx - 30, ny - 30], (25, 2)).T, 0)


def digest(path):
    """Tell the pixels of files, or of the files in a folder, apart by every bit."""
    path = Path(path)
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    files = [file for file in files if file.suffix != ".part"]  # what a worker wrote when it was killed: no product
    return {str(file.relative_to(path.parent)): _pixels(file) for file in files if file.name != "zarr.json"}


def _pixels(file):
    if file.suffix != ".fits":
        return hashlib.sha256(file.read_bytes()).hexdigest()
    with fits.open(file) as hdus:
        return [hashlib.sha256(hdu.data.tobytes()).hexdigest() for hdu in hdus if hdu.data is not None]


class Job:
    """The steps in order, each of which goes on with what those before it gave or wrote into ``folder``."""

    steps = ("sky", "segmentation", "catalogue", "growth", "sigma", "cutouts", "stars", "psf")

    def __init__(self, path, targets, folder, chunks):
        self.path, self.targets, self.folder, self.chunks = path, targets, Path(folder), chunks
        self.folder.mkdir(exist_ok=True)
        self.image = open_image(path, chunks=chunks)

    def run(self, steps=steps):
        return {step: getattr(self, step)() for step in steps}

    def sky(self):
        data = self.image["data"]
        model, self.masked = fit_sky_between_sources(
            data, fit=fit_polynomial_sky, fwhm=FWHM, faint_scales=(4,), rounds=1
        )
        self.flat = self.image.galprep.subtract_sky(model)
        mesh, pieces = fit_mesh_sky(data, self.masked, box_size=70), fit_piecewise_sky(data, piece_size=300)
        flat = write_image(self.flat, self.folder / "flat.fits", overwrite=True)
        self.flat = open_image(flat, chunks=self.chunks)
        self.std = sigma_clipped_stats(self.flat["data"], self.masked)[2]
        return [model.coefficients, mesh.mesh, pieces.coefficients, self.std, digest(flat)]

    def segmentation(self):
        smoothed = smooth(self.flat["data"], FWHM)
        parents = detect_sources(smoothed, 3 * self.std)
        found = deblend_sources(smoothed, parents)
        file = write_segmentation(found, self.folder / "labels.zarr", overwrite=True)
        self.found = read_segmentation(file, chunks=self.chunks)
        return [parents.labels, parents.areas, found.n_labels, digest(file)]

    def catalogue(self):
        table = source_catalog(self.flat["data"], self.found)
        return [np.asarray(table[name]) for name in ("label", "x_centroid", "semimajor_axis", "segment_flux")]

    def growth(self):
        grown = grow_mask(self.found, self.flat["data"], sky_level=0.0, sky_std=self.std, max_grow_size=20)
        ellipses = ellipse_mask(self.found, self.flat["data"], magnification=2.0)
        image = self.flat.assign(mask=(("y", "x"), combine_masks(grown, ellipses).data))
        file = write_image(image[["data", "mask"]], self.folder / "mask.zarr", overwrite=True)
        self.grown = open_image(file, chunks=self.chunks)["mask"]
        return [digest(file)]

    def sigma(self):
        image = self.flat.galprep.with_sigma(self.grown)
        file = write_image(image, self.folder / "sigma.fits", overwrite=True)
        self.ready = open_image(file, chunks=self.chunks)
        check = check_sigma(image["data"], image["sigma"], self.grown, box_size=200)
        factor = correlation_factor(image["data"], self.grown, block_size=[2, 4])
        return [digest(file), image.galprep.header["SIGCHK"], check.box_ratios, factor]

    def cutouts(self):
        products = self.folder / "products"
        products.mkdir(exist_ok=True)
        results, table = cutout_many(self.ready, *self.targets, 41, sink=writer(products))
        return [table["cut"], np.array([done is not None for done in results]), digest(products)]

    def stars(self):
        table = select_stars(self.flat["data"], self.found, sky_std=self.std, fwhm=FWHM, crossmatch=False)
        self.stamps = star_stamps(self.flat["data"], table, 21, segmentation=self.found)
        return [table["used"], table["reason"], self.stamps.stamps, self.stamps.mask]

    def psf(self):
        model = fit_psf(self.stamps.stamps, mask=self.stamps.mask, sky_std=self.std)
        return [np.round(model.image, 5), model.converged]


def writer(folder):
    """A sink that writes products into a folder; a function within a function, so that all of it travels."""

    def write(k, cut):
        planes = {"mask": cut["mask"], "sigma": cut["sigma"]}
        write_product(folder / f"{k}.fits", cut["data"], **planes, header=cut.galprep.header, overwrite=True)
        return os.getpid()

    return write


# Workers need not have this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
