import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import chunks_for

from galprep_dask.errors import ImageShapeError, ParameterError
from galprep_dask.masks import ellipse_mask

SHAPE = (121, 141)


def gaussian(y0, x0, major, minor, angle, shape=SHAPE):
    """A Gaussian with its major axis at ``angle`` from x towards y, and the ellipse radius of every pixel."""
    y, x = np.indices(shape)
    along = (x - x0) * np.cos(angle) + (y - y0) * np.sin(angle)
    across = (y - y0) * np.cos(angle) - (x - x0) * np.sin(angle)
    radius = np.hypot(along / major, across / minor)
    return np.exp(-0.5 * radius**2), radius


@settings(max_examples=30)
@given(st.floats(4, 12), st.floats(0.3, 0.9), st.floats(-1.5, 1.5), st.floats(1, 4), st.floats(0, 5))
def test_is_the_ellipse_of_a_gaussian(major, ratio, angle, magnification, addgrow):
    minor = max(major * ratio, 3.0)
    light, _ = gaussian(60.3, 70.6, major, minor, angle)
    segment = (light > 1e-4).astype(int)
    found = ellipse_mask(segment, light, magnification=magnification, addgrow=addgrow)
    a, b = magnification * major + addgrow, magnification * minor + addgrow
    y, x = np.indices(SHAPE)
    if a < 50:
        # The perimeter is what pixels leave uncertain; the segment cuts one part in a thousand of the moments.
        assert found.sum() == pytest.approx(np.pi * a * b, rel=0.01, abs=4 * np.sqrt(a))
    inside = gaussian(60.3, 70.6, 0.97 * a - 0.05, 0.97 * b - 0.05, angle)[1] <= 1
    outside = gaussian(60.3, 70.6, 1.03 * a + 0.05, 1.03 * b + 0.05, angle)[1] > 1
    assert found[inside].all()
    assert not found[outside].any()


def test_units_do_not_matter_and_neither_does_transposing():
    light, _ = gaussian(50, 70, 9, 4, 0.5)
    segment = (light > 1e-3).astype(int)
    expected = ellipse_mask(segment, light)
    np.testing.assert_array_equal(ellipse_mask(segment, light * 2.0**-50), expected)
    np.testing.assert_array_equal(ellipse_mask(segment.T, light.T), expected.T)


def test_at_the_edge_it_is_cut_off_and_nothing_wraps():
    light, _ = gaussian(2, 3, 6, 3, 0.0)
    segment = (light > 1e-3).astype(int)
    found = ellipse_mask(segment, light, magnification=4)
    assert found[0, 0]
    assert not found[60:].any()
    assert not found[:, 60:].any()
    far, _ = gaussian(118, 139, 6, 3, 1.0)
    found = ellipse_mask((far > 1e-3).astype(int), far, magnification=4)
    assert found[120, 140]
    assert not found[:60].any()


def test_the_lower_label_is_drawn_over_the_higher_and_additions_go_by_label():
    from galprep_dask.masks.ellipses import ellipse_labels

    light = gaussian(60, 50, 4, 4, 0)[0] + gaussian(60, 70, 4, 4, 0)[0]
    labels = np.zeros(SHAPE, np.int32)
    labels[50:71, 40:60], labels[50:71, 60:81] = 9, 4
    drawn = ellipse_labels(labels, light, np.zeros(SHAPE, bool), 3.0)
    assert drawn[60, 60] == 4
    assert set(np.unique(drawn)) == {0, 4, 9}
    more = ellipse_mask(labels, light, addgrow=np.array([0, 0, 0, 0, 0, 0, 0, 0, 0, 20.0]))
    assert more[60, 20]
    assert not more[60, 100]


def test_values_under_the_mask_do_not_count():
    light, _ = gaussian(60, 70, 9, 4, 0.5)
    segment = (light > 1e-3).astype(int)
    mask = np.zeros(SHAPE, bool)
    mask[55:58, 60:75] = True
    expected = ellipse_mask(segment, light, mask=mask)
    assert (expected != ellipse_mask(segment, light)).any()
    for hidden in (0.0, 1e30, np.nan, -np.inf):
        np.testing.assert_array_equal(ellipse_mask(segment, np.where(mask, hidden, light), mask=mask), expected)
    np.testing.assert_array_equal(ellipse_mask(segment, np.where(mask, np.nan, light)), expected)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan])
def test_a_source_without_moments_keeps_its_segment(value):
    segment = np.zeros(SHAPE, int)
    segment[20:23, 30:37] = 2_000_000_000
    found = ellipse_mask(segment, np.full(SHAPE, value))
    np.testing.assert_array_equal(found, segment > 0)


@settings(max_examples=10)
@given(chunks_for(SHAPE))
def test_same_for_every_chunking(chunks):
    light, _ = gaussian(60, 70, 9, 4, 0.5)
    segment = (light > 1e-3).astype(">i8")
    lazy = da.from_array(light, chunks=chunks, name=False)
    np.testing.assert_array_equal(ellipse_mask(segment, lazy), ellipse_mask(segment, light))


def test_kinds_dtypes_and_an_empty_segmentation(no_compute):
    light, _ = gaussian(60, 70, 9, 4, 0.5)
    light = np.round(100 * light)
    segment = (light > 1).astype(int)
    expected = ellipse_mask(segment, light)
    for dtype in (">f4", ">i2", "u1"):
        pixels = light.astype(dtype)
        pixels.flags.writeable = False
        np.testing.assert_array_equal(ellipse_mask(segment, pixels), expected)
    named = xr.DataArray(da.from_array(light, chunks=50), dims=("y", "x"))
    with no_compute():
        found = ellipse_mask(segment, named)
    assert isinstance(found.data, da.Array)
    np.testing.assert_array_equal(found, expected)
    assert not ellipse_mask(segment * 0, light).any()


def test_errors():
    light, _ = gaussian(60, 70, 9, 4, 0.5)
    segment = (light > 1e-3).astype(int)
    for wrong in (
        {"magnification": 0},
        {"magnification": np.inf},
        {"addgrow": -1},
        {"addgrow": np.nan},
        {"addgrow": np.array([0.0])},
    ):
        with pytest.raises(ParameterError, match=next(iter(wrong))):
            ellipse_mask(segment, light, **wrong)
    with pytest.raises(ImageShapeError, match="segmentation"):
        ellipse_mask(segment[1:], light)
