"""
Sigma images of real fields against the noise that is in them: ours, and those that came with the images.

Run ``python benchmarks/sigma_check.py FOLDER``, where FOLDER holds the real images. For each it prints the standard
deviation of source-free pixels over sigma: 1 is right, 2 means that sigma is half of what it should be.

``sky.fit_sky_between_sources`` masks the sources and subtracts a sky; where it leaves nothing of a small cutout,
clipping at 3 sigma has to do. "sky alone" is our sigma without the photon noise of sources, "ours" has that of the
gain, where one is known. "in boxes" are lowest and highest of boxes of 256 x 256 pixels with one number for the noise
of the sky, and "with a mesh" with that of ``sky.fit_mesh_sky``. The last columns are the noise of means over 4 x 4 and
8 x 8 pixels, in units of what white noise has.
"""

import argparse
import warnings
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from astropy.io import fits

from galprep_dask import noise, sky
from galprep_dask.errors import GalprepError, SigmaWarning


class Field(NamedTuple):
    """An image: file, HDU, FWHM in pixels, degree of its sky, gain, exposure, and the sigma that came with it."""

    path: str
    hdu: int
    fwhm: float
    order: int
    gain: float | None  # electrons per unit of the image and second; None leaves the photon noise of sources out
    exptime: float = 1.0
    theirs: tuple[str, int] | None = None


XDF = "hst_xdf_f160w/xdf_hst_wfc3ir_60mas_f160w_{}.fits"
FIELDS = {
    "vircam_h image_1": Field("vircam_h/image_1.fits", 1, 2.8, 3, 0.0966),
    "vircam_h image_8": Field("vircam_h/image_8.fits", 1, 2.8, 3, 0.0910),
    "hst_xdf_f160w": Field(XDF.format("sci"), 0, 2.8, 0, 1.0, 330624.39, (XDF.format("rms"), 0)),
    "kids_g279148": Field(
        "kids_g279148/G279148fitim.fits", 0, 3.5, 0, None, theirs=("kids_g279148/G279148sigma.fits", 0)
    ),
    "jwst_egs_40 F200W": Field("jwst_egs_40/f200w.fits", 0, 3.3, 0, None, theirs=("jwst_egs_40/f200w_err.fits", 0)),
    "jwst_egs_40 F444W": Field("jwst_egs_40/f444w.fits", 0, 3.6, 0, None, theirs=("jwst_egs_40/f444w_err.fits", 0)),
    "galfits_j0056 SDSS r": Field(
        "galfits_j0056/sdssr_cut.fits", 0, 3.0, 0, 4.22, theirs=("galfits_j0056/sdssr_cut.fits", 2)
    ),
    "galfits_j0056 2MASS J": Field(
        "galfits_j0056/tmassJ_cut.fits", 0, 3.0, 0, None, theirs=("galfits_j0056/tmassJ_cut.fits", 2)
    ),
    "galfits_j0056 GALEX NUV": Field(
        "galfits_j0056/galexnuv_cut.fits", 0, 3.5, 0, 1.0, 4684.2, ("galfits_j0056/galexnuv_cut.fits", 2)
    ),
}  # fmt: skip


class Row(NamedTuple):
    """What was found: numbers of the columns of the table."""

    sky_std: float
    n_pixels: int
    plain: noise.SigmaCheck
    ours: noise.SigmaCheck
    with_mesh: noise.SigmaCheck | None
    theirs: noise.SigmaCheck | None
    correlation: tuple[float, ...]


def check_field(folder, field):
    """Subtract the sky, mask the sources, and compare both sigma images with what is left."""
    data = fits.getdata(folder / field.path, field.hdu).astype("f8")
    try:
        fit = partial(sky.fit_polynomial_sky, order=field.order) if field.order else sky.fit_median_sky
        model, masked = sky.fit_sky_between_sources(data, fit=fit, fwhm=field.fwhm)
        data, clip = sky.subtract_sky(data, model), 5.0
        if (~masked).sum() < 100:
            raise GalprepError
    except GalprepError:
        data, masked, clip = data - sky.fit_median_sky(data).level, None, 3.0
    sky_std = noise.measure_sky_std(data, masked, sigma_clip=clip)
    how = {"fac1": 0} if field.gain is None else {"gain": field.gain, "exptime": field.exptime}
    checked = partial(noise.check_sigma, mask=masked, sigma_clip=clip, expected=None)
    plain = checked(data, noise.sigma_image(data, sky_std=sky_std, fac1=0))
    ours = checked(data, noise.sigma_image(data, sky_std=sky_std, **how))
    theirs = with_mesh = None
    if plain.box_ratios.size > 1:
        mesh = sky.fit_mesh_sky(data, masked, box_size=128, sigma_clip=5.0, exclude_percentile=90)
        with_mesh = checked(data, noise.sigma_image(data, rms=mesh.rms_image(), fac1=0))
    if field.theirs is not None:
        sigma = fits.getdata(folder / field.theirs[0], field.theirs[1]).astype("f8")
        theirs = checked(data, sigma)
    correlation = []
    for size in (4, 8):
        try:
            correlation.append(noise.correlation_factor(data, masked, block_size=size))
        except GalprepError:
            correlation.append(np.nan)
    return Row(sky_std, plain.n_pixels, plain, ours, with_mesh, theirs, tuple(correlation))


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of the real images")
    folder = parser.parse_args().folder
    warnings.simplefilter("ignore", SigmaWarning)
    columns = (
        "image", "noise of the sky", "source-free pixels", "sky alone", "in boxes", "with a mesh", "ours", "theirs",
        "means of 4 px", "of 8 px",
    )  # fmt: skip
    print("| " + " | ".join(columns) + " |\n" + "| --- " * len(columns) + "|")
    for name, field in FIELDS.items():
        row = check_field(folder, field)
        cells = [
            name, f"{row.sky_std:.4g}", str(row.n_pixels), f"{row.plain.ratio:.3f}",
            _range(row.plain) if row.with_mesh else "one box", _range(row.with_mesh) if row.with_mesh else "",
            "no gain" if field.gain is None else f"{row.ours.ratio:.3f}",
            "none" if row.theirs is None else f"{row.theirs.ratio:.3f}",
            *("too few" if np.isnan(factor) else f"{factor:.2f}" for factor in row.correlation),
        ]  # fmt: skip
        print("| " + " | ".join(cells) + " |", flush=True)


def _range(check):
    return f"{check.lowest:.3f} to {check.highest:.3f}"


if __name__ == "__main__":
    main()
