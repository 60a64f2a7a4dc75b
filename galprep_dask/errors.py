"""Every exception and warning of the package.

Each exception also inherits the built-in that fits, so that ``except ValueError`` or ``except OSError``
around a call works as anyone would expect.
"""

__all__ = [
    "DistortionWarning",
    "EdgeWarning",
    "GalprepError",
    "GalprepWarning",
    "HDUError",
    "HDUFallbackWarning",
    "ImageFileError",
    "ImageNotFoundError",
    "ImageShapeError",
    "MissingExptimeError",
    "MissingGainError",
    "MissingKeywordError",
    "MissingWCSError",
    "MissingZeropointError",
    "NoGoodPixelsError",
    "NoSourcesWarning",
    "NotConvergedWarning",
    "NotDeblendedWarning",
    "NotLazyWarning",
    "OutputError",
    "OutputExistsError",
    "OutsideFieldWarning",
    "ParameterError",
    "TargetOutsideError",
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


class MissingWCSError(GalprepError, ValueError):
    """A step needs sky coordinates, and the image has no celestial WCS."""


class TargetOutsideError(GalprepError, ValueError):
    """A position lies outside the image."""


class NoGoodPixelsError(GalprepError, ValueError):
    """Every pixel is masked or not finite."""


class TooFewPixelsError(NoGoodPixelsError):
    """The good pixels do not determine what is to be fitted."""


class TooFewStarsError(GalprepError, ValueError):
    """The usable stars do not determine the PSF that is asked for."""


class OutputError(GalprepError, OSError):
    """A file could not be written; nothing half-written was left behind."""


class OutputExistsError(GalprepError, FileExistsError):
    """The file to be written exists already."""


class NotLazyWarning(GalprepWarning):
    """The source cannot be read in parts; every read takes the whole of it."""


class HDUFallbackWarning(GalprepWarning):
    """The HDU asked for is an empty primary; the first one with an image is used."""


class DistortionWarning(GalprepWarning):
    """A header carries distortion terms that its CTYPE does not announce."""


class EdgeWarning(GalprepWarning):
    """A cutout crosses the edge of the image."""


class NoSourcesWarning(GalprepWarning):
    """Nothing lies above the threshold; the result is empty."""


class NotDeblendedWarning(GalprepWarning):
    """Sources were left whole, because deblending them is past the budget."""


class NotConvergedWarning(GalprepWarning):
    """A fit ran out of steps before it settled."""


class OutsideFieldWarning(GalprepWarning):
    """A position lies outside the region that the stars of a PSF cover."""
