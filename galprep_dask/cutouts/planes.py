"""The planes in files that a fit is fed with, and which of them is image, mask, sigma, PSF."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
from astropy.io import fits

from galprep_dask.errors import HDUError
from galprep_dask.image import header_text, parse_header
from galprep_dask.io.files import clear_errors, container_of, is_remote, local_path, open_hdus, without_format_warnings

__all__ = ["ORDER", "Plane", "read_planes"]

#: Roles in the order in which a GalfitS file has them.
ORDER = ("image", "mask", "sigma", "psf", "model")

#: Words in EXTNAME or in the name of a file, between what is no letter; "im", "image" and "map" may follow.
_WORDS = {
    "mask": "mask|msk|badpix|bpm|dq|flag",
    "sigma": "sigma|sig|err|error|rms|unc|uncert|noise|stddev",
    "psf": "psf|epsf|prf|kernel",
    "weight": "weight|wht|ivar|invvar",
    "segmentation": "seg|segmentation",
    "model": "model",
    "image": "image|sci|data",
}
_PATTERNS = {
    role: re.compile(rf"(?<![a-z])({words})s?_?(im|img|image|map)?(?![a-z])") for role, words in _WORDS.items()
}


@dataclass(frozen=True, eq=False)
class Plane:
    """
    One image HDU of a file.

    Attributes
    ----------
    path : str
        The file.
    hdu : int
        Its index.
    role : str or None
        Of :data:`ORDER`, "weight" or "segmentation"; None where nothing tells.
    pixels : array
        In native byte order, scaled.
    header : Header
        A copy.
    """

    path: str
    hdu: int
    role: str | None
    pixels: np.ndarray
    header: fits.Header

    @property
    def place(self) -> str:
        """File and HDU, as GalfitS's configurations write them."""
        return f"{self.path}[{self.hdu}]"


def read_planes(path: str | os.PathLike, role: str | None = None) -> list[Plane]:
    """
    Read every image HDU of a file, and find out what each is.

    Parameters
    ----------
    path : str or path
        A FITS file, compressed or not, or a URL of one.
    role : str, optional
        What the first image of the file is, where the caller knows.

    Returns
    -------
    list of Plane
        An EXTNAME decides; then, for the first, the name of the file and its pixels, for others the order image, mask,
        sigma, PSF, model.

    Raises
    ------
    ImageNotFoundError, ImageFileError
        There is no such file, or it is no FITS file, or it is damaged.
    HDUError
        No HDU holds an image.
    """
    path = os.fspath(path)
    place = path if is_remote(path) else local_path(path)
    images = []
    with without_format_warnings(), clear_errors(path, None):
        container = container_of(place, {})
        with open_hdus(place, {}, container) as hdus:
            for number, hdu in enumerate(hdus):
                if hdu.is_image and hdu.shape and 0 not in hdu.shape:
                    pixels = np.asarray(hdu.data)
                    pixels = pixels.astype(pixels.dtype.newbyteorder("=")) if pixels.dtype.kind != "b" else pixels
                    while pixels.ndim > 2 and pixels.shape[0] == 1:
                        pixels = pixels[0]
                    images.append((number, pixels, parse_header(header_text(hdu.header))))
    if not images:
        raise HDUError(f"{path!r} holds no image. Name a FITS file with an image, a mask, a sigma image or a PSF.")
    roles = _roles([(header.get("EXTNAME", ""), pixels, header) for _, pixels, header in images], path, role)
    return [Plane(path, number, what, *rest) for (number, *rest), what in zip(images, roles, strict=True)]


def _roles(images: list[tuple], path: str, given: str | None) -> list[str | None]:
    named = [_role_of_name(str(extname)) for extname, _, _ in images]
    ours = "image" if "GPPLANES" in images[0][2] else None  # whatever the name of its target
    in_name = _role_of_name(PurePath(path).name.split(".fit")[0])
    first = given or named[0] or ours or in_name or _role_of_pixels(*images[0][1:])
    if any(named[1:]):
        return [first, *named[1:]]
    if first != "image":
        # The first is a PSF, say; what follows it unnamed is its table, its sigma, and not a mask.
        return [first] + [None] * (len(images) - 1)
    return [*ORDER, *[None] * len(images)][: len(images)]


def _role_of_name(name: str) -> str | None:
    """Take the word that stands last: ``cut_image_mask`` is a mask."""
    found = [(match.start(), role) for role, pattern in _PATTERNS.items() for match in pattern.finditer(name.lower())]
    return max(found)[1] if found else None


def _role_of_pixels(pixels: np.ndarray, header: fits.Header) -> str:
    """Tell a mask by its two values, a PSF by its peak in the middle, its sum, and no coordinates."""
    if pixels.ndim != 2:
        return "image"
    values = pixels.reshape(-1)
    if pixels.dtype.kind in "biu" and np.isin(values, (0, 1)).all():
        return "mask"
    if "CTYPE1" in header or not np.isfinite(values).all() or pixels.max() <= 0:
        return "image"
    peak = np.array(np.unravel_index(np.argmax(pixels), pixels.shape))
    central = (np.abs(peak - (np.array(pixels.shape) - 1) / 2) <= 2).all()
    return "psf" if central and abs(values.sum(dtype=np.float64) - 1) < 0.5 else "image"
