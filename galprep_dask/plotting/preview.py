"""A band at a glance, drawn from small versions of its images, and what the PSF leaves of its stars."""

from __future__ import annotations

import os
from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from galprep_dask.errors import ParameterError
from galprep_dask.plotting import _display
from galprep_dask.plotting.sky import plot_sky

__all__ = ["plot_preview_sky", "plot_preview_sources", "plot_psf_residuals"]

_PROFILE = ("radius", "profile_data", "profile_model")
_STARS = ("stamps", "stamps_residual")
#: Stars that are shown, at most.
_STAMPS = 12


def plot_preview_sky(
    preview: Mapping, *, title: str | None = None, path: str | os.PathLike | None = None
) -> Figure:
    """
    Show image, sky and what is left, as :func:`~galprep_dask.plotting.plot_sky` does, from averages of boxes of pixels.

    Parameters
    ----------
    preview : mapping
        ``data``, ``sky`` and ``subtracted``, (ny, nx) arrays of averages, and ``step``, the side in pixels of a box.
    title : str, optional
        Above the panels.
    path : str or path, optional
        PNG file to write; its directory must exist, and a file that exists is replaced.

    Returns
    -------
    matplotlib.figure.Figure
        With the pixel coordinates of the whole image. Standard deviations are those of the averages.

    Raises
    ------
    ParameterError
        An array is missing, or is no image.
    ImageShapeError
        The shapes differ.
    OutputError
        The file cannot be written.

    Examples
    --------
    >>> data = np.random.default_rng(0).normal(5, 1, (40, 50))
    >>> preview = {"data": data, "sky": np.full_like(data, 5), "subtracted": data - 5, "step": 8}
    >>> [float(edge) for edge in plot_preview_sky(preview).axes[0].get_xlim()]
    [-0.5, 399.5]
    """
    data, sky, subtracted = (_plane(preview, name) for name in ("data", "sky", "subtracted"))
    figure = plot_sky(data, sky, subtracted, title=title)
    step = float(preview.get("step", 1))
    for axes in figure.axes:
        for image in axes.images:
            image.set_extent(_extent(data.shape, step))
    return _display.finish(figure, None, path)


def plot_preview_sources(
    preview: Mapping, *, title: str | None = None, path: str | os.PathLike | None = None
) -> Figure:
    """
    Show which share of the pixels belongs to sources, and the noise.

    Parameters
    ----------
    preview : mapping
        ``segmentation``, (ny, nx) array of the share of each box of pixels that lies in segments; ``sigma``, averages
        of the sigma image, which may be missing; and ``step``, the side in pixels of a box.
    title : str, optional
        Above the panels.
    path : str or path, optional
        PNG file to write; its directory must exist, and a file that exists is replaced.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ParameterError
        There is no ``segmentation``, or it is no image.
    OutputError
        The file cannot be written.

    Examples
    --------
    >>> figure = plot_preview_sources({"segmentation": np.eye(40), "step": 8})
    >>> figure.axes[0].get_title()
    'segments: 2.5% of the pixels'
    """
    share = _plane(preview, "segmentation")
    step = float(preview.get("step", 1))
    names = ("segmentation", "sigma") if "sigma" in preview else ("segmentation",)
    height = 4.6 * np.clip(share.shape[0] / share.shape[1], 0.4, 1.6)
    figure = Figure(figsize=(5.6 * len(names), height + (0.7 if title is None else 1.0)), layout="compressed")
    all_axes = figure.subplots(1, len(names), squeeze=False)[0]
    colours = mpl.colormaps["Blues"].with_extremes(bad=_display.BAD_COLOUR)
    drawn = _show(all_axes[0], share, step, cmap=colours, vmin=0, vmax=1)
    figure.colorbar(drawn, ax=all_axes[0], pad=0.02, fraction=0.05, label="share of the pixels in segments")
    all_axes[0].set(ylabel="y / px", title=f"segments: {np.nanmean(share):.1%} of the pixels")
    if len(names) == 2:
        sigma = _plane(preview, "sigma")
        finite = sigma[np.isfinite(sigma)]
        low, high = np.percentile(finite, [0.5, 99.5]) if finite.size else (0.0, 1.0)
        # The colours of an all but constant map shall not show its rounding errors.
        low, high = (0.9 * low, 1.1 * high) if high - low < 1e-3 * abs(high) else (low, high)
        drawn = _show(all_axes[1], sigma, step, cmap=_display.sequential(), vmin=low, vmax=high)
        figure.colorbar(drawn, ax=all_axes[1], pad=0.02, fraction=0.05, extend="both")
        all_axes[1].set_title("sigma")
    return _display.finish(figure, title, path)


def plot_psf_residuals(
    residuals: Mapping, *, title: str | None = None, path: str | os.PathLike | None = None
) -> Figure:
    """
    Show what a PSF leaves of its stars: the mean residual, the profiles of stars and PSF, and some of the stars.

    Parameters
    ----------
    residuals : mapping
        In units of the flux of the stars: ``residual``, (n, n) mean over the stars of star less PSF; ``profile_data``
        and ``profile_model``, mean profiles at ``radius`` in pixels; ``stamps`` and ``stamps_residual``, (k, n, n)
        stars and what is left of each. All but the first may be missing.
    title : str, optional
        Above the panels.
    path : str or path, optional
        PNG file to write; its directory must exist, and a file that exists is replaced.

    Returns
    -------
    matplotlib.figure.Figure
        Residuals are in percent of the peak of the PSF, which is the largest value of its profile. Stars are
        logarithmic over three decades.

    Raises
    ------
    ParameterError
        There is no ``residual``, or it is no image.
    OutputError
        The file cannot be written.

    Examples
    --------
    >>> radius = np.arange(10.0)
    >>> profile = np.exp(-(radius**2) / 8)
    >>> residuals = {"radius": radius, "profile_data": profile, "profile_model": profile}
    >>> figure = plot_psf_residuals({"residual": np.zeros((19, 19))} | residuals)
    >>> [axes.get_title() for axes in figure.axes[:2]]
    ['stars less PSF, mean', 'profile']
    """
    residual = _plane(residuals, "residual")
    profile = [np.asarray(residuals[name], float) for name in _PROFILE if name in residuals]
    with_profile = len(profile) == 3 and profile[0].ndim == 1 and len({values.shape for values in profile}) == 1
    peak = float(np.nanmax(profile[2], initial=0.0)) if with_profile else 1.0
    peak = peak if peak > 0 else 1.0
    stamps = [np.asarray(residuals[name], float)[:_STAMPS] for name in _STARS if name in residuals]
    with_stamps = len(stamps) == 2 and stamps[0].ndim == 3 and stamps[0].shape == stamps[1].shape and len(stamps[0]) > 0

    figure = Figure(figsize=(12.5, 3.9 + 2.2 * with_stamps), layout="constrained")
    heights = (3.9, 2.2)[: 1 + with_stamps]
    above, *below = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights).ravel()
    left, right = above.subplots(1, 2, width_ratios=(1, 1.6))
    largest = 100 * float(np.nanmax(np.abs(residual), initial=0.0)) / peak or 1.0
    ny, nx = residual.shape
    drawn = left.imshow(
        100 * residual / peak, origin="lower", interpolation="nearest", cmap=_display.diverging(), vmin=-largest,
        vmax=largest, extent=(-nx / 2, nx / 2, -ny / 2, ny / 2),
    )  # fmt: skip
    above.colorbar(drawn, ax=left, shrink=0.85, label="% of the peak")
    left.set(xlabel="x / px", ylabel="y / px", title="stars less PSF, mean")
    if with_profile:
        _draw_profiles(right, profile[0], profile[1] / peak, profile[2] / peak)
    else:
        right.set_axis_off()
    if with_stamps:
        _draw_stamps(below[0], *stamps, peak)
    return _display.finish(figure, title, path)


def _draw_profiles(axes: Axes, radius, data, model) -> None:
    axes.plot(radius, model, color="#2166ac", lw=1.6, label="PSF")
    axes.plot(radius, data, "o", ms=4.5, mfc="none", color="#b2182b", label="stars")
    positive = np.concatenate([model[model > 0], data[data > 0]])
    low = max(1e-6, 0.5 * positive.min()) if positive.size else 1e-3
    axes.set(yscale="log", ylim=(low, 2), xlabel="radius / px", ylabel="of the peak", title="profile")
    axes.grid(color="0.92", zorder=0)
    axes.set_axisbelow(True)
    axes.legend(loc="upper right")


def _draw_stamps(figure, stars, left, peak: float) -> None:
    """Draw stars above what is left of them; a constant number of columns keeps all reports alike."""
    grid = figure.subplots(2, _STAMPS, squeeze=False)
    colours = mpl.colormaps["magma"].with_extremes(bad=_display.BAD_COLOUR)
    largest = 100 * float(np.nanquantile(np.abs(left), 0.999)) / peak or 1.0
    for column in range(_STAMPS):
        for axes in grid[:, column]:
            axes.set(xticks=[], yticks=[])
        if column >= len(stars):
            for axes in grid[:, column]:
                axes.remove()
            continue
        star = np.log10(np.maximum(stars[column] / peak, 1e-3))
        grid[0, column].imshow(star, origin="lower", interpolation="nearest", cmap=colours, vmin=-3, vmax=0)
        grid[1, column].imshow(
            100 * left[column] / peak, origin="lower", interpolation="nearest", cmap=_display.diverging(),
            vmin=-largest, vmax=largest,
        )  # fmt: skip
    grid[0, 0].set_ylabel("brightest", fontsize="small")
    grid[1, 0].set_ylabel(f"less PSF,\n±{largest:.2g} %", fontsize="small")


def _plane(arrays: Mapping, name: str) -> np.ndarray:
    if name not in arrays:
        raise ParameterError(f"there is no {name!r} among {', '.join(arrays) or 'no arrays'}.")
    values = np.asarray(arrays[name])
    if values.ndim != 2 or not np.issubdtype(values.dtype, np.number) or values.size == 0:
        raise ParameterError(f"{name!r} is {values.dtype} of shape {values.shape}; expected an image of numbers.")
    return values


def _extent(shape: tuple[int, int], step: float) -> tuple[float, float, float, float]:
    return -0.5, shape[1] * step - 0.5, -0.5, shape[0] * step - 0.5


def _show(axes: Axes, values: np.ndarray, step: float, **options):
    axes.set_xlabel("x / px")
    return axes.imshow(values, origin="lower", interpolation="nearest", extent=_extent(values.shape, step), **options)
