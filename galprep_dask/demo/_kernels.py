"""The mosaic's pixels: NumPy functions of one block, and the stamps of single sources.

What a pixel holds depends on the pixel alone, to the bit. Noise is drawn for fixed tiles; a source is always
rendered whole, on a stamp that depends on the source alone, and stamps are added in one order; the rest uses
only operations that IEEE 754 rounds exactly (add, multiply, divide, square root), because vectorised ``exp``
and ``pow`` may round the end of a row otherwise than its middle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
import scipy.fft
from scipy.special import gammaincinv

#: Side in pixels of the tiles in which noise is drawn.
TILE = 256

_BAD_PER_TILE = 2
_LIGHT_KEPT = 0.995  # least part of a Sersic profile's light inside of where it is cut off
LAYOUT, NOISE, BAD = range(3)  # streams of random numbers


class Box(NamedTuple):
    """Pixels ``[y0:y1, x0:x1]``."""

    y0: int
    y1: int
    x0: int
    x1: int


class Trail(NamedTuple):
    """A trail through (x, y): ``peak * (1 - (d / half_width)**2)**2`` at distance ``d`` from its axis."""

    x: float
    y: float
    angle: float  # degrees from +x towards +y
    half_width: float  # px
    peak: float  # counts per second and pixel


@dataclass(frozen=True, eq=False)
class Field:
    """What every block needs: a few numbers, cheap to send with each task."""

    shape: tuple[int, int]
    seed: int
    sky_coefficients: tuple[tuple[float, ...], ...]
    sky_std: float
    gain: float
    exptime: float
    fwhm: float
    saturate: float | None
    trail: Trail | None
    bleed: Box | None
    gap: Box | None

    @property
    def alpha(self) -> float:
        """Scale in px of the Moffat profile (1 + r^2 / alpha^2)^-3.5."""
        return self.fwhm / (2 * math.sqrt(2 ** (1 / 3.5) - 1))


def generator(seed: int, *key: int) -> np.random.Generator:
    """Make the generator of one stream, or of one tile of it."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, spawn_key=key)))


def pixels_of_block(block, *, origin, field):
    """Give the image with noise and defects, float32. ``block`` is ``((ny, nx), rows of its sources)``."""
    light = light_of_block(block, origin=origin, field=field)
    variance = field.sky_std**2 + light / (field.gain * field.exptime)
    data = sky_of_block(block, origin=origin, field=field) + light
    data += np.sqrt(variance) * _noise_of_block(block, origin=origin, field=field)
    if field.saturate is not None:
        np.minimum(data, field.saturate, out=data)
        if field.bleed is not None:
            data[_within(field.bleed, origin)] = field.saturate
        data[bad_of_block(block, origin=origin, field=field)] = np.nan
    return data.astype(np.float32)


def sky_of_block(block, *, origin, field):
    """Give the sky, float64."""
    v, u = (2.0 * at / (side - 1) - 1.0 for at, side in zip(_axes(block, origin), field.shape, strict=True))
    sky = np.zeros(block[0])
    for row in reversed(field.sky_coefficients):  # Horner's scheme, in v over polynomials in u
        along = np.zeros_like(u)
        for coefficient in reversed(row):
            along = along * u + coefficient
        sky = sky * v[:, None] + along
    return sky


def light_of_block(block, *, origin, field):
    """Give stars, galaxies and trail, float64."""
    (ny, nx), rows = block
    light = np.zeros((ny, nx))
    for row in rows:
        stamp = _galaxy_stamp(row, field.alpha) if row["galaxy"] else _star_stamp(row, field.alpha)
        y0 = int(nearest_pixel(row["y"])) - int(row["half"]) - origin[0]
        x0 = int(nearest_pixel(row["x"])) - int(row["half"]) - origin[1]
        take = np.s_[max(-y0, 0) : max(ny - y0, 0), max(-x0, 0) : max(nx - x0, 0)]
        into = np.s_[max(y0, 0) : max(y0 + len(stamp), 0), max(x0, 0) : max(x0 + len(stamp), 0)]
        light[into] += stamp[take]
    if field.trail is not None:
        y, x = _axes(block, origin)
        inside = np.maximum(1 - (distance_from(field.trail, x, y[:, None]) / field.trail.half_width) ** 2, 0)
        light += field.trail.peak * inside * inside
    return light


def _noise_of_block(block, *, origin, field):
    noise = np.empty(block[0])
    for tile, into, take in _tiles(block[0], origin):
        noise[into] = generator(field.seed, NOISE, *tile).standard_normal((TILE, TILE))[take]
    return noise


def bad_of_block(block, *, origin, field):
    """Mark the gap and single bad pixels, ``_BAD_PER_TILE`` of them in every tile."""
    bad = np.zeros(block[0], bool)
    if field.gap is None:
        return bad
    for tile, into, take in _tiles(block[0], origin):
        tile_bad = np.zeros((TILE, TILE), bool)
        tile_bad[tuple(generator(field.seed, BAD, *tile).integers(0, TILE, (2, _BAD_PER_TILE)))] = True
        bad[into] = tile_bad[take]
    bad[_within(field.gap, origin)] = True
    return bad


def _tiles(shape, origin):
    """Yield for every tile that a block meets: its index, where it goes in the block, what of it is taken."""
    along_y, along_x = (
        range(o // TILE, (o + n - 1) // TILE + 1) for o, n in zip(origin, shape, strict=True)
    )
    for tile in product(along_y, along_x):
        starts = [t * TILE - o for t, o in zip(tile, origin, strict=True)]
        into = tuple(slice(max(s, 0), min(s + TILE, n)) for s, n in zip(starts, shape, strict=True))
        yield tile, into, tuple(slice(i.start - s, i.stop - s) for i, s in zip(into, starts, strict=True))


def _axes(block, origin):
    return (np.arange(o, o + n, dtype=float) for o, n in zip(origin, block[0], strict=True))


def _within(box: Box, origin):
    y0, x0 = origin
    return np.s_[max(box.y0 - y0, 0) : max(box.y1 - y0, 0), max(box.x0 - x0, 0) : max(box.x1 - x0, 0)]


def distance_from(trail: Trail, x, y):
    """Give the signed distance in px of (x, y) from the axis of the trail."""
    angle = math.radians(trail.angle)
    return (y - trail.y) * math.cos(angle) - (x - trail.x) * math.sin(angle)


def nearest_pixel(position):
    """Give the pixel, as a float, that a position lies in."""
    return np.floor(position + 0.5)


# Stamps: a source on its own pixels ------------------------------------------------------------------------


def _star_stamp(row, alpha):
    """Pixel integrals of a Moffat profile of total ``flux``, (2 half + 1, 2 half + 1)."""
    offsets = np.arange(-row["half"], row["half"] + 1.0)
    dx, dy = (offsets - offset for offset in _offset(row))
    nodes, weights = np.polynomial.legendre.leggauss(4)
    stamp = np.zeros((len(dy), len(dx)))
    for node_y, weight_y in zip(nodes / 2, weights / 2, strict=True):
        for node_x, weight_x in zip(nodes / 2, weights / 2, strict=True):
            u = 1 + ((dx + node_x) ** 2 + (dy[:, None] + node_y) ** 2) / alpha**2
            stamp += weight_y * weight_x / (u * u * u * np.sqrt(u))
    return row["flux"] * 2.5 / (math.pi * alpha**2) * stamp


def _galaxy_stamp(row, alpha):
    """Pixel integrals of a Sersic profile of total ``flux``, convolved with the Moffat profile."""
    side = 2 * int(row["half"]) + 1
    # Cells so fine that the Moffat transform is below 1e-6 at their Nyquist frequency.
    cells_per_pixel = max(2, math.ceil(18 / (math.pi * alpha)))
    cells = _sersic_cells(row, side, cells_per_pixel)
    for inner, refinement in ((13, 4), (3, 16), (1, 64)):  # the steep core
        m, first = inner * cells_per_pixel, (side - inner) // 2 * cells_per_pixel
        fine = _sersic_cells(row, inner, cells_per_pixel * refinement)
        core = np.s_[first : first + m]
        cells[core, core] = fine.reshape(m, refinement, m, refinement).sum(axis=(1, 3))
    n, size = side * cells_per_pixel, scipy.fft.next_fast_len(side * cells_per_pixel, real=True)
    ky = 2 * math.pi * cells_per_pixel * scipy.fft.fftfreq(size)
    kx = 2 * math.pi * cells_per_pixel * scipy.fft.rfftfreq(size)
    k = alpha * np.hypot(kx, ky[:, None])
    # Moved to its place only here: cells that are not symmetric about a cusp would move its centroid.
    dx, dy = _offset(row)
    moved = np.exp(-1j * dy * ky)[:, None] * np.exp(-1j * dx * kx)
    spectrum = scipy.fft.rfft2(cells, s=(size, size)) * moved * (np.exp(-k) * (1 + k + k * k / 3))
    convolved = scipy.fft.irfft2(spectrum, s=(size, size))[:n, :n]
    stamp = convolved.reshape(side, cells_per_pixel, side, cells_per_pixel).sum(axis=(1, 3))
    return np.maximum(stamp, 0)  # rounding of the transform, where there is no light


def _offset(row):
    return (row[name] - nearest_pixel(row[name]) for name in "xy")


def _sersic_cells(row, side, cells_per_pixel):
    """Flux in the cells of ``side`` x ``side`` pixels centred on a galaxy, by the value in their middles."""
    dx = (np.arange(side * cells_per_pixel) + 0.5) / cells_per_pixel - side / 2
    dy, angle, n, b = dx[:, None], math.radians(row["orientation"]), row["n"], gammaincinv(2 * row["n"], 0.5)
    along = dx * math.cos(angle) + dy * math.sin(angle)
    across = (dy * math.cos(angle) - dx * math.sin(angle)) / row["axis_ratio"]
    r2 = (along**2 + across**2) / row["r_eff"] ** 2
    # Total flux = 2 pi n r_eff^2 q Gamma(2n) b^(-2n) I(0).
    total = 2 * math.pi * n * row["r_eff"] ** 2 * row["axis_ratio"] * math.gamma(2 * n) * b ** (-2 * n)
    profile = np.exp(-b * r2 ** (0.5 / n)) * (row["flux"] / total / cells_per_pixel**2)
    return np.where(r2 <= outer_radius(1.0, n) ** 2, profile, 0)


def outer_radius(r_eff, n):
    """Give the radius at which a Sersic profile is cut off: ``_LIGHT_KEPT`` of it is inside, or more."""
    return r_eff * np.maximum((gammaincinv(2 * n, _LIGHT_KEPT) / gammaincinv(2 * n, 0.5)) ** n, 8)
