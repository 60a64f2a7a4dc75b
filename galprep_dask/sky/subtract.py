"""The image minus its sky."""

from __future__ import annotations

from functools import partial

import dask.array as da
import numpy as np

from galprep_dask.arrays import ImageLike, as_image, like
from galprep_dask.errors import ImageShapeError, ParameterError
from galprep_dask.image import float_dtype
from galprep_dask.sky._kernels.difference import difference

__all__ = ["subtract_sky"]


def subtract_sky(data: ImageLike, sky) -> ImageLike:
    """
    Subtract a sky model, lazily.

    Parameters
    ----------
    data : (ny, nx) array, NumPy, dask or xarray
        Image in the unit of the model, or a cube of such images. Not modified. It has the shape of the image that the
        sky was fitted to: subtract first, and cut then.
    sky : sky model
        Any model of this room, or what has ``evaluate(shape, chunks)``; ``subtract_from(image, dtype)`` is taken where
        there is one, for images.

    Returns
    -------
    array of that shape, of the kind given
        float32 for float32 images, and float64 for images of float64 and of wide integers. The difference is taken
        in float64, and rounded once.

    Raises
    ------
    ImageShapeError
        The image has another shape than the one that the sky was fitted to.
    ParameterError
        ``sky`` is no sky model.

    Examples
    --------
    >>> from galprep_dask.sky import fit_median_sky
    >>> image = np.full((20, 30), 7.0, np.float32)
    >>> subtracted = subtract_sky(image, fit_median_sky(image))
    >>> subtracted.dtype, float(abs(subtracted).max())
    (dtype('float32'), 0.0)
    """
    image = as_image(data, ndim=np.ndim(data))
    if not hasattr(sky, "evaluate"):
        raise ParameterError(f"sky is a {type(sky).__name__}; expected a sky model, of fit_median_sky for example.")
    fitted = tuple(getattr(sky, "shape", image.shape[-2:]))
    if fitted != image.shape[-2:]:
        raise ImageShapeError(
            f"the sky was fitted to an image of {fitted}, and this one has shape {image.shape}: it would get the sky "
            "of the first corner. Subtract the sky first, and cut then."
        )
    dtype = float_dtype(image.dtype)
    if image.ndim == 2 and hasattr(sky, "subtract_from"):
        return like(sky.subtract_from(image, dtype), data)
    model = sky.evaluate(image.shape[-2:], image.chunks[-2:])
    subtracted = da.map_blocks(
        partial(difference, dtype=dtype), image, model if image.ndim == 2 else model[None], dtype=dtype,
        meta=image._meta.astype(dtype),
    )  # fmt: skip
    return like(subtracted, data)
