"""Wings of the PSF from stars that are too bright for its core."""

from __future__ import annotations

import dataclasses

import numpy as np

from galprep_dask.errors import ImageShapeError, ParameterError, TooFewStarsError
from galprep_dask.psf.gauge import sampled
from galprep_dask.psf.model import PSFModel

__all__ = ["join_wings"]

#: Annulus in which core and wings are joined, fractions of the core's side.
ANNULUS = (0.22, 0.45)
#: Sigmas beyond which a pixel is left out of the wings.
CLIP = 5.0


def join_wings(
    model: PSFModel, stamps, mask=None, *, sky_std: float | None = None, annulus: tuple[float, float] | None = None
) -> PSFModel:
    """
    Enlarge a PSF by the wings of bright, usually saturated, stars.

    Parameters
    ----------
    model : PSFModel
        The core.
    stamps : (k, n, n) array
        Sky-subtracted bright stars, n odd and larger than ``model.size``, their middle within 1 px of the stamp's.
    mask : (k, n, n) bool array, optional
        True marks saturated cores, neighbours and bad pixels; non-finite pixels are left out too.
    sky_std : float, optional
        Noise of the background; measured in the outer pixels by default.
    annulus : (float, float), optional
        Radii in px between which the core goes over into the wings; a fifth and less than half of the core's side by
        default. Cores must be masked within the inner one only.

    Returns
    -------
    PSFModel
        Of the stamps' size, of sum 1 there. Fluxes of its stars are raised by the light that the core's own stamp
        did not hold.

    Raises
    ------
    ImageShapeError, ParameterError, TooFewStarsError
        Stamps are not larger than the core, the annulus does not fit, no star has good pixels there.

    Notes
    -----
    A star's flux and position are those with which the core fits it in the annulus. There the two are blended, so
    that neither a step nor a ring of noise remains.

    Examples
    --------
    >>> import numpy as np
    >>> from galprep_dask.psf import PSFModel, join_wings
    >>> y, x = np.mgrid[-30:31, -30:31]
    >>> star = (1 + (x**2 + y**2) / 9) ** -2.5
    >>> core = PSFModel.from_image(star[15:-15, 15:-15])
    >>> whole = join_wings(core, 1e6 * star[None], sky_std=1.0)
    >>> bool(abs(whole.image - star / star.sum()).max() < 1e-3 * whole.image.max())
    True
    """
    data = np.asarray(stamps, np.float64)
    if data.ndim != 3 or data.shape[1] != data.shape[2] or data.shape[1] % 2 == 0:
        raise ImageShapeError(f"stamps of bright stars have shape {data.shape}: (k, n, n) with n odd is expected.")
    size, core = data.shape[-1], model.size
    if size <= core:
        raise ImageShapeError(f"stamps of bright stars are {size} px wide: wider than the core's {core} is expected.")
    good = np.isfinite(data)
    if mask is not None:
        if np.shape(mask) != data.shape:
            raise ImageShapeError(f"mask has shape {np.shape(mask)}, but the bright stars have {data.shape}.")
        good &= np.asarray(mask) == 0
    inner, outer = annulus or (fraction * core for fraction in ANNULUS)
    if not 0 < inner < outer <= core / 2:
        raise ParameterError(f"annulus=({inner:g}, {outer:g}): 0 < inner < outer <= {core / 2:g} px is expected.")
    data = np.where(good, data, 0.0)
    axis = np.arange(size) - (size - 1) / 2
    r = np.hypot(axis, axis[:, None])
    if sky_std is None:
        outside = data[:, r > 0.45 * size][good[:, r > 0.45 * size]]
        sky_std = 1.4826 * np.median(np.abs(outside)) if outside.size else 1.0
    pad = (size - core) // 2
    ring = (r >= inner) & (r <= outer)
    stars = []
    for image, usable in zip(data, good, strict=True):
        if (usable & ring).sum() < 0.3 * ring.sum():
            continue
        flux, dx, dy = _fit_in_ring(model, image[pad:-pad, pad:-pad], (usable & ring)[pad:-pad, pad:-pad])
        if flux > 0:
            stars.append((_moved(model, image, usable, flux, dx, dy, pad), usable, flux))
    if not stars:
        raise TooFewStarsError("no bright star has good pixels enough in the annulus where core and wings are joined.")
    lights, covered, fluxes = (np.array(part) for part in zip(*stars, strict=True))
    weight = covered * (fluxes / sky_std)[:, None, None] ** 2
    if len(stars) > 2:
        # Neighbours: a star that lies above the median of all by more than noise.
        middle = np.median(lights, axis=0)
        excess = np.abs(lights - middle) * np.sqrt(weight)
        weight = np.where(excess > CLIP * np.sqrt(1 + weight * (0.1 * middle) ** 2), 0, weight)
    sums = weight.sum(0)
    wings = (weight * lights).sum(0) / np.maximum(sums, 1e-300)
    join = np.clip((r - inner) / (outer - inner), 0, 1)
    join = join * join * (3 - 2 * join)
    join[sums == 0] = 0
    return _joined(model, wings, join, sums, size)


def _fit_in_ring(model, image, ring):
    """Flux and position with which the core fits a star where it is good, by Gauss-Newton steps."""
    psf, s, n = model.coefficients[0], model.oversampling, model.size
    dx = dy = 0.0
    flux = 1.0
    for _ in range(10):
        star = sampled(psf, n, s, dx, dy)
        columns = [star] + [
            flux * (sampled(psf, n, s, dx + a, dy + b) - sampled(psf, n, s, dx - a, dy - b)) / 0.1
            for a, b in ((0.05, 0.0), (0.0, 0.05))
        ]
        if flux == 1.0:
            flux = float((star[ring] * image[ring]).sum() / (star[ring] ** 2).sum())
            continue
        matrix = np.stack([column[ring] for column in columns], 1)
        step = np.linalg.lstsq(matrix, image[ring] - flux * star[ring], rcond=None)[0]
        flux, dx, dy = flux + step[0], *np.clip((dx + step[1], dy + step[2]), -2, 2)
    return flux, dx, dy


def _moved(model, image, usable, flux, dx, dy, pad):
    """Shift a star over its flux to the middle; what is masked is filled from the core, so that nothing rings."""
    inside = sampled(model.coefficients[0], model.size, model.oversampling, dx, dy)
    filled = np.where(usable, image / flux, np.pad(inside, pad))
    return sampled(filled, len(image), 1, -dx, -dy)


def _joined(model, wings, join, weight, size):
    """Core and wings on the core's own sampling, and their variance."""
    s = model.oversampling
    fine = size * s - (size * s + 1) % 2
    old = model.coefficients.shape[-1]
    pad = (fine - old) // 2
    coefficients = np.pad(model.coefficients, ((0, 0), (pad, pad), (pad, pad)))
    if s > 1:  # wings are smooth on the scale of a pixel
        wings, join = (_finer(values, fine, s) for values in (wings / s**2, join))
    coefficients = coefficients * (1 - join)
    coefficients[0] += join * wings
    total = coefficients[0].sum()
    stars = model.stars.copy()
    for name in ("flux", "flux_err"):
        if name in stars.colnames:
            stars[name] = stars[name] * total
    changed = {"coefficients": coefficients / total, "size": size, "stars": stars}
    if model.image_variance is not None:
        rim = (size - model.size) // 2
        kept = np.pad(model.image_variance, ((0, 0), (rim, rim), (rim, rim)))
        axis = np.arange(size) - (size - 1) / 2
        data_join = join if s == 1 else np.interp(np.hypot(axis, axis[:, None]), *_profile(join, s))
        kept = kept * (1 - data_join) ** 2
        kept[0] += data_join**2 / np.maximum(weight, 1e-300)
        changed["image_variance"] = kept / total**2
        if model.variance is not None:
            changed["variance"] = np.pad(model.variance, ((0, 0), (pad, pad), (pad, pad))) / total**2
    return dataclasses.replace(model, **changed)


def _profile(join, s):
    middle = join.shape[0] // 2
    row = join[middle, middle:]
    return np.arange(len(row)) / s, row


def _finer(values, fine, s):
    """Values of the data's pixels at fine pixels, linearly between them."""
    from scipy.ndimage import map_coordinates

    middle = (values.shape[0] - 1) / 2
    at = middle + (np.arange(fine) - (fine - 1) / 2) / s
    return map_coordinates(values, np.meshgrid(at, at, indexing="ij"), order=1, mode="nearest")
