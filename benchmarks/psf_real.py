"""Stars of real images for ``bench_psf.py``: chosen by the package, and predicted by turns by every program.

Of two images that hold one galaxy and no star (KiDS, JWST), what is real is the noise: stars are put on their empty
parts, made of the PSF that comes with the image, and said to be so.
"""

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from astropy.io import fits
from psf_peers import PEERS, Stars
from psf_scenes import predict

from galprep_dask.psf import PSFModel, select_stars, star_stamps
from galprep_dask.segmentation import detect_sources, smooth
from galprep_dask.stats import sigma_clipped_stats

__all__ = ["REAL", "real"]

TURNS = 5
#: A pixel that all programs miss by more sigmas than this, outside the core, is no part of the star.
MISSED = 5.0


class Field(NamedTuple):
    """An image with stars: file, HDU, FWHM in px, side of the stamps, electrons per unit (None: of the header)."""

    file: str
    hdu: int
    fwhm: float
    size: int
    gain: float | None


#: VST_r has the units of the KiDS cutout, whose sigma map tells 1e13 electrons to the unit.
REAL = {
    "vircam_h image_1": Field("vircam_h/image_1.fits", 1, 2.4, 25, None),
    "vircam_h image_8": Field("vircam_h/image_8.fits", 1, 2.8, 25, None),
    "gama_g202627 VST_r": Field("gama_g202627/VST_r.fits", 0, 3.9, 31, 1e13),
}


def stars_of(folder: Path, told: Field) -> Stars:
    """Choose stars as the package does by default, and take a sky of its own off every stamp."""
    with fits.open(folder / told.file) as hdus:
        data, header = np.asarray(hdus[told.hdu].data, float), hdus[told.hdu].header
    _, median, std = sigma_clipped_stats(data)
    data = data - median
    found = detect_sources(smooth(data, told.fwhm), 3 * std, 5, measure=data)
    stars = select_stars(data, found, sky_std=std, header=header, size=told.size)
    cut = star_stamps(data, stars, told.size, segmentation=found)
    return _ready(cut.stamps, cut.mask, cut.x, cut.y, std, told.gain or float(header["GAIN"]), told.fwhm)


def _ready(stamps, mask, x, y, sky_std, gain, fwhm) -> Stars:
    size = stamps.shape[-1]
    iy, ix = np.mgrid[:size, :size] - size // 2
    outer = np.hypot(ix, iy) > 0.42 * size
    inside = np.isfinite(stamps)
    stamps = np.where(inside, stamps, 0.0)
    sky = [np.median(a[outer & ~bad]) if (outer & ~bad).any() else 0.0 for a, bad in zip(stamps, mask, strict=True)]
    # In units of the noise: PSFEx computes in single precision, in which squares of 1e-13 end.
    stamps = (stamps - np.array(sky)[:, None, None]) / sky_std
    gain, sky_std = gain * sky_std, 1.0
    # Weights for all: the background's, and the photons of a light that was smoothed a little.
    near = sum(np.roll(stamps, (j, i), (1, 2)) for j in (-1, 0, 1) for i in (-1, 0, 1)) / 9
    variance = 1 + np.maximum(near, 0) / gain
    return Stars(stamps, mask | ~inside, variance, x, y, sky_std, gain, fwhm, local_sky=True)


def planted(folder: Path, name: str, count: int = 60) -> Stars:
    """Stars of the PSF that comes with a cutout, S/N 50 to 500, on the real noise of its empty parts."""
    rng = np.random.default_rng(0)
    if name == "kids_g279148":
        parts = [fits.getdata(folder / name / f"G279148{part}.fits") for part in ("fitim", "sigma", "segim", "psfim")]
        data, sigma, labels, psf = (np.asarray(part, float) for part in parts)
        size, gain, empty = 25, 1e13, labels == 0
    else:
        parts = [fits.getdata(folder / name / file) for file in ("f200w.fits", "f200w_err.fits", "f200w_mask.fits")]
        data, sigma, bad = (np.asarray(part, float) for part in parts)
        psf = np.asarray(fits.getdata(folder / name / "F200W_hybrid.fits"), float)[130:171, 130:171]
        size, gain = 41, 1e4
        found = detect_sources(smooth(data, 3.0), 2.5 * np.median(sigma), 5).data
        empty = (bad == 0) & (np.asarray(found) == 0)
    model, half, noise = PSFModel.from_image(psf), size // 2, float(np.median(sigma[empty]))
    stamps, masks, places = [], [], []
    while len(stamps) < count:
        y, x = rng.integers(half, data.shape[0] - half), rng.integers(half, data.shape[1] - half)
        cut = slice(y - half, y + half + 1), slice(x - half, x + half + 1)
        core = slice(y - 5, y + 6), slice(x - 5, x + 6)
        if empty[cut].mean() < 0.8 or not empty[core].all():
            continue
        snr = np.exp(rng.uniform(*np.log((50, 500))))
        star = model.at(dx=rng.uniform(-0.5, 0.5), dy=rng.uniform(-0.5, 0.5))
        star = star * snr * noise / np.sqrt((star**2).sum())
        photons = rng.normal(size=star.shape) * np.sqrt(np.maximum(star, 0) / gain)
        stamps.append(data[cut] + star + photons)
        masks.append(~empty[cut])
        places.append((x, y))
    x, y = np.array(places, float).T
    # The noise as it is in the pixels, whatever the sigma map says.
    std = sigma_clipped_stats(data, ~empty)[2]
    return _ready(np.array(stamps), np.array(masks), x, y, std, gain, model.fwhm)


def real(folder, peers=tuple(PEERS), names=None) -> None:
    """Print the reduced chi2 of reserved stars of real images, every star predicted once by PSFs without it."""
    folder = Path(folder)
    names = names or [*REAL, "kids_g279148", "jwst_egs_40"]
    for name in names:
        stars = stars_of(folder, REAL[name]) if name in REAL else planted(folder, name)
        size = stars.data.shape[-1]
        what = "stars" if name in REAL else "stars of its PSF on its noise"
        print(f"\n{name}: {len(stars.data)} {what}, {size} x {size} px, FWHM {stars.fwhm:.1f} px, {TURNS} turns")
        pulls = {}
        for peer in peers:
            try:
                pulls[peer] = _by_turns(PEERS[peer], stars)
            except (ImportError, FileNotFoundError):
                print(f"{peer:12} not installed")
            except Exception as problem:
                print(f"{peer:12} failed: {type(problem).__name__}: {str(problem)[:90]}")
        _print(stars, pulls)


def _by_turns(peer, stars):
    pulls = np.full(stars.data.shape, np.nan)
    turn = np.arange(len(stars.data)) % TURNS
    # Where the sky around a star was taken off, it has no noise of its own; so a sky is fitted to what is predicted.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(TURNS):
            render = peer(stars.take(turn != number))
            _, pulls[turn == number] = predict(render, stars.take(turn == number), free_sky=True)
    return pulls


def _print(stars, pulls):
    size = stars.data.shape[-1]
    outside = np.hypot(*(np.mgrid[:size, :size] - size // 2)) > 1.5 * stars.fwhm
    with np.errstate(invalid="ignore"):
        missed = outside & np.all([np.abs(values) > MISSED for values in pulls.values()], axis=0)
    light = np.where(outside | stars.mask, 0, stars.data).sum((1, 2))
    snr = light / np.sqrt(np.where(outside | stars.mask, 0, stars.variance).sum((1, 2)))
    bright = snr > np.quantile(snr, 0.67)
    print(f"{'':12} {'chi2':>8} {'bright third':>13}")
    for peer, values in pulls.items():
        values = np.where(missed, np.nan, values)
        chi2 = np.nansum(values**2, (1, 2)) / np.maximum(np.isfinite(values).sum((1, 2)) - 4, 1)
        print(f"{peer:12} {np.median(chi2):8.3f} {np.median(chi2[bright]):13.3f}", flush=True)
