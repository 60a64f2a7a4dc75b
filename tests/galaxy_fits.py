"""Simulated galaxies that go through the preparation into cutout files, to be fitted by a code that is not ours."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from astropy.table import Table

from galprep_dask import make_image
from galprep_dask.cutouts import write_product
from galprep_dask.demo.mosaic import simulate_mosaic
from galprep_dask.image import sky_to_pixel
from galprep_dask.masks import target_mask
from galprep_dask.sky import fit_polynomial_sky, fit_sky_between_sources
from galprep_dask.stats import sigma_clipped_stats

__all__ = ["SIDE", "fit_with_pysersic", "galaxy_mosaic", "prepare_cutouts", "write_true_cutouts"]

SIDE, PSF_SIDE = 101, 41
_SPACING, _READ_NOISE = 130, 5.0
_ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def galaxy_mosaic(n, *, seed):
    """
    ``n`` galaxies on a grid among stars and smaller galaxies, on a cubic sky, with photon and read noise.

    Gives the image, the truth (whose targets are the ``n``), the light without noise, and the PSF.
    """
    rng = np.random.default_rng(seed)
    columns = int(np.ceil(np.sqrt(n)))
    shape = (_SPACING * (-(-n // columns) + 1), _SPACING * (columns + 1))
    image, truth = simulate_mosaic(shape, seed=seed, defects=False)
    others = truth.sources[4:]
    targets = Table(np.repeat(truth.sources[:1], n))
    row, column = np.divmod(np.arange(n), columns)
    targets["x"] = _SPACING * (column + 1) + rng.uniform(-0.5, 0.5, n)
    targets["y"] = _SPACING * (row + 1) + rng.uniform(-0.5, 0.5, n)
    targets["flux"] = 10 ** rng.uniform(2.0, 2.8, n)
    targets["r_eff"] = rng.uniform(3, 7, n)
    targets["n"] = rng.uniform(0.8, 4.0, n)
    targets["axis_ratio"] = rng.uniform(0.35, 0.95, n)
    targets["orientation"] = rng.uniform(0, 180, n)
    targets["target"] = True
    targets["ra"], targets["dec"] = image.galprep.wcs.all_pix2world(targets["x"], targets["y"], 0)
    apart = np.hypot(*(np.subtract.outer(others[axis], targets[axis]) for axis in "xy")).min(axis=1)
    sources = Table(np.concatenate([targets.as_array(), others[apart > 35].as_array()]))
    truth = replace(truth, sources=sources)

    light, sky, electrons = truth.light().compute(), truth.sky().compute(), truth.gain * truth.exptime
    counted = rng.poisson((sky + light) * electrons) + rng.normal(0, _READ_NOISE, shape)
    noisy = image.assign(data=(("y", "x"), (counted / electrons).astype("f4"))).chunk(512)
    return noisy, truth, light, _true_psf(truth)


def _true_psf(truth):
    """A star in the middle of a pixel, cut out and normalised."""
    star = truth.sources[:1].copy()
    middle, half = (side // 2 for side in truth.shape), PSF_SIDE // 2
    star["y"], star["x"] = y, x = tuple(middle)
    star["kind"], star["flux"] = "star", 1e5
    psf = replace(truth, sources=star).light().compute()[y - half : y + half + 1, x - half : x + half + 1]
    return psf / psf.sum()


def prepare_cutouts(image, truth, psf, folder):
    """The main job: sky, sigma, cutout, mask, file; gives the paths, in the order of the targets."""
    sky, masked = fit_sky_between_sources(
        image["data"], fit=lambda data, mask: fit_polynomial_sky(data, mask, order=3), fwhm=truth.fwhm
    )
    subtracted = image.galprep.subtract_sky(sky)
    _, _, sky_std = sigma_clipped_stats(subtracted["data"], masked, sigma=5.0)
    subtracted["sigma"] = subtracted.galprep.sigma_image(sky_std=sky_std)
    paths = []
    for number, target in enumerate(truth.targets):
        cut = subtracted.galprep.cutout(target["ra"], target["dec"], SIDE).compute()
        x, y = sky_to_pixel(cut.attrs["header"], target["ra"], target["dec"])
        mask = target_mask(
            cut["data"].values, x, y, fwhm=truth.fwhm, n_sigma=2.0, n_pixels=8, deblend=True, contrast=0.01,
            max_grow_size=30, addgrow=2,
        )  # fmt: skip
        paths.append(write_product(
            Path(folder) / f"galaxy_{number}.fits", cut, mask=mask, psf=psf, ra=target["ra"], dec=target["dec"]
        ))  # fmt: skip
    return paths


def write_true_cutouts(image, truth, light, psf, folder):
    """What a perfect preparation would write: the true sky, sigma and mask, and no neighbours at all."""
    alone = replace(truth, sources=truth.targets).light().compute()
    data = image["data"].values - truth.sky().compute() - (light - alone)
    sigma = np.sqrt(truth.sky_std**2 + light / (truth.gain * truth.exptime))
    perfect = make_image(data, sigma=sigma, **image.attrs)
    paths = []
    for number, target in enumerate(truth.targets):
        cut = perfect.galprep.cutout(target["ra"], target["dec"], SIDE)
        path = Path(folder) / f"true_{number}.fits"
        paths.append(write_product(path, cut, psf=psf, ra=target["ra"], dec=target["dec"]))
    return paths


def fit_with_pysersic(paths):
    """Fit every file in a process of its own: its warnings, its JAX and its threads stay there."""
    script = Path(__file__).with_name("pysersic_fit.py")
    command = [sys.executable, "-W", "ignore", str(script), *map(str, paths)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1", "XLA_FLAGS": _ONE_THREAD},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)
