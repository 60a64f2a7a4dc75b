"""What a run is to do: a TOML file, checked before anything is read or written."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from galprep_dask.errors import ConfigError
from galprep_dask.io.files import is_remote

__all__ = [
    "Band", "Config", "CutoutSettings", "DetectionSettings", "GalfitsSettings", "MaskSettings", "PSFSettings",
    "SigmaSettings", "SkySettings", "parameters_hash", "read_config",
]  # fmt: skip

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    """A table of the file: keys that it does not know are errors, and types are not converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class SkySettings(_Section):
    """The sky that is subtracted, of every band."""

    model: Literal["polynomial", "mesh", "piecewise", "median", "mean", "auto", "none"] = "polynomial"
    """Kind of sky; "none" where it has been subtracted, "auto" compares them on pixels left out"""
    order: Annotated[int, Field(ge=0, le=12)] = 3
    """Total degree of the polynomial"""
    box_size: Annotated[int, Field(ge=8)] = 256
    """Boxes of the mesh and pieces, in pixels"""
    n_sigma: Positive = 3.0
    """Sources that are left out of the fit: standard deviations above the sky"""
    max_grow_size: Annotated[int, Field(ge=0)] = 100
    """Farthest that their masks grow, in pixels"""


class DetectionSettings(_Section):
    """Sources, for the catalogue, the masks and the stars."""

    n_sigma: Positive = 2.0
    """Threshold in standard deviations of the sky"""
    n_pixels: Count = 5
    """Least pixels of a source"""
    connectivity: Literal[4, 8] = 8
    """Neighbours that a pixel is connected to"""
    deblend: bool = True
    """Whether sources that overlap are split"""


class SigmaSettings(_Section):
    """Sigma images."""

    rescale: bool = False
    """Whether sigma is multiplied by the measured ratio, recorded as SIGSCL"""


class PSFSettings(_Section):
    """The PSF that is fitted to the stars of every band."""

    fit: bool = True
    """Whether to fit one; bands with a file of their own take that"""
    size: Annotated[int, Field(ge=5)] = 51
    """Side in pixels, odd"""
    degree: Annotated[int, Field(ge=0, le=4)] | Literal["auto"] = "auto"
    """Degree of its change over the field"""
    oversampling: Annotated[int, Field(ge=1, le=5)] | Literal["auto"] = "auto"
    """How much finer than the image it is sampled inside"""
    crossmatch: bool | Literal["auto"] = False
    """Whether stars have to be in Gaia; "auto" does without where it cannot be had"""
    gaia_catalog: str | None = None
    """File with Gaia's sources, in place of a query"""

    @model_validator(mode="after")
    def _odd(self):
        if self.size % 2 == 0:
            raise ValueError(f"size={self.size} is even; a PSF has a middle pixel, so take {self.size + 1}")
        return self


class CutoutSettings(_Section):
    """Cutouts."""

    size: Positive = 20.0
    """Side in arcsec; a column "size" of the targets goes first"""


class MaskSettings(_Section):
    """What is masked around a target: everything that is not the target."""

    source_diameter: NotNegative = 1.0
    """The target is every segment that touches a circle of this diameter in arcsec"""
    max_grow_size: Annotated[int, Field(ge=0)] = 30
    """Farthest that masks of neighbours grow, in pixels"""


class GalfitsSettings(_Section):
    """Files that a fit starts from."""

    lyric: bool = True
    """Whether to write a GalfitS configuration for every target"""
    feedme: bool = True
    """Whether to write a GALFIT input file for every target and band"""


class Band(_Section):
    """One image of the field."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,31}$")]
    """Short name, which files are named with"""
    image: str
    """FITS file, Zarr store or URL"""
    hdu: int | str | None = None
    """HDU index or EXTNAME; by default the first image"""
    mask: str | None = None
    """File of bad pixels, non-zero = bad"""
    weight: str | None = None
    """File of inverse variances"""
    rms: str | None = None
    """File of standard deviations of the sky"""
    psf: str | None = None
    """File with a PSF, in place of one fitted to the stars"""
    fwhm: Positive | None = None
    """FWHM of the PSF in arcsec for detection; by default 3 pixels"""
    gain: Positive | None = None
    """Electrons per count, where the header does not say"""
    exptime: Positive | None = None
    """Exposure in seconds, where the header does not say"""
    zeropoint: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """AB magnitude of one count, where the header does not say"""
    galfits_band: str | None = None
    """Name that GalfitS knows the filter by; by default the name"""
    wavelength: Positive | None = None
    """Pivot wavelength in angstrom, for the flux unit of GalfitS"""
    atlas: str = "all"
    """Image atlas of GalfitS: bands of one instrument"""


class Config(_Section):
    """All of a run."""

    targets: str
    """Table of the targets: any that astropy reads, with ra and dec in degrees"""
    output: str = "galprep-run"
    """Folder for everything that is written"""
    bands: Annotated[list[Band], Field(min_length=1)]
    """The images"""
    sky: SkySettings = SkySettings()
    detection: DetectionSettings = DetectionSettings()
    sigma: SigmaSettings = SigmaSettings()
    psf: PSFSettings = PSFSettings()
    cutout: CutoutSettings = CutoutSettings()
    mask: MaskSettings = MaskSettings()
    galfits: GalfitsSettings = GalfitsSettings()

    @model_validator(mode="after")
    def _different_names(self):
        names = [band.name.casefold() for band in self.bands]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two bands are called {twice[0]!r}; files are named after them")
        for band in self.bands:
            if band.weight is not None and band.rms is not None:
                raise ValueError(f"band {band.name!r} has both weight and rms; give one of them")
        return self


def read_config(path: str | os.PathLike) -> Config:
    r"""
    Read and check the configuration of a run.

    Parameters
    ----------
    path : path
        A TOML file; ``galprep init`` writes one with comments.

    Returns
    -------
    Config
        With the paths of files relative to the folder of the configuration made absolute.

    Raises
    ------
    ConfigError
        The file cannot be read; or a key is unknown, missing or has a value that makes no sense: all such keys are
        named, with the known one that is nearest.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "config.toml"
    ...     _ = path.write_text('targets = "t.ecsv"\n[[bands]]\nname = "r"\nimage = "r.fits"\n')
    ...     read_config(path).bands[0].image == f"{folder}/r.fits"
    True
    """
    where = os.fspath(path)
    try:
        given = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {where!r}: {error}.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where!r} is no TOML: {error}.") from error
    try:
        config = Config.model_validate(given)
    except ValidationError as error:
        lines = [_explained(problem) for problem in error.errors(include_url=False)]
        raise ConfigError(f"{where!r}:\n" + "\n".join(f"  {line}" for line in lines)) from None
    return _absolute(config, Path(path).expanduser().resolve().parent)


def parameters_hash(*parts) -> str:
    """
    Give sixteen digits that change with any of the parameters.

    Parameters
    ----------
    *parts
        Sections of a configuration, and whatever JSON can hold.

    Returns
    -------
    str

    Examples
    --------
    >>> parameters_hash(SkySettings()) == parameters_hash(SkySettings(order=3)) != parameters_hash(SkySettings(order=2))
    True
    """
    plain = [part.model_dump(mode="json") if isinstance(part, BaseModel) else part for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def _explained(problem) -> str:
    """One line on one problem: where, what, and the nearest known key."""
    place, section = "", Config
    for part in problem["loc"]:
        place += f"[{part}]" if isinstance(part, int) else f".{part}" if place else str(part)
    if problem["type"] == "extra_forbidden":
        *parents, key = problem["loc"]
        for part in parents:
            section = Band if part == "bands" else section if isinstance(part, int) else _section(part)
        near = difflib.get_close_matches(str(key), section.model_fields, n=1, cutoff=0.5)
        known = ", ".join(section.model_fields)
        return f"{place}: no such key. " + (f"Did you mean {near[0]!r}?" if near else f"There are {known}.")
    if problem["type"] == "missing":
        return f"{place}: missing."
    message = problem["msg"].removeprefix("Value error, ")
    value = problem["input"]
    shown = f"={value!r}" if isinstance(value, str | int | float | bool) else ""
    return f"{place}{shown}: {message}." if place else f"{message}."


def _section(name: str) -> type[BaseModel]:
    field = Config.model_fields.get(name)
    return type(field.default) if field is not None and isinstance(field.default, BaseModel) else Config


def _absolute(config: Config, folder: Path) -> Config:
    def resolved(path: str | None) -> str | None:
        if path is None or is_remote(path):
            return path
        return str(folder / Path(path).expanduser())

    files = ("image", "mask", "weight", "rms", "psf")
    bands = [
        band.model_copy(update={name: resolved(getattr(band, name)) for name in files}) for band in config.bands
    ]
    psf = config.psf.model_copy(update={"gaia_catalog": resolved(config.psf.gaia_catalog)})
    return config.model_copy(
        update={"bands": bands, "psf": psf, "targets": resolved(config.targets), "output": resolved(config.output)}
    )
