"""The PSF that a fit hands out."""

from __future__ import annotations

import dataclasses
import warnings
from os import PathLike
from typing import Any

import numpy as np
from astropy.table import Table

from galprep_dask.arrays import is_finite
from galprep_dask.errors import OutsideFieldWarning, ParameterError
from galprep_dask.psf.field import Field
from galprep_dask.psf.gauge import centred, polished, sampled

__all__ = ["PSFModel"]


@dataclasses.dataclass(frozen=True)
class PSFModel:
    """
    An empirical PSF, constant or varying over the field, with what is known about it.

    Attributes
    ----------
    coefficients : (m, N, N) float64 array
        Coefficients of the field's polynomials; of one PSF of sum 1 where ``degree`` is 0. N is odd, and
        ``oversampling`` fine pixels make a data pixel.
    size : int
        Side of ``image``, data pixels, odd.
    oversampling : int
        Fine pixels per data pixel that were chosen or asked for.
    field : Field, optional
        Polynomials over the field; None where the PSF is the same everywhere.
    variance : (m, N, N) array
        Variances of the coefficients.
    image_variance : (m, n, n) array
        The same after integration over data pixels.
    stars : astropy.table.Table
        A row per stamp: dx, dy (px from the middle), flux, sky, their errors, snr, chi2 (reduced), n_clipped, used,
        reserved and the reason why a star was left out.
    loss_history : list of float
        Loss after every round or recorded step.
    converged : bool
        Whether the solver settled before it ran out of steps.
    validation : dict
        How well reserved stars were predicted; see :func:`galprep_dask.psf.fit_psf`.
    parameters : dict
        What the fit was asked for.

    Examples
    --------
    >>> import numpy as np
    >>> from galprep_dask.psf import PSFModel
    >>> y, x = np.mgrid[-15:16, -15:16]
    >>> model = PSFModel.from_image(np.exp(-(x**2 + y**2) / 8))
    >>> round(model.fwhm, 1), model.image.shape
    (4.7, (31, 31))
    """

    coefficients: np.ndarray
    size: int
    oversampling: int = 1
    field: Field | None = None
    variance: np.ndarray | None = None
    image_variance: np.ndarray | None = None
    stars: Table = dataclasses.field(default_factory=Table)
    loss_history: list = dataclasses.field(default_factory=list)
    converged: bool = True
    validation: dict = dataclasses.field(default_factory=dict)
    parameters: dict = dataclasses.field(default_factory=dict)

    @classmethod
    def from_image(cls, image, *, oversampling: int = 1) -> PSFModel:
        """
        Take an image for the PSF everywhere.

        Parameters
        ----------
        image : (N, N) array
            N odd. It is divided by its sum.
        oversampling : int
            Pixels of ``image`` for one of the data.

        Returns
        -------
        PSFModel

        Raises
        ------
        ParameterError
            The image is not square with an odd side, not finite, or has no positive sum.
        """
        image = np.asarray(image, np.float64)
        if image.ndim != 2 or image.shape[0] != image.shape[1] or image.shape[0] % 2 == 0:
            raise ParameterError(f"a PSF image is square with an odd side, not {image.shape}. Cut or pad it.")
        if not 0 < image.sum() < np.inf:
            raise ParameterError(f"the pixels of the PSF image add up to {image.sum()}; expected a positive number.")
        size = image.shape[0] // oversampling
        return cls((image / image.sum())[None], size - (size + 1) % 2, oversampling)

    @property
    def degree(self) -> int:
        """Total degree over the field to which every pixel varies; ``field.total`` is that of size and shape, too."""
        return 0 if self.field is None else self.field.degree

    @property
    def image(self) -> np.ndarray:
        """PSF at the data's sampling, (size, size) float64 of sum 1; the mean over the stars where it varies."""
        return polished(sampled(self.coefficients[0], self.size, self.oversampling))

    @property
    def oversampled(self) -> np.ndarray:
        """PSF at its own sampling, (N, N) float64 of sum 1; the mean over the stars where it varies."""
        return polished(self.coefficients[0])

    @property
    def sigma(self) -> np.ndarray:
        """1-sigma uncertainty of ``image``, (size, size); NaN where the model came without one."""
        if self.image_variance is None:
            return np.full((self.size, self.size), np.nan)
        return np.sqrt(self.image_variance[0])

    @property
    def fwhm(self) -> float:
        """Diameter at half the peak of ``image``'s mean profile, data pixels, the pixels' own width included."""
        return _half_maximum(sampled(self.coefficients[0], self.size, self.oversampling))

    @property
    def ellipticity(self) -> float:
        """1 - b/a of ``image``, by its moments under a Gaussian of the same shape; NaN where there is no such."""
        from galprep_dask.psf._kernels.moments import adaptive_moments

        found = adaptive_moments(self.image[None], sigma=max(self.fwhm / 2.3548, 0.7))
        e = float(np.hypot(found.e1[0], found.e2[0]))
        return 1 - float(np.sqrt((1 - e) / (1 + e))) if e < 1 else float("nan")

    def at(
        self, x: float | None = None, y: float | None = None, *, dx: float = 0.0, dy: float = 0.0,
        oversampled: bool = False,
    ) -> np.ndarray:  # fmt: skip
        """
        Give the PSF at a position of the field.

        Parameters
        ----------
        x, y : float, optional
            0-based pixel position in the frame of the stars' positions. Outside the hull of the stars the nearest
            point of it is taken, with an :class:`~galprep_dask.errors.OutsideFieldWarning`.
        dx, dy : float
            Where the star lies from the middle of the image, data pixels.
        oversampled : bool
            At the model's own sampling instead of the data's.

        Returns
        -------
        (size, size) or (N, N) float64 array
            Of sum 1; centred where dx and dy are 0.

        Raises
        ------
        ParameterError
            The PSF varies over the field, and ``x`` or ``y`` is not given.
        """
        psf = self._mixed(x, y)
        if oversampled:
            s = self.oversampling
            return polished(psf) if dx == dy == 0 else sampled(psf, psf.shape[-1], 1, dx * s, dy * s)
        image = sampled(psf, self.size, self.oversampling, dx, dy)
        return polished(image) if dx == dy == 0 else image / image.sum()

    def inside(self, x: float, y: float) -> bool:
        """Whether the position lies in the hull of the stars, or the PSF is the same everywhere."""
        return self.field is None or self.degree == 0 or self.field.inside(x, y)

    def sigma_at(self, x: float, y: float) -> np.ndarray:
        """1-sigma uncertainty of ``at(x, y)``, (size, size)."""
        if self.field is None or self.image_variance is None:
            return self.sigma
        weights = self.field.basis(*self.field.clamped(x, y))[0]
        return np.sqrt(np.tensordot(weights**2, self.image_variance, 1))

    def _mixed(self, x, y):
        if self.field is None or self.degree == 0:
            return self.coefficients[0]
        if x is None or y is None:
            raise ParameterError("this PSF varies over the field: give x and y, or take .image, the mean.")
        if not (is_finite(x) and is_finite(y)):
            raise ParameterError(f"x={x!r}, y={y!r} is no position in pixels: expected two finite numbers.")
        if not self.field.inside(x, y):
            warnings.warn(
                f"({x:g}, {y:g}) lies outside the stars of this PSF: their nearest position is taken.",
                OutsideFieldWarning, stacklevel=3,
            )  # fmt: skip
        weights = self.field.basis(*self.field.clamped(x, y))[0]
        psf = np.tensordot(weights, self.coefficients, 1)
        psf = centred(psf[None], self.oversampling)[0][0]
        return psf / psf.sum()

    def to_fits(self, path: str | PathLike, *, overwrite: bool = False, header: Any = None) -> None:
        """
        Write the PSF, its stars, its sigma and its coefficients to a FITS file.

        Parameters
        ----------
        path : str or path
        overwrite : bool
            Replace a file that exists.
        header : astropy.io.fits.Header, optional
            More keywords of the first HDU.

        Raises
        ------
        OutputExistsError, OutputError
            The file exists; it cannot be written.
        """
        from galprep_dask.psf.model_file import write_model

        write_model(self, path, overwrite=overwrite, header=header)

    @classmethod
    def from_fits(cls, path: str | PathLike) -> PSFModel:
        """
        Read what :meth:`to_fits` wrote.

        Parameters
        ----------
        path : str or path

        Returns
        -------
        PSFModel
            The same to the bit.

        Raises
        ------
        ImageNotFoundError, ImageFileError
            There is no such file, or no model in it.
        """
        from galprep_dask.psf.model_file import read_model

        return read_model(path)

    def __repr__(self) -> str:
        lines = [
            f"PSFModel: {self.size} x {self.size} px, oversampling {self.oversampling}"
            f"{' (chosen)' if self.parameters.get('oversampling') == 'auto' else ''}, degree {self.degree}"
            f"{' (chosen)' if self.parameters.get('degree') == 'auto' else ''}, FWHM {self.fwhm:.2f} px",
        ]
        if len(self.stars):
            state = "converged" if self.converged else "NOT converged"
            lines.append(f"  {int(np.sum(self.stars['used']))} of {len(self.stars)} stars, {state}")
        if self.validation.get("n_reserved"):
            lines.append(
                f"  {self.validation['n_reserved']} reserved stars: reduced chi2 "
                f"{self.validation['reduced_chi2']:.3f} (plain stack {self.validation['stack_reduced_chi2']:.3f})"
            )
        return "\n".join(lines)


def _half_maximum(image):
    """Diameter at which the mean profile falls to half of its value in the middle, by interpolation in rings."""
    size = image.shape[-1]
    fine = 8
    reach = min(size // 2, max(int(np.ceil(size / 4)), 4)) * fine
    angle = np.arange(32) * (2 * np.pi / 32)
    r = np.arange(reach) / fine
    f = np.fft.fftfreq(size)
    x, y = np.outer(r, np.cos(angle)), np.outer(r, np.sin(angle))
    transform = np.fft.fft2(np.fft.ifftshift(image))
    wave = lambda d: np.exp(2j * np.pi * d.reshape(-1, 1) * f)  # noqa: E731
    ring = np.einsum("py,yx,px->p", wave(y), transform, wave(x), optimize=True).real.reshape(x.shape) / size**2
    profile = ring.mean(1)
    below = np.nonzero(profile < profile[0] / 2)[0]
    if not below.size:
        return float("nan")
    i = below[0]
    part = (profile[i - 1] - profile[0] / 2) / (profile[i - 1] - profile[i])
    return float(2 * (r[i - 1] + part / fine))
