import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from galprep_dask.masks._kernels.nearest import _FURTHEST_EIGHTFOLD, _NEAR, _hide, nearest_segment


def nearest_by_all_pairs(labels, reach):
    """Every pixel against every segment pixel, in exact integers."""
    at, of = np.argwhere(labels > 0), labels[labels > 0].astype(np.int64)
    if len(at) == 0:
        return np.zeros_like(labels), np.zeros_like(labels)
    y, x = np.indices(labels.shape)
    pairs = (y[..., None] - at[:, 0]) ** 2 + (x[..., None] - at[:, 1]) ** 2
    square = pairs.min(axis=-1)
    owner = np.where(pairs == square[..., None], of, 2**40).min(axis=-1)
    return np.where(square > reach**2, 0, owner), np.where(square > reach**2, 0, square)


@st.composite
def label_images(draw):
    """From a single pixel to all pixels labelled, in runs, lines and scattered; some labels are huge."""
    shape = draw(st.tuples(st.integers(1, 24), st.integers(1, 24)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = np.array(draw(st.sampled_from([[1], [1, 2], [2, 1, 7], [3, 2_000_000_000, 2**31 - 1, 1]])), np.int32)
    kind = draw(st.sampled_from(["scattered", "columns", "rows", "checkerboard"]))
    y, x = np.indices(shape)
    there = {
        "scattered": rng.uniform(size=shape) < draw(st.sampled_from([0.003, 0.02, 0.1, 0.5, 1.0])),
        "columns": x % draw(st.integers(1, 9)) == 0,
        "rows": y % draw(st.integers(1, 9)) == 0,
        "checkerboard": (y + x) % 2 == 0,
    }[kind]
    return np.where(there, rng.choice(values, shape), 0).astype(np.int32)


@settings(max_examples=400)
@given(label_images(), st.integers(0, 40), st.integers(0, 3))
def test_distances_and_labels_are_those_of_all_pairs(labels, reach, wider):
    labels.flags.writeable = False
    window = np.pad(labels, reach + wider)
    window.flags.writeable = False
    owner, square = nearest_segment(window, reach + wider, reach)
    assert owner.dtype == square.dtype == np.int32
    expected_owner, expected_square = nearest_by_all_pairs(labels, reach)
    np.testing.assert_array_equal(square, expected_square)
    np.testing.assert_array_equal(owner, expected_owner)


@settings(max_examples=100)
@given(label_images(), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_a_window_cut_from_an_image_gives_what_the_whole_image_does(labels, reach, seed):
    rng = np.random.default_rng(seed)
    y, x = rng.integers(0, labels.shape)
    ny, nx = rng.integers(1, np.array(labels.shape) - (y, x) + 1)
    window = np.pad(labels, reach)[y : y + ny + 2 * reach, x : x + nx + 2 * reach]
    whole = nearest_by_all_pairs(labels, reach)
    for found, expected in zip(nearest_segment(window, reach, reach), whole, strict=True):
        np.testing.assert_array_equal(found, expected[y : y + ny, x : x + nx])


def test_a_parabola_that_touches_the_others_in_one_pixel_may_hold_the_lower_label():
    # From the middle of the top row all three are 5 px away: straight down, and on either side.
    labels = np.zeros((6, 11), np.int32)
    for low in range(3):
        numbers = np.roll([1, 2, 3], low)
        labels[5, 5], labels[3, 1], labels[3, 9] = numbers
        owner, square = nearest_segment(np.pad(labels, 8), 8, 8)
        assert (owner[0, 5], square[0, 5]) == (1, 25)


def test_great_distances_are_exact():
    labels = np.zeros((3, 2001), np.int32)
    labels[0, 0], labels[2, 2000] = 7, 4
    owner, square = nearest_segment(np.pad(labels, 1000), 1000, 1000)
    y, x = np.indices(labels.shape)
    left, right = y**2 + x**2, (2 - y) ** 2 + (2000 - x) ** 2
    reached = np.minimum(left, right) <= 1000**2
    np.testing.assert_array_equal(square, np.where(reached, np.minimum(left, right), 0))
    np.testing.assert_array_equal(owner, np.where(reached, np.where(right <= left, 4, 7), 0))
    assert owner[1, 1000] == 0
    assert owner[0, 1000] == 7


@settings(max_examples=200)
@given(st.integers(1, 40), st.sampled_from([3, 20, 400, _FURTHEST_EIGHTFOLD]), st.integers(0, 2**32 - 1))
def test_what_is_hidden_is_nowhere_the_nearest(width, reach, seed):
    rng = np.random.default_rng(seed)
    gap = rng.integers(0, reach + 2, width) // rng.choice([1, 1, reach // 3 + 1], width)
    height = np.full(width + 2 * _NEAR, reach**2 + 1, np.int32)
    height[_NEAR : _NEAR + width] = gap**2
    hidden = np.empty(width, bool)
    _hide(height, np.int32(reach**2), hidden)
    x = np.arange(width)
    at = np.arange(-50, width + 50)[:, None]
    parabolas = (at - x) ** 2 + gap**2
    lowest = (parabolas == parabolas.min(axis=1, keepdims=True)) & (parabolas <= reach**2)
    assert not hidden[lowest.any(axis=0)].any()
    np.testing.assert_array_equal(hidden[gap > reach], True)


def test_a_parabola_above_its_neighbours_is_hidden():
    height = np.full(3 + 2 * _NEAR, 101, np.int32)
    for middle, above in ((8, False), (9, False), (10, True)):
        height[_NEAR : _NEAR + 3] = 4, middle, 12  # on the line between both it is 8, and parabolas allow 1 more
        hidden = np.empty(3, bool)
        _hide(height, np.int32(100), hidden)
        assert hidden.tolist() == [False, above, False]
