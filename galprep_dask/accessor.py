"""``ds.galprep``: an image's coordinates, and the operations of all rooms as methods."""

from __future__ import annotations

import xarray as xr

__all__ = ["GalprepAccessor"]


@xr.register_dataset_accessor("galprep")
class GalprepAccessor:
    def __init__(self, image):
        self._image = image

    @property
    def shape(self):
        return self._image["data"].shape[-2:]
