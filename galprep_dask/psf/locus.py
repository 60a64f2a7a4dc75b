"""The stellar locus: where stars lie in size and shape, over the whole image, found without being told where to look.

All stars of an image have the size of its PSF, at every brightness, while galaxies have all sizes. So the stars are the
narrow ridge in the plane of size and magnitude, even where galaxies outnumber them. The PSF may change across the
image: what is looked for is a smooth surface, size as a polynomial in position, that many sources lie on and few lie
beside.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["FEATURES", "Locus", "find_locus", "find_mode", "galaxy_share"]

#: Shapes that all stars of a place share: the least scatter that is allowed for, and the error at a signal-to-noise
#: ratio of 1, about. Faint neighbours, which a fit of the PSF can live with, make more than noise does of bright stars.
FEATURES = {
    "log_width": (0.005, 1.4), "concentration": (0.01, 1.0), "e1": (0.01, 2.2), "e2": (0.01, 2.2),
    "offset_x": (0.01, 1.8), "offset_y": (0.01, 1.8),
}  # fmt: skip

#: Relative width of the ridge that is looked for, beside the errors of measurement.
_RIDGE = 0.02
#: How fast large sizes lose against small ones, per unit of the log.
_PRIOR = 1.5
#: Sources, the brightest, and planes that are tried.
_MOST, _TRIALS = 1500, 3000
#: Sources that surfaces are fitted to, at most.
_ENOUGH_FOR_ALL = 20_000
#: Fewest stars for a polynomial of degree 1, 2, 3 in position.
_ENOUGH = (10, 30, 150)
#: Where beyond the locus galaxies are counted, in standard deviations; the range of like log signal-to-noise ratios.
_BEYOND, _LIKE = (3.5, 10.0), 0.25
#: Widest scatter, over the least.
_MOST_WIDE = 6
#: Stars below which their scatter is not measured.
_FEW = 20


@dataclass(frozen=True)
class Locus:
    """
    Where stars lie.

    Attributes
    ----------
    shape : (int, int)
        Of the image.
    surfaces : dict of lists
        For every feature the coefficients of a polynomial in position.
    scatter : dict of (float, float)
        For every feature its scatter at high signal-to-noise, and its error at a signal-to-noise ratio of 1.
    n_stars : int
        Sources that it was taken from.
    """

    shape: tuple[int, int]
    n_stars: int
    surfaces: dict[str, list[float]]
    scatter: dict[str, tuple[float, float]]

    def expected(self, name: str, x, y) -> np.ndarray:
        """Value of a feature for a star at (x, y)."""
        return _powers(x, y, self.shape, _degree_of(self.surfaces[name])) @ self.surfaces[name]

    def error(self, name: str, snr) -> np.ndarray:
        """Scatter of a feature among stars of this signal-to-noise ratio."""
        floor, noise = self.scatter[name]
        return np.hypot(floor, noise / np.asarray(snr))

    def deviation(self, name: str, value, x, y, snr) -> np.ndarray:
        """Distance from the locus in standard deviations."""
        return (value - self.expected(name, x, y)) / self.error(name, snr)


def find_locus(x, y, snr, features: dict, shape: tuple[int, int]) -> Locus | None:
    """
    Find the locus of stars among sources of all kinds.

    Parameters
    ----------
    x, y : (n,) arrays
        Positions in pixels.
    snr : (n,) array
        Signal-to-noise ratios.
    features : dict of (n,) arrays
        Those of ``FEATURES``, finite.
    shape : (int, int)
        Of the image.

    Returns
    -------
    Locus or None
        None where there is no source.
    """
    if len(snr) == 0:
        return None
    if len(snr) > _ENOUGH_FOR_ALL:  # of all brightnesses alike
        some = np.argsort(-snr, kind="stable")[:: -(-len(snr) // _ENOUGH_FOR_ALL)]
        x, y, snr = x[some], y[some], snr[some]
        features = {name: values[some] for name, values in features.items()}
    size = features["log_width"]
    order = np.argsort(-np.asarray(snr), kind="stable")[:_MOST]
    start = _best_plane(x[order], y[order], size[order], snr[order], shape)
    on = np.abs(size - _powers(x, y, shape, 1) @ start) < 4 * _tolerance(snr)
    if not on.any():  # a plane through single sources passes between them
        on[order[np.argmin(np.abs(size[order] - _powers(x[order], y[order], shape, 1) @ start))]] = True
    for _ in range(4):
        powers = _powers(x[on], y[on], shape, int(np.searchsorted(_ENOUGH, on.sum(), side="right")))
        fits = {name: _fit(powers, features[name][on], snr[on], *least) for name, least in FEATURES.items()}
        surfaces, scatter = ({name: fit[part] for name, fit in fits.items()} for part in (0, 1))
        locus = Locus(shape, int(on.sum()), surfaces, scatter)
        near = np.all([np.abs(locus.deviation(name, features[name], x, y, snr)) < 3.5 for name in FEATURES], axis=0)
        on = near if near.any() else on
    return locus


def find_mode(size, snr) -> float:
    """Give the log of the size at which sources crowd most; nearly the smallest where none repeats."""
    size, snr = np.asarray(size), np.asarray(snr)
    order = np.argsort(-snr, kind="stable")[:_MOST]
    size, snr = size[order], snr[order]
    return float(size[np.argmax(_score(size[:, None], size, _tolerance(snr)))])


def galaxy_share(deviation, snr) -> np.ndarray:
    """
    Estimate how likely it is that a source at the locus is a galaxy too small to be told from a star.

    The density of galaxies is taken just beyond the locus, at like signal-to-noise ratios, and falls linearly towards
    smaller sizes, to nothing one standard deviation below the stars; stars are a normal distribution.

    Parameters
    ----------
    deviation : (n,) array
        Size, in standard deviations from the locus.
    snr : (n,) array
        Signal-to-noise ratios.

    Returns
    -------
    (n,) array
        From 0 to 1.
    """
    deviation, log_snr = np.asarray(deviation), np.log(np.asarray(snr))
    nearest, furthest = _BEYOND
    stars = _counts_at(log_snr, log_snr[np.abs(deviation) < 2]) / 0.954
    galaxies = _counts_at(log_snr, log_snr[(deviation > nearest) & (deviation < furthest)]) / (furthest - nearest)
    galaxies *= np.clip((deviation + 1) / ((nearest + furthest) / 2 + 1), 0, None)
    stars *= np.exp(-0.5 * deviation**2) / np.sqrt(2 * np.pi)
    return galaxies / np.maximum(galaxies + stars, 1e-300)


def _counts_at(log_snr, among) -> np.ndarray:
    """Count sources of like signal-to-noise ratio, those further off in its log weighing less."""
    edges = np.linspace(log_snr.min(), log_snr.max() + 1e-9, 65)
    middle = (edges[1:] + edges[:-1]) / 2
    counts, _ = np.histogram(among, edges)
    smoothed = np.exp(-0.5 * ((middle[:, None] - middle) / _LIKE) ** 2) @ counts
    return np.interp(log_snr, middle, smoothed)


def _tolerance(snr):
    return np.hypot(_RIDGE, FEATURES["log_width"][1] / np.asarray(snr))


def _score(expected, size, tolerance):
    """
    Tell how much more sources lie near to a surface than its surroundings let expect. ``expected`` is (trials, n).

    In standard deviations of the number, so that a chance crowd among many galaxies is no match for a few stars where
    there is nothing else; and less for large sizes, as stars are the smallest there are.
    """
    z = np.abs(size - expected) / tolerance
    near = np.clip(1 - (z / 3) ** 2, 0, None) ** 2
    beside = (z > 3) & (z < 6)
    excess = near.sum(axis=-1) - 0.53 * beside.sum(axis=-1)
    noise = np.sqrt((near**2).sum(axis=-1) + 0.28 * beside.sum(axis=-1) + 1)
    return excess / noise * np.exp(-_PRIOR * (np.mean(expected, axis=-1) - np.quantile(size, 0.05)))


def _best_plane(x, y, size, snr, shape) -> np.ndarray:
    """
    Coefficients of the plane, a + b u + c v, that most sources lie on and fewest beside.

    Planes through triples of sources are tried, with a fixed seed, and those of one size everywhere.
    """
    level = find_mode(size, snr)
    best = np.array([level, 0.0, 0.0])
    if len(size) < _ENOUGH[0]:
        return best
    tolerance = _tolerance(snr)
    rng = np.random.default_rng(0)
    first = rng.integers(0, len(size), 4 * _TRIALS)
    triples = np.stack([first, *rng.integers(0, len(size), (2, 4 * _TRIALS))], axis=1)
    spread = np.ptp(size[triples], axis=1)
    triples = triples[(spread < 0.4) & (np.sort(triples, axis=1)[:, :-1] != np.sort(triples, axis=1)[:, 1:]).all(1)]
    triples = triples[:_TRIALS]
    powers = _powers(x, y, shape, 1)
    corners = powers[triples]
    wide = np.abs(np.linalg.det(corners)) > 0.1  # else the plane is ill-determined
    planes = np.linalg.solve(corners[wide], size[triples[wide]][..., None])[..., 0]
    planes = planes[np.abs(planes[:, 1:]).sum(axis=1) < 0.4]
    # A plane has to be better than one size everywhere by more than chance makes it.
    highest = 1.1 * _score(np.full((1, 1), level), size, tolerance)[0] + 0.5
    for begin in range(0, len(planes), 200):
        scores = _score(planes[begin : begin + 200] @ powers.T, size, tolerance)
        if len(scores) and scores.max() > highest:
            highest, best = scores.max(), planes[begin + np.argmax(scores)]
    return best


def _fit(powers, values, snr, floor: float, noise: float) -> tuple[list[float], tuple[float, float]]:
    """Fit a surface to sources of the locus, robustly, and take their scatter about it."""
    error = np.hypot(floor, noise / snr)
    weight = 1 / error
    for _ in range(6):
        weighted = powers * weight[:, None] ** 2  # normal equations: ten by ten at most, and well conditioned
        surface = np.linalg.lstsq(weighted.T @ powers, weighted.T @ values, rcond=None)[0]
        z = (values - powers @ surface) / error
        scale = max(1.4826 * np.median(np.abs(z)), 0.3)
        weight = np.clip(1 - (z / (4.7 * scale)) ** 2, 1e-3, None) / error
    return surface.tolist(), _scatter(values - powers @ surface, snr, floor, noise)


def _scatter(residual, snr, floor: float, noise: float) -> tuple[float, float]:
    """
    Measure floor and noise of the scatter, sqrt(floor^2 + (noise / snr)^2).

    The brighter half gives the one, the fainter half the other; neither is less than it was, nor many times as much:
    a locus shall not widen until it holds galaxies.
    """
    if len(residual) < _FEW:
        return floor, noise
    bright = snr > np.median(snr)
    middle = np.median(snr[bright]), np.median(snr[~bright])
    spread = [1.4826 * np.median(np.abs(residual[half])) for half in (bright, ~bright)]
    least = floor, noise
    for _ in range(5):
        noise = max(np.sqrt(max(spread[1] ** 2 - floor**2, 0)) * middle[1], least[1])
        floor = max(np.sqrt(max(spread[0] ** 2 - (noise / middle[0]) ** 2, 0)), least[0])
    return float(min(floor, _MOST_WIDE * least[0])), float(min(noise, 2 * least[1]))


def _powers(x, y, shape, degree: int) -> np.ndarray:
    """Products u^i v^j with i + j <= degree, where u and v run from -1 to 1 across the image."""
    ny, nx = shape
    u, v = (2 * np.asarray(position, float) / max(n - 1, 1) - 1 for position, n in ((x, nx), (y, ny)))
    us, vs = ([np.ones_like(w), w, w * w, w * w * w][: degree + 1] for w in (u, v))
    return np.stack([us[i] * vs[d - i] for d in range(degree + 1) for i in range(d, -1, -1)], axis=-1)


def _degree_of(surface) -> int:
    return int(np.sqrt(8 * len(surface) + 1) - 3) // 2
