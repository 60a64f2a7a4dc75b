"""``galprep init``: a configuration to start from."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from galprep_dask.cli._options import Json, Overwrite, hdu_of
from galprep_dask.cli._report import report

__all__ = ["init"]


def init(
    path: Annotated[Path, typer.Argument(metavar="CONFIG", help="The file to write, TOML.")] = Path("config.toml"),
    band: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=IMAGE", help="A band and its image, FILE[HDU] for an HDU; once for every band."),
    ] = None,
    targets: Annotated[
        str | None, typer.Option(metavar="FILE", help="Table of the targets, with ra and dec in degrees.")
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FOLDER", help="Folder for what the run writes.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """
    Write a configuration for galprep run, with every key, what it does, and its default.

    Images named here are looked at (headers only), and their bands filled in. What a header does not say, gain,
    exposure or zero point, is named: set it in the file. Examples:

        galprep init

        galprep init run.toml --band r=mosaic_r.fits --band k=mosaic_k.fits --targets targets.ecsv
    """
    from galprep_dask import open_image
    from galprep_dask.errors import CatalogNotFoundError, ConfigError
    from galprep_dask.io.atomic import atomic_path, check_output
    from galprep_dask.io.files import is_remote
    from galprep_dask.io.header import KEYWORDS
    from galprep_dask.pipeline.config import read_config
    from galprep_dask.pipeline.template import config_template

    path = check_output(path, overwrite)
    folder = path.parent.resolve()

    def from_there(file: str) -> str:
        """Name a file from the folder of the configuration."""
        return file if is_remote(file) or os.path.isabs(file) else os.path.relpath(Path(file).expanduser(), folder)

    if targets is not None and not is_remote(targets) and not Path(targets).expanduser().exists():
        raise CatalogNotFoundError(f"there is no file {targets!r} with targets. Check the path.")
    bands, unknown = [], {}
    for given in band or []:
        name, image, hdu = _taken_apart(given)
        attrs = open_image(image, hdu).attrs
        unknown[name] = [quantity for quantity in KEYWORDS if quantity not in attrs]
        bands.append({"name": name, "image": from_there(image)} | ({} if hdu is None else {"hdu": hdu}))
    text = config_template(bands, targets=targets and from_there(targets), output=output and from_there(output))
    with atomic_path(path, overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")
        try:
            read_config(temporary)
        except ConfigError as error:
            raise ConfigError(str(error).replace(str(temporary), str(path))) from None
    rows = {"files": [str(path)], "bands": [one["name"] for one in bands], "not_in_headers": unknown}
    report(rows if as_json or bands else {"files": rows["files"]}, title="configuration", as_json=as_json)


def _taken_apart(given: str) -> tuple[str, str, int | str | None]:
    """Give name, file and HDU of NAME=FILE[HDU]."""
    from galprep_dask.errors import ParameterError

    name, equals, image = given.partition("=")
    if not (name and equals and image):
        raise ParameterError(f"--band {given!r}: expected NAME=IMAGE, r=mosaic_r.fits for example.")
    match = re.fullmatch(r"(.+)\[([^\[\]]+)\]", image)
    if match and not Path(image).expanduser().exists():
        return name, match[1], hdu_of(match[2])
    return name, image, None
