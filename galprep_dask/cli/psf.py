"""``galprep psf``: the PSF of an image, from its stars."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from galprep_dask.cli._options import (
    HDU,
    BoxSize,
    Exptime,
    Figure,
    Fwhm,
    Gain,
    Image,
    Json,
    Mask,
    NPixels,
    NSigma,
    Order,
    Overwrite,
    Scheduler,
    SkyModel,
    SkyOption,
    Workers,
    hdu_of,
)  # fmt: skip
from galprep_dask.cli._report import report
from galprep_dask.cli._session import session
from galprep_dask.cli.sky import minus_sky

__all__ = ["psf"]


class Crossmatch(StrEnum):
    """Whether stars have to be in Gaia."""

    yes = "yes"
    no = "no"
    auto = "auto"


def psf(
    path: Image,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="FITS file for the PSF, or for it at a position.")
    ],
    hdu: HDU = None,
    at: Annotated[
        str | None, typer.Option(metavar="RA,DEC", help="Write the PSF at this position, in degrees, for a fit.")
    ] = None,
    x: Annotated[float | None, typer.Option(help="The same in pixels, counted from 0.")] = None,
    y: Annotated[float | None, typer.Option(help="The same in pixels, counted from 0.")] = None,
    psf_file: Annotated[
        str | None, typer.Option("--psf", metavar="FILE", help="PSF written before, to be evaluated: fits nothing.")
    ] = None,
    model_file: Annotated[
        Path | None, typer.Option("--write-model", metavar="FILE", help="File for the PSF itself, beside a position.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=5, help="Side of the PSF in pixels, odd; by default ten times the FWHM.")
    ] = None,
    degree: Annotated[str, typer.Option(help="Degree, 0 to 4, of its change over the field, or auto.")] = "auto",
    oversampling: Annotated[str, typer.Option(help="Fine pixels per pixel, 1 to 5, or auto.")] = "auto",
    segmentation: Annotated[
        str | None, typer.Option(metavar="FILE", help="Label image of the sources; by default they are detected.")
    ] = None,
    crossmatch: Annotated[
        Crossmatch | None, typer.Option(help="Whether stars have to be in Gaia; by default yes with a catalogue.")
    ] = None,
    gaia_catalog: Annotated[
        str | None, typer.Option(metavar="FILE", help="Gaia's sources, in place of a query of the archive.")
    ] = None,
    min_snr: Annotated[float, typer.Option(min=0.0, help="Least signal-to-noise ratio of a star.")] = 50.0,
    max_stars: Annotated[int | None, typer.Option(min=1, help="Stars at most, from all parts of the image.")] = None,
    drop: Annotated[list[int] | None, typer.Option(help="Number of a star to leave out; may be repeated.")] = None,
    saturate: Annotated[float | None, typer.Option(help="Level of saturation; by default SATURATE.")] = None,
    gain: Gain = None,
    exptime: Exptime = None,
    sky_model: SkyOption = SkyModel.polynomial,
    order: Order = 3,
    box_size: BoxSize = 256,
    fwhm: Fwhm = 3.0,
    n_sigma: NSigma = 3.0,
    n_pixels: NPixels = 5,
    mask: Mask = None,
    stars_file: Annotated[
        Path | None,
        typer.Option("--stars", metavar="FILE", help="Table of all sources, with why some are no stars: .ecsv, .fits."),
    ] = None,
    figure: Figure = None,
    overwrite: Overwrite = False,
    workers: Workers = 0,
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """
    Choose the stars of an image and fit one PSF to all of them together.

    The sky is subtracted and sources are detected on the way. A fifth of the stars is kept out of a first fit and
    predicted from it; how well is reported and written into the file. Examples:

        galprep psf mosaic.fits -o psf.fits --size 31 --degree 0 --stars stars.ecsv

        galprep psf mosaic.fits --psf psf.fits --at 150.0,2.0 -o psf_target.fits
    """
    from astropy.io import fits

    from galprep_dask import open_image
    from galprep_dask.cutouts.provenance import record_provenance
    from galprep_dask.errors import ParameterError
    from galprep_dask.io.atomic import check_output
    from galprep_dask.psf import PSFModel
    from galprep_dask.psf.evaluated import write_psf_at

    for file in (output, model_file, stars_file, figure):
        if file is not None:
            check_output(file, overwrite)
    if psf_file is not None and stars_file is not None:
        raise ParameterError("--stars is for a fit; with --psf nothing is fitted.")
    numbers = {
        "degree": _number_or_auto("degree", degree, 0, 4),
        "oversampling": _number_or_auto("oversampling", oversampling, 1, 5),
    }
    image = open_image(path, hdu_of(hdu), mask=mask, gain=gain, exptime=exptime)
    position = _position(image, at, x, y)
    if psf_file is not None and position is None:
        raise ParameterError("--psf is evaluated at a position: give --at RA,DEC, or --x and --y.")
    if psf_file is not None:
        model, told, files = PSFModel.from_fits(psf_file), {}, []
    else:
        with session(workers, scheduler, quiet=as_json) as shown:
            with shown.step("sky"):
                image, masked = minus_sky(image, sky_model, order=order, box_size=box_size, fwhm=fwhm)
            with shown.step("sources"):
                found, sky_std = _sources(image, masked, segmentation, fwhm, n_sigma, n_pixels)
            with shown.step("stars"):
                stars = _stars(
                    image, found, sky_std, crossmatch, gaia_catalog,
                    size=size, min_snr=min_snr, max_stars=max_stars, drop=drop or (), saturate=saturate,
                )  # fmt: skip
            model = _fit(image, stars, found, shown, numbers)
        told = _of_stars(stars)
        files = _write_stars(stars, stars_file, overwrite)
    if psf_file is not None:
        header = record_provenance(fits.Header(), (str(psf_file), None), {"psf": {"psf": Path(psf_file).name}})
    else:
        parameters = numbers | {
            "size": size, "min_snr": min_snr, "max_stars": max_stars, "drop": drop, "saturate": saturate, "gain": gain,
            "exptime": exptime, "sky_model": sky_model.value, "order": order, "box_size": box_size, "fwhm": fwhm,
            "n_sigma": n_sigma, "n_pixels": n_pixels, "crossmatch": None if crossmatch is None else crossmatch.value,
        } | {name: None if file is None else Path(file).name
             for name, file in (("segmentation", segmentation), ("gaia_catalog", gaia_catalog), ("mask", mask))}
        source = (image.attrs.get("path"), image.attrs.get("hdu"))
        header = record_provenance(fits.Header(), source, {"psf": parameters})
    if position is not None:
        write_psf_at(model, output, **position, overwrite=overwrite, header=header)
        files.insert(0, output)
    for file in (output if position is None else None, model_file):
        if file is not None:
            model.to_fits(file, overwrite=overwrite, header=header)
            files.insert(0, file)
    if figure is not None:
        from galprep_dask.plotting import plot_psf

        plot_psf(model, title=Path(path).name, path=figure)
        files.append(figure)
    if not as_json:
        told.pop("left_after", None)
    rows = _of_model(model, image) | told | (position or {}) | {"files": [str(file) for file in files]}
    report(rows, title=f"PSF of {path}", as_json=as_json)


def _number_or_auto(name: str, text: str, least: int, most: int) -> int | str:
    from galprep_dask.errors import ParameterError

    if text == "auto":
        return text
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise ParameterError(f"--{name} {text}: expected a number from {least} to {most}, or auto.")
    return int(text)


def _position(image, at: str | None, x: float | None, y: float | None) -> dict[str, float] | None:
    """Give the position to evaluate at in pixels, and in degrees where it was given so."""
    from galprep_dask.errors import ParameterError
    from galprep_dask.image import describe, sky_to_pixel

    if at is None and x is None and y is None:
        return None
    if at is None:
        if x is None or y is None:
            raise ParameterError("--x and --y belong together: give both of them.")
        return {"x": x, "y": y}
    if x is not None or y is not None:
        raise ParameterError("--at and --x, --y are the same in degrees and in pixels: give one of them.")
    try:
        ra, dec = (float(number) for number in at.split(","))
    except ValueError:
        raise ParameterError(f"--at {at}: expected RA,DEC in degrees, 150.1,2.2 for example.") from None
    x, y = sky_to_pixel(image.galprep.header, ra, dec, where=describe(image))
    return {"ra": ra, "dec": dec, "x": float(x), "y": float(y)}


def _sources(image, masked, file: str | None, fwhm: float, n_sigma: float, n_pixels: int):
    """Give the sources of an image, read or detected, and the noise of its sky."""
    from galprep_dask.arrays import check_same_shape
    from galprep_dask.errors import ParameterError
    from galprep_dask.image import describe
    from galprep_dask.noise import measure_sky_std
    from galprep_dask.segmentation import detect_sources, read_segmentation, smooth

    data, bad = image["data"], image.get("mask")
    sky_std = measure_sky_std(data, bad, sigma_clip=3.0) if masked is None else measure_sky_std(data, masked)
    if sky_std == 0:
        raise ParameterError(
            f"the sky of {describe(image)} has no noise: most pixels hold the same number. If that means no data, mask "
            "them with --mask."
        )
    if file is not None:
        found = read_segmentation(file)
        check_same_shape(found.data, data.shape, f"segmentation {file!r}")
        return found, sky_std
    return detect_sources(smooth(data, fwhm, bad), n_sigma * sky_std, n_pixels, mask=bad, measure=data), sky_std


def _stars(image, found, sky_std: float, crossmatch: Crossmatch | None, gaia_catalog: str | None, **cuts):
    from galprep_dask.gaia.field import stars_in_image
    from galprep_dask.psf import select_stars

    if crossmatch is None:
        crossmatch = Crossmatch.no if gaia_catalog is None else Crossmatch.yes
    wanted = {Crossmatch.yes: True, Crossmatch.no: False, Crossmatch.auto: "auto"}[crossmatch]
    return select_stars(
        image["data"], found, mask=image.get("mask"), sky_std=sky_std, header=image.galprep.header,
        gaia=partial(stars_in_image, image=image, catalog=gaia_catalog, crossmatch=wanted) if wanted else None,
        crossmatch=wanted, **cuts,
    )  # fmt: skip


def _fit(image, stars, found, shown, numbers: dict[str, Any]):
    """Fit a PSF to the stars; their rows get what the fit says of them."""
    import numpy as np

    from galprep_dask.psf import fit_psf, star_stamps

    with shown.step("stamps"):
        cut = star_stamps(image["data"], stars, stars.meta["size"], segmentation=found, mask=image.get("mask"))
    gain = image.attrs.get("gain")
    electrons = None if gain is None else gain * image.attrs.get("exptime", 1.0)
    with shown.step("fit"):
        model = fit_psf(
            cut.stamps, mask=cut.mask, sky_std=stars.meta["sky_std"], gain=electrons, x=cut.x, y=cut.y, **numbers
        )
    for name in ("dx", "dy", "chi2"):
        stars[name] = np.full(len(stars), np.nan)
        stars[name][cut.rows] = np.asarray(model.stars[name], float)
    return model


def _of_stars(stars) -> dict[str, Any]:
    """Say how many sources each cut has left out."""
    import numpy as np

    reasons, numbers = np.unique(np.asarray(stars["reason"])[~stars["used"]], return_counts=True)
    dropped = {str(reason): int(number) for reason, number in zip(reasons, numbers, strict=True)}
    return {"sources": len(stars), "left_after": dict(stars.meta["counts"]), "dropped": dropped}


def _of_model(model, image) -> dict[str, Any]:
    from galprep_dask.errors import MissingWCSError

    try:
        scale = image.galprep.pixel_scale
    except MissingWCSError:
        scale = None
    told = model.validation
    return {
        "fwhm": model.fwhm, "fwhm_arcsec": None if scale is None else model.fwhm * scale,
        "ellipticity": model.ellipticity, "size": model.size, "degree": model.degree,
        "oversampling": model.oversampling, "converged": bool(model.converged),
        "stars": int(sum(model.stars["used"])) if len(model.stars) else None, "reserved": told.get("n_reserved"),
        "chi2_reserved": told.get("reduced_chi2"), "chi2_plain_stack": told.get("stack_reduced_chi2"),
    }  # fmt: skip


def _write_stars(stars, file: Path | None, overwrite: bool) -> list[Path]:
    from galprep_dask.segmentation import write_catalog

    if file is None:
        return []
    stars = stars.copy()
    stars.meta = {name: stars.meta[name] for name in ("fwhm", "size", "sky_std")}  # what every format can hold
    return [write_catalog(stars, file, overwrite=overwrite)]
