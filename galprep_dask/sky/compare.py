"""Which sky model to take: fits are judged where they were not shown the pixels, and under the sources."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from astropy.table import Table

from galprep_dask.arrays import ImageLike, as_image, as_mask
from galprep_dask.blockwise import keep_mask, map_blocks_at, merge_blocks_at
from galprep_dask.errors import NoGoodPixelsError, ParameterError
from galprep_dask.fused import compute_now
from galprep_dask.image import bad_pixels, no_good_pixels
from galprep_dask.masks import grow_by
from galprep_dask.sky._kernels.held_out import SquareSums, hold_out, merge_square_sums, square_sums
from galprep_dask.sky.constant import fit_median_sky
from galprep_dask.sky.mesh import fit_mesh_sky
from galprep_dask.sky.piecewise import fit_piecewise_sky
from galprep_dask.sky.polynomial import fit_polynomial_sky

__all__ = ["SkyComparison", "compare_sky_models"]

#: Squares with fewer good pixels than this share say little, and are left out.
_LEAST_FILLED = 0.1


@dataclass(frozen=True)
class SkyComparison:
    """
    How sky models did.

    Attributes
    ----------
    table : astropy.table.Table
        A row per model, in the order given: ``model``, its name; ``structure``, the rms over held-out squares of the
        sky that the model missed there, in units of the noise of a pixel, what noise alone gives taken off;
        ``structure_error``, its standard error; ``eaten``, the light that the model takes from under the sources,
        in the same unit; ``eaten_error``; ``n_squares``; ``note``, why a model could not be fitted.
    best : str
        Name of the model to take: the first, and so the simplest if they are given in that order, that is as good as
        the best one to within the errors, among those that do not eat sources.
    fit : callable
        Its ``fit(data, mask)``, to go on with: for :func:`fit_sky_between_sources`, for example.

    Examples
    --------
    >>> image = np.random.default_rng(0).normal(100, 1, (300, 300))
    >>> compared = compare_sky_models(image, models={"one level": fit_median_sky})
    >>> compared.best, bool(compared.table["structure"][0] < 0.1)
    ('one level', True)
    """

    table: Table = field(repr=False)
    best: str
    fit: Callable = field(repr=False)

    def __str__(self) -> str:
        lines = self.table.pformat(max_lines=-1, max_width=-1)
        return "\n".join([*lines, f"best: {self.best}"])


def compare_sky_models(
    data: ImageLike,
    mask: ImageLike | None = None,
    models: Mapping[str, Callable] | None = None,
    *,
    square_size: int | None = None,
    n_folds: int = 1,
    max_eaten: float = 0.02,
) -> SkyComparison:
    """
    Score sky models on squares of source-free pixels that they were not fitted to.

    A model that cannot follow the sky misses it in the squares that were held out; one that is too free follows
    noise, and misses it too. A model that follows galaxies is high around them: fitted once more with wider masks, its
    sky under the sources falls, by the light that it had eaten.

    Parameters
    ----------
    data : (ny, nx) array, NumPy, dask or xarray
        Image with its sky, in any unit. Not modified.
    mask : (ny, nx) bool array, optional
        True marks sources and bad pixels, as :func:`fit_sky_between_sources` or :func:`source_mask` give it.
        Non-finite pixels are always left out.
    models : mapping of str to callable, optional
        ``fit(data, mask)`` by name, from simple to free. By default a constant, polynomials of total degree
        1, 3, 5 and 8, pieces of about four squares a side, and a mesh of boxes of one square.
    square_size : int, optional
        Side in pixels of the squares, one in five of which is held out. Sources should fit in; by default a
        sixteenth of the shorter side of the image, but 32 to 512 pixels.
    n_folds : int
        1 to 5: how many times each model is fitted, every time without other squares. Five times hold out
        every square once.
    max_eaten : float
        Noise of a pixel by which the sky under the sources may be too high before a model is put aside; three times
        the error of that quantity is allowed in any case.

    Returns
    -------
    SkyComparison
        ``print`` shows the table and the verdict.

    Raises
    ------
    ImageShapeError
        Shapes differ.
    NoGoodPixelsError
        No pixel is good, or no square has enough good pixels, or no model could be fitted.
    ParameterError
        A parameter makes no sense.

    Notes
    -----
    Every model is fitted ``n_folds + 2`` times. The squares belong to the image, so that chunks do not matter.

    References
    ----------
    .. [1] Stone 1974, J. R. Stat. Soc. B 36, 111 (cross-validation).
    .. [2] Breiman et al. 1984, Classification and Regression Trees, section 3.4.3 (the simplest within one standard
           error of the best).

    Examples
    --------
    >>> y, x = np.mgrid[-1:1:300j, -1:1:300j]
    >>> image = np.random.default_rng(0).normal(100, 1, (300, 300)) + 5 * x * y
    >>> compare_sky_models(image, models={
    ...     f"degree {n}": lambda data, mask, n=n: fit_polynomial_sky(data, mask, n) for n in (0, 1, 2, 3)}).best
    'degree 2'
    """
    image = as_image(data)
    if square_size is None:
        square_size = int(np.clip(min(image.shape) // 16, 32, 512))
    _check(image.shape, square_size, n_folds, max_eaten)
    bad = bad_pixels(image)
    masked = keep_mask(bad if mask is None else bad | as_mask(mask, image))
    sources = keep_mask(masked & ~bad)
    wider = keep_mask(grow_by(sources.astype(np.uint8), max(square_size // 8, 4)) | masked)
    models = default_models(square_size) if models is None else dict(models)
    if not models:
        raise ParameterError("models is empty; expected names and fits, or None for the usual ones.")
    if bool(masked.all().compute()):
        raise no_good_pixels("compare skies")

    judged = {
        name: _judged(fit, image, masked, wider, sources, square_size, n_folds) for name, fit in models.items()
    }
    rows = [(name, *one.row()) for name, one in judged.items()]
    table = Table(rows=rows, names=_COLUMNS, dtype=_DTYPES)
    for column in _COLUMNS[1:5]:
        table[column].format = "%.4f"
    best = _best(judged, max_eaten)
    return SkyComparison(table, best, models[best])


def default_models(square_size: int) -> dict[str, Callable]:
    """Give the models that are compared unless others are named, from simple to free."""
    mostly_masked = {"exclude_percentile": 90.0}  # squares are held out whole, sources mask a good part of the others
    return {
        "median": fit_median_sky,
        **{f"polynomial, order {order}": partial(fit_polynomial_sky, order=order) for order in (1, 3, 5, 8)},
        f"pieces of {4 * square_size}": partial(fit_piecewise_sky, piece_size=4 * square_size),
        f"mesh of {square_size}": partial(fit_mesh_sky, box_size=square_size, **mostly_masked),
    }


_COLUMNS = ("model", "structure", "structure_error", "eaten", "eaten_error", "n_squares", "note")
_DTYPES = (str, float, float, float, float, int, str)


def _check(shape, square_size, n_folds, max_eaten) -> None:
    if not isinstance(square_size, int | np.integer) or not 1 <= square_size <= min(shape):
        raise ParameterError(
            f"square_size={square_size!r}; expected a whole number of pixels, no more than the image of {shape} has."
        )
    if not isinstance(n_folds, int | np.integer) or not 1 <= n_folds <= 5:
        raise ParameterError(f"n_folds={n_folds!r}; expected 1 to 5.")
    if not max_eaten >= 0:
        raise ParameterError(f"max_eaten={max_eaten!r}; expected zero or a positive number.")


@dataclass(frozen=True)
class _Judged:
    """Of one model: the excess over noise of the mean square of every held-out square, and what it ate."""

    square: np.ndarray
    excess: np.ndarray
    eaten: float
    eaten_error: float
    note: str = ""

    def row(self) -> tuple:
        if self.note:
            return np.nan, np.nan, np.nan, np.nan, 0, self.note
        mean, error = self.excess.mean(), _error_of_mean(self.excess)
        structure = np.sqrt(max(mean, 0.0))
        # Of a root: half the relative error of the square, where it is known at all.
        error = error / (2 * structure) if mean > error else np.sqrt(error)
        return structure, error, self.eaten, self.eaten_error, len(self.excess), ""


def _judged(fit, image, masked, wider, sources, size, n_folds) -> _Judged:
    nothing = np.empty(0)
    try:
        sky, careful = fit(image, masked), fit(image, wider)
        parts = []
        for fold in range(n_folds):
            held = fit(image, map_blocks_at(hold_out, masked, dtype=bool, size=size, fold=fold))
            parts.append(_over_squares(image, held, masked, size, fold))
    except (NoGoodPixelsError, ParameterError) as error:
        return _Judged(nothing, nothing, np.nan, np.nan, str(error).splitlines()[0])
    found = merge_square_sums(parts)
    filled = found.n >= max(_LEAST_FILLED * size**2, 2)
    if not filled.any():
        return _Judged(nothing, nothing, np.nan, np.nan, f"no held-out square of {size} px has enough good pixels")
    n, mean, squares = found.n[filled], found.total[filled] / found.n[filled], found.squares[filled]
    # The noise of a pixel is the scatter inside squares, where the sky hardly changes.
    scatter = np.maximum(squares - n * mean**2, 0.0)
    noise = float(np.sqrt(scatter.sum() / (n - 1).sum()))
    unit = noise if noise > 0 else 1.0
    by_noise = scatter / (n - 1) / n  # what noise alone makes of the square of a mean of n pixels
    eaten = _over_squares(sky.evaluate(image.shape, image.chunks), careful, ~sources, size, None)
    if len(eaten.n) == 0:
        return _Judged(found.square[filled], (mean**2 - by_noise) / unit**2, 0.0, 0.0)
    return _Judged(
        found.square[filled], (mean**2 - by_noise) / unit**2,
        float(eaten.total.sum() / eaten.n.sum() / unit), _error_of_mean(eaten.total / eaten.n) / unit,
    )  # fmt: skip


def _over_squares(image, sky, mask, size, fold) -> SquareSums:
    planes = image, sky.evaluate(image.shape, image.chunks), mask
    how = {"image_shape": image.shape, "size": size, "fold": fold}
    return compute_now(merge_blocks_at(square_sums, merge_square_sums, *planes, **how))[0, 0]


def _error_of_mean(values: np.ndarray) -> float:
    return float(values.std() / np.sqrt(max(len(values) - 1, 1)))


def _best(judged: dict[str, _Judged], max_eaten: float) -> str:
    fitted = {name: one for name, one in judged.items() if not one.note}
    if not fitted:
        notes = "; ".join(f"{name}: {one.note}" for name, one in judged.items())
        raise NoGoodPixelsError(f"no sky model could be fitted. {notes}")
    harmless = {name: one for name, one in fitted.items() if one.eaten <= max(max_eaten, 3 * one.eaten_error)}
    candidates = harmless or fitted
    lowest = min(candidates.values(), key=lambda one: one.excess.mean())
    for name, one in candidates.items():
        # On the same squares: what both miss is no difference.
        _, mine, its = np.intersect1d(one.square, lowest.square, return_indices=True)
        worse = one.excess[mine] - lowest.excess[its]
        if len(worse) and worse.mean() <= _error_of_mean(worse):
            return name
    return next(iter(candidates))
