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


def plot_preview_sky(
    preview: Mapping, *, title: str | None = None, path: str | os.PathLike | None = None
) -> Figure:
    """
    Show image, sky and what is left, as :func:`plot_sky` does, from averages of boxes of pixels.

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
    >>> plot_preview_sky(preview).axes[0].get_xlim()
    (-0.5, 399.5)
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
    Show what a PSF leaves of its stars: the mean residual, and the profiles of stars and PSF.

    Parameters
    ----------
    residuals : mapping
        ``residual``, (n, n) mean over the stars of star less model in units of the star's peak; ``radius`` in pixels,
        and at each the profiles ``data`` of the stars and ``model``, which may be missing.
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
        There is no ``residual``, or it is no image.
    OutputError
        The file cannot be written.

    Examples
    --------
    >>> radius = np.arange(10.0)
    >>> profile = np.exp(-(radius**2) / 8)
    >>> figure = plot_psf_residuals({"residual": np.zeros((19, 19)), "radius": radius, "data": profile, "model": profile})
    >>> [axes.get_title() for axes in figure.axes[:2]]
    ['stars less PSF, mean', 'profile']
    """
    residual = _plane(residuals, "residual")
    profile = [np.asarray(residuals[name], float) for name in ("radius", "data", "model") if name in residuals]
    both = len(profile) == 3 and profile[0].ndim == 1 and len({values.shape for values in profile}) == 1
    figure = Figure(figsize=(10.5 if both else 5.2, 3.9), layout="constrained")
    all_axes = figure.subplots(1, 1 + both, squeeze=False, width_ratios=(1, 1.35) if both else (1,))[0]
    half = residual.shape[1] / 2
    largest = 100 * np.nanmax(np.abs(residual), initial=0.0) or 1.0
    drawn = all_axes[0].imshow(
        100 * residual, origin="lower", interpolation="nearest", cmap=_display.diverging(), vmin=-largest, vmax=largest,
        extent=(-half, half, -residual.shape[0] / 2, residual.shape[0] / 2),
    )  # fmt: skip
    figure.colorbar(drawn, ax=all_axes[0], shrink=0.85, label="% of the star's peak")
    all_axes[0].set(xlabel="x / px", ylabel="y / px", title="stars less PSF, mean")
    if both:
        _draw_profiles(all_axes[1], *profile)
    return _display.finish(figure, title, path)


def _draw_profiles(axes: Axes, radius, data, model) -> None:
    peak = np.nanmax(model, initial=0.0) or 1.0
    axes.plot(radius, model / peak, color="#2166ac", lw=1.6, label="PSF")
    axes.plot(radius, data / peak, "o", ms=4.5, mfc="none", color="#b2182b", label="stars")
    positive = np.concatenate([model[model > 0], data[data > 0]]) / peak
    low = max(1e-6, 0.5 * positive.min()) if positive.size else 1e-3
    axes.set(yscale="log", ylim=(low, 2), xlabel="radius / px", ylabel="of the PSF's peak", title="profile")
    axes.grid(color="0.92", zorder=0)
    axes.set_axisbelow(True)
    axes.legend(loc="upper right")


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
