"""A fitted PSF beside its stars: what is left of them on average, and their mean profile."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from galprep_dask.errors import ParameterError
from galprep_dask.plotting import _display

if TYPE_CHECKING:
    from galprep_dask.psf.residuals import StarResiduals

__all__ = ["plot_psf_fit"]

#: Mean pulls from -LIMIT to LIMIT have colours of their own.
LIMIT = 5.0


def plot_psf_fit(
    residuals: StarResiduals, *, title: str | None = None, path: str | os.PathLike | None = None
) -> Figure:
    """
    Show what a PSF leaves of the stars that it was fitted to, of those that were reserved, and the mean profile.

    Parameters
    ----------
    residuals : StarResiduals
        From :func:`galprep_dask.psf.star_residuals`.
    title : str, optional
        Above the panels.
    path : str or path, optional
        PNG file to write; its directory must exist, and a file that exists is replaced.

    Returns
    -------
    matplotlib.figure.Figure
        The images are means of residual / noise times the root of the number of stars, so that a PSF that fits leaves
        noise of 1 in every pixel.

    Raises
    ------
    ParameterError
        It is not what star_residuals gives, or there is no star.
    OutputError
        The file cannot be written.

    Examples
    --------
    >>> from galprep_dask.psf import fit_psf, star_residuals
    >>> rng = np.random.default_rng(0)
    >>> iy, ix = np.mgrid[-10:11, -10:11]
    >>> stars = [1e4 * np.exp(-((ix - a) ** 2 + (iy - b) ** 2) / 5.8) for a, b in rng.uniform(-0.5, 0.5, (30, 2))]
    >>> stars = stars + rng.normal(0, 1, (30, 21, 21))
    >>> figure = plot_psf_fit(star_residuals(fit_psf(stars, sky_std=1.0), stars, sky_std=1.0))
    >>> [axes.get_title().splitlines()[0] for axes in figure.axes[:3]]
    ['30 fitted stars', '6 reserved stars, since refitted', 'profile']
    """
    if not hasattr(residuals, "mean_pull"):
        raise ParameterError(f"residuals is a {type(residuals).__name__}; expected what star_residuals gives.")
    used, reserved = residuals.used, residuals.reserved
    if not np.isfinite(residuals.pulls[used]).any():
        raise ParameterError("no star was used: there is nothing to show.")
    figure = Figure(figsize=(13.5, 4.1), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.3))
    _draw_mean(figure, left, residuals, used, f"{used.sum()} fitted stars")
    if reserved.any():
        note = ", since refitted" if residuals.refitted else ""
        _draw_mean(figure, middle, residuals, reserved, f"{reserved.sum()} reserved stars{note}")
    else:
        middle.set_axis_off()
        middle.set_title("no reserved stars")
    _draw_profile(right, residuals)
    return _display.finish(figure, title, path)


def _draw_mean(figure, axes, residuals, which, words: str) -> None:
    mean = residuals.mean_pull(which)
    half = mean.shape[-1] / 2
    drawn = axes.imshow(
        mean, origin="lower", interpolation="nearest", cmap=_display.diverging(), vmin=-LIMIT, vmax=LIMIT,
        extent=(-half, half, -half, half),
    )  # fmt: skip
    figure.colorbar(drawn, ax=axes, shrink=0.85, extend="both")
    scatter = np.sqrt(np.nanmean(mean**2)) if np.isfinite(mean).any() else np.nan
    axes.set(xlabel="x / px", ylabel="y / px", title=f"{words}\nmean residual / noise: rms {scatter:.2f}")


def _draw_profile(axes, residuals) -> None:
    peak = residuals.model_profile.max()
    axes.plot(residuals.radius, residuals.model_profile / peak, color="#2166ac", lw=1.5, label="PSF")
    stars = residuals.profile / peak
    axes.errorbar(
        residuals.radius, stars, residuals.profile_error / peak, fmt="o", ms=4, mfc="none", color="#b2182b", lw=1,
        label="stars",
    )  # fmt: skip
    positive = residuals.model_profile[residuals.model_profile > 0] / peak
    axes.set(
        yscale="log", ylim=(max(0.3 * positive.min(), 1e-7), 2), xlabel="radius / px", ylabel="of the peak",
        title="profile",
    )  # fmt: skip
    axes.legend(loc="upper right", fontsize=8)
