"""photutils' calling conventions around detect_sources and deblend_sources: its own tests can run on them.

Types, warnings and words of errors are photutils'; labels are computed on dask arrays of given chunks.
"""

import re
import warnings
from contextlib import contextmanager

import dask.array as da
import numpy as np
from astropy.units import Quantity
from photutils.segmentation import SegmentationImage
from photutils.utils.exceptions import NoDetectionsWarning

from galprep_dask import segmentation as ours
from galprep_dask.errors import ImageShapeError, NoSourcesWarning, ParameterError

__all__ = ["CHUNKINGS", "Adapter"]


def _ragged(length):
    """Cut an axis into pieces of 1, 4, 12, 32 ... pixels, so that none is aligned with anything."""
    sizes, size = [], 1
    while sum(sizes) + size < length:
        sizes.append(size)
        size = 5 * size // 2 + 2
    return (*sizes, length - sum(sizes))


#: Chunks for a shape.
CHUNKINGS = {
    "one chunk": lambda shape: shape,
    "ragged": lambda shape: tuple(map(_ragged, shape)),
    "columns of one pixel": lambda shape: (shape[0], 1),
}

#: How an error of ours begins, and what photutils says then. {0} is the value.
_WORDS = {
    r"n_pixels=(.*?);": "n_pixels must be a positive integer, got {0}",
    r"n_levels=(.*?);": "n_levels must be a positive integer, got {0}; n_levels must be >= 1",
    r"contrast=(.*?);": "contrast must be >= 0 and <= 1",
    r"contrast_method=(.*?);": "contrast_method must be None, 'basin', or 'saddle'",
    r"mode=(.*?);": "mode must be 'exponential', 'linear', or 'sinh'",
    r"connectivity=(.*?);": "Invalid connectivity={0}. Options are 4 or 8",
    r"labels (.*) are not in": "label {0} is invalid",
    r"label (\d+) of the segmentation is in pieces": "Deblending failed for source {0}",
    r"mask has shape": "mask must have the same shape as the input image",
    r"segmentation has shape": "segmentation_image must have the same shape as data",
    r"data has .*; expected one unit": "data and threshold must all have the same units",
}


@contextmanager
def _in_words_of_photutils():
    try:
        yield
    except (ParameterError, ImageShapeError) as error:
        for beginning, words in _WORDS.items():
            found = re.match(beginning, str(error))
            if found:
                raise ValueError(words.format(*found.groups())) from error
        raise


class Adapter:
    """detect_sources and deblend_sources of photutils, by ours, on chunks that ``chunks_for`` gives for a shape."""

    def __init__(self, chunks_for):
        self._chunks_for = chunks_for

    def _lazy(self, array):
        if isinstance(array, Quantity):
            return array  # dask arrays have no unit
        return da.from_array(array, chunks=self._chunks_for(array.shape), name=False)

    def detect_sources(self, data, threshold, n_pixels, *, connectivity=8, mask=None):
        if mask is not None and mask.shape == data.shape and mask.all():
            raise ValueError("mask must not be True for every pixel")
        with _in_words_of_photutils(), warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", NoSourcesWarning)
            found = ours.detect_sources(self._lazy(data), threshold, n_pixels, connectivity=connectivity, mask=mask)
        if [warning.category for warning in said] == [NoSourcesWarning]:
            assert found.n_labels == 0
            warnings.warn("No sources were found.", NoDetectionsWarning, stacklevel=2)
            return None
        assert not said
        return SegmentationImage(np.asarray(found.data))

    def deblend_sources(self, data, segmentation_image, n_pixels, *, n_threads=1, n_processes=1, progress_bar=True,
                        **kwargs):  # fmt: skip
        if not isinstance(segmentation_image, SegmentationImage):
            raise TypeError("segmentation_image must be a SegmentationImage")
        parents = segmentation_image.data
        with _in_words_of_photutils():
            found = ours.deblend_sources(self._lazy(data), self._lazy(parents), n_pixels, **kwargs)
            result = SegmentationImage(found.data.compute().astype(parents.dtype))
        # Where photutils keeps what its public parent_to_deblended_labels gives.
        result._deblend_label_map = {
            parent: children.astype(parents.dtype) for parent, children in found.parent_to_deblended_labels.items()
        }
        return result
