"""``galprep cutout``: files for a fit, around the targets of a table or around one position."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from galprep_dask.cli._options import (
    HDU,
    BoxSize,
    Deblend,
    Exptime,
    Fwhm,
    Gain,
    Image,
    Json,
    Mask,
    NPixels,
    NSigma,
    Order,
    Overwrite,
    Rms,
    Scheduler,
    SkyModel,
    SkyOption,
    Weight,
    Workers,
    hdu_of,
)  # fmt: skip
from galprep_dask.cli._report import report
from galprep_dask.cli._session import session
from galprep_dask.cli.sky import minus_sky

__all__ = ["cutout"]


def cutout(
    path: Image,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder for the cutouts, made if need be.")
    ],
    targets: Annotated[
        str | None, typer.Option(metavar="FILE", help="Table of the targets, with ra and dec in degrees.")
    ] = None,
    ra: Annotated[float | None, typer.Option(help="Right ascension of one target, in degrees.")] = None,
    dec: Annotated[float | None, typer.Option(help="Declination of one target, in degrees.")] = None,
    name: Annotated[str, typer.Option(help="Name of that target, and of its file.")] = "target",
    size: Annotated[float, typer.Option(help="Side in arcsec; a column size of the targets goes first.")] = 20.0,
    hdu: HDU = None,
    no_target_mask: Annotated[
        bool, typer.Option("--no-target-mask", help="Mask bad pixels only, not everything that is not the target.")
    ] = False,
    fwhm: Fwhm = 3.0,
    n_sigma: NSigma = 2.0,
    n_pixels: NPixels = 5,
    deblend: Deblend = False,
    source_diameter: Annotated[
        float, typer.Option(min=0.0, help="The target is all that touches a circle of this diameter, in arcsec.")
    ] = 1.0,
    max_grow_size: Annotated[int, typer.Option(min=0, help="Farthest that masks grow, in pixels.")] = 30,
    sigma: Annotated[
        str | None, typer.Option(metavar="FILE", help="File of the sigma image; by default one is made.")
    ] = None,
    no_sigma: Annotated[bool, typer.Option("--no-sigma", help="Leave sigma out; no gain is needed then.")] = False,
    gain: Gain = None,
    exptime: Exptime = None,
    weight: Weight = None,
    rms: Rms = None,
    psf_file: Annotated[
        str | None,
        typer.Option("--psf", metavar="FILE", help="PSF from galprep psf, put in as at each target; or any image."),
    ] = None,
    mask: Mask = None,
    sky_model: SkyOption = SkyModel.none,
    order: Order = 3,
    box_size: BoxSize = 256,
    overwrite: Overwrite = False,
    workers: Workers = 0,
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """
    Cut targets out, and write for each a file with image, mask, sigma and PSF that a fit can use.

    The image should be minus its sky: as galprep sky writes it, or with a sky model named here. However many targets
    there are, every part of the image is read once for all of them. Exit status: 0 all targets were cut, 1 some could
    not be, which are listed with the reason, 2 bad input. Examples:

        galprep cutout mosaic_ss.fits --targets targets.ecsv --size 15 -o cutouts

        galprep cutout mosaic_ss.fits --ra 150.0 --dec 2.0 --psf psf.fits -o cutouts
    """
    import numpy as np
    from astropy import units as u

    from galprep_dask import open_image
    from galprep_dask.cutouts import cutout_many
    from galprep_dask.errors import OutputError, ParameterError

    wanted = _targets(targets, ra, dec, name)
    if sum(plane is not None for plane in (sigma, weight, rms)) > 1:
        raise ParameterError("--sigma, --weight and --rms: give one of them.")
    image = open_image(
        path, hdu_of(hdu), mask=mask, weight=weight, sigma=sigma if rms is None else rms, gain=gain, exptime=exptime
    )
    sky_noise = None
    if rms is not None:
        sky_noise, image = image["sigma"], image.drop_vars("sigma")
    scale = image.galprep.pixel_scale
    psf = _psf(psf_file)
    files = [output / f"{target.file_name}.fits" for target in wanted]
    _make_room(output, files, overwrite)
    masking = None
    if not no_target_mask:
        masking = {
            "fwhm": fwhm, "n_sigma": n_sigma, "n_pixels": n_pixels, "deblend": deblend,
            "source_diameter": source_diameter / scale, "max_grow_size": max_grow_size,
        }  # fmt: skip
    settings = {"size": size, "sky_model": str(sky_model), "target_mask": masking}
    # Workers may have been started in another folder.
    absolute = [file.expanduser().absolute() for file in files]
    product = _Product(absolute, wanted, psf, image.attrs["header"], masking, settings, overwrite)
    sides = np.array([size if target.size is None else target.size for target in wanted]) * u.arcsec
    with session(workers, scheduler, quiet=as_json) as shown:
        with shown.step("sky"):
            image, masked = minus_sky(image, sky_model, order=order, box_size=box_size, fwhm=fwhm)
        if no_sigma:
            image = image.drop_vars("sigma", errors="ignore")
        elif "sigma" not in image:
            with shown.step("sigma"):
                image = image.galprep.with_sigma(masked, rms=sky_noise)
        image = image.drop_vars(["weight", "segmentation"], errors="ignore")
        with shown.step("cutouts"):
            positions = ([getattr(target, name) for target in wanted] for name in ("ra", "dec"))
            try:
                _, table = cutout_many(image, *positions, sides, sink=product)
            except _DiskError as error:
                raise OutputError(str(error)) from error
    rows = _rows(wanted, files, table)
    failed = [f"{row['name']}: {row['reason']}" for row in rows if not row["cut"]]
    done = [row["file"] for row in rows if row["cut"]]
    told: dict[str, Any] = {"cut": len(done), "failed": len(failed), "folder": str(output)}
    if as_json:
        told |= {"targets": rows, "files": done}
    elif failed:
        told |= {"not cut": failed}
    report(told, title=f"cutouts of {path}", as_json=as_json)
    raise typer.Exit(1 if failed else 0)


class _DiskError(Exception):
    """Files cannot be written, whatever the target."""


@dataclass(frozen=True)
class _Product:
    """Write the file of a target as soon as it is cut: in the thread or the worker that has its pixels."""

    files: list[Path]
    targets: list
    psf: Any
    header: str
    masking: dict[str, Any] | None
    settings: dict[str, Any]
    overwrite: bool

    def __call__(self, k: int, cut) -> Path:
        from galprep_dask.cutouts import write_product
        from galprep_dask.errors import OutputError
        from galprep_dask.image import sky_to_pixel
        from galprep_dask.masks import target_mask

        target, mask = self.targets[k], cut.get("mask")
        if self.masking is not None:
            x, y = sky_to_pixel(cut.attrs["header"], target.ra, target.dec)
            mask = target_mask(cut["data"].values, x, y, mask=None if mask is None else mask.values, **self.masking)
        try:
            return write_product(
                self.files[k], cut, mask=mask, psf=self._psf_at(target), ra=target.ra, dec=target.dec,
                keywords=[("OBJECT", _ascii(target.name), "target")], parameters=self.settings,
                overwrite=self.overwrite,
            )  # fmt: skip
        except OutputError as error:
            raise _DiskError(str(error)) from error

    def _psf_at(self, target):
        """Give the PSF where the target is in the image, whose header this is."""
        from galprep_dask.image import sky_to_pixel

        if not hasattr(self.psf, "at"):
            return self.psf
        return self.psf.at(*sky_to_pixel(self.header, target.ra, target.dec))


def _ascii(name: str) -> str:
    return name.encode("ascii", "replace").decode()[:60]


def _targets(file: str | None, ra: float | None, dec: float | None, name: str) -> list:
    from galprep_dask.errors import ParameterError
    from galprep_dask.pipeline.names import safe_name
    from galprep_dask.pipeline.targets import Target, read_targets

    if file is not None:
        if ra is not None or dec is not None:
            raise ParameterError("--targets and --ra, --dec: give a table or one position.")
        return read_targets(file)
    if ra is None or dec is None:
        raise ParameterError("no target: give --targets FILE, or --ra and --dec in degrees.")
    return [Target(0, name, safe_name(name), ra, dec)]


def _make_room(output: Path, files: list[Path], overwrite: bool) -> None:
    """Make the folder, and refuse to begin where one of the files is there already."""
    from galprep_dask.errors import OutputError
    from galprep_dask.io.atomic import check_output

    try:
        output.expanduser().mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {str(output)!r}: {error.strerror}. Choose another.") from error
    for file in files:
        check_output(file, overwrite)


def _psf(file: str | None):
    """Read a PSF: one of ours, which may vary over the field, or the first image of any file."""
    import numpy as np

    from galprep_dask import open_image
    from galprep_dask.errors import ImageFileError
    from galprep_dask.psf import PSFModel

    if file is None:
        return None
    try:
        return PSFModel.from_fits(file)
    except ImageFileError:
        return np.asarray(open_image(file)["data"])


def _rows(targets: list, files: list[Path], table) -> list[dict[str, Any]]:
    columns = ("x", "y", "nx", "ny", "n_padded")
    return [
        {"name": target.name, "file": str(file) if row["cut"] else None, "ra": target.ra, "dec": target.dec}
        | {column: row[column] if row["cut"] else None for column in columns}
        | {"cut": bool(row["cut"]), "reason": target.problem or str(row["reason"])}
        for target, file, row in zip(targets, files, table, strict=True)
    ]
