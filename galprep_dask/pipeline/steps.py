"""What the files of a band depend on, step by step, so that a change redoes what it touches and nothing else."""

from __future__ import annotations

from typing import Any

from galprep_dask._version import __version__
from galprep_dask.pipeline.config import Band, Config, parameters_hash
from galprep_dask.pipeline.records import input_identity

__all__ = ["STEPS", "band_inputs", "product_hash", "step_hashes"]

#: Steps of a band, in order.
STEPS = ("sky", "sigma", "sources", "preview", "stars", "psf")


def band_inputs(band: Band) -> dict[str, dict[str, Any]]:
    """Give the identity of every file of a band, by its key in the configuration."""
    files = {name: getattr(band, name) for name in ("image", "mask", "weight", "rms", "psf")}
    return {name: input_identity(path) for name, path in files.items() if path is not None}


def step_hashes(config: Config, band: Band, inputs: dict[str, dict[str, Any]]) -> dict[str, str]:
    """
    Give what every step of a band is made with.

    Parameters
    ----------
    config : Config
        The run.
    band : Band
        One of its bands.
    inputs : dict
        From :func:`band_inputs`.

    Returns
    -------
    dict
        A hash for each of :data:`STEPS`, and ``pixels`` for the image as it is read. It changes with the parameters of
        the step, with those of the steps before that it builds on, with the input, and with the version.
    """
    files = {name: _content(inputs[name]) for name in ("image", "mask", "weight", "rms") if name in inputs}
    pixels = parameters_hash(__version__, files, band.hdu)
    sky = parameters_hash(pixels, config.sky, band.fwhm)
    sigma = parameters_hash(sky, config.sigma, band.gain, band.exptime)
    sources = parameters_hash(sky, config.detection)
    given = "psf" in inputs or not config.psf.fit
    catalog = None if config.psf.gaia_catalog is None else _content(input_identity(config.psf.gaia_catalog))
    stars = parameters_hash("none" if given else [sigma, sources, config.psf.crossmatch, catalog])
    shape = [config.psf.size, config.psf.degree, config.psf.oversampling]
    psf = parameters_hash(_content(inputs["psf"]) if "psf" in inputs else [stars, config.psf.fit, shape])
    preview = parameters_hash(sigma, sources)
    return {
        "pixels": pixels, "sky": sky, "sigma": sigma, "sources": sources, "preview": preview, "stars": stars,
        "psf": psf,
    }  # fmt: skip


def product_hash(config: Config, band: Band, hashes: dict[str, str]) -> str:
    """Give what the cutouts of a band are made with, but for what each target has of its own."""
    return parameters_hash(
        hashes["sigma"], hashes["psf"], config.mask, config.detection, band.fwhm, band.zeropoint
    )


def _content(identity: dict[str, Any]) -> dict[str, Any]:
    """Give the identity of a file wherever it lies."""
    return {name: value for name, value in identity.items() if name != "path"}
