"""A PSF: the image, how sure it is, and its profile."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from galprep_dask.errors import ParameterError
from galprep_dask.plotting._display import finish

if TYPE_CHECKING:
    from galprep_dask.psf import PSFModel

__all__ = ["plot_psf"]


def plot_psf(model: PSFModel, *, title: str | None = None, path: str | os.PathLike | None = None) -> Figure:
    """
    Show a PSF, its uncertainty, and its profile with what the reserved stars said of it.

    Parameters
    ----------
    model : PSFModel
        From :func:`galprep_dask.psf.fit_psf`.
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
        It is no PSF model.
    OutputError
        The file cannot be written.

    Examples
    --------
    >>> from galprep_dask.psf import PSFModel
    >>> y, x = np.mgrid[-7:8, -7:8]
    >>> figure = plot_psf(PSFModel.from_image(np.exp(-(x**2 + y**2) / 4.5)))
    >>> [axes.get_title() for axes in figure.axes[:2]]
    ['PSF, 15 x 15 px', 'uncertainty']
    """
    if not hasattr(model, "image") or not hasattr(model, "sigma"):
        raise ParameterError(f"model is a {type(model).__name__}; expected a PSFModel.")
    image, sigma = model.image, model.sigma
    figure = Figure(figsize=(12.5, 3.9), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.3))
    norm = LogNorm(image.max() * 1e-5, image.max(), clip=True)
    shown = left.imshow(np.maximum(image, norm.vmin), origin="lower", norm=norm, cmap="magma", interpolation="nearest")
    figure.colorbar(shown, ax=left, shrink=0.85)
    left.set_title(f"PSF, {model.size} x {model.size} px")
    middle.set_title("uncertainty")
    if np.isfinite(sigma).any():
        peak = np.nanmax(sigma) / image.max()
        drawn = middle.imshow(sigma / image.max(), origin="lower", cmap="viridis", interpolation="nearest", vmax=peak)
        figure.colorbar(drawn, ax=middle, shrink=0.85, label="of the peak")
    else:
        middle.text(0.5, 0.5, "not known", ha="center", transform=middle.transAxes)
        middle.set_axis_off()
    _draw_profile(right, image, sigma)
    right.set_title(_said(model), fontsize=9)
    return finish(figure, title, path)


def _draw_profile(axes, image: np.ndarray, sigma: np.ndarray) -> None:
    half = image.shape[0] // 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    radius = np.hypot(x, y)
    axes.plot(radius.ravel(), image.ravel() / image.max(), ".", ms=2.5, color="#2166ac", label="pixels")
    axes.plot(radius.ravel(), -image.ravel() / image.max(), ".", ms=2.5, color="#b2182b", label="negative pixels")
    if np.isfinite(sigma).any():
        order = np.argsort(radius, axis=None)
        axes.plot(radius.ravel()[order], sigma.ravel()[order] / image.max(), lw=0.7, color="0.5", label="uncertainty")
    axes.set(yscale="log", ylim=(1e-6, 1.5), xlim=(0, half), xlabel="radius / px", ylabel="of the peak")
    axes.legend(loc="upper right", fontsize=8)


def _said(model) -> str:
    words = [f"FWHM {model.fwhm:.2f} px"]
    told = model.validation
    if told.get("n_reserved"):
        words.append(f"{told['n_reserved']} reserved stars: chi2 {told['reduced_chi2']:.2f}")
        words.append(f"(plain stack {told['stack_reduced_chi2']:.2f})")
    return "\n".join([words[0], " ".join(words[1:])]).strip()
