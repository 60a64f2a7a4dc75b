"""The sky that was subtracted, in the header of what is left."""

from __future__ import annotations

import re

from astropy.io import fits

__all__ = ["record_sky"]

#: What the models of this room write. Keywords of observatories such as SKYLEVEL and SKYVAL are not among them.
_WRITTEN = re.compile(r"SKY(MODEL|ORDER|NX|NY|RMS|NPIX|LEV|PCSX|PCSY|BOXX|BOXY|FILTX|FILTY|ESTIM|\d\d_\d\d)")


def record_sky(header: fits.Header, sky) -> fits.Header:
    """
    Give a header that says which sky was subtracted.

    Parameters
    ----------
    header : Header
        Of the image. Not modified.
    sky : sky model
        Any model of this room.

    Returns
    -------
    Header
        With the keywords of the model. Those of another sky that was subtracted before are taken out, and a
        HISTORY line keeps what it was.

    Examples
    --------
    >>> from galprep_dask.sky import ConstantSky
    >>> once = record_sky(fits.Header(), ConstantSky(7.0, 1.0, "median"))
    >>> twice = record_sky(once, ConstantSky(0.1, 1.0, "mean"))
    >>> twice["SKYMODEL"], str(twice["HISTORY"])
    ('mean', 'sky subtracted before: median, rms 1')
    """
    header = header.copy()
    before, record = header.get("SKYMODEL"), sky.to_header()
    if before is not None and any(header.get(key) != value for key, value in record.items()):
        earlier = f"sky subtracted before: {before}, rms {header.get('SKYRMS', float('nan')):.6g}"
        for keyword in [key for key in header if _WRITTEN.fullmatch(key)]:
            del header[keyword]
        header.add_history(earlier)
    header.update(record)
    return header
