"""Small grey pictures of cutouts, with their masks as a layer of their own."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from astropy.io import fits
from PIL import Image

from galprep_dask.io.files import without_format_warnings

__all__ = ["Thumbnail", "side_for", "thumbnail"]

#: Sides in pixels, for reports with at most so many pictures; more get the smallest, so that the page stays light.
_SIDES = ((1000, 128), (8000, 96))
_SMALLEST = 64
#: The picture is black so many standard deviations of the sky below it, and linear over about as many.
_BELOW = 2.0
#: White is the brightest percent of a thousand of the unmasked pixels, but at least so many standard deviations.
_BRIGHT, _LEAST = 0.998, 12.0
#: Colours with opacity: outside of the mask, within it, along its border.
_MASK_COLOURS = np.array([(0, 0, 0, 0), (38, 166, 91, 70), (64, 208, 124, 255)], np.uint8)
_QUALITY = 55


class Thumbnail(NamedTuple):
    """Picture and mask as WebP in base64, the mask empty where nothing is masked; or what is wrong."""

    image: str = ""
    mask: str = ""
    problem: str = ""


def side_for(count: int) -> int:
    """
    Give the side in pixels of ``count`` thumbnails.

    Examples
    --------
    >>> side_for(40), side_for(5000), side_for(20000)
    (128, 96, 64)
    """
    return next((side for most, side in _SIDES if count <= most), _SMALLEST)


def thumbnail(path: Path, side: int) -> Thumbnail:
    """
    Draw a cutout file small.

    Parameters
    ----------
    path : Path
        Image in HDU 0, mask in HDU 1, as :func:`galprep_dask.cutouts.write_product` writes them.
    side : int
        Longest side in pixels; smaller cutouts stay as they are.

    Returns
    -------
    Thumbnail
        Of a file that is missing or damaged it says so.
    """
    try:
        with without_format_warnings(), fits.open(path, memmap=False) as hdus:
            image = np.asarray(hdus[0].data, np.float32)
            masked = np.asarray(hdus[1].data) != 0 if len(hdus) > 1 else np.zeros(image.shape, bool)
    except FileNotFoundError:
        return Thumbnail(problem=f"{path.name} is missing")
    except Exception as error:  # damaged files raise whatever astropy stumbles over
        return Thumbnail(problem=f"{path.name} cannot be read: {error or type(error).__name__}")
    if image.ndim != 2 or image.size == 0 or masked.shape != image.shape:
        shapes = " and ".join(" x ".join(map(str, plane.shape)) or "none" for plane in (image, masked))
        return Thumbnail(problem=f"{path.name} holds no cutout: image and mask have {shapes} pixels")
    masked |= ~np.isfinite(image)
    pixels = _shrunk(_grey(image, masked), side)
    mask = _shrunk(masked.astype(np.float32), side) >= 0.5
    picture = Image.fromarray(np.round(255 * pixels).astype(np.uint8)[::-1])
    return Thumbnail(
        _webp(picture, quality=_QUALITY),
        _webp(Image.fromarray(_MASK_COLOURS[_layers(mask)][::-1]), lossless=True) if mask.any() else "",
    )


def _grey(image: np.ndarray, masked: np.ndarray) -> np.ndarray:
    """Scale to 0 ... 1: linear about the sky, logarithmic far above it, so that wings and cores are seen at once."""
    free = image[~masked] if not masked.all() else image[np.isfinite(image)]
    if free.size == 0:
        return np.zeros(image.shape, np.float32)
    middle = np.median(free)
    # The lower half of the pixels is sky even where a galaxy fills the frame.
    std = 1.4826 * np.median(middle - free[free <= middle]) or 1.0
    low, high = middle - _BELOW * std, max(middle + _LEAST * std, np.quantile(free, _BRIGHT))
    scaled = np.arcsinh((np.nan_to_num(image, nan=low) - low) / (_BELOW * std))
    return np.clip(scaled / np.arcsinh((high - low) / (_BELOW * std)), 0, 1).astype(np.float32)


def _shrunk(values: np.ndarray, side: int) -> np.ndarray:
    """Average down to the side; nothing is made larger."""
    ny, nx = values.shape
    factor = side / max(ny, nx)
    if factor >= 1:
        return values
    size = max(1, round(nx * factor)), max(1, round(ny * factor))
    return np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BOX))


def _layers(mask: np.ndarray) -> np.ndarray:
    """Give 1 within the mask and 2 along its border; the edge of the picture is no border."""
    padded = np.pad(mask, 1, mode="edge")
    inner = padded[2:, 1:-1] & padded[:-2, 1:-1] & padded[1:-1, 2:] & padded[1:-1, :-2]
    return mask.astype(np.uint8) + (mask & ~inner)


def _webp(image: Image.Image, **options) -> str:
    file = io.BytesIO()
    image.save(file, "WEBP", method=4, exact=False, **options)
    return base64.b64encode(file.getvalue()).decode()
