"""Is a cutout image one that a fit can use: its pixels, its coordinates, its header, its noise and its sky."""

from __future__ import annotations

import math
import re
import warnings

import numpy as np
from astropy.io import fits
from astropy.wcs.utils import proj_plane_pixel_scales

from galprep_dask.cutouts.findings import Finding
from galprep_dask.cutouts.product_header import is_inside, target_pixel
from galprep_dask.errors import GalprepWarning, MissingWCSError, NoGoodPixelsError
from galprep_dask.image import WARNINGS_LOCK, celestial_wcs
from galprep_dask.io.header import KEYWORDS, find_quantity
from galprep_dask.noise import check_sigma
from galprep_dask.sky import source_mask
from galprep_dask.stats import sigma_clipped_stats

__all__ = ["check_header", "check_pixels", "check_sky", "measure_noise_ratio"]

#: A ratio of measured noise to sigma outside is said. One outside the second pair is wrong whatever the noise is like:
#: that of drizzled images is correlated, and the scatter of pixels a half of it, or less.
_RATIO, _RATIO_WRONG = (0.8, 1.25), (1 / 3, 2.0)
#: Fewer source-free pixels than this do not tell.
_ENOUGH = 64
#: How sources are found to be left out, in px.
_FWHM, _GROWTH = 3.0, 30
_SCALE_TOLERANCE = 0.01


def check_pixels(image: np.ndarray, bad: np.ndarray | None) -> list[Finding]:
    """Check that an image is finite, where it is masked too, and that it is no constant."""
    wild = ~np.isfinite(image)
    if wild.any():
        open_to_fit = int((wild if bad is None else wild & ~bad).sum())
        message = f"{int(wild.sum())} are not finite, {open_to_fit} of them not masked"
        advice = "Mask them and write 0 there: NaN times a weight of zero is NaN, and so is the sum over the image."
        return [Finding("error" if open_to_fit else "warning", "pixels", message, advice, float(open_to_fit))]
    if image.min() == image.max():
        return [Finding("error", "pixels", f"all are {image.flat[0]:g}", "Is this the image?")]
    return [Finding("ok", "pixels", "all finite")]


def check_header(header: fits.Header, shape: tuple[int, int], *, has_sigma: bool) -> list[Finding]:
    """
    Check coordinates, target, exposure, gain, zero point and unit.

    Parameters
    ----------
    header : Header
        Of the image.
    shape : (int, int)
        (ny, nx).
    has_sigma : bool
        Whether there is a sigma image, so that nobody has to make one from gain and exposure.

    Returns
    -------
    list of Finding
    """
    return [*_check_wcs(header), _check_target(header, shape), *_check_quantities(header, has_sigma)]


def _check_wcs(header: fits.Header) -> list[Finding]:
    with WARNINGS_LOCK, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            wcs = celestial_wcs(header)
        except MissingWCSError as error:
            return [Finding(
                "error", "wcs", str(error).removeprefix("the image has ").split(" Give it")[0].rstrip("."),
                "Write CTYPE1 and CTYPE2 ('RA---TAN', 'DEC--TAN') and a matrix with the sign and angle of the axes. "
                "GalfitS places models by ra and dec; GALFIT, which counts pixels, does not mind.",
            )]  # fmt: skip
    scales = proj_plane_pixel_scales(wcs) * 3600
    scale = math.sqrt(scales[0] * scales[1])
    found = [Finding("ok", "wcs", f"{wcs.wcs.ctype[0]}, {wcs.wcs.ctype[1]}")]
    for warning in said:
        if issubclass(warning.category, GalprepWarning):
            text = str(warning.message).removeprefix("the image ")
            found.append(Finding("warning", "wcs", text.split(". ")[0], ". ".join(text.split(". ")[1:])))
    found.append(_check_scale(header, scales, scale))
    if abs(scales[0] / scales[1] - 1) > _SCALE_TOLERANCE:
        message = f"{scales[0]:.4f} by {scales[1]:.4f} arcsec: pixels are not square"
        advice = "Resample to square pixels: radii and angles are measured in pixels."
        found.append(Finding("warning", "wcs scale", message, advice))
    return found


def _check_scale(header: fits.Header, scales: np.ndarray, scale: float) -> Finding:
    """Compare the scale of the matrix with what CDELT and PIXSCALE say: codes differ in what they read."""
    message = f"{scale:.4f} arcsec per px"
    has_cd = any(re.fullmatch(r"CD\d_\d", key) for key in header)
    for axis in (1, 2):
        step = header.get(f"CDELT{axis}")
        # A step of 1 beside a matrix in degrees is one way to write it; what CD overrides is not read by any code.
        if has_cd or not isinstance(step, int | float) or step in (0, 1, -1):
            continue
        if abs(abs(step) * 3600 / scales[axis - 1] - 1) > _SCALE_TOLERANCE:
            return Finding(
                "error", "wcs scale",
                f"{message} with the PC matrix, but CDELT{axis} says {abs(step) * 3600:.4f}: the rows of PC are not of "
                "length 1",
                "Find the true scale (from the survey, or two stars), write PC as a rotation and the scale in CDELT.",
                scale,
            )  # fmt: skip
    said = header.get("PIXSCALE")
    if isinstance(said, int | float) and said > 0 and abs(said / scale - 1) > _SCALE_TOLERANCE:
        return Finding(
            "warning", "wcs scale", f"{message}, but PIXSCALE says {said:g}", "Correct whichever is wrong.", scale
        )
    return Finding("ok", "wcs scale", message, "", scale)


def _check_target(header: fits.Header, shape: tuple[int, int]) -> Finding:
    ours = "GPVERS" in header
    position = target_pixel(header)
    if position is None:
        advice = "Write RA_TARG and DEC_TARG in degrees, to have it checked."
        return Finding("note", "target", "its position is not in the header", advice)
    x, y = position
    found = f"at x={x:.2f}, y={y:.2f}, counted from 0"
    if is_inside(position, shape):
        return Finding("ok", "target", found)
    # Others write the pointing of the telescope into these keywords.
    advice = "Check RA_TARG and DEC_TARG, that they are not swapped, and the WCS."
    return Finding("error" if ours else "warning", "target", f"outside the image, {found}", advice)


def _check_quantities(header: fits.Header, has_sigma: bool) -> list[Finding]:
    found = []
    units = {"gain": "e-/count", "exptime": "s", "zeropoint": "mag"}
    for name, unit in units.items():
        value = find_quantity(name, [header], where="the image")
        if value is not None:
            found.append(Finding("ok", name, f"{value:g} {unit}", "", value))
            continue
        level = "warning" if name != "zeropoint" and not has_sigma else "note"
        advice = f"Write {KEYWORDS[name][0]}."
        if level == "warning":
            advice += " Without a sigma image, a code makes its own from it."
        found.append(Finding(level, name, f"none of {', '.join(KEYWORDS[name])}", advice))
    unit = str(header.get("BUNIT", "")).strip()
    found.append(Finding("ok", "unit", unit) if unit else Finding("note", "unit", "no BUNIT", "Write BUNIT."))
    return found


def measure_noise_ratio(image: np.ndarray, sigma: np.ndarray, bad: np.ndarray) -> tuple[float, float, int] | None:
    """
    Take the standard deviation and the median of image / sigma where there are no sources.

    Parameters
    ----------
    image, sigma : (ny, nx) array
        Image and sigma.
    bad : (ny, nx) bool array
        Pixels left out.

    Returns
    -------
    (ratio, level, n_pixels) or None
        The level is the median; None where too few pixels hold sky.
    """
    bad = bad | ~(np.isfinite(image) & np.isfinite(sigma) & (sigma > 0))
    image = np.where(bad, 0.0, image).astype(np.float64)
    with WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore", GalprepWarning)  # an image without sources is what is wanted
        try:
            free = ~np.asarray(source_mask(image, bad, fwhm=_FWHM, max_grow_size=_GROWTH))
        except NoGoodPixelsError:
            return None
    if free.sum() < _ENOUGH:
        return None
    usable = np.where(bad, 1.0, sigma)
    _, level, width = sigma_clipped_stats(image / usable, ~free, sigma=5.0)
    if not width > 0:
        return width, level, int(free.sum())
    return check_sigma(image, usable, ~free, expected=None).ratio, level, int(free.sum())


def check_sky(image: np.ndarray, sigma: np.ndarray | None, bad: np.ndarray | None) -> list[Finding]:
    """
    Compare sigma with the noise of source-free pixels, and their level with zero.

    Parameters
    ----------
    image : (ny, nx) array
        The image.
    sigma : (ny, nx) array or None
        Without one, only the level is looked at.
    bad : (ny, nx) bool array or None
        Masked pixels.

    Returns
    -------
    list of Finding
    """
    bad = np.zeros(image.shape, bool) if bad is None else bad
    measured = measure_noise_ratio(image, np.ones(image.shape) if sigma is None else sigma, bad)
    if measured is None:
        advice = "Cut a larger image: sources fill this one."
        return [Finding("note", "noise", f"fewer than {_ENOUGH} pixels without sources: not measured", advice)]
    ratio, level, n = measured
    if not ratio > 0:
        return [Finding("warning", "noise", f"none in {n} source-free pixels", "Is this a model?", ratio)]
    found = []
    if sigma is not None:
        message = f"std(data / sigma) is {ratio:.2f} in source-free pixels, {n} of them"
        grade = "ok" if _RATIO[0] <= ratio <= _RATIO[1] else "warning"
        grade = "error" if not _RATIO_WRONG[0] <= ratio <= _RATIO_WRONG[1] else grade
        factor = f"multiply by {ratio:.3g}"
        advice = "" if grade == "ok" else (
            f"Sigma is too {'large' if ratio < 1 else 'small'}: {factor}, or make it anew from gain, exposure and sky. "
        )  # fmt: skip
        if grade != "ok" and ratio < 1:
            advice += "Resampled images have correlated noise, and a ratio below 1 with a sigma that is right."
        found.append(Finding(grade, "noise", message, advice.strip(), ratio))
    offset = level / ratio
    message = f"median of source-free pixels is {offset:+.2f} of their scatter"
    advice = "Subtract the sky, with its sources masked further out; light left there goes into the fit."
    grade = "ok" if abs(offset) < 0.3 else "note" if abs(offset) < 1 else "warning"
    found.append(Finding(grade, "sky level", message, "" if grade == "ok" else advice, offset))
    return found
