"""``galprep info``: what a file holds, as galprep reads it."""

from __future__ import annotations

import logging
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

__all__ = ["info"]


def info(
    path: Annotated[str, typer.Argument(help="FITS file, Zarr store or URL.")],
    hdu: Annotated[str | None, typer.Option(help="HDU index or EXTNAME; by default the first image.")] = None,
) -> None:
    """
    Say what an image is: shape, chunks, unit, gain, exposure, zero point, sky coordinates.

    Reads headers only. Example: galprep info mosaic.fits --hdu 1
    """
    from galprep_dask import open_image
    from galprep_dask.errors import MissingWCSError

    used = _LoggedKeywords()
    logger = logging.getLogger("galprep_dask.io")
    logger.addHandler(used)
    logger.setLevel(logging.INFO)
    image = open_image(path, int(hdu) if hdu is not None and hdu.lstrip("-").isdigit() else hdu)

    table = Table(show_header=False, title=path, title_justify="left")
    data = image["data"]
    table.add_row("HDU", str(image.attrs.get("hdu", "-")))
    table.add_row("pixels", " x ".join(map(str, data.shape)) + f" ({', '.join(map(str, data.dims))}), {data.dtype}")
    sizes = " x ".join(str(max(axis)) for axis in data.data.chunks)
    table.add_row("chunks", f"{sizes}, {data.data.npartitions} in all")
    table.add_row("planes", ", ".join(str(name) for name in image.data_vars))
    table.add_row("unit", image.attrs.get("unit", "-"))
    for name, unit in (("gain", "e-/ADU"), ("exptime", "s"), ("zeropoint", "mag")):
        value = image.attrs.get(name)
        table.add_row(name, "not known" if value is None else f"{value:g} {unit}{used.keyword.get(name, '')}")
    try:
        wcs, (ny, nx) = image.galprep.wcs, image.galprep.shape
        ra, dec = wcs.all_pix2world((nx - 1) / 2, (ny - 1) / 2, 0)
        table.add_row("projection", f"{', '.join(wcs.wcs.ctype)}, {image.galprep.pixel_scale:.4f} arcsec per pixel")
        table.add_row("centre", f"ra {float(ra):.6f}, dec {float(dec):+.6f} deg")
    except MissingWCSError:
        table.add_row("projection", "no celestial WCS")
    Console(highlight=False).print(table)


class _LoggedKeywords(logging.Handler):
    """Remember which keyword each quantity came from, as reading logs it."""

    def __init__(self):
        super().__init__()
        self.keyword: dict[str, str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.INFO and isinstance(record.args, tuple) and len(record.args) == 4:
            name, _, keyword, _ = record.args
            self.keyword[name] = f" (from {keyword})"
