"""Segmentation: which pixels belong to which source."""

from galprep_dask.segmentation.catalog import source_catalog
from galprep_dask.segmentation.catalog_file import write_catalog
from galprep_dask.segmentation.deblend import DeblendedSegmentation, deblend_sources
from galprep_dask.segmentation.detect import detect_sources
from galprep_dask.segmentation.files import read_segmentation, write_segmentation
from galprep_dask.segmentation.segmentation_image import Segmentation
from galprep_dask.segmentation.smooth import smooth
from galprep_dask.segmentation.threshold import detect_threshold

__all__ = [
    "DeblendedSegmentation",
    "Segmentation",
    "deblend_sources",
    "detect_sources",
    "detect_threshold",
    "read_segmentation",
    "smooth",
    "source_catalog",
    "write_catalog",
    "write_segmentation",
]
