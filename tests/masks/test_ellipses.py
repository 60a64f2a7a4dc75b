import pickle

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import chunks_for

from galprep_dask.errors import ImageShapeError, ParameterError
from galprep_dask.masks import ellipse_mask
from galprep_dask.masks.ellipses import draw_ellipses, ellipses_from

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


@settings(max_examples=20)
@given(chunks_for(SHAPE))
def test_same_for_every_chunking(chunks):
    light, _ = gaussian(60, 70, 9, 4, 0.5)
    light += gaussian(20, 30, 5, 3, 1.5)[0] + gaussian(100, 20, 7, 2, -0.7)[0]
    segment = np.where(light > 1e-3, 1 + (np.indices(SHAPE)[1] > 50) + (np.indices(SHAPE)[0] > 60), 0).astype(">i8")
    light[100:110, 120:130] = 0.0
    segment[100:110, 120:130] = 90  # without a positive pixel
    lazy = da.from_array(light, chunks=chunks, name=False)
    found = ellipse_mask(segment, lazy)
    assert found.chunks == chunks
    np.testing.assert_array_equal(found, ellipse_mask(segment, light))


def test_of_overlapping_ellipses_the_lower_label_has_the_pixel_in_every_block():
    rng = np.random.default_rng(0)
    n = 300
    major = rng.uniform(0, 9, n)
    ellipses = ellipses_from(
        rng.permutation(n) + 1, rng.uniform(-5, 146, n), rng.uniform(-5, 126, n), major,
        major * rng.uniform(0, 1, n), rng.uniform(-2, 2, n),
    )  # fmt: skip
    expected = np.zeros(SHAPE, np.int32)
    y, x = np.indices(SHAPE)
    for label, x0, y0, major, minor, angle in sorted(zip(*ellipses, strict=True), reverse=True):
        along = (x - x0) * np.cos(angle) + (y - y0) * np.sin(angle)
        across = (y - y0) * np.cos(angle) - (x - x0) * np.sin(angle)
        expected[(along / max(major, 0.5)) ** 2 + (across / max(minor, 0.5)) ** 2 <= 1] = label
    labels = da.zeros(SHAPE, chunks=((50, 1, 70), (20, 60, 61)), dtype="i4")
    with_order = sorted_by_label(ellipses)
    np.testing.assert_array_equal(draw_ellipses(with_order, labels), expected)
    np.testing.assert_array_equal(draw_ellipses(with_order, labels, dtype=bool), expected > 0)


def sorted_by_label(ellipses):
    order = np.argsort(ellipses.label)
    return type(ellipses)(*(column[order] for column in ellipses))


def test_a_task_is_given_the_ellipses_that_reach_its_block_and_no_others(no_compute):
    places = np.arange(32.0)
    y, x = (centre.ravel() * 50 + 25 for centre in np.meshgrid(places, places, indexing="ij"))
    few = np.full(len(x), 3.0)
    with no_compute():
        labels = da.zeros((1600, 1600), chunks=50, dtype="i4")
        drawn = draw_ellipses(ellipses_from(np.arange(len(x)) + 1, x, y, few, few, few), labels)
    assert len(pickle.dumps(drawn)) < 1500 * drawn.npartitions
    assert len(dict(drawn.__dask_graph__())) <= 3 * drawn.npartitions
    assert drawn.max().compute() == 1024


def test_kinds_dtypes_and_an_empty_segmentation():
    light, _ = gaussian(60, 70, 9, 4, 0.5)
    light = np.round(100 * light)
    segment = (light > 1).astype(int)
    expected = ellipse_mask(segment, light)
    for dtype in (">f4", ">i2", "u1"):
        pixels = light.astype(dtype)
        pixels.flags.writeable = False
        np.testing.assert_array_equal(ellipse_mask(segment, pixels), expected)
    named = xr.DataArray(da.from_array(light, chunks=50), dims=("y", "x"))
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
