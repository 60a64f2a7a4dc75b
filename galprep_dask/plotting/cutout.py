"""One cutout: its pixels with the mask, its sigma image, and how well the two fit together."""

from __future__ import annotations

import os

import dask
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from galprep_dask.arrays import ImageLike, as_image, check_same_shape
from galprep_dask.gsutils import normimg
from galprep_dask.plotting import _display

__all__ = ["plot_cutout"]

#: Where the colour scale turns logarithmic, in standard deviations, and its share of the range.
_LINEAR, _FRAC = 5, 0.4


def plot_cutout(
    image: ImageLike,
    mask: ImageLike | None = None,
    *,
    sigma: ImageLike | None = None,
    sky: float = 0.0,
    target: tuple[float, float] | None = None,
    title: str | None = None,
    path: str | os.PathLike | None = None,
) -> Figure:
    """
    Show a cutout with its mask over it, and with ``sigma`` the noise and its distribution too.

    Parameters
    ----------
    image : (ny, nx) array, NumPy, dask or xarray, or image Dataset
        Sky-subtracted pixels; of a Dataset ``mask`` and ``sigma`` are taken where none are passed. Not modified.
    mask : (ny, nx) bool array, optional
        True marks pixels that are not to be fitted.
    sigma : (ny, nx) array, optional
        1-sigma uncertainty in the unit of ``image``. It adds a panel of its own, and one of the unmasked
        pixels in units of it, those of the target too, beside a Gaussian of width 1.
    sky : float
        The value shown white.
    target : (x, y), optional
        Pixel position to mark, 0-based.
    title : str, optional
        Above the panels.
    path : str or path, optional
        PNG file to write; its directory must exist, and a file that exists is replaced.

    Returns
    -------
    matplotlib.figure.Figure
        The colours run as far as the unmasked pixel farthest from ``sky``, to both sides, logarithmically beyond 5
        clipped standard deviations. Pixels that are not finite are grey.

    Raises
    ------
    ImageShapeError
        The shapes differ.
    OutputError
        The file cannot be written.

    Examples
    --------
    >>> image = np.random.default_rng(0).normal(size=(50, 50))
    >>> len(plot_cutout(image, image > 2.5, target=(24.5, 24.5)).axes)  # the image and its colour bar
    2
    """
    mask = _display.plane_of(image, "mask") if mask is None else mask
    sigma = _display.plane_of(image, "sigma") if sigma is None else sigma
    image = _display.plane_of(image)
    shape = as_image(image, "image").shape
    mask = np.zeros(shape, bool) if mask is None else mask
    wanted = [_display.shrink_mean(image, "image", shape), _display.shrink_any(mask, "mask", shape)]
    if sigma is not None:
        wanted += [_display.shrink_mean(sigma, "sigma", shape), _some_pixels(image, mask, sigma)]
    values, masked, *noise = dask.compute(*wanted)

    height = 5.2 * np.clip(shape[0] / shape[1], 0.5, 1.6)
    figure = Figure(figsize=(6.6 if sigma is None else 18, height + 0.9), layout="compressed")
    all_axes = figure.subplots(1, 1 if sigma is None else 3, squeeze=False)[0]
    _draw_image(all_axes[0], values, masked, shape, sky, target)
    if sigma is not None:
        _draw_sigma(all_axes[1], noise[0], shape)
        _draw_pulls(all_axes[2], noise[1])
    return _display.finish(figure, title, path)


def _draw_image(axes: Axes, values, masked, shape, sky, target) -> None:
    good = np.isfinite(values) & ~masked
    _, std = _display.robust_levels(values, ~good)
    immin = _LINEAR * std
    immax = max(2 * immin, np.max(np.abs(values - sky), where=good, initial=0))
    scaling = {"immin": immin, "immax": immax, "sky": sky, "frac": _FRAC}
    drawn = _display.show_scaled(axes, values, shape, **scaling)
    _display.overlay_mask(axes, masked, shape)

    levels = sky + np.array([-immax, -immin, 0, immin, immax])
    bar = axes.figure.colorbar(drawn, ax=axes, pad=0.02, fraction=0.05)
    bar.set_ticks(normimg(levels, **scaling), labels=[f"{level:.3g}" for level in levels])
    axes.set(xlabel="x / px", ylabel="y / px", title="image and mask")
    handles = [Patch(color=_display.MASK_COLOUR, alpha=0.5, label=f"masked ({masked.mean():.1%})")]
    if target is not None:
        # A ring leaves the target itself in sight; black on white is seen on every colour.
        ring = {"marker": "o", "ms": 26, "mfc": "none", "ls": "none", "scalex": False, "scaley": False}
        axes.plot(*target, mec="white", mew=3.2, **ring)
        axes.plot(*target, mec="black", mew=1.4, **ring)
        handles.append(Line2D([], [], marker="o", mfc="none", mec="black", ms=8, ls="none", label="target"))
    axes.legend(handles=handles, loc="upper right", framealpha=0.9)


def _draw_sigma(axes: Axes, sigma, shape) -> None:
    finite = sigma[np.isfinite(sigma)]
    low, high = np.percentile(finite, [0.5, 99.5]) if finite.size else (0.0, 1.0)
    # The colours of an all but constant map shall not show its rounding errors.
    if high - low < 1e-6 * abs(high):
        low, high = 0.9 * low, 1.1 * high
    drawn = _display.show(axes, sigma, shape, cmap=_display.sequential(), vmin=low, vmax=high)
    axes.figure.colorbar(drawn, ax=axes, pad=0.02, fraction=0.05, extend="both")
    axes.set(xlabel="x / px", title="sigma")


def _some_pixels(image, mask, sigma):
    """Give single pixels at regular distances, lazily: averages would have less noise than sigma says."""
    image, mask, sigma = as_image(image, "image"), as_image(mask, "mask"), as_image(sigma, "sigma")
    for array, name in ((mask, "mask"), (sigma, "sigma")):
        check_same_shape(array, image.shape, name)
    y, x = _display.steps(image.shape)
    image, mask, sigma = (array[::y, ::x] for array in (image, mask, sigma))
    return image, mask, sigma


def _draw_pulls(axes: Axes, sampled) -> None:
    image, mask, sigma = (np.asarray(array) for array in sampled)
    good = np.isfinite(image) & np.isfinite(sigma) & (sigma > 0) & (mask == 0)
    pulls = image[good].astype(float) / sigma[good]
    edges = np.linspace(-6, 6, 73)
    counts, _ = np.histogram(pulls, edges)
    density = counts / max(pulls.size, 1) / np.diff(edges)
    axes.stairs(density, edges, fill=True, color="0.7", label="unmasked pixels")
    axes.plot(
        edges,
        np.exp(-(edges**2) / 2) / np.sqrt(2 * np.pi),
        color="#b2182b",
        lw=2,
        label="Gaussian of width 1",
    )
    axes.set(xlabel="image / sigma", ylabel="share of pixels per unit", xlim=(-6, 6))
    axes.set_ylim(0, 1.25 * max(density.max(initial=0), 0.4))  # the legend lies above
    spread = f",   clipped std = {_display.robust_levels(pulls[None])[1]:.3f}" if pulls.size else ""
    axes.set_title("image / sigma" + spread)
    axes.legend(loc="upper right")
