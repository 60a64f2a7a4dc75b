"""Masks: grown segments, ellipses, flagged pixels, and everything that is not the target."""

from galprep_dask.masks.combine import combine_masks, flag_mask
from galprep_dask.masks.ellipses import ellipse_mask
from galprep_dask.masks.growth import grow_by, grow_mask, grow_segmentation, growth_rings
from galprep_dask.masks.target import target_mask

__all__ = [
    "combine_masks",
    "ellipse_mask",
    "flag_mask",
    "grow_by",
    "grow_mask",
    "grow_segmentation",
    "growth_rings",
    "target_mask",
]
