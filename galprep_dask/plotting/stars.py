"""Stars: which cut left out which source, and where the stars lie in size and magnitude."""

from __future__ import annotations

import os

import numpy as np
from astropy.table import QTable
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from galprep_dask.errors import ParameterError
from galprep_dask.plotting import _display
from galprep_dask.psf.cuts import CUTS
from galprep_dask.psf.locus import Locus

__all__ = ["plot_star_cuts", "plot_stellar_locus"]

#: Sources that are left, that this cut took, and that are not there any more.
_LEFT, _TAKEN, _BEFORE = "#2166ac", "#b2182b", "0.8"
#: The cuts of the six panels; those of one panel are made one after the other.
_PANELS = (
    ("Gaia match",), ("flux",), ("axis ratio",), ("FWHM",), ("isolation",),
    ("central bad pixels", "quota", "dropped by hand"),
)  # fmt: skip


def plot_star_cuts(stars: QTable, *, title: str | None = None, path: str | os.PathLike | None = None) -> Figure:
    """
    Show what each cut left of the raw catalogue, in six panels with their counts.

    Parameters
    ----------
    stars : QTable
        From :func:`galprep_dask.psf.select_stars`.
    title : str, optional
        Above the panels.
    path : str or path, optional
        PNG file to write; its directory must exist, and a file that exists is replaced.

    Returns
    -------
    matplotlib.figure.Figure
        Blue is left after the cut of the panel, red was taken by it.

    Raises
    ------
    ParameterError
        The table is no such table.
    OutputError
        The file cannot be written.

    Examples
    --------
    >>> from galprep_dask.psf import select_stars
    >>> from galprep_dask.segmentation import detect_sources
    >>> y, x = np.mgrid[:120, :120]
    >>> image = np.random.default_rng(0).normal(size=(120, 120))
    >>> for x0, y0 in [(30, 31), (90, 30), (31, 90), (91, 89)]:
    ...     image += 200 * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * 1.7**2))
    >>> figure = plot_star_cuts(select_stars(image, detect_sources(image, 5.0)))
    >>> figure.axes[1].get_title().splitlines()
    ['flux', '4 of 4 left']
    """
    counts = _counts(stars)
    cut_of = np.array([reason.split(":")[0] for reason in stars["reason"]])
    figure = Figure(figsize=(15, 9.4), layout="constrained")
    figure.get_layout_engine().set(hspace=0.06, wspace=0.04)
    draw = (_draw_places, _draw_fluxes, _draw_ratios, _draw_sizes, _draw_neighbours, _draw_places)
    order = [cut for cut in CUTS if cut in counts]  # files of tables sort the keys of what comes with them
    for number, (cuts, panel) in enumerate(zip(_PANELS, draw, strict=True), start=1):
        axes = figure.add_subplot(2, 3, number)
        began, ended = order.index(cuts[0]), order.index(cuts[-1])
        taken = np.isin(cut_of, cuts)
        before = np.isin(cut_of, order[:began])
        panel(axes, stars, ~taken & ~before, taken, before)
        name = ", ".join(cut for cut in cuts if counts[cut] < counts[order[order.index(cut) - 1]]) or cuts[0]
        if cuts == ("Gaia match",) and not (np.asarray(stars["gaia_row"]) >= 0).any():
            name = "raw catalogue (no Gaia match)"
        axes.set_title(f"{name}\n{counts[order[ended]]} of {counts[order[began - 1]]} left", fontsize="medium")
        axes.grid(color="0.93", zorder=0)
        axes.set_axisbelow(True)
    handles = [
        figure.axes[0].plot([], [], "o", color=colour, ms=6)[0] for colour in (_LEFT, _TAKEN, _BEFORE)
    ]  # fmt: skip
    figure.legend(handles, ["left", "taken by this cut", "taken before"], loc="outside lower center", ncols=3)
    return _display.finish(figure, title, path)


def _counts(stars) -> dict:
    try:
        stars["reason"], stars["gaia_row"]
        return stars.meta["counts"]
    except (KeyError, AttributeError, TypeError) as error:
        raise ParameterError("stars is no table of select_stars: it has no reasons or no counts.") from error


def _points(axes: Axes, x, y, left, taken, before=None) -> None:
    groups = [(before, _BEFORE, 1), (taken, _TAKEN, 2), (left, _LEFT, 3)]
    for which, colour, zorder in groups:
        if which is not None and which.any():
            size = float(np.clip(300 / np.sqrt(which.sum()), 6, 40))
            axes.scatter(x[which], y[which], size, colour, alpha=0.8, lw=0, zorder=zorder)


def _draw_places(axes, stars, left, taken, before) -> None:
    ny, nx = stars.meta["shape"]
    _points(axes, np.asarray(stars["x"]), np.asarray(stars["y"]), left, taken, before)
    axes.set(xlabel="x / px", ylabel="y / px", xlim=(-0.5, nx - 0.5), ylim=(-0.5, ny - 0.5), aspect="equal")


def _draw_fluxes(axes, stars, left, taken, before) -> None:
    flux = np.asarray(stars["flux"])
    positive = flux > 0
    if not positive.any():
        return
    edges = np.geomspace(flux[positive].min(), flux[positive].max() * (1 + 1e-9), 41)
    groups = [flux[left & positive], flux[taken & positive]]
    axes.hist(groups, edges, stacked=True, color=[_LEFT, _TAKEN], zorder=2)
    axes.set(xscale="log", yscale="log", xlabel="flux", ylabel="sources", ylim=(0.7, None))


def _draw_ratios(axes, stars, left, taken, before) -> None:
    _points(axes, np.asarray(stars["snr"]), np.asarray(stars["axis_ratio"]), left, taken)
    axes.set(xscale="log", xlabel="signal-to-noise ratio", ylabel="axis ratio", ylim=(None, 1.02))


def _draw_sizes(axes, stars, left, taken, before) -> None:
    fwhm = np.asarray(stars["fwhm"].value)
    _points(axes, np.asarray(stars["snr"]), fwhm, left, taken)
    axes.set(xscale="log", yscale="log", xlabel="signal-to-noise ratio", ylabel="FWHM / px")
    _plain_ticks(axes, fwhm[left | taken])


def _draw_neighbours(axes, stars, left, taken, before) -> None:
    pair = np.array([reason == "isolation: close pair" for reason in stars["reason"]])
    x, y = np.asarray(stars["snr"]), 100 * np.asarray(stars["neighbour_fraction"])
    _points(axes, x, y, left, taken & ~pair)
    if pair.any():
        axes.plot(x[pair], y[pair], "x", color=_TAKEN, ms=7, label=f"close pairs ({pair.sum()})")
        axes.legend(loc="upper right")
    axes.set(xscale="log", xlabel="signal-to-noise ratio", ylabel="pixels of the box that others own / %")


def _plain_ticks(axes: Axes, values) -> None:
    """Label a logarithmic axis of less than a decade or two with plain numbers."""
    values = values[np.isfinite(values) & (values > 0)]
    if len(values) == 0:
        return
    low, high = values.min(), values.max()
    ticks = [step * 10.0**power for power in range(-3, 5) for step in (1, 1.5, 2, 3, 4, 5, 7)]
    ticks = [tick for tick in ticks if 0.8 * low <= tick <= 1.25 * high]
    axes.set_yticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


def plot_stellar_locus(
    stars: QTable,
    *,
    zeropoint: float | None = None,
    title: str | None = None,
    path: str | os.PathLike | None = None,
) -> Figure:
    """
    Show the stellar locus in the plane of size and magnitude, beside its FWHM over the image.

    Parameters
    ----------
    stars : QTable
        From :func:`galprep_dask.psf.select_stars`.
    zeropoint : float, optional
        Magnitude of a flux of 1; without it magnitudes are instrumental.
    title : str, optional
        Above the panels.
    path : str or path, optional
        PNG file to write; its directory must exist, and a file that exists is replaced.

    Returns
    -------
    matplotlib.figure.Figure
        In the plane all FWHM are brought to the middle of the image along the locus. The band holds the stars within
        three standard deviations.

    Raises
    ------
    ParameterError
        The table is no such table, or no locus was found.
    OutputError
        The file cannot be written.

    Examples
    --------
    >>> from galprep_dask.psf import select_stars
    >>> from galprep_dask.segmentation import detect_sources
    >>> y, x = np.mgrid[:120, :120]
    >>> image = np.random.default_rng(0).normal(size=(120, 120))
    >>> for x0, y0 in [(30, 31), (90, 30), (31, 90), (91, 89)]:
    ...     image += 200 * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * 1.7**2))
    >>> figure = plot_stellar_locus(select_stars(image, detect_sources(image, 5.0)))
    >>> figure.axes[0].get_ylabel()
    'FWHM, brought to the middle of the image / px'
    """
    _counts(stars)
    if stars.meta.get("locus") is None:
        raise ParameterError("no stellar locus was found for these stars, so there is none to be shown.")
    locus = Locus(**stars.meta["locus"])
    ny, nx = stars.meta["shape"]
    figure = Figure(figsize=(14, 5.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    _draw_plane(left, stars, locus, ((nx - 1) / 2, (ny - 1) / 2), zeropoint or 0.0)
    left.set_xlabel("magnitude" if zeropoint is not None else "instrumental magnitude")
    _draw_map(right, stars, locus, (ny, nx))
    return _display.finish(figure, title, path)


def _draw_plane(axes: Axes, stars, locus: Locus, middle, zeropoint: float) -> None:
    used = np.asarray(stars["used"])
    flux, fwhm = np.asarray(stars["flux"]), np.asarray(stars["fwhm"].value)
    shown = np.isfinite(fwhm) & (flux > 0)
    at_middle = locus.expected("log_width", *(np.array([c]) for c in middle))[0]
    here = locus.expected("log_width", np.asarray(stars["x"]), np.asarray(stars["y"]))
    fwhm = fwhm * np.exp(at_middle - here)
    magnitude = zeropoint - 2.5 * np.log10(np.where(flux > 0, flux, np.nan))
    groups = {
        "too faint": ("flux: too faint", "0.8", 4), "saturated": ("flux: saturated", "#ff9900", 16),
        "elongated": ("axis ratio", "#b8a1d0", 8), "doubtful": ("FWHM: doubtful", "#f4a582", 14),
        "other sizes": ("FWHM: too", "0.45", 8), "not isolated": ("isolation", "#1b9e3e", 16),
        "bad pixels, quota, by hand": (("central", "quota", "dropped"), "#b2182b", 16),
    }  # fmt: skip
    for name, (start, colour, size) in groups.items():
        which = shown & np.array([reason.startswith(start) for reason in stars["reason"]])
        if which.any():
            axes.scatter(magnitude[which], fwhm[which], size, colour, lw=0, label=f"{name} ({which.sum()})")
    axes.scatter(magnitude[used], fwhm[used], 20, _LEFT, lw=0, label=f"stars ({used.sum()})", zorder=3)

    log_snr = np.log(np.asarray(stars["snr"])[used])
    # A smooth relation between magnitude and signal-to-noise ratio carries the band from the one to the other.
    relation = np.polyfit(log_snr, magnitude[used], min(2, len(np.unique(log_snr)) - 1))
    snr = np.exp(np.linspace(log_snr.min() - 0.3, log_snr.max() + 0.3, 80))
    mags = np.polyval(relation, np.log(snr))
    level = stars.meta["fwhm_scale"] * 2 * np.sqrt(2 * np.log(2)) * np.exp(at_middle)
    error = 3 * locus.error("log_width", snr)
    axes.fill_between(mags, level * np.exp(-error), level * np.exp(error), color="#92c5de", alpha=0.5, lw=0, zorder=0)
    axes.axhline(level, color=_LEFT, lw=1, zorder=1)
    good = shown & ~np.array([reason == "flux: too faint" for reason in stars["reason"]])
    high = np.quantile(fwhm[good], 0.97) * 1.15
    axes.set(yscale="log", ylim=(level * 0.6, max(high, level * 1.5)))
    axes.set_ylabel("FWHM, brought to the middle of the image / px")
    _plain_ticks(axes, np.array(axes.get_ylim()))
    axes.set_title("size and magnitude")
    axes.legend(loc="upper left", fontsize="small", framealpha=0.9)


def _draw_map(axes: Axes, stars, locus: Locus, shape) -> None:
    ny, nx = shape
    y, x = np.mgrid[0 : ny - 1 : 60j, 0 : nx - 1 : 60j]
    scale = stars.meta["fwhm_scale"] * 2 * np.sqrt(2 * np.log(2))
    surface = scale * np.exp(locus.expected("log_width", x.ravel(), y.ravel())).reshape(x.shape)
    used = np.asarray(stars["used"])
    values = np.asarray(stars["fwhm"].value)[used]
    low, high = np.quantile(np.concatenate([surface.ravel(), values]), [0.01, 0.99])
    if high - low < 0.02 * high:
        low, high = 0.99 * low, 1.01 * high
    colours = {"cmap": _display.sequential(), "vmin": low, "vmax": high}
    drawn = axes.imshow(surface, origin="lower", extent=(-0.5, nx - 0.5, -0.5, ny - 0.5), **colours)
    axes.scatter(stars["x"][used], stars["y"][used], 40, values, edgecolors="white", lw=0.8, **colours)
    axes.figure.colorbar(drawn, ax=axes, label="FWHM / px", extend="both")
    axes.set(xlabel="x / px", ylabel="y / px", xlim=(-0.5, nx - 0.5), ylim=(-0.5, ny - 0.5), title="locus and stars")
