"""Every exception and warning of the package.

Each exception also inherits the built-in that fits, so that ``except ValueError`` or ``except OSError``
around a call works as anyone would expect.
"""

__all__ = [
    "CatalogError",
    "CatalogNotFoundError",
    "ClusterError",
    "ConfigError",
    "DistortionWarning",
    "EdgeWarning",
    "GaiaQueryError",
    "GaiaRowLimitError",
    "GaiaUnavailableError",
    "GalprepError",
    "GalprepWarning",
    "HDUError",
    "HDUFallbackWarning",
    "ImageFileError",
    "ImageNotFoundError",
    "ImageShapeError",
    "LittleSkyWarning",
    "LyricError",
    "MissingEpochError",
    "MissingExptimeError",
    "MissingGainError",
    "MissingKeywordError",
    "MissingWCSError",
    "MissingZeropointError",
    "NoGaiaWarning",
    "NoGoodPixelsError",
    "NoMatchWarning",
    "NoSourcesWarning",
    "NoStarsError",
    "NoTargetsWarning",
    "NoWCSWarning",
    "NotConvergedWarning",
    "NotDeblendedWarning",
    "NotLazyWarning",
    "OutputError",
    "OutputExistsError",
    "OutsideFieldWarning",
    "PSFWarning",
    "ParameterError",
    "ReportError",
    "SigmaWarning",
    "TargetOutsideError",
    "TargetOutsideWarning",
    "TargetTableError",
    "TooFewPixelsError",
    "TooFewStarsError",
]


class GalprepError(Exception):
    """Base of all exceptions that galprep-dask raises on purpose."""


class GalprepWarning(UserWarning):
    """Base of all warnings that galprep-dask gives."""


class ParameterError(GalprepError, ValueError):
    """A parameter has a value that makes no sense."""


class ImageNotFoundError(GalprepError, FileNotFoundError):
    """There is no file or object at the path."""


class ImageFileError(GalprepError, OSError):
    """A file is there, but is truncated, damaged, changed since it was opened, or no image format."""


class HDUError(GalprepError, LookupError):
    """The HDU asked for does not exist or holds no image, or no HDU of the file does."""


class ImageShapeError(GalprepError, ValueError):
    """The shape of an array does not fit the image."""


class MissingKeywordError(GalprepError, ValueError):
    """A step needs a quantity that neither the call nor the header gives."""


class MissingGainError(MissingKeywordError):
    """No gain is known."""


class MissingExptimeError(MissingKeywordError):
    """No exposure time is known."""


class MissingZeropointError(MissingKeywordError):
    """No photometric zero point is known."""


class MissingEpochError(MissingKeywordError):
    """It is not known when the image was taken."""


class MissingWCSError(GalprepError, ValueError):
    """A step needs sky coordinates, and the image has no celestial WCS."""


class TargetOutsideError(GalprepError, ValueError):
    """A position lies outside the image."""


class NoGoodPixelsError(GalprepError, ValueError):
    """Every pixel is masked or not finite."""


class TooFewPixelsError(NoGoodPixelsError):
    """The good pixels do not determine what is to be fitted."""


class NoStarsError(GalprepError, ValueError):
    """No star is left of those that were detected."""


class TooFewStarsError(GalprepError, ValueError):
    """The usable stars do not determine the PSF that is asked for."""


class OutputError(GalprepError, OSError):
    """A file could not be written; nothing half-written was left behind."""


class OutputExistsError(GalprepError, FileExistsError):
    """The file to be written exists already."""


class CatalogNotFoundError(GalprepError, FileNotFoundError):
    """There is no catalogue at the path."""


class CatalogError(GalprepError, ValueError):
    """A catalogue cannot be read, or lacks what is needed of it."""


class GaiaUnavailableError(GalprepError, ConnectionError):
    """The Gaia archive did not give a catalogue, however often it was asked."""


class GaiaQueryError(GalprepError, ValueError):
    """The Gaia archive refused the query."""


class GaiaRowLimitError(GalprepError, ValueError):
    """An answer of the Gaia archive was cut at a row limit: it is not the catalogue."""


class NotLazyWarning(GalprepWarning):
    """The source cannot be read in parts; every read takes the whole of it."""


class HDUFallbackWarning(GalprepWarning):
    """The HDU asked for is an empty primary; the first one with an image is used."""


class DistortionWarning(GalprepWarning):
    """A header carries distortion terms that its CTYPE does not announce, or tables that it does not hold itself."""


class EdgeWarning(GalprepWarning):
    """A cutout crosses the edge of the image."""


class LittleSkyWarning(GalprepWarning):
    """Most of the image is masked as sources, which a sky that the model cannot follow looks like."""


class NoSourcesWarning(GalprepWarning):
    """Nothing lies above the threshold; the result is empty."""


class NoTargetsWarning(GalprepWarning):
    """None of the targets could be cut out; the table gives a reason for each."""


class NoGaiaWarning(GalprepWarning):
    """Stars are chosen without Gaia, for want of a catalogue or of a match."""


class NotDeblendedWarning(GalprepWarning):
    """Sources were left whole, because deblending them is past the budget."""


class NoMatchWarning(GalprepWarning):
    """Nothing of a catalogue lies in the image, or near a source; the result is empty."""


class SigmaWarning(GalprepWarning):
    """A sigma image is far off the noise that was measured."""


class NoWCSWarning(GalprepWarning):
    """A file is written whose header has no celestial WCS."""


class TargetOutsideWarning(GalprepWarning):
    """The target named in a file lies outside its image."""


class PSFWarning(GalprepWarning):
    """A PSF is not as a fit needs it: its sides, its sum, or its centre."""


class LyricError(GalprepError, ValueError):
    """A GalfitS configuration file cannot be read."""


class ConfigError(GalprepError, ValueError):
    """The configuration of a run has a key or a value that makes no sense."""


class ReportError(GalprepError, ValueError):
    """A folder is not that of a run, so there is nothing to report."""


class TargetTableError(GalprepError, ValueError):
    """The table of targets cannot be read, or has no positions."""


class NotConvergedWarning(GalprepWarning):
    """A fit ran out of steps before it settled."""


class OutsideFieldWarning(GalprepWarning):
    """A position lies outside the region that the stars of a PSF cover."""


class ClusterError(GalprepError, RuntimeError):
    """A cluster was lost, or could not do what it was asked to."""
