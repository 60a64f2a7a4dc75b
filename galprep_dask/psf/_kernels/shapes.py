"""Sizes and shapes of single sources, robust to noise: moments under a round Gaussian of the source's own size.

A weight of the source's size leaves out the noise of the sky around it, and gives the same size at every brightness,
as isophotal moments do not. Every source is measured on its own window about its brightest pixel, so that what comes
out is the same to the bit however the image is chunked.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

__all__ = ["COLUMNS", "SATURATED", "TO_FWHM", "in_rows", "measure_shapes", "reach_of", "window_half"]

#: What is measured of each source. Position from its brightest pixel; standard deviation in pixels of the Gaussian
#: that it is like; ellipticity (a^2 - b^2) / (a^2 + b^2), x minus y axis and diagonal; light under the weight over its
#: noise; log of the light under a weight twice as wide over that under its own, and offset of the two centroids in
#: widths; FWHM of the profile. The rest are numbers of pixels: as bright as the brightest; at or above saturation, bad,
#: and other sources' in the core; other sources' in the box; bad or beyond the edge within a quarter of its size.
COLUMNS = (
    "x", "y", "width", "e1", "e2", "snr", "concentration", "offset_x", "offset_y", "profile_fwhm", "n_flat",
    "n_saturated", "n_bad_core", "n_owned_core", "n_owned_box", "n_bad_centre",
)  # fmt: skip

#: A Gaussian's FWHM over its standard deviation.
TO_FWHM = 2.0 * math.sqrt(2.0 * math.log(2.0))

#: The bit that marks saturated pixels.
SATURATED = 2

_ROUNDS = 40


def measure_shapes(
    image: np.ndarray, labels: np.ndarray, bad: np.ndarray | None, variance: np.ndarray, starts: np.ndarray,
    own: np.ndarray, *, width: float, size: int, saturate: float,
) -> np.ndarray:  # fmt: skip
    """
    Measure sources of one region.

    Parameters
    ----------
    image : (ny, nx) float array
        Pixels without their sky; what is not finite is bad.
    labels : (ny, nx) int array
        Which source owns each, 0 = sky.
    bad : (ny, nx) bool or uint8 array, optional
        Further pixels that are not looked at; the bit of ``SATURATED`` says that a pixel is that.
    variance : (n,) array
        Of the pixels' noise at each source.
    starts : (n, 2) int array
        Row and column of the brightest pixel of each source. What lies beyond the region is beyond the image.
    own : (n,) int array
        Their labels.
    width : float
        Standard deviation in pixels of the stars, about; it sets the windows.
    size : int
        Side of the box, odd.
    saturate : float
        Level of saturation.

    Returns
    -------
    (n, len(COLUMNS)) float64 array
        NaN for the shape of what has none.
    """
    measured = np.full((len(own), len(COLUMNS)), np.nan)
    image, labels, variance, starts, own = (in_rows(array) for array in (image, labels, variance, starts, own))
    bad = np.zeros((0, 0), np.uint8) if bad is None else in_rows(bad).view(np.uint8)
    half, reach = window_half(width), reach_of(width, size)
    _measure_all(image, labels, bad, variance, starts, own, width, half, size // 2, reach, saturate, measured)
    return measured


def in_rows(array: np.ndarray) -> np.ndarray:
    """Give rows one after the other, a copy where they are not or are read-only: kernels are compiled for one kind."""
    return array if array.flags.carray else np.array(array, order="C")


def reach_of(width: float, size: int) -> int:
    """Give how far from its brightest pixel anything of a source is looked at: the window, or the box."""
    return max(window_half(width), size // 2)


def window_half(width: float) -> int:
    """Give how far a window reaches from the brightest pixel: 3.5 FWHM."""
    return math.ceil(3.5 * TO_FWHM * width) + 1


@njit(nogil=True, cache=True)
def _measure_all(image, labels, bad, variance, starts, own, width, half, half_box, reach, saturate, measured):
    side = 2 * half + 1
    window, good = np.empty((side, side)), np.empty((side, side), np.bool_)
    sky, middle = np.empty(side * side + 1), np.empty(side * side + 1)
    wx, wy = np.empty(side), np.empty(side)
    for k in range(len(own)):
        _count_box(image, labels, bad, starts[k], own[k], half_box, measured[k])
        _cut_window(image, labels, bad, starts[k], own[k], half, width, window, good, sky, middle)
        _measure_one(window, variance[k], half, width, wx, wy, measured[k])
        if np.isfinite(measured[k, 2]):
            _count_core(image, labels, bad, starts[k], own[k], reach, saturate, measured[k])


@njit(nogil=True, cache=True)
def _count_box(image, labels, bad, start, own, half_box, row):
    ny, nx = labels.shape
    y0, y1 = max(start[0] - half_box, 0), min(start[0] + half_box + 1, ny)
    x0, x1 = max(start[1] - half_box, 0), min(start[1] + half_box + 1, nx)
    owned = 0
    for y in range(y0, y1):
        owners = labels[y, x0:x1]
        for k in range(len(owners)):
            owned += (owners[k] != 0) & (owners[k] != own)
    spoilt = 0
    reach = 0.25 * (2 * half_box + 1)
    n = int(reach)
    for dy in range(-n, n + 1):
        y = start[0] + dy
        for dx in range(-n, n + 1):
            x = start[1] + dx
            if dy * dy + dx * dx > reach * reach:
                continue
            if y < 0 or y >= ny or x < 0 or x >= nx:
                spoilt += 1
            else:
                spoilt += not np.isfinite(image[y, x]) or (bad.size > 0 and bad[y, x])
    row[14], row[15] = owned, spoilt


@njit(nogil=True, cache=True)
def _cut_window(image, labels, bad, start, own, half, width, window, good, sky, middle):
    """
    Fill the window. What is bad or another source's is replaced by its opposite, and by sky where that is too.

    The loops go along rows and have no branches, as where segments begin and end cannot be foretold.
    """
    ny, nx = image.shape
    side = 2 * half + 1
    window[:], good[:] = 0.0, False
    ring = (2.5 * TO_FWHM * width) ** 2
    top, left = start[0] - half, start[1] - half
    i0, i1, j0, j1 = max(0, -top), min(side, ny - top), max(0, -left), min(side, nx - left)
    for i in range(i0, i1):
        values, owners = image[top + i, left + j0 : left + j1], labels[top + i, left + j0 : left + j1]
        to, whole = window[i, j0:j1], good[i, j0:j1]
        for j in range(len(values)):
            whole[j] = ((owners[j] == 0) | (owners[j] == own)) & np.isfinite(values[j])
            to[j] = values[j] if whole[j] else 0.0
    if bad.size > 0:
        for i in range(i0, i1):
            for j in range(j0, j1):
                if bad[top + i, left + j]:
                    window[i, j], good[i, j] = 0.0, False
    n_sky = n_good = 0
    for i in range(i0, i1):
        owners, values, whole = labels[top + i, left + j0 : left + j1], window[i, j0:j1], good[i, j0:j1]
        for j in range(len(values)):
            far = (i - half) ** 2 + (j0 + j - half) ** 2 > ring
            sky[n_sky] = values[j]
            n_good += whole[j]
            n_sky += whole[j] & (owners[j] == 0) & far
    if n_sky >= 30:
        level = _median(sky[:n_sky], middle)
        for i in range(side):
            for j in range(side):
                window[i, j] = window[i, j] - level if good[i, j] else 0.0
    if n_good == side * side:
        return
    for i in range(side):
        for j in range(side):
            if not good[i, j]:
                oi, oj = side - 1 - i, side - 1 - j
                window[i, j] = window[oi, oj] if good[oi, oj] else 0.0


@njit(nogil=True, cache=True, fastmath={"nnan", "reassoc"})
def _range(values):
    low = high = values[0]
    for value in values:
        low, high = min(low, value), max(high, value)
    return low, high


@njit(nogil=True, cache=True)
def _median(values, middle):
    """
    Median of values that are finite.

    The range that holds it is halved until it has few values; ``middle`` is room for these. Processors count
    many values at once, but do not sort so.
    """
    n = len(values)
    rank = (n - 1) // 2
    low, high = _range(values)
    below, up_to = 0, n  # values under ``low``, and up to ``high``
    for _ in range(64):
        if up_to - below <= 12:
            break
        pivot = 0.5 * low + 0.5 * high
        count = 0
        for value in values:
            count += value <= pivot
        if count > rank:
            high, up_to = pivot, count
        else:
            low, below = pivot, count
    m = 0
    for value in values:
        middle[m] = value
        m += ((value > low) | (below == 0)) & (value <= high)
    for k in range(1, m):
        value, at = middle[k], k
        while at > 0 and middle[at - 1] > value:
            middle[at] = middle[at - 1]
            at -= 1
        middle[at] = value
    one = middle[rank - below]
    if n % 2 == 1:
        return one
    if rank + 1 - below < m:
        return 0.5 * (one + middle[rank + 1 - below])
    other = np.inf
    for value in values:
        if value > high:
            other = min(other, value)
    return 0.5 * (one + other)


@njit(nogil=True, cache=True)
def _weigh(centre, s2, half, low, high, weight):
    """Gaussian weights of pixels side by side, each from the one before it: the quotients are a geometric series."""
    d = low - half - centre
    value, quotient, step = math.exp(-0.5 * d * d / s2), math.exp(-(d + 0.5) / s2), math.exp(-1.0 / s2)
    for i in range(low, high):
        weight[i] = value
        value *= quotient
        quotient *= step


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def _moments(window, half, cx, cy, s2, reach, wx, wy):
    """Sum the light, its moments about (cx, cy) and the squares of the weights, under a Gaussian."""
    side = 2 * half + 1
    x0, x1 = max(0, int(half + cx - reach)), min(side, int(half + cx + reach) + 2)
    y0, y1 = max(0, int(half + cy - reach)), min(side, int(half + cy + reach) + 2)
    _weigh(cx, s2, half, x0, x1, wx)
    _weigh(cy, s2, half, y0, y1, wy)
    f = mx = my = mxx = mxy = myy = 0.0
    nx2 = ny2 = 0.0
    for j in range(x0, x1):
        nx2 += wx[j] * wx[j]
    for i in range(y0, y1):
        r0 = r1 = r2 = 0.0
        for j in range(x0, x1):
            d = j - half - cx
            value = wx[j] * window[i, j]
            r0 += value
            r1 += value * d
            r2 += value * d * d
        e = i - half - cy
        w = wy[i]
        ny2 += w * w
        f += w * r0
        mx += w * r1
        my += w * e * r0
        mxx += w * r2
        mxy += w * e * r1
        myy += w * e * e * r0
    return f, mx, my, mxx, mxy, myy, nx2 * ny2


@njit(nogil=True, cache=True)
def _measure_one(window, variance, half, width, wx, wy, row):
    cx = cy = 0.0
    row[0] = row[1] = 0.0
    s2 = width * width
    most = (half / 2.0) ** 2
    settled = False
    f = mxx = mxy = myy = norm2 = 0.0
    for _ in range(_ROUNDS):
        f, mx, my, mxx, mxy, myy, norm2 = _moments(window, half, cx, cy, s2, 4.0 * math.sqrt(s2), wx, wy)
        if not f > 0.0:
            return
        dx, dy = 2.0 * mx / f, 2.0 * my / f  # a weight as wide as the source halves every offset
        second = 0.5 * (mxx + myy - (mx * mx + my * my) / f) / f
        if not second > 0.0:
            return
        # 1 / second = 1 / s_source^2 + 1 / s_weight^2 for Gaussians.
        inverse = 1.0 / second - 1.0 / s2
        new = min(1.0 / inverse, 2.0 * s2) if inverse > 0.0 else 2.0 * s2
        new = max(new, 0.5 * s2, 0.05)
        cx, cy = cx + dx, cy + dy
        settled = abs(new - s2) < 1e-5 * s2 and abs(dx) < 1e-4 and abs(dy) < 1e-4
        s2 = new
        if s2 > most or abs(cx) > 0.4 * half or abs(cy) > 0.4 * half:
            return
        if settled:
            break
    if not settled:
        return
    width_now = math.sqrt(s2)
    total = mxx + myy
    row[0], row[1], row[2] = cx, cy, width_now
    row[3], row[4] = 2.0 * (mxx - myy) / total, 4.0 * mxy / total  # the weight halves ellipticities too
    row[5] = f / math.sqrt(variance * norm2) if variance > 0.0 else np.nan
    wide, wmx, wmy, _, _, _, _ = _moments(window, half, cx, cy, 4.0 * s2, 6.0 * width_now, wx, wy)
    if wide > 0.0:
        row[6], row[7], row[8] = math.log(wide / f), wmx / wide / width_now, wmy / wide / width_now
    row[9], row[10] = _profile(window, half, cx, cy, width_now)


@njit(nogil=True, cache=True)
def _profile(window, half, cx, cy, width):
    """
    FWHM of the core, and how many pixels are as bright as the brightest.

    The log of the light is fitted as a parabola in r^2, each pixel by the square of its light. Any smooth round core is
    one within its half-light radius, Gaussian or Moffat.
    """
    reach = 0.75 * TO_FWHM * width
    m = np.zeros((3, 3))
    v = np.zeros(3)
    n = math.ceil(reach) + 1
    top = -np.inf
    y0, x0 = round(half + cy), round(half + cx)
    for i in range(y0 - n, y0 + n + 1):
        for j in range(x0 - n, x0 + n + 1):
            if (i - half - cy) ** 2 + (j - half - cx) ** 2 <= reach * reach and window[i, j] > top:
                top = window[i, j]
    n_flat, n_used = 0, 0
    for i in range(y0 - n, y0 + n + 1):
        for j in range(x0 - n, x0 + n + 1):
            r2 = (i - half - cy) ** 2 + (j - half - cx) ** 2
            if r2 > reach * reach:
                continue
            light = window[i, j] / top
            n_flat += light >= 0.97
            if light < 0.2:
                continue
            n_used += 1
            u, w = r2 / (width * width), light * light
            log = math.log(light)
            basis = (1.0, u, u * u)
            for p in range(3):
                v[p] += w * basis[p] * log
                for q in range(3):
                    m[p, q] += w * basis[p] * basis[q]
    if n_used < 5 or not top > 0.0:
        return np.nan, float(n_flat)
    for p in range(3):
        m[p, p] *= 1.0 + 1e-10
    _, b, c = np.linalg.solve(m, v)
    ln2 = math.log(2.0)
    inside = b * b - 4.0 * c * ln2
    if not b < 0.0 or inside < 0.0:
        return np.nan, float(n_flat)
    return 2.0 * width * math.sqrt(2.0 * ln2 / (-b + math.sqrt(inside))), float(n_flat)


@njit(nogil=True, cache=True)
def _count_core(image, labels, bad, start, own, reach, saturate, row):
    """Count what is wrong within 1.5 FWHM of the centre, and not further than ``reach`` from the brightest pixel."""
    ny, nx = image.shape
    radius = 1.5 * TO_FWHM * row[2]
    n = math.ceil(radius) + 1
    saturated = spoilt = owned = 0
    dy0, dx0 = round(row[1]), round(row[0])
    for dy in range(max(dy0 - n, -reach), min(dy0 + n, reach) + 1):
        for dx in range(max(dx0 - n, -reach), min(dx0 + n, reach) + 1):
            if (dy - row[1]) ** 2 + (dx - row[0]) ** 2 > radius * radius:
                continue
            y, x = start[0] + dy, start[1] + dx
            if y < 0 or y >= ny or x < 0 or x >= nx:
                spoilt += 1
                continue
            its = labels[y, x] == 0 or labels[y, x] == own
            flag = bad[y, x] if bad.size > 0 else np.uint8(0)
            if flag or not np.isfinite(image[y, x]):
                saturated += its and flag & SATURATED != 0
                spoilt += 1
                continue
            saturated += its and image[y, x] >= saturate
            owned += labels[y, x] != 0 and labels[y, x] != own
    row[11], row[12], row[13] = saturated, spoilt, owned
