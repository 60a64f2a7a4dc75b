"""``galprep info``: what a file holds, as galprep reads it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from galprep_dask.cli._options import HDU, Image, Json, hdu_of
from galprep_dask.cli._report import print_json

__all__ = ["info"]

_UNITS = {"gain": "e-/ADU", "exptime": "s", "zeropoint": "mag"}


def info(path: Image, hdu: HDU = None, as_json: Json = False) -> None:
    """
    Say what an image is: HDUs, shape, chunks, unit, gain, exposure, zero point, sky coordinates.

    Reads headers only. Examples:

        galprep info mosaic.fits

        galprep info tile.fits.fz --hdu 1 --json
    """
    from galprep_dask import open_image
    from galprep_dask.io.fits_find import list_hdus
    from galprep_dask.io.zarr import is_zarr

    with _keywords_used() as keywords:
        image = open_image(path, hdu_of(hdu))
    facts = _facts(path, image, keywords) | {"hdus": [] if is_zarr(path) else list_hdus(path)}
    if as_json:
        print_json(facts)
    else:
        Console(highlight=False).print(_as_rich(facts))


def _facts(path: str, image, keywords: dict[str, str]) -> dict[str, Any]:
    data = image["data"]
    facts = {
        "path": path, "hdu": image.attrs.get("hdu"), "shape": list(data.shape), "dims": list(data.dims),
        "dtype": str(data.dtype), "chunks": [max(axis) for axis in data.data.chunks],
        "n_chunks": data.data.npartitions, "planes": [str(name) for name in image.data_vars],
        "unit": image.attrs.get("unit"),
    }  # fmt: skip
    for name in _UNITS:
        facts[name] = image.attrs.get(name)
        facts[f"{name}_keyword"] = keywords.get(name)
    return facts | _sky_coordinates(image)


def _sky_coordinates(image) -> dict[str, Any]:
    from galprep_dask.errors import MissingWCSError
    from galprep_dask.image import pixels_to_sky

    try:
        wcs, (ny, nx) = image.galprep.wcs, image.galprep.shape
        ra, dec = pixels_to_sky(wcs, (nx - 1) / 2, (ny - 1) / 2)
        scale = image.galprep.pixel_scale
    except MissingWCSError:
        return dict.fromkeys(("ctype", "pixel_scale", "ra", "dec"))
    return {"ctype": list(wcs.wcs.ctype), "pixel_scale": scale, "ra": float(ra), "dec": float(dec)}


def _as_rich(facts: dict[str, Any]) -> Table:
    table = Table(show_header=False, title=escape(facts["path"]), title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")

    def add(name, value):
        table.add_row(name, escape(str(value)))

    add("HDU", "-" if facts["hdu"] is None else facts["hdu"])
    add("pixels", f"{_by(facts['shape'])} ({', '.join(facts['dims'])}), {facts['dtype']}")
    add("chunks", f"{_by(facts['chunks'])}, {facts['n_chunks']} in all")
    add("planes", ", ".join(facts["planes"]))
    add("unit", facts["unit"] or "-")
    for name, unit in _UNITS.items():
        keyword = facts[f"{name}_keyword"]
        source = f" (from {keyword})" if keyword else ""
        add(name, "not known" if facts[name] is None else f"{facts[name]:g} {unit}{source}")
    if facts["ctype"] is None:
        add("projection", "no celestial WCS")
    else:
        add("projection", f"{', '.join(facts['ctype'])}, {facts['pixel_scale']:.4f} arcsec per pixel")
        add("centre", f"ra {facts['ra']:.6f}, dec {facts['dec']:+.6f} deg")
    for hdu in facts["hdus"]:
        add(f"HDU {hdu['number']}", _hdu_in_words(hdu))
    return table


def _hdu_in_words(hdu: dict[str, Any]) -> str:
    words = [hdu["name"]] if hdu["name"] else []
    words.append(hdu["kind"] if hdu["shape"] or hdu["kind"] != "image" else "header only")
    if hdu["shape"]:
        words.append(f"{_by(hdu['shape'])}, BITPIX {hdu['bitpix']}")
    if hdu["compression"]:
        words.append(f"{hdu['compression']} in tiles of {_by(hdu['tile'])}")
    return ", ".join(words)


def _by(sizes) -> str:
    return " x ".join(map(str, sizes))


@contextmanager
def _keywords_used() -> Iterator[dict[str, str]]:
    """Give a dict that is filled with the keyword that each quantity comes from, as reading logs it."""
    keywords: dict[str, str] = {}

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno == logging.INFO and isinstance(record.args, tuple) and len(record.args) == 4:
                name, _, keyword, _ = record.args
                keywords[name] = keyword

    logger, listener = logging.getLogger("galprep_dask.io"), Listener()
    before = logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    try:
        yield keywords
    finally:
        logger.setLevel(before)
        logger.removeHandler(listener)
