"""The arguments of ``generate_PSFs`` in the words of the rooms that choose stars and fit the PSF."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import dask.array as da
import numpy as np
from astropy.table import QTable

from galprep_dask.errors import OutputError, ParameterError
from galprep_dask.gaia.field import stars_in_image
from galprep_dask.psf import PSFModel, StarResiduals, fit_psf, select_stars, stack_psf, star_residuals, star_stamps
from galprep_dask.psf.epsf import build_epsf
from galprep_dask.segmentation import Segmentation, detect_sources, smooth
from galprep_dask.stats import sigma_clipped_stats

__all__ = ["check_choices", "choose_stars", "draw_figures", "figure_folder", "fit_to_stars"]


def choose_stars(
    image, data: da.Array, bad: da.Array, header, *, fwhm: float, nsigma, npixels, sigmaimg, crossmatch, gaia_catalog,
    starcord_list, fluxthreshould, qt, sigfwhm, medianfwhm, size, isolate, central_tol, droppsf,
) -> tuple[QTable, Segmentation, float]:  # fmt: skip
    """Detect sources ``nsigma`` above the clipped median, and choose the stars among them; give the noise, too."""
    _, median, std = sigma_clipped_stats(data, bad)
    flat = data - median
    found = detect_sources(smooth(flat, fwhm, bad), nsigma * std, npixels, mask=bad, measure=flat)
    stars = select_stars(
        flat, found, mask=bad, sigma=sigmaimg, sky_std=std if sigmaimg is None else None, header=header,
        gaia=partial(stars_in_image, image=image, catalog=gaia_catalog, crossmatch=crossmatch) if crossmatch else None,
        crossmatch=crossmatch,
        coordinates=starcord_list, fwhm=fwhm, min_flux_fraction=fluxthreshould, min_axis_ratio=qt, fwhm_sigma=sigfwhm,
        fwhm_median=medianfwhm, size=size, max_neighbour_fraction=isolate, max_central_bad=central_tol, drop=droppsf,
    )  # fmt: skip
    return stars, found, std


def fit_to_stars(
    data: da.Array, bad: da.Array, stars: QTable, found: Segmentation, sky_std: float, *, sigmaimg, gain, size,
    photutils_method, makestackpsf, oversampling, a_TV, a_sky, learning_rate, num_steps, solver,
) -> tuple[PSFModel, StarResiduals | None]:  # fmt: skip
    """
    Make the PSF model that was asked for, of the stars that are used; their rows get what the fit says of them.

    What a fit leaves of its stars is given, too.
    """
    cut = star_stamps(data, stars, size, segmentation=found, mask=bad, sigma=sigmaimg)
    if makestackpsf:
        return stack_psf(cut.stamps, mask=cut.mask, sky_std=sky_std), None
    if photutils_method:
        oversampling = 1 if oversampling == "auto" else oversampling
        return build_epsf(cut.stamps, mask=cut.mask, oversampling=oversampling), None
    noise = {"sky_std": sky_std} if cut.sigma is None else {"sigma": cut.sigma}
    model = fit_psf(
        cut.stamps, mask=cut.mask, gain=gain, x=cut.x, y=cut.y, oversampling=oversampling, solver=solver, a_TV=a_TV,
        a_sky=a_sky, learning_rate=learning_rate, num_steps=num_steps, **noise,
    )  # fmt: skip
    for name in ("dx", "dy", "chi2"):
        column = np.full(len(stars), np.nan)
        column[cut.rows] = np.asarray(model.stars[name], float)
        stars[name] = column
    return model, star_residuals(model, cut.stamps, mask=cut.mask, gain=gain, **noise)


def figure_folder(figurepath) -> Path:
    """Check the folder for figures, before any work is done for them."""
    folder = Path(os.fspath(figurepath)).expanduser()
    if not folder.is_dir():
        raise OutputError(f"figurepath={str(folder)!r} is no directory. Make it first, or pass plot=False.")
    return folder


def draw_figures(folder: Path, name: str, data: da.Array, stars: QTable, model, residuals) -> list[Path]:
    """Draw the six panels, the locus, the numbered stars and, where there is one, the PSF; give the files."""
    from galprep_dask.plotting import plot_psf, plot_psf_fit, plot_star_cuts, plot_star_stamps, plot_stellar_locus

    files = [folder / f"{name}_{what}.png" for what in ("star_cuts", "stellar_locus", "stars", "psf", "psf_fit")]
    plot_star_cuts(stars, title=name, path=files[0])
    if stars.meta.get("locus") is not None:
        plot_stellar_locus(stars, title=name, path=files[1])
    plot_star_stamps(data, stars, title=name, path=files[2])
    if model is not None:
        plot_psf(model, title=name, path=files[3])
    if residuals is not None:
        plot_psf_fit(residuals, title=name, path=files[4])
    return [file for file in files if file.exists()]


def check_choices(photutils_method, makestackpsf, crossmatch) -> None:
    """Raise ParameterError where arguments contradict each other."""
    if photutils_method and makestackpsf:
        raise ParameterError("photutils_method=True and makestackpsf=True: choose one of them, or none for the fit.")
    if crossmatch not in (True, False, "auto"):
        raise ParameterError(f"crossmatch={crossmatch!r}; expected True, False or 'auto'.")
