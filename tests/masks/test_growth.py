import math

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import chunks_for

from galprep_dask.errors import ImageShapeError, ParameterError
from galprep_dask.masks import grow_mask, grow_segmentation
from galprep_dask.segmentation import Segmentation


def grown_by_definition(labels, data, bad, sky_level, sky_std, max_grow_size, addgrow):
    """The definition read literally: every sky pixel against every segment pixel, in exact integers."""
    addgrow = np.asarray(addgrow, float)
    addgrow = np.full(labels.max() + 1, addgrow) if addgrow.ndim == 0 else addgrow
    segment_pixels = [(y, x, labels[y, x]) for y, x in np.argwhere(labels > 0)]
    owner = np.zeros(labels.shape, int)
    square = np.zeros(labels.shape, int)
    for y, x in np.argwhere(labels == 0):
        square[y, x], owner[y, x] = min(
            (((y - yy) ** 2 + (x - xx) ** 2, label) for yy, xx, label in segment_pixels), default=(0, 0)
        )
    grown = labels.astype(np.int32)
    for label in np.unique(labels[labels > 0]):
        mine = owner == label
        radius = 0
        for r in range(1, max_grow_size + 1):
            ring = mine & (square > (r - 1) ** 2) & (square <= r**2) & ~bad
            n = np.count_nonzero(ring)
            # The sum in the order of rows, one pixel after the other.
            if n == 0 or not math.fsum(data[ring]) / n - sky_level > sky_std / math.sqrt(n):
                break
            radius = r
        grown[mine & (square <= (radius + addgrow[label]) ** 2)] = label
    return grown


@st.composite
def growths(draw):
    """Labels with gaps between them, data of few values so that means lie on the limit, bad pixels, parameters."""
    shape = draw(st.tuples(st.integers(1, 14), st.integers(1, 14)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = np.zeros(shape, draw(st.sampled_from(["i4", ">i8", "u1"])))
    for label in rng.permutation([1, 2, 5, 6, 200])[: draw(st.integers(0, 5))]:
        y, x = rng.integers(0, shape)
        labels[y : y + rng.integers(1, 4), x : x + rng.integers(1, 4)] = label
    if draw(st.booleans()):
        data = rng.integers(0, 4, shape) / 4.0 + draw(st.sampled_from([0.0, 0.5]))
    else:
        data = rng.normal(0.6, 0.4, shape)
    data = data.astype(draw(st.sampled_from(["f4", "f8"])))
    mask = rng.uniform(size=shape) < draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    for array in (labels, data, mask):
        array.flags.writeable = False
    keywords = {
        "sky_level": draw(st.sampled_from([-1.0, 0.0, 0.25, 0.5, 2.0])),
        "sky_std": draw(st.sampled_from([0.0, 0.25, 0.5, 2.0])),
        "max_grow_size": draw(st.sampled_from([0, 1, 2, 5, 30])),
        "addgrow": draw(st.sampled_from([0, 0.5, 1, 1.5, 3.0, 40])),
    }
    return labels, data, mask, keywords, draw(chunks_for(shape))


@settings(max_examples=150)
@given(growths())
def test_equals_the_definition_pixel_by_pixel(growth):
    labels, data, mask, keywords, chunks = growth
    expected = grown_by_definition(labels, data, mask, **keywords)
    found = grow_segmentation(labels, data, mask=mask, **keywords)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, expected)
    lazy = da.from_array(data, chunks=chunks, name=False)
    found = grow_mask(Segmentation(labels), lazy, mask=mask, **keywords)
    assert found.dtype == bool
    assert found.chunks == chunks
    np.testing.assert_array_equal(found.compute(scheduler="sync"), expected > 0)


@settings(max_examples=30)
@given(growths(), st.sampled_from([0.0, 1e30, np.nan, np.inf]))
def test_values_under_the_mask_do_not_count(growth, hidden):
    labels, data, mask, keywords, _ = growth
    expected = grow_segmentation(labels, data, mask=mask, **keywords)
    hidden_data = np.where(mask, hidden, data)
    np.testing.assert_array_equal(grow_segmentation(labels, hidden_data, mask=mask, **keywords), expected)
    if not np.isfinite(hidden):
        np.testing.assert_array_equal(grow_segmentation(labels, hidden_data, **keywords), expected)


@settings(max_examples=30)
@given(growths(), st.lists(st.sampled_from([0.0, 1.0, 2.5, 6.0]), min_size=201, max_size=201))
def test_every_label_may_grow_by_its_own_addition(growth, addgrow):
    labels, data, mask, keywords, _ = growth
    keywords["addgrow"] = np.array(addgrow)
    expected = grown_by_definition(labels, data, mask, **keywords)
    np.testing.assert_array_equal(grow_segmentation(labels, data, mask=mask, **keywords), expected)


@settings(max_examples=30)
@given(growths())
def test_transposed_image_gives_the_transposed_mask(growth):
    labels, data, mask, keywords, _ = growth
    expected = grow_segmentation(labels, data, mask=mask, **keywords).T
    np.testing.assert_array_equal(grow_segmentation(labels.T, data.T, mask=mask.T, **keywords), expected)


def test_ties_go_to_the_lower_label_on_every_side():
    for left, right in ((3, 8), (8, 3)):
        labels = np.zeros((1, 7), int)
        labels[0, 0], labels[0, 6] = left, right
        grown = grow_segmentation(labels, np.ones((1, 7)), sky_level=0, sky_std=0, max_grow_size=9)
        assert grown.tolist() == [[left] * 3 + [3] + [right] * 3]
        np.testing.assert_array_equal(
            grow_segmentation(labels.T, np.ones((7, 1)), sky_level=0, sky_std=0, max_grow_size=9), grown.T
        )


def test_the_limit_is_the_error_of_the_mean_of_the_rings_good_pixels():
    labels = np.zeros((3, 3), int)
    labels[1, 1] = 1
    one_bad = np.zeros((3, 3), bool)
    one_bad[0, 1] = True
    for mask, n, factor in ((None, 4, 1.0), (one_bad, 3, 0.9999)):  # 1 / sqrt(4) is exact: not above it
        for value, grows in ((factor / np.sqrt(n), False), (1.0001 / np.sqrt(n), True)):
            data = np.full((3, 3), 10 + value)
            grown = grow_mask(labels, data, sky_level=10.0, sky_std=1.0, max_grow_size=1, mask=mask)
            assert grown.sum() == (5 if grows else 1)


def disc(profile, shape=(81, 81)):
    y, x = np.indices(shape) - 40
    radius = np.hypot(y, x)
    labels = (radius == 0).astype(int)
    return labels, profile(radius), radius


def test_grows_to_the_radius_where_light_meets_the_noise():
    labels, light, radius = disc(lambda r: np.exp(-r / 5.0))
    noise = 0.05
    grown = grow_mask(labels, light, sky_level=0.0, sky_std=noise, max_grow_size=40)
    size = radius[grown].max()
    # The last ring is brighter than sky_std over the root of its about 2 pi r pixels, the next is not.
    assert math.exp(-(size - 1) / 5) > noise / math.sqrt(2 * math.pi * size)
    assert math.exp(-(size + 1) / 5) < noise / math.sqrt(2 * math.pi * (size + 1))
    np.testing.assert_array_equal(grown, radius <= math.ceil(size))


def test_every_parameter_counts():
    labels, light, radius = disc(lambda r: np.exp(-r / 5.0))
    base = {"sky_level": 0.0, "sky_std": 0.05, "max_grow_size": 40}
    size = radius[grow_mask(labels, light, **base)].max()

    def grown_size(**changed):
        return radius[grow_mask(labels, light, **{**base, **changed})].max()

    assert grown_size(sky_level=0.1) < size
    assert grown_size(sky_std=0.5) < size
    assert grown_size(max_grow_size=7) == 7
    assert grown_size(max_grow_size=0) == 0
    assert grown_size(max_grow_size=0, addgrow=4) == 4
    assert grown_size(addgrow=5) == pytest.approx(math.ceil(size) + 5, abs=0.5)
    ring = (radius > 5) & (radius <= 6)
    assert grown_size(mask=ring) == 5  # no good pixel, no further
    assert grown_size(mask=ring & (np.indices(labels.shape)[0] > 40)) == size


def test_units_and_level_scale_through():
    labels, light, _ = disc(lambda r: np.round(256 * np.exp(-r / 5.0)))
    expected = grow_mask(labels, light, sky_level=1.0, sky_std=4.0, max_grow_size=40)
    for unit in (2.0**-40, 2.0**30):
        found = grow_mask(labels, light * unit, sky_level=unit, sky_std=4.0 * unit, max_grow_size=40)
        np.testing.assert_array_equal(found, expected)
    found = grow_mask(labels, light + 1024, sky_level=1025.0, sky_std=4.0, max_grow_size=40)
    np.testing.assert_array_equal(found, expected)


def test_a_label_of_two_billion_costs_no_more_than_a_label_of_one():
    labels, light, _ = disc(lambda r: np.exp(-r / 5.0))
    keywords = {"sky_level": 0.0, "sky_std": 0.05, "max_grow_size": 40}
    huge = grow_segmentation(labels * 2_000_000_000, light, **keywords)
    np.testing.assert_array_equal(huge, grow_segmentation(labels, light, **keywords) * 2_000_000_000)


@pytest.mark.parametrize("dtype", [">f4", ">f8", "i2", "u1", "?"])
def test_every_dtype_of_a_fits_file(dtype):
    labels, light, _ = disc(lambda r: r < 12)
    keywords = {"sky_level": 0.0, "sky_std": 0.1, "max_grow_size": 40}
    found = grow_mask(labels, light.astype(dtype), **keywords)
    np.testing.assert_array_equal(found, grow_mask(labels, light.astype("f8"), **keywords))
    assert 400 < found.sum() < 500


def test_kinds_and_laziness(no_compute):
    labels, light, _ = disc(lambda r: np.exp(-r / 5.0))
    keywords = {"sky_level": 0.0, "sky_std": 0.05, "max_grow_size": 40}
    expected = grow_mask(labels, light, **keywords)
    assert type(expected) is np.ndarray
    lazy = da.from_array(light, chunks=20, name=False)
    named = xr.DataArray(lazy, dims=("y", "x"), coords={"y": np.arange(81.0)})
    with no_compute():
        found = grow_mask(labels, lazy, **keywords)
        named_found = grow_mask(Segmentation(named.data.astype(int)), named, **keywords)
    np.testing.assert_array_equal(found, expected)
    assert isinstance(named_found.data, da.Array)
    np.testing.assert_array_equal(named_found["y"], named["y"])


def test_errors():
    labels, light, _ = disc(lambda r: np.exp(-r / 5.0))
    base = {"sky_level": 0.0, "sky_std": 0.05, "max_grow_size": 4}
    for wrong in (
        {"sky_level": np.nan},
        {"sky_std": -1.0},
        {"sky_std": np.inf},
        {"max_grow_size": -1},
        {"max_grow_size": 2.5},
        {"addgrow": -1},
        {"addgrow": np.nan},
        {"addgrow": np.array([0.0])},
    ):
        with pytest.raises(ParameterError, match=next(iter(wrong))):
            grow_segmentation(labels, light, **{**base, **wrong})
    with pytest.raises(ImageShapeError, match="segmentation has shape"):
        grow_mask(labels[1:], light, **base)
    with pytest.raises(ImageShapeError, match="mask has shape"):
        grow_mask(labels, light, mask=labels[1:] > 0, **base)
