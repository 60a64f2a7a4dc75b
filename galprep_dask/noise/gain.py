"""Electrons per unit of an image that was calibrated to physical fluxes."""

from __future__ import annotations

from galprep_dask.arrays import is_finite
from galprep_dask.errors import ParameterError

__all__ = ["effective_gain"]


def effective_gain(gain: float, *, zeropoint: float, unit: str, pixel_scale: float | None = None) -> float:
    """
    Electrons per unit of an image in a unit of flux density or of surface brightness.

    The source term of a sigma image needs to know how many electrons a pixel is. An image of counts (per second) that
    was multiplied by ``u`` to be in another unit has ``gain / u`` electrons (per second) a unit; here ``u`` follows
    from the zero point.

    Parameters
    ----------
    gain : float
        Electrons per count of the image before it was converted.
    zeropoint : float
        AB magnitude of one count, or of one count per second, whichever the image was in before.
    unit : str or astropy unit
        What it is in now: "nJy", "uJy", "MJy/sr" ...
    pixel_scale : float, optional
        Side of a pixel in arcsec, for a unit of surface brightness.

    Returns
    -------
    float
        Pass it as ``gain``, with the exposure where the image was in counts per second.

    Raises
    ------
    ParameterError
        A number makes no sense; ``unit`` is neither; ``pixel_scale`` is needed.

    Examples
    --------
    >>> round(effective_gain(2.0, zeropoint=31.4, unit="nJy"), 3)
    2.0
    >>> round(effective_gain(2.0, zeropoint=28.9, unit="nJy"), 3)
    0.2
    """
    from astropy import units as u

    if not (is_finite(gain) and gain > 0):
        raise ParameterError(f"gain={gain!r}; expected a positive number.")
    if not is_finite(zeropoint):
        raise ParameterError(f"zeropoint={zeropoint!r}; expected a finite magnitude.")
    try:
        unit = u.Unit(unit)
    except (ValueError, TypeError) as error:
        raise ParameterError(f"unit={unit!r} is no unit that astropy knows: {error}") from error
    one_count = (zeropoint * u.ABmag).to(u.Jy)
    if (unit * u.sr).is_equivalent(u.Jy) and not unit.is_equivalent(u.Jy):
        if pixel_scale is None or not (is_finite(pixel_scale) and pixel_scale > 0):
            raise ParameterError(
                f"pixel_scale={pixel_scale!r}; expected that of a pixel in arcsec, as {unit} is per area."
            )
        one_count = one_count / (pixel_scale * u.arcsec) ** 2
    elif not unit.is_equivalent(u.Jy):
        raise ParameterError(
            f"unit={str(unit)!r}; expected a flux density or surface brightness, as 'nJy' or 'MJy/sr'."
        )
    return float(gain / one_count.to_value(unit))
