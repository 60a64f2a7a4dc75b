"""A simulated wide-field mosaic whose truth is known: sky, stars, galaxies and what goes wrong on detectors.

Pixels are made block by block when they are asked for, and are the same to the bit for every chunking; how is
told in ``_kernels``. Here are the layout and the graph: one task per block, with the sources that reach it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import dask.array as da
import numpy as np
import xarray as xr
from astropy.io import fits
from astropy.table import Table
from dask.layers import ArrayValuesDep

from galprep_dask.blockwise import block_edges, map_blocks_at
from galprep_dask.demo._kernels import (
    LAYOUT,
    Box,
    Field,
    Trail,
    bad_of_block,
    distance_from,
    generator,
    light_of_block,
    nearest_pixel,
    outer_radius,
    pixels_of_block,
    sky_of_block,
)
from galprep_dask.errors import ParameterError
from galprep_dask.image import celestial_wcs, make_image

__all__ = ["Box", "Trail", "Truth", "simulate_mosaic"]

_READ_NOISE = 5.0  # e-
_ZEROPOINT = 27.0
_FULL_WELL = 200.0  # counts per second above sky_level
_ROTATION = math.radians(4.0)
_ROW = np.dtype(
    [("galaxy", "?"), ("half", "i4")]
    + [(name, "f8") for name in ("x", "y", "flux", "r_eff", "n", "axis_ratio", "orientation")]
)


@dataclass(frozen=True, eq=False)
class Truth(Field):
    """
    What a simulated mosaic was made from.

    Attributes
    ----------
    shape : (int, int)
        (ny, nx) of the mosaic.
    seed : int
        Seed of everything random.
    sky_coefficients : nested tuple, (4, 4)
        ``sky = sum of c[i][j] * v**i * u**j`` in counts per second, with ``v`` and ``u`` the pixel's y and x
        scaled to [-1, 1] over the image; zero for i + j > 3.
    sky_std : float
        Noise of a pixel without sources, counts per second: photons of ``sky_level``, read noise.
    gain, exptime : float
        In e-/ADU and s.
    fwhm : float
        FWHM in px of the point-spread function, a Moffat profile with beta = 3.5.
    saturate : float or None
        Largest value of a pixel, counts per second; None without defects.
    trail : Trail or None
        The satellite trail.
    bleed : Box or None
        Pixels of the column that bleeds out of the saturated star; they hold ``saturate``.
    gap : Box or None
        The gap between detectors, NaN.
    sources : astropy.table.Table
        A row per source, targets first: ``kind`` ('star' or 'galaxy'), ``x``, ``y`` (px, 0-based), ``ra``,
        ``dec`` (deg), ``flux`` (total, counts per second), ``r_eff`` (px, half-light radius along the major
        axis), ``n``, ``axis_ratio``, ``orientation`` (deg from +x towards +y), ``position_angle`` (deg from
        north to east), ``fwhm`` (px), ``saturated``, ``target``. What does not apply is NaN.
    """

    sources: Table

    @property
    def targets(self) -> Table:
        """Up to four bright galaxies, clear of edges, gap, trail and each other; rows of ``sources``."""
        return self.sources[self.sources["target"]]

    def sky(self, chunks=512) -> da.Array:
        """Give the sky, lazily: (ny, nx) float64, counts per second."""
        return _map_field(sky_of_block, self, chunks, np.float64)

    def light(self, chunks=512) -> da.Array:
        """Give stars, galaxies and trail without noise, bleeding and saturation: (ny, nx) float64, lazily."""
        return _map_field(light_of_block, self, chunks, np.float64, _rows(self.sources, self))

    def bad(self, chunks=512) -> da.Array:
        """Give the pixels that are NaN, the gap and single bad pixels: (ny, nx) bool, lazily."""
        return _map_field(bad_of_block, self, chunks, bool)


def simulate_mosaic(
    shape: tuple[int, int] = (1500, 1800),
    *,
    seed: int = 1,
    chunks=512,
    n_galaxies: int | None = None,
    n_stars: int | None = None,
    pixel_scale: float = 0.3,
    fwhm: float = 0.9,
    gain: float = 2.5,
    exptime: float = 300.0,
    sky_level: float = 2.0,
    defects: bool = True,
) -> tuple[xr.Dataset, Truth]:
    """
    Make a mosaic of stars and galaxies on a cubic sky, lazily, with noise and known truth.

    Parameters
    ----------
    shape : (int, int)
        (ny, nx), at least 64 px each.
    seed : int
        Not negative. The same seed gives the same pixels, whatever ``chunks``.
    chunks : optional
        Chunks of the image, as in ``dask.array.rechunk``.
    n_galaxies, n_stars : int, optional
        How many; by default 60 and 45 for a million pixels. The first four galaxies are the targets.
    pixel_scale : float
        Arcsec per px.
    fwhm : float
        FWHM of the stars in arcsec, at least one pixel.
    gain, exptime : float
        In e-/ADU and s.
    sky_level : float
        Sky in the middle of the image, counts per second; its noise is the same everywhere.
    defects : bool
        Whether to add a satellite trail, a saturated star that bleeds, a detector gap and bad pixels.

    Returns
    -------
    image : xarray.Dataset
        ``data`` is float32 in counts per second; a pixel's variance is
        ``max(light, 0) / (gain * exptime) + sky_std**2``, of the light above the sky. The header has a
        TAN WCS, turned by 4 degrees, and the usual keywords, SATURATE among them.
    truth : Truth
        What is in it.

    Raises
    ------
    ParameterError
        A value is out of its range.

    Notes
    -----
    Galaxies are Sersic profiles on half-pixel cells (finer in the core), cut off at the ellipse that holds
    99.5 % of their light or at 8 half-light radii, whichever is larger. So an aperture that holds all of
    one measures at most 0.6 % less than ``flux``, which is the integral to infinity. They are convolved
    through the Moffat profile's own transform, ``exp(-k) (1 + k + k^2 / 3)`` for beta = 3.5 and ``k`` in
    units of 1 / alpha: no kernel is sampled or cut off. No pixel is wrong by more than 0.5 % of the peak,
    for n < 2.5 by 0.2 %. Stars are integrated over pixels by Gauss-Legendre quadrature. Photon noise is
    Gaussian: with the sky's electrons under every source it differs little from Poisson's.

    Examples
    --------
    >>> image, truth = simulate_mosaic((200, 300), seed=3, chunks=128)
    >>> image["data"].shape, image["data"].dtype, len(truth.targets)
    ((200, 300), dtype('float32'), 4)
    >>> residual = (image["data"].data - truth.sky(128) - truth.light(128)) / truth.sky_std
    >>> bool(abs(np.nanmedian(residual.compute())) < 0.03)
    True
    """
    ny, nx = shape = _checked_shape(shape)
    positive = {"pixel_scale": pixel_scale, "fwhm": fwhm, "gain": gain, "exptime": exptime}
    for name, value in (positive | {"sky_level": sky_level}).items():
        if not (math.isfinite(value) and value > 0):
            raise ParameterError(f"{name}={value!r}; expected a positive number.")
    if fwhm < pixel_scale:
        raise ParameterError(f"fwhm={fwhm!r} is less than a pixel, {pixel_scale!r} arcsec. Enlarge it.")
    n_galaxies = round(ny * nx * 60e-6) if n_galaxies is None else n_galaxies
    n_stars = round(ny * nx * 45e-6) if n_stars is None else n_stars
    for name, value in {"seed": seed, "n_galaxies": n_galaxies, "n_stars": n_stars}.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
            raise ParameterError(f"{name}={value!r}; expected an integer, zero or more.")

    rng = generator(int(seed), LAYOUT)
    electrons = gain * exptime
    coefficients = sky_level * 0.06 * rng.uniform(-1, 1, (4, 4)) * (np.add.outer(range(4), range(4)) <= 3)
    coefficients[0, 0] = sky_level
    geometry = {"saturate": None, "trail": None, "bleed": None, "gap": None}
    if defects:
        geometry = _place_defects(rng, shape, sky_level, bleeds=n_stars > 0)
    field = Field(
        shape, int(seed), tuple(map(tuple, coefficients.tolist())),
        math.sqrt(sky_level * electrons + _READ_NOISE**2) / electrons, float(gain), float(exptime),
        fwhm / pixel_scale, **geometry,
    )  # fmt: skip
    header = _make_header(field, pixel_scale)
    sources = _draw_sources(rng, field, n_galaxies, n_stars, header, sky_level)
    data = _map_field(pixels_of_block, field, chunks, np.float32, _rows(sources, field))
    image = make_image(
        data, header=header, unit=header["BUNIT"], gain=gain, exptime=exptime, zeropoint=_ZEROPOINT
    )
    return image, Truth(**vars(field), sources=sources)


def _checked_shape(shape) -> tuple[int, int]:
    whole = len(shape) == 2 and all(isinstance(side, int | np.integer) for side in shape)
    if not whole or min(shape) < 64:
        raise ParameterError(f"shape={shape!r}; expected (ny, nx), two integers of at least 64.")
    return int(shape[0]), int(shape[1])


# Layout: where things are ----------------------------------------------------------------------------------


def _place_defects(rng, shape, sky_level, *, bleeds):
    ny, nx = shape
    left, right = rng.uniform(0.42, 0.58, 2) * ny
    angle = math.degrees(math.atan2(right - left, nx - 1))
    x0, x, y = round(nx * rng.uniform(0.47, 0.49)), round(nx * 0.6), round(ny * 0.84)
    return {
        "saturate": float(np.float32(sky_level + _FULL_WELL)),  # as the pixels will hold it
        "trail": Trail(0.0, float(left), angle, half_width=4.0, peak=0.6),
        "bleed": Box(y - ny // 10, y + ny // 10 + 1, x - 1, x + 2) if bleeds else None,
        "gap": Box(0, ny, x0, x0 + max(3, nx // 160)),
    }


def _make_header(field: Field, pixel_scale: float) -> fits.Header:
    ny, nx = field.shape
    scale, cos, sin = pixel_scale / 3600, math.cos(_ROTATION), math.sin(_ROTATION)
    cards = {
        "OBJECT": "SIMULATED", "BUNIT": "adu/s", "GAIN": (field.gain, "e-/ADU"),
        "EXPTIME": (field.exptime, "s"), "MAGZERO": (_ZEROPOINT, "mag of 1 adu/s"),
        # MJD-OBS as well: astropy would warn when it has to work it out.
        "DATE-OBS": "2024-03-05T06:00:00.000", "MJD-OBS": 60374.25,
        "RADESYS": "ICRS", "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CUNIT1": "deg", "CUNIT2": "deg",
        "CRVAL1": 150.1, "CRVAL2": 2.2, "CRPIX1": (nx + 1) / 2, "CRPIX2": (ny + 1) / 2,
        "CD1_1": -scale * cos, "CD1_2": scale * sin, "CD2_1": scale * sin, "CD2_2": scale * cos,
    }  # fmt: skip
    header = fits.Header()
    for key, value in cards.items():
        header[key] = value
    if field.saturate is not None:
        header["SATURATE"] = (field.saturate, "adu/s")
    return header


def _place_targets(rng, field: Field, n: int, margin: float) -> np.ndarray:
    """Draw (x, y) of each target about its fixed place; the first try clear of everything is taken."""
    ny, nx = field.shape
    placed = np.empty((0, 2))
    for place in ((0.25, 0.26), (0.74, 0.25), (0.26, 0.75), (0.78, 0.73))[:n]:
        x, y = ((place + rng.uniform(-0.06, 0.06, (64, 2))) * (nx, ny)).T
        clear = [x, y, nx - 1 - x, ny - 1 - y, *(np.hypot(x - px, y - py) for px, py in placed)]
        for box in filter(None, (field.gap, field.bleed)):
            away_x = np.maximum(np.maximum(box.x0 - x, x - box.x1 + 1), 0)
            clear.append(np.hypot(away_x, np.maximum(np.maximum(box.y0 - y, y - box.y1 + 1), 0)))
        if field.trail is not None:
            clear.append(np.abs(distance_from(field.trail, x, y)))
        clear = np.min(clear, axis=0)
        best = np.argmax(clear >= margin) if (clear >= margin).any() else np.argmax(clear)
        placed = np.vstack([placed, (x[best], y[best])])
    return placed


def _draw_sources(rng, field: Field, n_galaxies, n_stars, header, sky_level) -> Table:
    ny, nx = field.shape
    n, n_targets = n_galaxies + n_stars, min(4, n_galaxies)
    margin = min(120, min(ny, nx) // 8)
    is_galaxy, is_target = np.arange(n) < n_galaxies, np.arange(n) < n_targets
    xy = rng.uniform(-0.5, (nx - 0.5, ny - 0.5), (n, 2))
    xy[:n_targets] = _place_targets(rng, field, n_targets, margin)
    for _ in range(64):
        near = np.zeros(n, bool)
        for target in xy[:n_targets]:
            near |= ~is_target & (np.hypot(*(xy - target).T) < 0.4 * margin)
        xy[near] = rng.uniform(-0.5, (nx - 0.5, ny - 0.5), (near.sum(), 2))

    flux = 10 ** np.where(is_galaxy, rng.uniform(0.9, 2.3, n), rng.uniform(1.1, 3.1, n))
    flux[:n_targets] = rng.uniform(900, 1800, n_targets)
    r_eff = np.where(is_target, rng.uniform(6, 9, n), 1.5 * 10 ** rng.uniform(0, 0.45, n))
    index = np.where(is_target, rng.uniform(0.8, 2.5, n), rng.uniform(0.5, 4, n))
    axis_ratio, orientation = rng.uniform(0.35, 0.95, n), rng.uniform(0, 180, n)
    if field.bleed is not None:
        middle = [field.bleed.x0 + 1, (field.bleed.y0 + field.bleed.y1 - 1) / 2]
        xy[n_galaxies] = middle + rng.uniform(-0.4, 0.4, 2)
        flux[n_galaxies] = 6e4
    peak = sky_level + 2.5 / (math.pi * field.alpha**2) * flux
    saturated = ~is_galaxy & (peak >= (math.inf if field.saturate is None else field.saturate))

    ra, dec = celestial_wcs(header).all_pix2world(*xy.T, 0) if n else np.empty((2, 0))
    # North lies 90 degrees less the rotation from +x, and east 90 degrees further in the same sense.
    position_angle = (orientation - 90 + math.degrees(_ROTATION)) % 180
    shapes = {"r_eff": r_eff, "n": index, "axis_ratio": axis_ratio, "orientation": orientation,
              "position_angle": position_angle}  # fmt: skip
    units = {"x": "pix", "y": "pix", "ra": "deg", "dec": "deg", "flux": "adu/s", "r_eff": "pix",
             "orientation": "deg", "position_angle": "deg", "fwhm": "pix"}  # fmt: skip
    return Table(
        {
            "kind": np.where(is_galaxy, "galaxy", "star"),
            "x": xy[:, 0], "y": xy[:, 1], "ra": ra, "dec": dec, "flux": flux,
            **{name: np.where(is_galaxy, values, np.nan) for name, values in shapes.items()},
            "fwhm": np.where(is_galaxy, np.nan, field.fwhm), "saturated": saturated, "target": is_target,
        },
        units=units,
    )  # fmt: skip


# Graph: each block gets the sources that reach it ----------------------------------------------------------


def _rows(sources: Table, field: Field) -> np.ndarray:
    """Give what rendering needs of every source, and the half-side of its stamp."""
    rows = np.empty(len(sources), _ROW)
    rows["galaxy"] = sources["kind"] == "galaxy"
    for name in _ROW.names[2:]:
        rows[name] = sources[name]
    # A star ends where its profile falls below 2 % of the noise.
    peak = 2.5 / (math.pi * field.alpha**2) * rows["flux"]
    star = field.alpha * np.sqrt(np.maximum((peak / (0.02 * field.sky_std)) ** (1 / 3.5) - 1, 25))
    galaxy = outer_radius(rows["r_eff"], rows["n"]) + 4 * field.alpha
    rows["half"] = np.ceil(np.where(rows["galaxy"], galaxy, star))
    return rows


def _map_field(func, field: Field, chunks, dtype, rows=None) -> da.Array:
    """
    Apply ``func(((ny, nx), rows), origin=, field=)`` to blocks, in one task each.

    Every block is given its own shape and, of ``rows``, the sources whose stamps reach it.
    """
    # The bare Field: a Truth would carry its whole table into every task.
    field = Field(**{name: getattr(field, name) for name in Field.__dataclass_fields__})
    chunks = da.core.normalize_chunks(chunks, field.shape, dtype=np.dtype(dtype))
    members = [[[] for _ in chunks[1]] for _ in chunks[0]]
    if rows is not None:
        spans = []
        for axis, name in zip(chunks, "yx", strict=True):
            edges, centre = block_edges(axis), nearest_pixel(rows[name])
            ends = (centre - rows["half"], centre + rows["half"])
            blocks = (np.searchsorted(edges, end, "right") - 1 for end in ends)
            spans += [np.clip(block, 0, len(axis) - 1).tolist() for block in blocks]
        for k, (i0, i1, j0, j1) in enumerate(zip(*spans, strict=True)):
            for i in range(i0, i1 + 1):
                for j in range(j0, j1 + 1):
                    members[i][j].append(k)
    blocks = np.empty((len(chunks[0]), len(chunks[1])), dtype=object)
    for i, j in np.ndindex(blocks.shape):
        blocks[i, j] = ((chunks[0][i], chunks[1][j]), None if rows is None else rows[members[i][j]])
    return map_blocks_at(func, ArrayValuesDep(chunks, blocks), dtype=dtype, field=field)
