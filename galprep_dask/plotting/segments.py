"""Segments: what was detected, and how far the mask grows around it."""

from __future__ import annotations

import os

import dask
import numpy as np
from matplotlib.colors import hsv_to_rgb, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from galprep_dask.arrays import ImageLike, as_image
from galprep_dask.plotting import _display

__all__ = ["plot_segments"]

#: Where the colour scale turns logarithmic, and where it ends, in standard deviations; its linear share.
_LINEAR, _END, _FRAC = 5, 200, 0.4

_GOLDEN = (5**0.5 - 1) / 2
_SKY, _GROWN = "white", "0.75"


def plot_segments(
    data: ImageLike,
    labels: ImageLike,
    mask: ImageLike | None = None,
    *,
    title: str | None = None,
    path: str | os.PathLike | None = None,
) -> Figure:
    """
    Show an image with the outline of its grown mask, beside the segments in the colours of their labels.

    Parameters
    ----------
    data : (ny, nx) array, NumPy, dask or xarray
        The image. Not modified.
    labels : (ny, nx) int array
        Label image, 0 = sky. A label has the same colour in every figure.
    mask : (ny, nx) bool array, optional
        The grown mask.
    title : str, optional
        Above the panels.
    path : str or path, optional
        PNG file to write; its directory must exist, and a file that exists is replaced.

    Returns
    -------
    matplotlib.figure.Figure
        A displayed pixel of a large image is masked if any of its pixels is, and has their highest label.

    Raises
    ------
    ImageShapeError
        The shapes differ.
    OutputError
        The file cannot be written.

    Examples
    --------
    >>> data = np.random.default_rng(0).normal(size=(60, 60))
    >>> figure = plot_segments(data, data > 2, data > 1)
    >>> [axes.get_title() for axes in figure.axes]
    ['image', 'segments']
    """
    shape = as_image(data, "data").shape
    mask = np.zeros(shape, bool) if mask is None else mask
    values, shown, grown = dask.compute(
        _display.shrink_mean(data, "data", shape),
        _display.shrink_max(labels, "labels", shape),
        _display.shrink_any(mask, "mask", shape),
    )
    median, std = _display.robust_levels(values, grown | (shown > 0))

    height = 6 * np.clip(shape[0] / shape[1], 0.4, 1.6)
    figure = Figure(figsize=(13, height + 1.5), layout="compressed")
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    _display.show_scaled(left, values, shape, immin=_LINEAR * std, immax=_END * std, sky=median, frac=_FRAC)
    _display.outline_mask(left, grown, shape)
    _display.show(right, _coloured(shown, grown), shape)
    left.set(xlabel="x / px", ylabel="y / px", title="image")
    right.set(xlabel="x / px", title="segments")
    outline = Line2D([], [], color=_display.MASK_COLOUR, label=f"grown mask ({grown.mean():.1%})")
    left.legend(handles=[outline], loc="upper right", framealpha=0.9)
    right.legend(handles=[Patch(color=_GROWN, label="growth")], loc="upper right", framealpha=0.9)
    return _display.finish(figure, title, path)


def _coloured(labels: np.ndarray, grown: np.ndarray) -> np.ndarray:
    """Give every label its own colour over the grey of the growth, shape (ny, nx, 3)."""
    picture = np.where(grown[..., None], to_rgb(_GROWN), to_rgb(_SKY))
    segments = labels > 0
    numbers = labels[segments].astype(float)
    # Steps of the golden section part the hues of neighbours in number; the other two tell close hues apart.
    hue, saturation, value = (numbers * _GOLDEN) % 1, 0.65 + 0.1 * (numbers % 4), 0.55 + 0.2 * (numbers % 3)
    picture[segments] = hsv_to_rgb(np.stack([hue, saturation, value], axis=-1))
    return picture
