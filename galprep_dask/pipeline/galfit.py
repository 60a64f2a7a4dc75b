"""GALFIT input files (feedme): one Sersic profile and a sky for one cutout file."""

from __future__ import annotations

import math
from dataclasses import dataclass

from galprep_dask.errors import ParameterError

__all__ = ["GalfitStart", "feedme_text"]


@dataclass(frozen=True)
class GalfitStart:
    """
    Where GALFIT starts.

    Parameters
    ----------
    x, y : float
        0-based pixel position of the centre in the cutout.
    mag : float
        Total magnitude.
    r_eff : float
        Half-light radius along the major axis in pixels.
    n : float
        Sersic index.
    axis_ratio : float
        Minor over major axis.
    position_angle : float
        In degrees, up = 0, left = 90.
    """

    x: float
    y: float
    mag: float
    r_eff: float
    n: float = 2.0
    axis_ratio: float = 0.7
    position_angle: float = 0.0


def feedme_text(
    file: str,
    shape: tuple[int, int],
    start: GalfitStart,
    *,
    pixel_scale: float,
    zeropoint: float,
    exptime: float | None = None,
    has_psf: bool = True,
    psf_size: int = 0,
    psf_oversampling: int = 1,
    output: str = "galfit_out.fits",
) -> str:
    """
    Give a GALFIT input file for a cutout file; no constraints are set.

    Parameters
    ----------
    file : str
        The cutout file, as seen from the folder that GALFIT is started in: image, mask, sigma and PSF in HDU 0 to 3.
    shape : (int, int)
        Rows and columns of the cutout.
    start : GalfitStart
        Where the fit starts.
    pixel_scale : float
        In arcsec.
    zeropoint : float
        Magnitude of one unit of the image.
    exptime : float, optional
        EXPTIME in the header of the cutout, by which GALFIT divides fluxes; the zero point that is written makes up for
        it.
    has_psf : bool
        Whether HDU 3 is a PSF.
    psf_size : int
        Side of the PSF in pixels of the image: the box that is convolved.
    psf_oversampling : int
        How much finer than the image the PSF is sampled.
    output : str
        What GALFIT is to write.

    Returns
    -------
    str

    Raises
    ------
    ParameterError
        A number is not finite, or not positive where it has to be.

    Examples
    --------
    >>> text = feedme_text("a.fits", (101, 101), GalfitStart(50, 50, 20.0, 8.0), pixel_scale=0.2, zeropoint=25.0,
    ...                    exptime=100.0, psf_size=31)
    >>> [line.split("#")[0].strip() for line in text.splitlines() if line.startswith(("A)", "J)"))]
    ['A) a.fits[0]', 'J) 20.0000']
    """
    numbers = {**vars(start), "pixel_scale": pixel_scale, "zeropoint": zeropoint}
    wrong = [name for name, value in numbers.items() if not math.isfinite(value)]
    wrong += [name for name in ("r_eff", "n", "axis_ratio", "pixel_scale") if not numbers[name] > 0]
    if wrong:
        raise ParameterError(f"feedme of {file!r}: {wrong[0]}={numbers[wrong[0]]!r}; expected a finite number > 0.")
    ny, nx = shape
    # GALFIT's magnitudes are those of flux / EXPTIME.
    if exptime:
        zeropoint = zeropoint - 2.5 * math.log10(exptime)
    box = max(psf_size, 1) if has_psf else max(shape)
    angle = (start.position_angle + 90) % 180 - 90
    rows = [
        ("A)", f"{file}[0]", "Input data image (FITS file)"),
        ("B)", output, "Output data image block"),
        ("C)", f"{file}[2]", "Sigma image"),
        ("D)", f"{file}[3]" if has_psf else "none", "Input PSF image"),
        ("E)", psf_oversampling, "PSF fine sampling factor relative to data"),
        ("F)", f"{file}[1]", "Bad pixel mask (FITS image, 1 = bad)"),
        ("G)", "none", "File with parameter constraints"),
        ("H)", f"1 {nx} 1 {ny}", "Image region to fit (xmin xmax ymin ymax)"),
        ("I)", f"{box} {box}", "Size of the convolution box (x y)"),
        ("J)", f"{zeropoint:.4f}", "Magnitude photometric zeropoint" + (" for flux / EXPTIME" if exptime else "")),
        ("K)", f"{pixel_scale:.6f} {pixel_scale:.6f}", "Plate scale (dx dy) [arcsec per pixel]"),
        ("O)", "regular", "Display type"),
        ("P)", 0, "0=optimize, 1=model, 2=imgblock, 3=subcomps"),
        None,
        (" 0)", "sersic", "Object type"),
        (" 1)", f"{start.x + 1:.4f} {start.y + 1:.4f} 1 1", "position x, y [pixel, 1-based]"),
        (" 3)", f"{start.mag:.4f} 1", "integrated magnitude"),
        (" 4)", f"{start.r_eff:.4f} 1", "R_e [pixel]"),
        (" 5)", f"{start.n:.4f} 1", "Sersic index n"),
        (" 9)", f"{min(max(start.axis_ratio, 0.05), 1.0):.4f} 1", "axis ratio (b/a)"),
        ("10)", f"{angle:.4f} 1", "position angle [deg: Up=0, Left=90]"),
        (" Z)", 0, "output option (0 = residual, 1 = don't subtract)"),
        None,
        (" 0)", "sky", "Object type; the sky has been subtracted, and is fixed"),
        (" 1)", "0.0000 0", "sky background at the centre [ADU]"),
        (" 2)", "0.0000 0", "dsky/dx [ADU/pix]"),
        (" 3)", "0.0000 0", "dsky/dy [ADU/pix]"),
        (" Z)", 0, "output option"),
    ]
    return "".join("\n" if row is None else f"{row[0]} {row[1]!s:<40s} # {row[2]}\n" for row in rows)
