"""GalfitS configuration files (``.lyric``): read, and written for one target in several bands."""

from __future__ import annotations

import ast
import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from galprep_dask.errors import LyricError, ParameterError

__all__ = ["LyricBand", "SersicStart", "flux_density_factor", "lyric_text", "parse_lyric", "read_lyric"]

#: Speed of light in angstrom per second.
_C = 2.99792458e18
_LINE = re.compile(r"([A-Z]+)([a-z]*)(\d*)(?:-(\d+))?\)(.*)")


@dataclass(frozen=True)
class LyricBand:
    """
    One image of a GalfitS configuration.

    Parameters
    ----------
    file : str
        The cutout file, as seen from the folder that GalfitS is started in.
    band : str
        Name that GalfitS knows the filter by, ``"sloan_r"`` for example.
    pixel_scale : float
        In arcsec.
    half_size : float
        Half the side that is fitted, in arcsec.
    zeropoint : float or None
        AB magnitude of one unit of the image.
    sky_std : float
        Noise of the sky in the unit of the image: the range of the sky, which is fixed at zero.
    unit : str
        Unit of the pixels.
    has_psf : bool
        Whether HDU 3 of the file is a PSF.
    psf_oversampling : int
        How much finer than the image the PSF is sampled.
    wavelength : float or None
        Pivot wavelength in angstrom; with the zero point it gives Ia9.
    atlas : str
        Images of one instrument.
    """

    file: str
    band: str
    pixel_scale: float
    half_size: float
    zeropoint: float | None
    sky_std: float
    unit: str = "cR"
    has_psf: bool = True
    psf_oversampling: int = 1
    wavelength: float | None = None
    atlas: str = "all"


@dataclass(frozen=True)
class SersicStart:
    """
    Where the fit of one Sersic profile starts.

    Parameters
    ----------
    x, y : float
        Offset of the centre from the target in arcsec, towards the right and up.
    r_eff : float
        Half-light radius along the major axis, in arcsec.
    n : float
        Sersic index.
    axis_ratio : float
        Minor over major axis.
    position_angle : float
        In degrees, up = 0, left = 90.
    """

    x: float = 0.0
    y: float = 0.0
    r_eff: float = 1.0
    n: float = 2.0
    axis_ratio: float = 0.7
    position_angle: float = 0.0


def flux_density_factor(zeropoint: float, wavelength: float) -> float:
    """
    Image units per erg/s/cm2/angstrom, from the AB zero point and the pivot wavelength.

    Parameters
    ----------
    zeropoint : float
        AB magnitude of one unit of the image.
    wavelength : float
        Pivot wavelength in angstrom.

    Returns
    -------
    float
        GalfitS' Ia9.

    Examples
    --------
    >>> f"{flux_density_factor(0.0, 2.99792458e9):.3e}"  # where lambda^2 / c is 3 angstrom s
    '8.257e+19'
    """
    return 10 ** (0.4 * (zeropoint + 48.6)) * wavelength**2 / _C


def lyric_text(
    name: str,
    ra: float,
    dec: float,
    bands: Iterable[LyricBand],
    *,
    start: SersicStart | None = None,
    redshift: float | None = None,
    ebv: float = 0.0,
    log_mass: float = 10.0,
) -> str:
    """
    Give the configuration of a fit of one Sersic profile to all bands.

    Parameters
    ----------
    name : str
        Of the target: GalfitS names its files after it.
    ra, dec : float
        Position in degrees.
    bands : iterable of LyricBand
        The images, the first one being the reference.
    start : SersicStart, optional
        Where the fit starts.
    redshift : float, optional
        Without one magnitudes are fitted band by band (Ia15 = 0), for which every band needs a zero point.
    ebv : float
        Galactic reddening E(B-V) in mag.
    log_mass : float
        Start of the logarithm of the stellar mass in solar masses.

    Returns
    -------
    str
        The text of a ``.lyric`` file.

    Raises
    ------
    ParameterError
        There is no band, a number is not finite, or neither redshift nor zero points are known.

    Notes
    -----
    Positions are relative to the target in arcsec. The sky is uniform and fixed at zero, because it has been
    subtracted, and images are not shifted, because their WCS tell where they are: both are a digit to change.

    Examples
    --------
    >>> band = LyricBand("ngc1_r.fits", "sloan_r", 0.2, 10.0, 27.0, sky_std=0.1)
    >>> text = lyric_text("NGC 1", 1.82, 27.7, [band], redshift=0.015)
    >>> parse_lyric(text)["Ia"][4], parse_lyric(text)["R"][3]
    (['ngc1_r.fits', 3], 0.015)
    """
    bands, start = list(bands), start or SersicStart()
    numbers = [ra, dec, ebv, log_mass, *vars(start).values()] + ([] if redshift is None else [redshift])
    if not bands or not all(math.isfinite(value) for value in numbers):
        raise ParameterError(
            f"{name!r}: {len(bands)} bands and {numbers}; expected a band or more, and finite numbers."
        )
    use_sed = redshift is not None and redshift > 0
    if not use_sed and any(band.zeropoint is None for band in bands):
        missing = ", ".join(band.band for band in bands if band.zeropoint is None)
        raise ParameterError(
            f"{name!r} has no redshift, so that magnitudes are fitted, and the zero point of {missing} is not known. "
            "Give a redshift, or the zero points."
        )
    lines = [
        "# Region",
        _line("R", 1, _plain(name), "name of the target"),
        _line("R", 2, [ra, dec], "sky coordinates of the target [RA, Dec]"),
        _line("R", 3, redshift if use_sed else 0.01, "redshift" if use_sed else "redshift NOT KNOWN: a stand-in"),
    ]
    for identity, band in zip(_identities(), bands, strict=False):
        lines += ["", f"# Image {identity.upper()}", *_image_lines(f"I{identity}", band, use_sed)]
    for identity, (atlas, members) in zip(_identities(), _atlases(bands).items(), strict=False):
        lines += ["", f"# Image atlas {identity.upper()}", *_atlas_lines(f"A{identity}", atlas, members, bands)]
    lines += ["", "# Profile A", *_profile_lines("Pa", start, bands, log_mass)]
    z = redshift if use_sed else 0.01
    lines += [
        "", "# Galaxy A",
        _line("Ga", 1, "galaxy", "name of the galaxy"),
        _line("Ga", 2, ["a"], "profile components"),
        _line("Ga", 3, _five(z, max(z - 0.05, 0.0), z + 0.05, 0.01, False), "redshift"),
        _line("Ga", 4, ebv, "E(B-V) of the Galaxy [mag]"),
        _line("Ga", 5, _five(1.0, 0.5, 2.0, 0.05, False), "normalization of the spectrum"),
        _line("Ga", 6, [], "narrow lines"),
        _line("Ga", 7, 1, "number of components of narrow lines"),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _image_lines(key: str, band: LyricBand, use_sed: bool) -> list[str]:
    factor = -1
    if band.wavelength is not None and band.zeropoint is not None:
        factor = flux_density_factor(band.zeropoint, band.wavelength)
    zeropoint = "not known: Ia15 is 1 and does without" if band.zeropoint is None else "AB zero point [mag]"
    sky = _five(0.0, -3 * band.sky_std, 3 * band.sky_std, 0.1 * band.sky_std, False)
    shift = _five(0.0, -5.0, 5.0, 0.1, False)
    return [
        _line(key, 1, [band.file, 0], "image"),
        _line(key, 2, band.band, "band"),
        _line(key, 3, [band.file, 2], "sigma image"),
        _line(key, 4, [band.file, 3] if band.has_psf else ["none", 0], "PSF"),
        _line(key, 5, band.psf_oversampling, "fine sampling of the PSF relative to the image"),
        _line(key, 6, [band.file, 1], "mask, 1 = bad"),
        _line(key, 7, _plain(band.unit), "unit of the image"),
        _line(key, 8, band.half_size, "half the side that is fitted [arcsec]"),
        _line(key, 9, factor, "image units per erg/s/cm^2/A, -1 for the default of the band"),
        _line(key, 10, 0.0 if band.zeropoint is None else band.zeropoint, zeropoint),
        _line(key, 11, "uniform", "sky model"),
        _line(key, 12, [sky], "sky, subtracted already [[value, min, max, step, vary]]"),
        _line(key, 13, 0, "allow a shift relative to the others"),
        _line(key, 14, [shift, shift], "shift in x and y [px]"),
        _line(key, 15, int(use_sed), "use SED information"),
    ]


def _atlases(bands: list[LyricBand]) -> dict[str, list[str]]:
    members: dict[str, list[str]] = {}
    for identity, band in zip(_identities(), bands, strict=False):
        members.setdefault(band.atlas, []).append(identity)
    return members


def _atlas_lines(key: str, atlas: str, members: list[str], bands: list[LyricBand]) -> list[str]:
    scales = [band.pixel_scale for band in bands if band.atlas == atlas]
    same = all(math.isclose(scale, scales[0], rel_tol=1e-3) for scale in scales)
    return [
        _line(key, 1, _plain(atlas), "name of the image atlas"),
        _line(key, 2, members, "images"),
        _line(key, 3, int(same), "whether the images have the same pixel size"),
        _line(key, 4, 0, "link relative shifts"),
        _line(key, 5, [], "spectra"),
        _line(key, 6, [], "apertures of the spectra"),
        _line(key, 7, [], "reference images"),
    ]


def _profile_lines(key: str, start: SersicStart, bands: list[LyricBand], log_mass: float) -> list[str]:
    reach = min(5.0, min(band.half_size for band in bands) / 2)
    smallest = 0.1 * min(band.pixel_scale for band in bands)
    largest = max(band.half_size for band in bands)
    r_eff = min(max(start.r_eff, 2 * smallest), largest)
    angle = (start.position_angle + 90) % 180 - 90
    ratio = min(max(start.axis_ratio, 0.1), 1.0)
    return [
        _line(key, 1, "total", "name of the component"),
        _line(key, 2, "sersic", "profile type"),
        _line(key, 3, _five(start.x, start.x - reach, start.x + reach, 0.1, True), "x of the centre [arcsec]"),
        _line(key, 4, _five(start.y, start.y - reach, start.y + reach, 0.1, True), "y of the centre [arcsec]"),
        _line(key, 5, _five(r_eff, max(r_eff / 10, smallest), max(10 * r_eff, largest), 0.1, True), "Re [arcsec]"),
        _line(key, 6, _five(min(max(start.n, 0.5), 8.0), 0.3, 8.0, 0.1, True), "Sersic index"),
        _line(key, 7, _five(angle, angle - 90, angle + 90, 1.0, True), "position angle [deg], up = 0, left = 90"),
        _line(key, 8, _five(ratio, 0.05, 1.0, 0.01, True), "axis ratio b/a"),
        _line(key, 9, [_five(-2.0, -8.0, 0.0, 0.1, True)], "log of the fraction of young stars"),
        _line(key, 10, [_five(5.0, 0.01, 11.0, 0.1, True)], "age of the old burst [Gyr]"),
        _line(key, 11, [_five(0.02, 0.001, 0.04, 0.001, True)], "metallicity, 0.02 = solar"),
        _line(key, 12, [_five(0.7, 0.0, 5.1, 0.1, True)], "dust extinction Av [mag]"),
        _line(key, 13, _five(100.0, 40.0, 200.0, 1.0, False), "stellar velocity dispersion [km/s]"),
        _line(key, 14, _five(log_mass, log_mass - 3, log_mass + 3, 0.1, True), "log stellar mass [solar]"),
        _line(key, 15, "conti", "star formation history: burst, conti, bins"),
        _line(key, 16, _five(-3.0, -4.0, -2.0, 0.1, False), "log U of the nebula"),
        _line(key, 26, _five(3.0, 0.0, 5.0, 0.1, False), "strength of the 2175 A bump"),
        _line(key, 27, 0, "SED model, 0: full, 1: stellar, 2: nebular, 3: dust"),
        _line(key, 28, _five(8.0, 4.5, 10.0, 0.1, False), "log dust mass"),
        _line(key, 29, _five(1.0, 0.1, 50.0, 0.1, False), "Umin, least radiation field"),
        _line(key, 30, _five(1.0, 0.47, 7.32, 0.1, False), "qPAH, mass fraction of PAH"),
        _line(key, 31, _five(1.0, 1.0, 3.0, 0.1, False), "alpha, slope of U"),
        _line(key, 32, _five(0.1, 0.0, 1.0, 0.1, False), "gamma, share lit by young stars"),
    ]


def _identities() -> Iterable[str]:
    """Give a to z, and on from there aa to zz."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    yield from letters
    yield from (a + b for a in letters for b in letters)


def _five(value: float, least: float, greatest: float, step: float, vary: bool) -> list:
    return [value, least, greatest, step, int(vary)]


def _line(key: str, number: int, value, comment: str) -> str:
    return f"{f'{key}{number}) {_written(value)}':<48s} # {comment}"


def _written(value) -> str:
    if isinstance(value, list):
        # GalfitS wants the images of an atlas in quotes, and files without.
        quoted = all(isinstance(item, str) for item in value)
        return "[" + ",".join(f"'{item}'" if quoted else _written(item) for item in value) + "]"
    if isinstance(value, float):
        return repr(round(value, 9)) if 1e-3 <= abs(value) < 1e6 or value == 0 else f"{value:.9g}"
    return str(value)


def _plain(text: str) -> str:
    """One line, without what would start a comment."""
    return " ".join(text.replace("#", " ").split()) or "none"


def read_lyric(path: str | os.PathLike) -> dict[str, dict[int, object]]:
    """
    Read a GalfitS configuration; see :func:`~galprep_dask.pipeline.galfits.parse_lyric`.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    dict

    Raises
    ------
    LyricError
        There is no such file, or a line makes no sense.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LyricError(f"cannot read {os.fspath(path)!r}: {error}.") from error
    return parse_lyric(text, where=repr(os.fspath(path)))


def parse_lyric(text: str, *, where: str = "the configuration") -> dict[str, dict[int, object]]:
    r"""
    Take a GalfitS configuration apart.

    Parameters
    ----------
    text : str
        What the file holds.
    where : str
        What to call it in errors.

    Returns
    -------
    dict
        ``{"R": {1: name, 2: [ra, dec], ...}, "Ia": {1: [file, hdu], ...}, ...}``: numbers as int and float, lists as
        lists, everything else as text. A line ``Pb3-16) ......`` of the documentation stands for the lines of the block
        of that kind before it.

    Raises
    ------
    LyricError
        A line is neither ``KEY) value`` nor a comment, a key comes twice, or a list is not closed.

    Examples
    --------
    >>> parse_lyric("R1) NGC 1  # name\nIa1) [a_cut.fits,0]\nAa2) ['a','b']")
    {'R': {1: 'NGC 1'}, 'Ia': {1: ['a_cut.fits', 0]}, 'Aa': {2: ['a', 'b']}}
    """
    blocks: dict[str, dict[int, object]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip()
        if not line:
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            raise LyricError(f"line {number} of {where} is {line!r}; expected 'KEY) value   # comment'.")
        kind, identity, first, last, value = found.groups()
        block = blocks.setdefault(kind + identity, {})
        value, first = value.strip(), int(first or 0)
        if last is not None or re.fullmatch(r"\.{3,}", value):
            entries = _same_as_before(blocks, kind, identity, range(first, int(last or first) + 1))
        else:
            entries = {first: _value(value, f"line {number} of {where}")}
        if twice := sorted(block.keys() & entries.keys()):
            raise LyricError(f"line {number} of {where}: {kind}{identity}{twice[0]} is there already.")
        block.update(entries)
    return blocks


def _same_as_before(blocks, kind: str, identity: str, numbers: range) -> dict[int, object]:
    before = [name for name in blocks if re.fullmatch(kind + "[a-z]*", name) and name != kind + identity]
    return {n: blocks[before[-1]][n] for n in numbers if n in blocks[before[-1]]} if before else {}


def _value(text: str, where: str):
    if text.startswith("["):
        value, rest = _list(text, 0, where)
        if text[rest:].strip():
            raise LyricError(f"{where}: {text[rest:].strip()!r} follows the list {text[:rest]!r}.")
        return value
    return _scalar(text)


def _list(text: str, start: int, where: str) -> tuple[list, int]:
    """Read a list whose items may be bare words, from the bracket at ``start``; give where it ends, too."""
    items, word, position = [], "", start + 1
    while position < len(text):
        letter = text[position]
        if letter == "[":
            item, position = _list(text, position, where)
            items.append(item)
            continue
        if letter in ",]":
            if word.strip():
                items.append(_scalar(word.strip()))
            word = ""
            if letter == "]":
                return items, position + 1
        else:
            word += letter
        position += 1
    raise LyricError(f"{where}: the list {text[start:]!r} is not closed.")


def _scalar(text: str):
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return value if isinstance(value, int | float | str) else text
