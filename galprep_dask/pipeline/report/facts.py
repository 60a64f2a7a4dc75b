"""Numbers of a record as people read them: with a name, a unit, and no more digits than they carry."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from galprep_dask.pipeline.report.findings import number
from galprep_dask.pipeline.report.folder import BandFolder

__all__ = ["Cut", "Fact", "cuts_of", "facts_of", "plain", "settings_of"]

#: Names and units of what is known.
_WORDS = {
    "shape": ("size", "px"), "chunks": ("chunks", "px"), "pixel_scale": ("pixel", "arcsec"),
    "zeropoint": ("zero point", "mag"), "gain": ("gain", "e-/unit"), "exptime": ("exposure", "s"), "hdu": ("HDU", ""),
    "level": ("level", "image unit"),
    "std": ("noise", "image unit"), "rms": ("rms", "image unit"), "n_sources": ("sources", ""),
    "masked_fraction": ("masked", "%"), "threshold": ("threshold", "image unit"),
    "sigchk": ("scatter / sigma", ""), "sigscl": ("rescaled by", ""),
    "correlation_factor": ("correlated noise", "x"), "n_used": ("used", "stars"), "fwhm": ("FWHM", "arcsec"),
    "fwhm_pixels": ("FWHM", "px"),
    "box_size": ("boxes", "px"), "n_stars": ("made of", "stars"), "n_reserved": ("reserved", "stars"),
    "chi2": ("chi2, all stars", ""), "chi2_reserved": ("chi2, reserved stars", ""),
}  # fmt: skip
_SECTIONS = {"": "Image", "sky": "Sky", "segmentation": "Sources", "sigma": "Sigma", "stars": "Stars", "psf": "PSF"}
#: Keys of the record that are shown elsewhere.
_ELSEWHERE = {
    "name", "image", "version", "parameters", "settings", "inputs", "steps", "status", "warnings", "cuts", "cards",
    "scale", "sky_std", "validation",
}  # fmt: skip
#: What the reserved stars said of the PSF: a value and its error, in percent.
_RESIDUALS = {"size": "T", "e1": "e1", "e2": "e2"}


_MINUS = "\N{MINUS SIGN}"


class Fact(NamedTuple):
    """A name, a value and its unit."""

    name: str
    value: str
    unit: str = ""


class Cut(NamedTuple):
    """One cut of the star selection: its name, what it dropped, what was left, and the share of the first that is."""

    name: str
    dropped: int
    left: int
    share: float


def plain(value: Any) -> str:
    """
    Write a value for people.

    Examples
    --------
    >>> plain(4096), plain(31.4159), plain(0.00025), plain(True), plain("mesh"), plain(None)
    ('4096', '31.42', '0.00025', 'yes', 'mesh', '-')
    """
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}") if abs(value) >= 10000 else str(value)
    if isinstance(value, float):
        return f"{value:.4g}".replace("-", _MINUS) if value else "0"
    if isinstance(value, list):
        return " \N{MULTIPLICATION SIGN} ".join(map(plain, value))
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)


def facts_of(band: BandFolder) -> list[tuple[str, list[Fact]]]:
    """
    Give all numbers of a band, in groups with a title.

    Parameters
    ----------
    band : BandFolder

    Returns
    -------
    list of (str, list of Fact)
        Groups of which nothing is known are left out. What has no word here is shown by its key.
    """
    groups = []
    for name, title in _SECTIONS.items():
        section = band.section(name) if name else {k: v for k, v in band.record.items() if not isinstance(v, dict)}
        facts = [
            _fact(key, value) for key, value in section.items() if key not in _ELSEWHERE and value not in (None, "")
        ]
        facts += _validation(section.get("validation"))
        if facts:
            groups.append((title, facts))
    return groups


def _fact(key: str, value: Any) -> Fact:
    name, unit = _WORDS.get(key, (key.replace("_", " "), ""))
    if unit == "%" and isinstance(value, int | float):
        return Fact(name, f"{100 * value:.1f}", unit)
    return Fact(name, plain(value), unit)


def _validation(told: Any) -> list[Fact]:
    """Give how sizes and shapes of reserved stars were predicted, and what a plain stack would have done."""
    if not isinstance(told, dict):
        return []
    facts = []
    for key, symbol in _RESIDUALS.items():
        value, error = number(told, f"{key}_residual"), number(told, f"{key}_error")
        if value is not None and error is not None:
            text = f"{100 * value:+.2f} \N{PLUS-MINUS SIGN} {100 * error:.2f}"
            facts.append(Fact(f"{symbol} residual", text.replace("-", _MINUS), "%"))
    stack = number(told, "stack_reduced_chi2")
    return [*facts, Fact("chi2, plain stack", plain(stack))] if stack is not None else facts


def cuts_of(band: BandFolder) -> list[Cut]:
    """Give the cuts of the star selection; what is no cut goes to the problems of the band."""
    found = band.section("stars").get("cuts") or []
    try:
        counts = [(str(cut["name"]), int(cut["dropped"]), int(cut["left"])) for cut in found]
    except (TypeError, KeyError, ValueError):
        band.problems.append("band.json: the cuts of the stars are no list of name, dropped and left.")
        return []
    first = max((dropped + left for _, dropped, left in counts), default=0) or 1
    return [Cut(name, dropped, left, left / first) for name, dropped, left in counts]


def settings_of(record: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """
    Flatten settings to lines of a dotted name and a value.

    Examples
    --------
    >>> settings_of({"sky": {"model": "mesh", "box_size": 256}, "bands": [{"name": "r"}]})
    [('sky.model', 'mesh'), ('sky.box_size', '256'), ('bands[0].name', 'r')]
    """
    lines = []
    for key, value in record.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            lines += settings_of(value, f"{name}.")
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            for k, item in enumerate(value):
                lines += settings_of(item, f"{name}[{k}].") if isinstance(item, dict) else [(f"{name}[{k}]", str(item))]
        else:
            lines.append((name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))
    return lines
