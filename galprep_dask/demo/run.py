"""The main job, end to end, on a simulated mosaic: what ``galprep demo`` does.

Read it as the shortest script that prepares galaxies for a fit: open, subtract the sky, make the sigma image, cut
targets out, mask what is not the target, write. The rest compares the result with the truth.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import dask
import dask.array as da
import numpy as np
import xarray as xr
from astropy.table import Table

from galprep_dask import open_image, write_image
from galprep_dask.cutouts import write_product
from galprep_dask.demo.mosaic import Truth, simulate_mosaic
from galprep_dask.errors import OutputError
from galprep_dask.image import sky_to_pixel
from galprep_dask.masks import target_mask
from galprep_dask.sky import fit_polynomial_sky, fit_sky_between_sources
from galprep_dask.stats import sigma_clipped_stats

__all__ = ["DemoResult", "run_demo"]

_CUT_SIDE = 121  # px
_APERTURE = 3.0  # half-light radii


class DemoResult(NamedTuple):
    """What a demo left behind: a table of truth against result, and the files, in the order written."""

    summary: Table
    files: list[Path]


def run_demo(
    output: str | os.PathLike = "galprep-demo",
    *,
    shape: tuple[int, int] = (1500, 1800),
    seed: int = 1,
    figures: bool = True,
    progress: Callable[[str], None] = lambda step: None,
) -> DemoResult:
    """
    Simulate a mosaic, prepare its targets for a fit, and compare with the truth.

    Parameters
    ----------
    output : path
        Directory, made where it is missing. Files of an earlier demo in it are replaced, others are left alone.
    shape : (int, int)
        (ny, nx) of the mosaic.
    seed : int
        Of everything random in it.
    figures : bool
        Whether to draw each step.
    progress : callable
        Told the name of every step when it begins.

    Returns
    -------
    DemoResult
        Its summary has the columns ``quantity``, ``truth``, ``result``, ``error`` (1 sigma) and ``deviation`` (in
        units of it).

    Raises
    ------
    OutputError
        The directory cannot be made or written to.
    ParameterError
        ``shape`` or ``seed`` make no sense.

    Notes
    -----
    Needs no input, no network and no cluster; with a dask client around, its workers do the work.
    """
    output = Path(output).expanduser()
    files: list[Path] = []

    progress("simulating a mosaic")
    simulated, truth = simulate_mosaic(shape, seed=seed)
    _make_directories(output, figures)
    files.append(write_image(simulated, output / "mosaic.fits", overwrite=True))
    truth.sources.write(output / "truth.ecsv", overwrite=True)
    files.append(output / "truth.ecsv")

    progress("masking sources and fitting the sky")
    image = open_image(files[0])
    sky, masked = fit_sky_between_sources(
        image["data"], fit=lambda data, mask: fit_polynomial_sky(data, mask, order=3), fwhm=truth.fwhm
    )
    subtracted = image.galprep.subtract_sky(sky)

    progress("making the sigma image")
    # Sources are masked; clipping at 5 takes out what is wild, and leaves the width of a Gaussian alone.
    _, _, sky_std = sigma_clipped_stats(subtracted["data"], masked, sigma=5.0)
    subtracted["sigma"] = subtracted.galprep.sigma_image(sky_std=sky_std)
    subtracted["mask"] = image.galprep.bad_pixels
    files.append(write_image(subtracted, output / "mosaic_prepared.fits", overwrite=True))

    progress("cutting targets out")
    prepared = open_image(files[-1])
    rows = [_sky_rows(truth, sky, masked.data, sky_std, prepared)]
    for number, target in enumerate(truth.targets, start=1):
        path, measured = _prepare_target(prepared, target, truth, output / "cutouts" / f"target_{number}.fits")
        files.append(path)
        rows.append([(f"target {number}: {name}", *values) for name, *values in measured])
    summary = _as_table([row for part in rows for row in part])
    summary.write(output / "summary.ecsv", overwrite=True)
    files.append(output / "summary.ecsv")

    if figures:
        progress("drawing")
        from galprep_dask.demo import figures as draw

        files += draw.draw_all(output / "figures", image, sky, prepared, masked, files, summary)
    return DemoResult(summary, files)


def _make_directories(output: Path, figures: bool) -> None:
    for directory in (output, output / "cutouts", *([output / "figures"] if figures else [])):
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"cannot make the directory {str(directory)!r}: {error.strerror}. Choose another with --output."
            ) from error


def _prepare_target(prepared: xr.Dataset, target, truth: Truth, path: Path) -> tuple[Path, list[tuple]]:
    """Write the cutout file of one target, and measure the target in it."""
    cut = prepared.galprep.cutout(target["ra"], target["dec"], _CUT_SIDE).compute()
    x, y = sky_to_pixel(cut.attrs["header"], target["ra"], target["dec"])
    mask = target_mask(
        cut["data"].values, x, y, fwhm=truth.fwhm, mask=cut["mask"].values, n_sigma=2.0, n_pixels=8,
        deblend=True, contrast=0.01, max_grow_size=30, addgrow=2,
    )  # fmt: skip
    write_product(path, cut, mask=mask, ra=target["ra"], dec=target["dec"], overwrite=True)
    return path, _target_rows(cut, mask, x, y, target, truth)


def _sky_rows(truth: Truth, sky, masked: da.Array, sky_std: float, prepared: xr.Dataset) -> list[tuple]:
    """Sky and noise against the truth. No error is given where white noise is not what sets it."""
    data, sigma = prepared["data"].data, prepared["sigma"].data
    chunks = data.chunks
    free = ~masked.rechunk(chunks)
    true_sky = truth.sky(chunks)
    pulls = da.where(free, data / sigma, np.nan)
    bias, count, spread = dask.compute(
        (sky.evaluate(truth.shape, chunks) - true_sky).mean(), free.sum(), da.nanstd(pulls.astype(np.float64))
    )
    return [
        ("sky: mean error / pixel noise", 0.0, float(bias) / truth.sky_std, math.nan),
        ("noise of the sky", truth.sky_std, sky_std, truth.sky_std / math.sqrt(2 * count)),
        ("std of data / sigma where there is sky", 1.0, float(spread), math.nan),
    ]


def _target_rows(cut: xr.Dataset, mask: np.ndarray, x: float, y: float, target, truth: Truth) -> list[tuple]:
    """Flux and position in an aperture, over the pixels that a fit would use, against the noiseless light there."""
    data, sigma = cut["data"].values.astype(np.float64), cut["sigma"].values
    row, column = round(target["y"]) - round(y), round(target["x"]) - round(x)
    size = slice(row, row + data.shape[0]), slice(column, column + data.shape[1])
    light = truth.light()[size].compute()
    iy, ix = np.mgrid[: data.shape[0], : data.shape[1]]
    used = (np.hypot(ix - x, iy - y) <= _APERTURE * target["r_eff"] + truth.fwhm) & ~mask
    data, light, sigma = data[used], light[used], sigma[used].astype(np.float64)
    flux = light.sum()
    rows = [("flux in the aperture", flux, data.sum(), math.sqrt(np.sum(sigma**2)))]
    for name, pixel in (("x", ix[used] - x), ("y", iy[used] - y)):
        true_centre = np.sum(light * pixel) / flux
        centre = np.sum(data * pixel) / data.sum()
        error = math.sqrt(np.sum((sigma * (pixel - true_centre)) ** 2)) / flux
        rows.append((f"centroid {name} - {name} of the target [px]", true_centre, centre, error))
    return rows


def _as_table(rows: list[tuple]) -> Table:
    table = Table(rows=rows, names=("quantity", "truth", "result", "error"))
    table["deviation"] = (table["result"] - table["truth"]) / table["error"]
    table.meta["comments"] = ["truth against result of a demo; error is 1 sigma, deviation in units of it"]
    for name in ("truth", "result", "error"):
        table[name].info.format = ".6g"
    table["deviation"].info.format = ".2f"
    return table
