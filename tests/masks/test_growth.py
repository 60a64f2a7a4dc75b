import math
import pickle
from unittest import mock

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from astropy import units as u
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import chunks_for

from galprep_dask.errors import ImageShapeError, ParameterError
from galprep_dask.masks import grow_mask, grow_segmentation, growth, growth_rings
from galprep_dask.masks._kernels import spread
from galprep_dask.segmentation import Segmentation


def grown_by_definition(labels, data, bad, sky_level, sky_std, max_grow_size, addgrow):
    """The definition read literally: every sky pixel against every segment pixel, in exact integers."""
    at = np.argwhere(labels > 0)
    grown = labels.astype(np.int32)
    if len(at) == 0:
        return grown
    y, x = np.indices(labels.shape)
    pairs = (y[..., None] - at[:, 0]) ** 2 + (x[..., None] - at[:, 1]) ** 2
    square = pairs.min(axis=-1)
    owner = np.where(pairs == square[..., None], labels[labels > 0].astype(np.int64), 2**40).min(axis=-1)
    bad = bad | ~np.isfinite(data)
    for label in np.unique(labels[labels > 0]):
        mine = (owner == label) & (labels == 0)
        radius = 0
        for r in range(1, max_grow_size + 1):
            ring = mine & (square > (r - 1) ** 2) & (square <= r**2) & ~bad
            n = np.count_nonzero(ring)
            # The sum without any rounding, rounded once.
            if n == 0 or not math.fsum(data[ring].tolist()) / n - sky_level > sky_std / math.sqrt(n):
                break
            radius = r
        reach = radius + (float(addgrow[label]) if np.ndim(addgrow) else addgrow)
        grown[mine & (square <= reach * reach)] = label
    return grown


def random_labels(rng, shape, n, dtype="i4"):
    """Boxes, lines and single pixels, a label of several pieces among them; numbers have gaps."""
    labels = np.zeros(shape, dtype)
    for label in rng.permutation([1, 2, 5, 6, 90, 200])[:n]:
        for _ in range(rng.choice([1, 1, 1, 3])):
            y, x = rng.integers(0, shape)
            labels[y : y + rng.choice([1, 1, 2, 4]), x : x + rng.choice([1, 1, 2, 4, 20])] = label
    return labels


def random_pixels(rng, shape, kind):
    if kind == "few values":  # so that means lie on the limit
        return rng.integers(0, 4, shape) / 4.0 + rng.choice([0.0, 0.5])
    if kind == "noise":
        return rng.normal(0.6, 0.4, shape)
    if kind == "bright":
        return rng.uniform(1, 2, shape)
    # Sums of these lose everything in floating point, in one order or another.
    values = rng.choice([1.0, -1.0, 1e16, -1e16, 1e30, -1e30, 1e-12, 0.25, -0.0, 5e-324], shape)
    return values * rng.choice([1.0, 1.0, 1 / 3], shape)


@st.composite
def growths(draw, max_side=14):
    """Labels with gaps between them, data that decide narrowly, bad pixels, parameters, chunks."""
    shape = draw(st.tuples(st.integers(1, max_side), st.integers(1, max_side)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = random_labels(rng, shape, draw(st.integers(0, 6)), draw(st.sampled_from(["i4", ">i8", "u1"])))
    data = random_pixels(rng, shape, draw(st.sampled_from(["few values", "noise", "bright", "adversarial"])))
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


def blocks_as_they_are():
    """Grow in the chunks given, however thin; otherwise such images are united to one block."""
    return mock.patch.object(growth, "_SIDE_PER_HALO", 0)


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


@settings(max_examples=150)
@given(growths(max_side=40), st.sampled_from([0, 1, 4]), st.sampled_from([0, np.inf]), st.integers(1, 12))
def test_equals_the_definition_whatever_the_blocks_down_to_single_pixels(
    growth_of, side_per_halo, few_offers, first_rings
):
    labels, data, mask, keywords, chunks = growth_of
    expected = grown_by_definition(labels, data, mask, **keywords)
    lazy = da.from_array(data, chunks=chunks, name=False)
    with (
        mock.patch.multiple(growth, _SIDE_PER_HALO=side_per_halo, _FIRST_RINGS=first_rings),
        mock.patch.object(spread, "_FEW_OFFERS", few_offers), dask.config.set(scheduler="sync"),
    ):  # fmt: skip
        found = grow_segmentation(labels, lazy, mask=mask, **keywords)
        assert found.chunks == chunks
        np.testing.assert_array_equal(found.compute(), expected)


@settings(max_examples=40)
@given(
    st.integers(0, 2**32 - 1), chunks_for((150, 170)), st.sampled_from(["noise", "adversarial"]),
    st.sampled_from([0, np.inf]), st.integers(1, 12),
)  # fmt: skip
def test_many_segments_over_many_blocks(seed, chunks, kind, few_offers, first_rings):
    rng = np.random.default_rng(seed)
    shape = (150, 170)
    labels = np.zeros(shape, np.int32)
    for label, (y, x) in enumerate(rng.integers(0, shape, (rng.choice([3, 40, 200]), 2))):
        labels[y : y + rng.integers(1, 6), x : x + rng.integers(1, 6)] = label + 1
    data = random_pixels(rng, shape, kind).astype(rng.choice(["f4", "f8"]))
    mask = rng.uniform(size=shape) < 0.1
    keywords = {"sky_level": 0.3, "sky_std": 0.3, "max_grow_size": int(rng.choice([3, 12])), "addgrow": 2.5}
    expected = grown_by_definition(labels, data, mask, **keywords)
    lazy = da.from_array(data, chunks=chunks, name=False)
    with (
        blocks_as_they_are(), mock.patch.object(spread, "_FEW_OFFERS", few_offers),
        mock.patch.object(growth, "_FIRST_RINGS", first_rings),
    ):  # fmt: skip
        np.testing.assert_array_equal(grow_segmentation(labels, lazy, mask=mask, **keywords), expected)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_adversarial_pixels_give_the_same_labels_in_every_chunking(dtype):
    rng = np.random.default_rng(1)
    shape = (500, 700)
    labels = np.zeros(shape, np.int32)
    for label, (y, x) in enumerate(rng.integers(0, shape, (400, 2))):
        labels[y : y + rng.integers(1, 30), x : x + rng.integers(1, 9)] = label + 1
    data = random_pixels(rng, shape, "adversarial")
    data = np.where(rng.uniform(size=shape) < 0.8, np.abs(data), data).astype(dtype)  # or nothing would grow far
    data[rng.uniform(size=shape) < 0.01] = np.nan
    keywords = {"sky_level": 0.0, "sky_std": 0.5, "max_grow_size": 40, "addgrow": 1.0}
    expected = grow_segmentation(labels, data, **keywords)
    assert 0.3 < (expected > 0).mean() < 0.95
    for chunks in (700, (500, 13), (64, 64), (31, 700), ((1, 499), (350, 1, 349))):
        lazy = da.from_array(data, chunks=chunks, name=False)
        with blocks_as_they_are():
            np.testing.assert_array_equal(grow_segmentation(labels, lazy, **keywords), expected)


def test_a_label_in_pieces_far_from_each_other_is_one_segment():
    # Each piece alone would be decided by its block: the one grows, the other does not.
    labels = np.zeros((40, 200), np.int32)
    labels[20, 20] = labels[20, 180] = 7
    labels[20, 100] = 3
    data = np.zeros(labels.shape)
    data[10:31, 10:31] = 1.0
    for sky_level, grows in ((0.4, True), (0.6, False)):  # of both first rings the mean is 0.5
        keywords = {"sky_level": sky_level, "sky_std": 1e-3, "max_grow_size": 5}
        expected = grown_by_definition(labels, data, np.zeros(labels.shape, bool), **keywords, addgrow=0)
        assert (expected[20, 179] == expected[20, 21] == 7) == grows
        lazy = da.from_array(data, chunks=(40, 40), name=False)
        with blocks_as_they_are():
            np.testing.assert_array_equal(grow_segmentation(labels, lazy, **keywords), expected)


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


def counting(block, seen, block_info=None):
    seen.append(block_info[0]["chunk-location"])
    return block


def test_one_pass_at_the_call_and_one_for_the_mask():
    labels, light, _ = disc(lambda r: np.exp(-r / 5.0))
    keywords = {"sky_level": 0.0, "sky_std": 0.05, "max_grow_size": 3}
    expected = grow_mask(labels, light, **keywords)
    assert type(expected) is np.ndarray
    pixels, segments = [], []
    lazy = da.from_array(light, chunks=20, name=False).map_blocks(counting, pixels, dtype=float, meta=np.empty((0, 0)))
    lazy_labels = da.from_array(labels, chunks=20, name=False)
    lazy_labels = lazy_labels.map_blocks(counting, segments, dtype=int, meta=np.empty((0, 0), int))
    found = grow_mask(lazy_labels, lazy, **keywords)
    assert isinstance(found, da.Array)
    assert len(pixels) == len(segments) == 25
    np.testing.assert_array_equal(found, expected)
    assert len(pixels) == 25
    assert len(segments) == 50
    # A part of the mask needs its own surroundings and nothing else.
    np.testing.assert_array_equal(found[:20, :20].compute(), expected[:20, :20])
    assert len(segments) == 54


def test_a_block_is_read_again_only_where_a_segment_grows_further_than_one_that_sees_it_has_looked():
    y, x = np.indices((60, 240))
    distance = np.hypot(y - 30, x - 75)
    labels, light = (distance < 3).astype("i4"), np.exp(-distance / 5.0)
    labels[30, 200], light[30, 200] = 2, 1.0
    keywords = {"sky_level": 0.0, "sky_std": 0.5, "max_grow_size": 30}
    expected = grown_by_definition(labels, light, np.zeros(light.shape, bool), addgrow=0, **keywords)
    assert np.hypot(*(np.argwhere(expected == 1) - (30, 75)).T).max() > 10
    read = []
    lazy = da.from_array(light, chunks=60, name=False).map_blocks(counting, read, dtype=float, meta=np.empty((0, 0)))
    few = mock.patch.object(spread, "_FEW_OFFERS", np.inf)
    with mock.patch.multiple(growth, _SIDE_PER_HALO=0, _FIRST_RINGS=3), few:
        found = grow_segmentation(labels, lazy, **keywords)
    # The first block sees label 1 from afar, and took it to have stopped.
    assert sorted(read) == [(0, 0), (0, 0), (0, 1), (0, 1), (0, 2), (0, 3)]
    np.testing.assert_array_equal(found, expected)


def test_without_rings_nothing_is_read(no_compute):
    labels, light, _ = disc(lambda r: np.exp(-r / 5.0))
    with no_compute():
        lazy = da.from_array(light, chunks=20, name=False)
        found = grow_mask(labels, lazy, sky_level=0.0, sky_std=1.0, max_grow_size=0, addgrow=3.5)
        none = grow_mask(labels, lazy, sky_level=0.0, sky_std=1.0, max_grow_size=0)
    assert found.sum().compute() == 37
    np.testing.assert_array_equal(none, labels > 0)


def test_xarray_keeps_its_coordinates():
    labels, light, _ = disc(lambda r: np.exp(-r / 5.0))
    keywords = {"sky_level": 0.0, "sky_std": 0.05, "max_grow_size": 40}
    lazy = da.from_array(light, chunks=20, name=False)
    named = xr.DataArray(lazy, dims=("y", "x"), coords={"y": np.arange(81.0)})
    found = grow_mask(Segmentation(named.data.astype(int)), named, **keywords)
    assert isinstance(found.data, da.Array)
    np.testing.assert_array_equal(found["y"], named["y"])


def test_an_empty_segmentation_gives_an_empty_mask():
    nothing = np.zeros((30, 50), np.int32)
    keywords = {"sky_level": 0.0, "sky_std": 1.0, "max_grow_size": 10}
    for addgrow in (0, 2.5, np.array([7.0])):
        assert not grow_segmentation(nothing, np.ones((30, 50)), **keywords, addgrow=addgrow).any()
    lazy = da.ones((30, 50), chunks=7)
    with blocks_as_they_are():
        assert not grow_mask(da.zeros((30, 50), chunks=9, dtype=int), lazy, **keywords).any().compute()


def test_sums_beyond_the_largest_float_are_infinite_and_not_an_error():
    labels, _, _ = disc(lambda r: r)
    keywords = {"sky_level": 0.0, "sky_std": 1.0, "max_grow_size": 5}
    assert grow_mask(labels, np.full(labels.shape, 1.7e308), **keywords).sum() == 81
    assert grow_mask(labels, np.full(labels.shape, -1.7e308), **keywords).sum() == 1


def sky_blocks(block):
    return np.ones(block.shape, np.float32)


def far_apart_labels(block, block_info=None):
    labels = np.zeros(block.shape, np.int32)
    i, j = block_info[None]["chunk-location"]
    labels[3:6, 4:9] = 1 + 100 * i + j
    return labels


@pytest.mark.parametrize("blocks", [8, 32])
def test_few_tasks_a_chunk_and_the_same_at_64_and_1024_chunks(blocks):
    image = da.zeros((blocks * 16, blocks * 16), chunks=16, dtype="f4").map_blocks(sky_blocks, dtype="f4")
    labels = image.map_blocks(far_apart_labels, dtype="i4", meta=np.empty((0, 0), "i4"))
    counted = []

    def count_and_run(graph, keys, **kwargs):
        counted.append(len(graph.__dask_graph__()))
        return dask.get(graph, keys, **kwargs)

    with dask.config.set(scheduler=count_and_run):
        grown = grow_mask(labels, image, mask=image > 5, sky_level=0.0, sky_std=0.1, max_grow_size=3)
    assert len(counted) == 1
    assert counted[0] <= 8 * blocks**2
    assert len(dict(grown.__dask_graph__())) <= 8 * blocks**2
    one = np.zeros((16, 16), np.int32)
    one[3:6, 4:9] = 1
    expected = grow_mask(one, np.ones((16, 16)), sky_level=0.0, sky_std=0.1, max_grow_size=3)
    np.testing.assert_array_equal(grown, np.tile(expected, (blocks, blocks)))
    # Each task knows the labels in its sight.
    assert len(pickle.dumps(grown)) < 4000 * blocks**2


def test_units_are_one_and_change_nothing():
    labels, light, _ = disc(lambda r: np.exp(-r / 5.0))
    sizes = {"max_grow_size": 20, "addgrow": 1}
    sky = {"sky_level": 0.0 * u.Jy, "sky_std": 0.05 * u.Jy}
    bare = {name: value.value for name, value in sky.items()}
    for grow in (grow_mask, grow_segmentation):
        np.testing.assert_array_equal(grow(labels, light << u.Jy, **sky, **sizes), grow(labels, light, **bare, **sizes))
    rings = growth_rings(labels, light << u.Jy, **sky, max_grow_size=20)
    np.testing.assert_array_equal(rings, growth_rings(labels, light, **bare, max_grow_size=20))
    mixed = [(light << u.Jy, bare), (light, sky), (light << u.mJy, sky), (light << u.Jy, sky | {"sky_std": 1.0})]
    for data, levels in mixed:
        for grow in (grow_mask, grow_segmentation, growth_rings):
            with pytest.raises(ParameterError, match=r"sky_std has .* expected one unit"):
                grow(labels, data, **levels, max_grow_size=4)


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
        {"addgrow": [0.0, -1.0]},
    ):
        with pytest.raises(ParameterError, match=next(iter(wrong))):
            grow_segmentation(labels, light, **{**base, **wrong})
    wide = da.zeros((1, 50_000), chunks=50_000)
    for far in ({"max_grow_size": 40_000}, {"addgrow": 33_000.0}):
        with pytest.raises(ParameterError, match="less than 32768"):
            grow_mask(wide.astype(int), wide, **{**base, **far})
    with pytest.raises(ParameterError, match="labels from -1"):
        grow_mask(labels - 1, light, **base)
    with pytest.raises(ParameterError, match="dtype float64; expected integer labels"):
        grow_mask(light, light, **base)
    with pytest.raises(ImageShapeError, match="segmentation has shape"):
        grow_mask(labels[1:], light, **base)
    with pytest.raises(ImageShapeError, match="mask has shape"):
        grow_mask(labels, light, mask=labels[1:] > 0, **base)
