"""What to trust: the numbers of a run held against what they ought to be."""

from __future__ import annotations

from typing import NamedTuple

from galprep_dask.pipeline.report.folder import BandFolder

__all__ = ["Finding", "findings_of", "number"]

#: Standard deviation of source-free pixels over sigma: doubtful outside of the first, wrong outside of the second;
#: as ``galprep validate`` has it.
_SIGMA, _SIGMA_WRONG = (0.8, 1.25), (1 / 3, 2.0)
#: Reduced chi2 of stars that the PSF had not seen.
_CHI2 = (0.7, 1.5)
#: Stars that a PSF takes, at least, before one of them can spoil it.
_FEW_STARS = 10
#: Share of the pixels left as sky, at least, before sources are hard to tell from a sky that varies.
_LITTLE_SKY = 0.15

#: From the gravest to the best.
LEVELS = ("error", "warning", "ok")


class Finding(NamedTuple):
    """One judgement: its level, the band or other place that it is about, and a sentence."""

    level: str
    where: str
    text: str


def number(section: dict, key: str) -> float | None:
    """Give a number of a record, None where there is none."""
    value = section.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def findings_of(band: BandFolder) -> list[Finding]:
    """
    Judge a band.

    Parameters
    ----------
    band : BandFolder

    Returns
    -------
    list of Finding
        The gravest first; a single one of level "ok" where there is nothing to say.
    """
    found = [Finding("error", band.name, problem) for problem in band.problems]
    if band.failed:
        reason = str(band.record.get("reason") or "no reason is given")
        return [Finding("error", band.name, f"The band failed: {reason}"), *found]
    if band.record:
        if band.record.get("status") not in (None, "done"):
            found.append(Finding("error", band.name, f"The band is {band.record['status']}: run galprep run again."))
        told = [*_of_sky(band), *_of_sigma(band), *_of_psf(band)]
        found += [Finding(level, band.name, text) for level, text in told]
    if not found:
        return [Finding("ok", band.name, "Sky, sigma and PSF are as they should be.")]
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))


def _of_sky(band: BandFolder):
    share = number(band.section("segmentation"), "masked_fraction")
    if share is not None and 1 - share < _LITTLE_SKY:
        yield "warning", f"{100 * share:.0f} % of the pixels are masked as sources: little is left to fit the sky to."
    yield from _warnings(band.record)
    for name in ("sky", "segmentation", "sigma", "stars"):
        yield from _warnings(band.section(name))


def _of_sigma(band: BandFolder):
    ratio = number(band.section("sigma"), "sigchk")
    if ratio is None:
        yield "warning", "Sigma was not checked against the scatter of the sky."
    elif not _SIGMA[0] <= ratio <= _SIGMA[1]:
        level = "warning" if _SIGMA_WRONG[0] <= ratio <= _SIGMA_WRONG[1] else "error"
        yield level, f"Source-free pixels scatter by {ratio:.3g} sigma; expected 1. Check gain and exposure time."


def _of_psf(band: BandFolder):
    psf = band.section("psf")
    source = psf.get("source")
    if source in (None, "none"):
        reason = psf.get("reason") or band.section("stars").get("reason")
        yield "warning", f"There is no PSF: {reason}" if reason else "There is no PSF."
    if source == "fitted":
        if psf.get("converged") is False:
            yield "warning", "The fit of the PSF had not settled when it ran out of steps."
        stars = number(psf, "n_stars")
        if stars is not None and stars < _FEW_STARS:
            yield "warning", f"The PSF was made of {stars:.0f} stars; one bad star among them shows."
        chi2 = number(psf, "chi2_reserved")
        if chi2 is not None and not _CHI2[0] <= chi2 <= _CHI2[1]:
            yield "warning", f"Stars that the PSF had not seen have a median reduced chi2 of {chi2:.2f}; expected 1."
    yield from _warnings(psf)


def _warnings(section: dict):
    told = section.get("warnings")
    for text in told if isinstance(told, list) else [told] if told else []:
        yield "warning", str(text)
