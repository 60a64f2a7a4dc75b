"""The sky: original, model and subtracted image side by side."""

from __future__ import annotations

import os

import dask
import numpy as np
from matplotlib.figure import Figure

from galprep_dask.arrays import ImageLike, as_image, check_same_shape
from galprep_dask.gsutils import normimg
from galprep_dask.plotting import _display

__all__ = ["plot_sky"]

#: Where the colour scale turns logarithmic, and where it ends, in standard deviations of the original.
_LINEAR, _END, _FRAC = 1, 5, 0.6


def plot_sky(
    data: ImageLike,
    sky: ImageLike,
    subtracted: ImageLike | None = None,
    *,
    title: str | None = None,
    path: str | os.PathLike | None = None,
) -> Figure:
    """
    Show an image, the sky fitted to it, and what is left, on one colour scale.

    Parameters
    ----------
    data : (ny, nx) array, NumPy, dask or xarray, or image Dataset
        The original image. Not modified.
    sky : (ny, nx) array, or sky model
        The sky: ``sky`` of :class:`galprep_dask.images.image`, or what a fit gave.
    subtracted : (ny, nx) array, optional
        The image without its sky; by default ``data - sky``.
    title : str, optional
        Above the panels.
    path : str or path, optional
        PNG file to write; its directory must exist, and a file that exists is replaced.

    Returns
    -------
    matplotlib.figure.Figure
        The first two panels are centred on the clipped median of the original, the third on zero. Colours are linear
        up to the clipped standard deviation of the original as it is shown, and logarithmic up to five of them.

    Raises
    ------
    ImageShapeError
        The shapes differ.
    OutputError
        The file cannot be written.

    Examples
    --------
    >>> sky = np.add.outer(np.linspace(5, 9, 60), np.zeros(80))
    >>> data = sky + np.random.default_rng(0).normal(size=sky.shape)
    >>> [axes.get_title().splitlines()[0] for axes in plot_sky(data, sky).axes[:3]]
    ['original', 'sky model', 'sky subtracted']
    """
    data = as_image(_display.plane_of(data), "data")
    shape = data.shape
    sky = as_image(sky.evaluate(shape, data.chunks) if hasattr(sky, "evaluate") else sky, "sky")
    if subtracted is None:
        check_same_shape(sky, shape, "sky")
        subtracted = data - sky
    panels = {
        "original": (data, "data"),
        "sky model": (sky, "sky"),
        "sky subtracted": (subtracted, "subtracted"),
    }
    images = dask.compute(*(_display.shrink_mean(image, name, shape) for image, name in panels.values()))
    median, std = _display.robust_levels(images[0])
    scaling = {"immin": _LINEAR * std, "immax": _END * std, "frac": _FRAC}

    height = 4.6 * np.clip(shape[0] / shape[1], 0.4, 1.6)
    figure = Figure(figsize=(14.5, height + (0.9 if title is None else 1.2)), layout="compressed")
    all_axes = figure.subplots(1, 3, sharex=True, sharey=True)
    for axes, name, values, centre in zip(all_axes, panels, images, (median, median, 0.0), strict=True):
        drawn = _display.show_scaled(axes, values, shape, sky=centre, **scaling)
        axes.set_title(f"{name}\nwhite = {centre:.3g}")
        axes.set_xlabel("x / px")
    all_axes[0].set_ylabel("y / px")

    bar = figure.colorbar(drawn, ax=all_axes, pad=0.01, aspect=30)
    ticks = np.array([-5, -3, -2, -1, 0, 1, 2, 3, 5])
    bar.set_ticks(normimg(ticks * std, **scaling), labels=[f"{tick:+d}" if tick else "0" for tick in ticks])
    bar.set_label(f"distance from white / σ,   σ = {std:.3g}")
    return _display.finish(figure, title, path)
