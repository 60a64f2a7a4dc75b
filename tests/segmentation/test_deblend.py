import warnings

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from photutils.segmentation import SegmentationImage
from photutils.segmentation import deblend_sources as photutils_deblend
from strategies import scenes

from galprep_dask.errors import ImageShapeError, ParameterError
from galprep_dask.segmentation import Segmentation, deblend_sources, detect_sources, smooth


def reference(image, labels, n_pixels=5, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return photutils_deblend(image, SegmentationImage(labels), n_pixels, **kwargs).data


def blends():
    """Pairs of Gaussians of many ratios and distances, smoothed, and their segments."""
    y, x = np.indices((120, 150))
    image = np.random.default_rng(0).normal(0, 0.2, (120, 150))
    for n, (y0, x0) in enumerate([(20, 20), (20, 70), (60, 40), (60, 110), (100, 30), (100, 100)]):
        for step, peak in ((0, 50), (4 + n, 50 / (n + 1))):
            image += peak * np.exp(-((y - y0) ** 2 + (x - x0 - step) ** 2) / (2 * 2.0**2))
    image = smooth(image, 2.0)
    labels = np.asarray(detect_sources(image, 1.0))
    image.flags.writeable = labels.flags.writeable = False
    return image, labels


IMAGE, LABELS = blends()


@settings(max_examples=25)
@given(
    st.sampled_from([4, 8]), st.integers(1, 12), st.integers(1, 40), st.sampled_from([0, 1e-3, 0.05, 0.3, 1]),
    st.sampled_from(["exponential", "linear", "sinh"]),
)  # fmt: skip
def test_children_are_those_of_photutils(connectivity, n_pixels, n_levels, contrast, mode):
    keywords = {"connectivity": connectivity, "n_levels": n_levels, "contrast": contrast, "mode": mode}
    found = deblend_sources(da.from_array(IMAGE, chunks=(33, 41), name=False), LABELS, n_pixels, **keywords)
    np.testing.assert_array_equal(found, reference(IMAGE, LABELS, n_pixels, **keywords))


def test_splits_what_it_should():
    assert LABELS.max() == 6
    found = deblend_sources(IMAGE, Segmentation(LABELS), contrast=0.001)
    assert isinstance(found, Segmentation)
    assert found.n_labels > 6
    np.testing.assert_array_equal(np.asarray(found) > 0, LABELS > 0)
    assert deblend_sources(IMAGE, LABELS, contrast=1).n_labels == 6


@settings(max_examples=25)
@given(scenes(min_side=12))
def test_parity_on_random_scenes_with_pixels_that_are_not_positive(scene):
    image, mask, chunks = scene
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        labels = np.asarray(detect_sources(image, -0.5, 3))
    if labels.max() == 0:
        return
    found = deblend_sources(da.from_array(image, chunks=chunks, name=False), labels, 3)
    np.testing.assert_array_equal(found, reference(image, labels, 3))


def test_bad_pixels_leave_their_segments_and_what_they_hold_does_not_count():
    mask = np.zeros(IMAGE.shape, bool)
    mask[18:22, 20:22] = True
    mask[60, 35:60] = True
    expected = reference(np.where(mask, 0.0, IMAGE), np.where(mask, 0, LABELS))
    for hidden in (0.0, 1e30, np.nan, np.inf):
        pixels = np.where(mask, hidden, IMAGE)
        np.testing.assert_array_equal(deblend_sources(pixels, LABELS, mask=mask), expected)
    np.testing.assert_array_equal(deblend_sources(np.where(mask, np.nan, IMAGE), LABELS), expected)
    assert not np.asarray(deblend_sources(IMAGE, LABELS, mask=mask))[mask].any()
    assert deblend_sources(IMAGE, LABELS, mask=np.ones(IMAGE.shape, bool)).n_labels == 0


def test_labels_that_are_not_consecutive():
    sparse = np.where(LABELS > 0, LABELS * 7 + 2, 0).astype(">i8")
    np.testing.assert_array_equal(deblend_sources(IMAGE, sparse), reference(IMAGE, sparse.astype(int)))
    huge = np.where(LABELS > 0, LABELS + 2_000_000_000, 0)
    np.testing.assert_array_equal(deblend_sources(IMAGE, huge), deblend_sources(IMAGE, LABELS))


def test_nothing_to_deblend():
    assert deblend_sources(IMAGE, np.zeros(IMAGE.shape, int)).n_labels == 0


def test_errors():
    for wrong in (
        {"n_pixels": 0},
        {"n_levels": 0},
        {"n_levels": 2.5},
        {"contrast": -0.1},
        {"contrast": 1.1},
        {"contrast": np.nan},
        {"mode": "cubic"},
        {"connectivity": 5},
    ):
        with pytest.raises(ParameterError, match=next(iter(wrong))):
            deblend_sources(IMAGE, LABELS, **wrong)
    with pytest.raises(ImageShapeError, match="segmentation has shape"):
        deblend_sources(IMAGE, LABELS[1:])
    with pytest.raises(ImageShapeError, match="mask has shape"):
        deblend_sources(IMAGE, LABELS, mask=np.zeros((3, 3)))
    with pytest.raises(ParameterError, match="float64"):
        deblend_sources(IMAGE, LABELS * 1.0)
