"""Truth against result: what was measured of things that are known."""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from galprep_dask.arrays import check_same_shape
from galprep_dask.errors import ParameterError
from galprep_dask.plotting import _display

__all__ = ["plot_truth"]


def plot_truth(
    table: Iterable[tuple],
    *,
    title: str | None = None,
    path: str | os.PathLike | None = None,
) -> Figure:
    """
    Show results against the truth, a panel for every quantity.

    Parameters
    ----------
    table : iterable of (name, truth, result, error)
        ``truth`` and ``result`` are arrays of the same shape or numbers, ``error`` is the 1-sigma uncertainty
        of the result or None. Entries that are not finite in both are counted and left out.
    title : str, optional
        Above the panels.
    path : str or path, optional
        PNG file to write; its directory must exist, and a file that exists is replaced.

    Returns
    -------
    matplotlib.figure.Figure
        ``result / truth`` where all truth is positive and above three errors, else ``result - truth``.

    Raises
    ------
    ImageShapeError
        A result or an error has another shape than its truth.
    ParameterError
        The table is empty.
    OutputError
        The file cannot be written.

    Examples
    --------
    >>> truth = np.arange(1.0, 5.0)
    >>> shift = truth - 2
    >>> figure = plot_truth([("flux", truth, 1.01 * truth, None), ("shift", shift, shift, 0.1 * truth)])
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['result / truth', 'result - truth']
    """
    rows = [_row(*entry) for entry in table]
    if not rows:
        raise ParameterError("the table is empty; expected at least one (name, truth, result, error).")
    columns = min(3, len(rows))
    lines = -(-len(rows) // columns)
    figure = Figure(figsize=(5.2 * columns, 3.9 * lines + 0.4), layout="constrained")
    for number, row in enumerate(rows, start=1):
        _draw(figure.add_subplot(lines, columns, number), *row)
    return _display.finish(figure, title, path)


def _row(name, truth, result, error=None):
    truth, result = np.atleast_1d(np.asarray(truth, float)), np.atleast_1d(np.asarray(result, float))
    check_same_shape(result, truth.shape, f"result of {name!r}", owner="its truth")
    if error is not None:
        error = np.atleast_1d(np.asarray(error, float))
        check_same_shape(error, truth.shape, f"error of {name!r}", owner="its truth")
    return name, truth, result, error


def _draw(axes: Axes, name, truth, result, error) -> None:
    good = np.isfinite(truth) & np.isfinite(result)
    known = truth[good]
    # A ratio says something where the truth is positive and stands out from its error.
    floor = 0.0 if error is None else np.nan_to_num(3 * error[good])
    is_ratio = known.size > 0 and bool(np.all(known > 0) and np.all(known > floor))
    unit, expected = (known, 1.0) if is_ratio else (1.0, 0.0)
    offset = (result[good] - known) / unit
    bars = None if error is None else np.where(error[good] >= 0, error[good], np.nan) / unit
    # Crowds of points grow fainter, so that their density shows.
    alpha = float(np.clip(30 / np.sqrt(max(known.size, 1)), 0.15, 0.9))
    axes.axhline(expected, color="#b2182b", lw=1.4, zorder=1)
    colours = {"color": "#2166ac", "ecolor": "#92c5de", "alpha": alpha}
    axes.errorbar(known, expected + offset, bars, fmt="o", ms=4.5, elinewidth=1.2, zorder=2, **colours)
    if is_ratio and known.max() > 30 * known.min():
        axes.set_xscale("log")
    axes.set(xlabel="truth", ylabel="result / truth" if is_ratio else "result - truth")
    axes.set_title(str(name), pad=20, parse_math=False)
    words = _in_words(offset, bars, truth.size)
    above = {"xytext": (0, 5), "textcoords": "offset points", "ha": "center", "va": "bottom"}
    axes.annotate(words, (0.5, 1), xycoords="axes fraction", fontsize="small", color="0.3", **above)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.grid(color="0.9", zorder=0)
    axes.set_axisbelow(True)


def _in_words(offset: np.ndarray, bars: np.ndarray | None, total: int) -> str:
    if offset.size == 0:
        return f"0 of {total} measured"
    middle = np.median(offset)
    scatter = 1.4826 * np.median(np.abs(offset - middle))
    words = f"{offset.size} of {total} measured;  median {middle:+.2g}, scatter {scatter:.2g}"
    if bars is None or not np.any(bars > 0):
        return words
    within = np.mean(np.abs(offset[bars > 0]) <= bars[bars > 0])
    return f"{words};  {within:.0%} within 1 sigma"
