"""Masks from data-quality flags, and the union of masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

import numpy as np
from astropy.nddata.bitmask import bitfield_to_boolean_mask, interpret_bit_flags

from galprep_dask.arrays import ImageLike, as_image, as_mask, check_same_shape, like
from galprep_dask.errors import ParameterError

__all__ = ["combine_masks", "flag_mask"]

#: A sum of flags, a list of flags, or flags and their names in a string ("4,8", "HOT+DEAD", "~SKY").
Flags = int | str | Sequence[int] | Sequence[str]


def combine_masks(*masks: ImageLike | None) -> ImageLike:
    """
    Mask what any of the masks does.

    Parameters
    ----------
    *masks : (ny, nx) arrays, NumPy, dask or xarray
        True or non-zero = masked: sources, bad pixels, flags (:func:`flag_mask`). None counts for nothing.

    Returns
    -------
    (ny, nx) bool array
        Of the kind and the chunks of the first that is not None.

    Raises
    ------
    ParameterError
        There is no mask.
    ImageShapeError
        Shapes differ.

    Examples
    --------
    >>> sources, bad = np.array([[True, False, False]]), np.array([[0, 0, 1]])
    >>> combine_masks(sources, None, bad)
    array([[ True, False,  True]])
    """
    given = [(f"mask {n} of {len(masks)}", mask) for n, mask in enumerate(masks, 1) if mask is not None]
    if not given:
        raise ParameterError("combine_masks() was given no mask. Pass at least one that is not None.")
    name, template = given[0]
    first = as_image(template, name)
    for name, mask in given[1:]:
        check_same_shape(mask, first.shape, name, owner=given[0][0])
    return like(reduce(np.logical_or, [as_mask(mask, first, name) for name, mask in given]), template)


def flag_mask(
    flags: ImageLike,
    bits: Flags | None = None,
    *,
    ignore_flags: Flags = 0,
    flag_names: Mapping[str, int] | None = None,
) -> ImageLike:
    """
    Mask the pixels of a data-quality image in which certain bits are set.

    Parameters
    ----------
    flags : (ny, nx) integer array, NumPy, dask or xarray
        Each bit says something about the pixel. Not modified.
    bits : int, str or list, optional
        The flags that mask a pixel, by default every one: their sum, a list of them, or a string as
        ``astropy.nddata.bitmask.interpret_bit_flags`` reads it: ``"4,8"``, ``"HOT+DEAD"``, or ``"~SKY"`` for all
        but one.
    ignore_flags : int, str or list
        Flags that do not, written in the same way.
    flag_names : mapping, optional
        Value of each name, a dict or astropy's ``BitFlagNameMap``.

    Returns
    -------
    (ny, nx) bool array, of the kind of ``flags``

    Raises
    ------
    ParameterError
        ``flags`` does not hold integers; a flag is not a power of two, or a name is not in ``flag_names``.
    ImageShapeError
        ``flags`` is no image.

    Examples
    --------
    >>> quality = np.array([[0, 1, 2, 4, 6]], np.uint8)
    >>> flag_mask(quality)
    array([[False,  True,  True,  True,  True]])
    >>> flag_mask(quality, "HOT,DEAD", flag_names={"SKY": 1, "HOT": 2, "DEAD": 4})
    array([[False, False,  True,  True,  True]])
    >>> flag_mask(quality, ignore_flags=[1, 4])
    array([[False, False,  True, False,  True]])
    """
    image = as_image(flags, "flags")
    if image.dtype.kind not in "iu":
        raise ParameterError(
            f"flags has dtype {image.dtype}; expected integers. Cast it if it holds whole numbers; a mask goes to "
            "combine_masks as it is."
        )
    counted = (~0 if bits is None else _sum_of(bits, flag_names, "bits")) & ~_sum_of(
        ignore_flags, flag_names, "ignore_flags"
    )
    masked = image.map_blocks(
        _flagged, counted & (2 ** (8 * image.dtype.itemsize) - 1), dtype=bool, meta=np.empty((0, 0), bool)
    )
    return like(masked, flags)


def _sum_of(flags: Flags, flag_names, name: str) -> int:
    try:
        total = interpret_bit_flags(flags, flag_name_map=flag_names)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        known = "" if flag_names is None else f" flag_names has {', '.join(map(str, flag_names))}."
        raise ParameterError(f"{name}={flags!r} names no flags: {error}.{known}") from error
    if total is None:
        raise ParameterError(f"{name}={flags!r}; expected flags, or 0 for none.")
    return total


def _flagged(block: np.ndarray, counted: int) -> np.ndarray:
    # The bits of an unsigned integer, so that the sign bit of a signed one is a flag like the others.
    unsigned = block.view(np.dtype(f"u{block.dtype.itemsize}"))
    return bitfield_to_boolean_mask(unsigned, ignore_flags=counted, flip_bits=True)
