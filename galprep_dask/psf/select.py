"""Stars for the PSF: chosen from all sources of an image, with the reason why each of the others was not."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
from astropy import units as u
from astropy.table import QTable

from galprep_dask.arrays import ImageLike, as_image, as_mask, check_same_shape
from galprep_dask.errors import MissingWCSError, ParameterError
from galprep_dask.image import celestial_wcs, parse_header, pixels_to_sky
from galprep_dask.psf._kernels.shapes import SATURATED, TO_FWHM
from galprep_dask.psf.cuts import Verdicts, numbered, quota
from galprep_dask.psf.match import listed_positions, match_gaia, rows_at
from galprep_dask.psf.measure import measure_until_wide_enough
from galprep_dask.psf.raw import guess_width, only_at, raw_sources
from galprep_dask.psf.saturation import flat_topped, pile_up
from galprep_dask.psf.shape_cuts import cut_fwhm, paired, stellar_locus
from galprep_dask.segmentation import Segmentation
from galprep_dask.segmentation.segmentation_image import as_segmentation
from galprep_dask.stats import sigma_clipped_stats

__all__ = ["select_stars"]

#: Matching radius in FWHM.
_RADIUS = 1.5
#: Signal-to-noise ratio of a segment over that under a star's own weight, at least.
_FAINT = 0.6
#: Share of the core (1.5 FWHM about the centre) that other sources may own.
_CORE = 0.05


def select_stars(
    data: ImageLike,
    segmentation: Segmentation | ImageLike,
    catalog: QTable | None = None,
    *,
    mask: ImageLike | None = None,
    sigma: ImageLike | None = None,
    sky_std: float | None = None,
    header=None,
    gaia=None,
    crossmatch: bool | str = "auto",
    coordinates=None,
    fwhm: float | None = None,
    min_snr: float = 50.0,
    min_flux_fraction: float = 0.0,
    max_flux: float | None = None,
    saturate: float | None = None,
    saturated: ImageLike | None = None,
    min_axis_ratio: float = 0.5,
    fwhm_median: float | None = None,
    fwhm_sigma: float = 3.0,
    max_galaxy_share: float = 0.15,
    size: int | None = None,
    max_neighbour_fraction: float = 0.3,
    max_central_bad: int = 2,
    drop=(),
    drop_coordinates=None,
    max_stars: int | None = None,
    regions: tuple[int, int] = (4, 4),
) -> QTable:
    """
    Choose the stars of an image that a PSF can be made of.

    Parameters
    ----------
    data : (ny, nx) array, NumPy, dask or xarray
        Sky-subtracted image in any unit. Not modified.
    segmentation : Segmentation or (ny, nx) integer array
        Its sources, 0 = sky.
    catalog : QTable, optional
        Of ``segmentation``, from :func:`galprep_dask.segmentation.source_catalog`; made here where it is not given.
    mask : (ny, nx) bool array, optional
        True marks bad pixels; non-finite pixels always are.
    sigma : (ny, nx) array, optional
        1-sigma uncertainty in the unit of ``data``.
    sky_std : float, optional
        Standard deviation of the sky, where there is no ``sigma``. By default that of the pixels outside of sources.
    header : Header or str, optional
        For positions on the sky, and for SATURATE.
    gaia : table, or callable, optional
        Stars, as a table with columns ``ra`` and ``dec`` in degrees at the epoch of the image, or ``x`` and ``y`` in
        pixels. A callable is handed ``header`` and the shape of the image and gives such a table.
    crossmatch : bool or "auto"
        Whether only sources are kept that are in ``gaia``. "auto" goes on without it, with a warning, where there is no
        catalogue or no match; True makes that an error; False does not look at it.
    coordinates : (n, 2) array, optional
        Right ascensions and declinations in degrees, of sources that replace the raw catalogue.
    fwhm : float, optional
        FWHM of the stars in pixels, about. It sets the matching radius, 1.5 FWHM, and the windows in which sources
        are measured; by default it is estimated.
    min_snr : float
        Least signal-to-noise ratio, of the light under a Gaussian of the source's own width.
    min_flux_fraction : float
        Least flux, as a fraction of the mean flux of the raw catalogue.
    max_flux : float, optional
        Bright limit, in the unit of ``data`` summed over pixels.
    saturate : float, optional
        Level at which pixels of ``data`` saturate. By default that of the header, SATURATE.
    saturated : (ny, nx) bool array, optional
        True marks saturated pixels, as :func:`galprep_dask.masks.flag_mask` makes it of a data-quality image. They are
        bad, too.
    min_axis_ratio : float
        Least ratio of minor to major axis.
    fwhm_median : float, optional
        Middle of the accepted range of FWHM in pixels. By default the stellar locus is found, and the range follows it.
    fwhm_sigma : float
        Half of the accepted range, in robust standard deviations of the FWHM: of the stellar locus at the source's
        signal-to-noise ratio, or of the sample where ``fwhm_median`` is given.
    max_galaxy_share : float
        Where the locus is found: how likely a source may be a galaxy too small to be told from a star, as estimated
        from the sources just beyond the locus.
    size : int, optional
        Side in pixels, odd, of the box around each star. By default eight times the FWHM.
    max_neighbour_fraction : float
        Largest fraction of the box's pixels that other sources own.
    max_central_bad : int
        Most bad pixels within a quarter of ``size`` of the centre; what is beyond the edge of the image is bad.
    drop : sequence of int
        Stars to leave out, as numbered in the column ``number`` and in the figure of the stars.
    drop_coordinates : (n, 2) array, optional
        Right ascensions and declinations in degrees of stars to leave out.
    max_stars : int, optional
        Stars wanted. They are taken from all regions of the image in turn, the best of each first.
    regions : (int, int)
        Rows and columns of such regions.

    Returns
    -------
    QTable
        Every raw source, with the columns ``used``, ``reason`` ("" for those used), ``number`` (-1 for what did not
        come as far as being dropped by hand), ``label``, ``x``, ``y`` (pixels), ``flux``, ``max_value``, ``snr``,
        ``fwhm``, ``axis_ratio``, ``neighbour_fraction``, ``n_central_bad``, ``gaia_row`` (-1 for none), and with a WCS
        ``ra`` and ``dec`` (degrees). What is not measured, as it was left out before, is NaN. ``meta`` holds ``counts``
        (sources left after each cut), ``fwhm`` (median of the stars), ``size``, ``sky_std``, ``saturate``, ``shape``,
        ``fwhm_scale`` (FWHM over that of a Gaussian of the same width) and ``locus``, what
        :class:`galprep_dask.psf.locus.Locus` is made of.

    Raises
    ------
    ParameterError
        A parameter makes no sense, ``drop`` names a star that there is not, or nothing is at ``drop_coordinates``.
    ImageShapeError
        Shapes differ.
    MissingWCSError
        Positions on the sky are given, and no header with a WCS.
    NoStarsError
        No source is left; the message names the cut that took the last.

    Warns
    -----
    NoGaiaWarning
        There is no Gaia catalogue, or none of it matches, and ``crossmatch`` is "auto".

    Notes
    -----
    The cuts, in order: raw, Gaia match, flux, axis ratio, FWHM, isolation, central bad pixels, quota, dropped by hand.
    A Gaia source is that of one source alone, the closest pair first. Sizes and shapes are moments under a round
    Gaussian as wide as the source [1]_, so that they do not depend on brightness; FWHM are scaled so that those of
    bright stars are the widths of their profiles at half of the peak. The locus of stars is the narrow ridge that
    sources make in the plane of size and magnitude, as a polynomial in position. Stars whose ellipticity,
    concentration or centroid differs from that of their surroundings have a companion. Saturated are: sources with
    pixels that are marked, or from ``saturate`` on, those at the level at which the highest peaks pile up, and those
    with a flat core.

    Sources are measured on pixels around their brightest one, block by block, and no block waits for another. The image
    is read once, and once more where the noise of its sky is not given; where sources are many a part about its middle
    is looked at before, for how large windows have to be. The table is the same to the bit for every chunking.

    References
    ----------
    .. [1] Bernstein & Jarvis 2002, AJ 123, 583, section 3.

    Examples
    --------
    >>> from galprep_dask.segmentation import detect_sources
    >>> y, x = np.mgrid[:300, :300]
    >>> image = np.random.default_rng(0).normal(size=(300, 300))
    >>> for x0, y0 in [(50, 60), (150, 50), (250, 61), (52, 148), (149, 151), (251, 150), (60, 248), (153, 251)]:
    ...     image += 200 * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * 1.7**2))
    >>> stars = select_stars(image, detect_sources(image, 5.0))
    >>> int(stars["used"].sum()), round(stars.meta["fwhm"], 1)
    (8, 4.0)
    """
    image = as_image(data)
    segmentation = as_segmentation(segmentation)
    check_same_shape(segmentation, image.shape, "segmentation")
    _check(
        fwhm=fwhm, min_snr=min_snr, min_flux_fraction=min_flux_fraction, max_flux=max_flux, saturate=saturate,
        min_axis_ratio=min_axis_ratio, fwhm_median=fwhm_median, fwhm_sigma=fwhm_sigma, sky_std=sky_std,
        max_galaxy_share=max_galaxy_share, max_neighbour_fraction=max_neighbour_fraction,
        max_central_bad=max_central_bad,
    )  # fmt: skip
    _check_counts(size, max_stars, regions, crossmatch)
    header = parse_header(header) if isinstance(header, str) else header
    planes = {"image": image, "labels": segmentation.given.rechunk(image.chunks)}
    if mask is not None:
        planes["mask"] = as_mask(mask, image)
    if sigma is not None:
        check_same_shape(sigma, image.shape, "sigma")
        planes["sigma"] = as_image(sigma, "sigma", chunks=image.chunks)
    elif sky_std is None:
        sky_std = _noise_of_sky(planes)
    sky_std = None if sigma is not None else sky_std

    if saturated is not None:
        bad = planes.get("mask", False)
        planes["mask"] = as_mask(saturated, image, "saturated").astype(np.uint8) * SATURATED + bad
    raw = raw_sources(data, segmentation, catalog, mask=mask, sigma=sigma, sky_std=sky_std)
    width = guess_width(raw, min_snr) if fwhm is None else fwhm / TO_FWHM
    radius = _RADIUS * TO_FWHM * width
    if coordinates is not None:
        raw = only_at(raw, *listed_positions(coordinates, header, "coordinates"), radius)
    verdicts = Verdicts(len(raw.label))
    verdicts.drop(raw.label == 0, "raw: no source there")
    gaia_row = match_gaia(raw.x, raw.y, gaia, crossmatch, header, image.shape, radius)
    verdicts.drop((gaia_row < 0) & (gaia_row >= 0).any(), "Gaia match: none")

    faint = ~(raw.flux >= min_flux_fraction * np.nanmean(raw.flux))
    verdicts.drop(faint, "flux: too faint")
    verdicts.drop(~(raw.snr >= _FAINT * min_snr), "flux: too faint")  # by far: its pixels need not be looked at
    if max_flux is not None:
        verdicts.drop(raw.flux > max_flux, "flux: too bright")
    if saturate is None:
        saturate = _saturate_of(header)
    level = min(saturate, pile_up(raw.peak, raw.flux))
    verdicts.drop(raw.peak >= level, "flux: saturated")

    rows = verdicts.left
    measured, box = measure_until_wide_enough(
        planes, raw.at[rows], raw.label[rows], width, size, sky_std=sky_std, saturate=level, again=fwhm is None
    )
    measured = {name: _of_all(values, rows, len(raw.label)) for name, values in measured.items()}
    verdicts.drop(~(measured["snr"] >= min_snr) & np.isfinite(measured["width"]), "flux: too faint")
    saturated = (measured["n_saturated"] > 0) | flat_topped(measured["n_flat"], measured["width"])
    verdicts.drop(saturated, "flux: saturated")
    elongation = np.clip(np.hypot(measured["e1"], measured["e2"]), 0, 1)
    axis_ratio = np.sqrt((1 - elongation) / (1 + elongation))
    verdicts.drop(axis_ratio < min_axis_ratio, "axis ratio: elongated")

    locus, scale = stellar_locus(measured, verdicts.left, image.shape, fwhm_median)
    fwhms = scale * TO_FWHM * measured["width"]
    cut_fwhm(measured, fwhms, verdicts, locus, fwhm_median, fwhm_sigma, max_galaxy_share)
    fraction = measured["n_owned_box"] / box**2
    core = math.pi * (1.5 * TO_FWHM * measured["width"]) ** 2
    crowded = (fraction > max_neighbour_fraction) | (measured["n_owned_core"] > _CORE * core)
    verdicts.drop(crowded, "isolation: neighbours")
    verdicts.drop(paired(measured, verdicts.left, locus), "isolation: close pair")
    verdicts.drop(measured["n_bad_centre"] > max_central_bad, "central bad pixels")
    left = verdicts.left
    if max_stars is not None:
        kept = quota(measured["x"][left], measured["y"][left], measured["snr"][left], image.shape, max_stars, regions)
        verdicts.drop(left[~kept], "quota")
        left = verdicts.left
    number = np.full(len(raw.label), -1)
    number[left] = np.arange(len(left))
    verdicts.drop(left[numbered(drop, len(left))], "dropped by hand")
    if drop_coordinates is not None:
        rows = rows_at(raw.x, raw.y, drop_coordinates, header, radius)
        verdicts.drop(rows, "dropped by hand")

    used = verdicts.codes == 0
    x, y = (np.where(np.isfinite(measured[name]), measured[name], getattr(raw, name)) for name in ("x", "y"))
    columns = {
        "used": used, "reason": verdicts.reasons(), "number": number, "label": raw.label, "x": x, "y": y,
        "flux": raw.flux.copy(), "max_value": raw.peak.copy(), "snr": measured["snr"], "fwhm": fwhms * u.pix,
        "axis_ratio": axis_ratio, "neighbour_fraction": fraction, "n_central_bad": measured["n_bad_centre"],
        "gaia_row": gaia_row,
    }  # fmt: skip
    columns |= _on_sky(x, y, header)
    meta = {
        "counts": verdicts.counts(), "fwhm": float(np.median(fwhms[used])), "size": box, "sky_std": sky_std,
        "saturate": level, "shape": image.shape, "locus": None if locus is None else asdict(locus), "fwhm_scale": scale,
    }  # fmt: skip
    return QTable(columns, meta=meta, copy=False)  # nothing of it is anyone else's


# Checks --------------------------------------------------------------------------------------------------


def _check(**numbers) -> None:
    for name, value in numbers.items():
        if value is None:
            continue
        positive = name in ("fwhm", "fwhm_median", "fwhm_sigma", "sky_std")
        if not (np.isscalar(value) and math.isfinite(value) and (value > 0 if positive else value >= 0)):
            raise ParameterError(f"{name}={value!r}; expected a {'positive number' if positive else 'number from 0'}.")
        if name in ("min_axis_ratio", "max_galaxy_share", "max_neighbour_fraction") and value > 1:
            raise ParameterError(f"{name}={value!r}; expected a number from 0 to 1.")


def _check_counts(size, max_stars, regions, crossmatch) -> None:
    def whole(value):
        return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= 1

    if size is not None and not (whole(size) and size % 2 == 1):
        raise ParameterError(f"size={size!r}; expected an odd number of pixels, so that a box has a middle one.")
    if max_stars is not None and not whole(max_stars):
        raise ParameterError(f"max_stars={max_stars!r}; expected a whole number from 1, or None for all.")
    if np.shape(regions) != (2,) or not all(whole(n) for n in regions):
        raise ParameterError(f"regions={regions!r}; expected the numbers of rows and of columns.")
    if crossmatch not in (True, False, "auto"):
        raise ParameterError(f"crossmatch={crossmatch!r}; expected True, False or 'auto'.")


def _saturate_of(header) -> float:
    level = None if header is None else header.get("SATURATE")
    return float(level) if isinstance(level, (int, float)) and level > 0 else np.inf



def _noise_of_sky(planes) -> float:
    beside = planes["labels"] > 0
    if "mask" in planes:
        beside |= planes["mask"]
    std = sigma_clipped_stats(planes["image"], beside)[2]
    if not std > 0:
        raise ParameterError(f"the sky between the sources has a standard deviation of {std}. Pass sky_std= or sigma=.")
    return float(f"{std:.6g}")  # chunks change the last digits of a sum; nothing that follows shall


def _on_sky(x, y, header) -> dict:
    if header is None:
        return {}
    try:
        wcs = celestial_wcs(header)
    except MissingWCSError:
        return {}
    ra, dec = pixels_to_sky(wcs, x, y)
    return {"ra": ra * u.deg, "dec": dec * u.deg}


def _of_all(values: np.ndarray, rows: np.ndarray, n: int) -> np.ndarray:
    """Give values of some rows as a column of all, NaN for the others."""
    column = np.full(n, np.nan)
    column[rows] = values
    return column
