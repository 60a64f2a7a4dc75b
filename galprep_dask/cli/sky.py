"""``galprep sky``: an image minus its sky."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from galprep_dask.cli._options import (
    HDU,
    BoxSize,
    Fwhm,
    Image,
    Json,
    Mask,
    NPixels,
    NSigma,
    Order,
    Overwrite,
    Scheduler,
    SkyModel,
    Workers,
    hdu_of,
)  # fmt: skip
from galprep_dask.cli._report import report
from galprep_dask.cli._session import session

__all__ = ["minus_sky", "sky"]


class Model(StrEnum):
    """The skies that can be asked for."""

    polynomial = "polynomial"
    mesh = "mesh"
    piecewise = "piecewise"
    median = "median"
    mean = "mean"
    auto = "auto"


def sky(
    path: Image,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="File for the image minus its sky: FITS, or .zarr.")
    ],
    hdu: HDU = None,
    model: Annotated[
        Model, typer.Option("--model", "--sky-model", help="Kind of sky; auto compares them on pixels left out.")
    ] = Model.polynomial,
    order: Order = 3,
    box_size: BoxSize = 256,
    fwhm: Fwhm = 3.0,
    n_sigma: NSigma = 3.0,
    n_pixels: NPixels = 5,
    max_grow_size: Annotated[int, typer.Option(min=0, help="Farthest that masks grow, in pixels.")] = 100,
    mask: Mask = None,
    sky_file: Annotated[
        Path | None, typer.Option("--write-sky", metavar="FILE", help="File for the sky itself.")
    ] = None,
    mask_file: Annotated[
        Path | None, typer.Option("--write-mask", metavar="FILE", help="FITS file for the mask of the fit.")
    ] = None,
    overwrite: Overwrite = False,
    workers: Workers = 0,
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """
    Mask the sources, fit the sky between them, and write the image minus the sky.

    Works block by block, in memory that does not grow with the image. The header of the result says
    what was done. Examples:

        galprep sky mosaic.fits -o mosaic_ss.fits

        galprep sky tile.fits.fz --hdu 1 --model mesh -o tile_ss.fits --write-sky sky.fits
    """
    from galprep_dask import make_image, open_image, write_image
    from galprep_dask.cutouts.provenance import record_provenance
    from galprep_dask.image import with_header
    from galprep_dask.io.atomic import check_output
    from galprep_dask.io.fits_writer import write_hdus
    from galprep_dask.sky import fit_sky_between_sources

    for file in (output, sky_file, mask_file):
        if file is not None:
            check_output(file, overwrite)
    image = open_image(path, hdu_of(hdu), mask=mask)
    parameters = {
        "model": model.value, "order": order, "box_size": box_size, "fwhm": fwhm, "n_sigma": n_sigma,
        "n_pixels": n_pixels, "max_grow_size": max_grow_size, "mask": None if mask is None else Path(mask).name,
    }  # fmt: skip
    source = (image.attrs.get("path"), image.attrs.get("hdu"))
    recorded = partial(record_provenance, source=source, parameters={"sky": parameters})
    with session(workers, scheduler, quiet=as_json) as shown:
        with shown.step("sky"):
            fitted, masked = fit_sky_between_sources(
                image["data"], image.get("mask"), fit=_fit(model, image, order, box_size, fwhm), fwhm=fwhm,
                n_sigma=n_sigma, n_pixels=n_pixels, max_grow_size=max_grow_size,
            )  # fmt: skip
        with shown.step(f"writing {output}"):
            flat = image.galprep.subtract_sky(fitted)
            write_image(with_header(flat, recorded(flat.galprep.header)), output, overwrite=overwrite)
        files = [output]
        header = recorded(image.galprep.header)
        if sky_file is not None:
            with shown.step(f"writing {sky_file}"):
                evaluated = fitted.evaluate(image["data"].shape, image["data"].data.chunks)
                write_image(make_image(evaluated, header=header), sky_file, overwrite=overwrite)
            files.append(sky_file)
        if mask_file is not None:
            with shown.step(f"writing {mask_file}"):
                write_hdus([(_stamped(header), masked.data.astype("u1"))], mask_file, overwrite=overwrite)
            files.append(mask_file)
        share = float(masked.mean())
    rows = {"model": type(fitted).__name__, "rms": float(fitted.rms), "masked": share}
    report(rows | {"files": [str(file) for file in files]}, title=f"sky of {path}", as_json=as_json)


def minus_sky(image, model: SkyModel, *, order: int, box_size: int, fwhm: float):
    """Give an image minus a sky fitted between its sources, and what was masked; None for a model of none."""
    from galprep_dask.sky import fit_sky_between_sources

    if model is SkyModel.none:
        return image, None
    fit = _fit(Model(model.value), image, order, box_size, fwhm)
    fitted, masked = fit_sky_between_sources(image["data"], image.get("mask"), fit=fit, fwhm=fwhm)
    return image.galprep.subtract_sky(fitted), masked


def _stamped(header):
    """Header of the mask: sky coordinates, no unit, and what made it."""
    from galprep_dask.io.fits_writer import STRUCTURE

    for keyword in (*STRUCTURE, "BUNIT"):
        header.remove(keyword, ignore_missing=True, remove_all=True)
    return header


def _fit(model: Model, image, order: int, box_size: int, fwhm: float):
    from galprep_dask import sky as room

    if model is Model.auto:
        _, masked = room.fit_sky_between_sources(
            image["data"], image.get("mask"), fit=partial(room.fit_polynomial_sky, order=order), fwhm=fwhm
        )
        return room.compare_sky_models(image["data"], masked).fit
    return {
        Model.polynomial: partial(room.fit_polynomial_sky, order=order),
        # Masks that reach as far as faint light leave few boxes nearly whole.
        Model.mesh: partial(room.fit_mesh_sky, box_size=box_size, exclude_percentile=80),
        Model.piecewise: partial(room.fit_piecewise_sky, piece_size=box_size),
        Model.median: room.fit_median_sky,
        Model.mean: room.fit_mean_sky,
    }[model]
