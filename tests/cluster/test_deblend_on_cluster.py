"""Deblending on worker processes: the labels of photutils, from segments that no worker holds whole at first."""

import inspect
import warnings

import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster
from photutils.segmentation import SegmentationImage
from photutils.segmentation import deblend_sources as photutils_deblend
from scipy import ndimage

from galprep_dask.errors import NotDeblendedWarning, ParameterError
from galprep_dask.segmentation import deblend_sources, detect_sources, read_segmentation, write_segmentation


@pytest.fixture(scope="module")
def client():
    with (
        LocalCluster(n_workers=2, threads_per_worker=2, processes=True, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def crowd():
    """A crowded field and one large source over most chunks."""
    rng = np.random.default_rng(5)
    image = ndimage.gaussian_filter(rng.normal(0, 10, (260, 310)), 2.0)
    y, x = np.indices(image.shape)
    image += 5 * np.exp(-(((y - 130) / 60) ** 2 + ((x - 150) / 90) ** 2))
    return image.astype("f4")


def reference(image, parents):
    quiet = {"progress_bar": False} if "n_threads" not in inspect.signature(photutils_deblend).parameters else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return photutils_deblend(image, SegmentationImage(parents), 5, **quiet)


@pytest.mark.parametrize("chunks", [(64, 64), (260, 7), (300, 310)])
def test_labels_are_those_of_photutils(client, crowd, chunks):
    image = da.from_array(crowd, chunks=chunks, name=False)
    parents = detect_sources(image, 1.5)
    expected = reference(crowd, np.asarray(parents))
    found = deblend_sources(image, parents, max_peaks=10**4)
    assert found.n_labels > parents.n_labels > 50
    np.testing.assert_array_equal(found, expected.data)
    assert list(found.parent_to_deblended_labels) == sorted(map(int, expected.parent_to_deblended_labels))


def test_labels_from_a_file_and_back(client, crowd, tmp_path):
    image = da.from_array(crowd, chunks=50, name=False)
    parents = read_segmentation(write_segmentation(detect_sources(image, 1.5), tmp_path / "parents.fits"), chunks=50)
    found = deblend_sources(image, parents, max_peaks=10**4)
    for name in ("children.fits", "children.zarr"):
        again = read_segmentation(write_segmentation(found, tmp_path / name), chunks=77)
        np.testing.assert_array_equal(again, reference(crowd, np.asarray(parents)).data)


def test_warnings_and_errors_come_back(client, crowd):
    image = da.from_array(crowd, chunks=70, name=False)
    parents = detect_sources(image, 1.5)
    with pytest.warns(NotDeblendedWarning, match="max_pixels=100 "):
        found = deblend_sources(image, parents, max_pixels=100, max_peaks=10**4)
    assert set(found.left_whole.values()) == {"pixels"}
    corners = np.kron(np.eye(3), np.ones((3, 3)))
    with pytest.raises(ParameterError, match="label 7 .*connectivity=4"):
        deblend_sources(
            da.from_array(corners * np.repeat([3.0, 2.0, 3.0], 3), chunks=4), corners.astype(int) * 7, 2,
            connectivity=4,
        )  # fmt: skip
