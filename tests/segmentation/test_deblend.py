import inspect
import warnings

import dask.array as da
import numpy as np
import pytest
from concurrency import run_together
from dask.callbacks import Callback
from hypothesis import given, settings
from hypothesis import strategies as st
from photutils.segmentation import SegmentationImage
from photutils.segmentation import deblend_sources as photutils_deblend
from scipy import ndimage
from strategies import chunks_for, scenes

from galprep_dask.errors import ImageShapeError, NotDeblendedWarning, ParameterError
from galprep_dask.segmentation import DeblendedSegmentation, Segmentation, deblend_sources, detect_sources, smooth

QUIET = {"progress_bar": False} if "n_threads" not in inspect.signature(photutils_deblend).parameters else {}


def photutils_result(image, parents, n_pixels=5, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return photutils_deblend(image, SegmentationImage(parents), n_pixels, **kwargs, **QUIET)


def reference(image, parents, n_pixels=5, **kwargs):
    return photutils_result(image, parents, n_pixels, **kwargs).data


def lazy(array, chunks):
    return da.from_array(array, chunks=chunks, name=False)


def same_map(found, expected):
    assert list(found) == sorted(map(int, expected))
    for parent, children in expected.items():
        np.testing.assert_array_equal(found[int(parent)], children)


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


@st.composite
def crowds(draw):
    """Smoothed noise, finite but of any sign, often in few steps; its segments; and chunks down to single pixels."""
    shape = draw(st.tuples(st.integers(4, 48), st.integers(4, 48)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    image = ndimage.gaussian_filter(rng.normal(0, 5, shape), draw(st.sampled_from([0.6, 1.0, 1.6])))
    image += draw(st.sampled_from([-1.0, 0.5, 4.0]))
    if draw(st.booleans()):
        image = np.round(image * 2) / 2
    image = image.astype(draw(st.sampled_from(["f4", "f8"])))
    connectivity = draw(st.sampled_from([4, 8]))
    structure = ndimage.generate_binary_structure(2, 2 if connectivity == 8 else 1)
    labels, count = ndimage.label(image > draw(st.sampled_from([-2.0, 0.0, 1.0])), structure)
    if draw(st.booleans()):  # labels in any order, with gaps
        labels = np.where(labels > 0, rng.permutation(count + 1)[labels] * 3 + 2, 0)
    image.flags.writeable = labels.flags.writeable = False
    return image, labels, connectivity, draw(chunks_for(shape))


@settings(max_examples=120, deadline=None)
@given(
    crowds(), st.integers(1, 6), st.integers(1, 40), st.sampled_from([0, 1e-3, 0.05, 0.3, 1]),
    st.sampled_from(["exponential", "linear", "sinh"]), st.booleans(),
)  # fmt: skip
def test_labels_of_crowded_fields_do_not_know_the_chunks(crowd, n_pixels, n_levels, contrast, mode, relabel):
    image, labels, connectivity, chunks = crowd
    if not labels.any():
        return
    keywords = {
        "n_levels": n_levels, "contrast": contrast, "mode": mode, "connectivity": connectivity, "relabel": relabel,
    }  # fmt: skip
    expected = photutils_result(image, labels, n_pixels, **keywords)
    found = deblend_sources(lazy(image, chunks), lazy(labels, chunks), n_pixels, **keywords, max_peaks=10**6)
    assert found.data.chunks == chunks
    np.testing.assert_array_equal(found, expected.data)
    same_map(found.parent_to_deblended_labels, expected.parent_to_deblended_labels)
    assert found.left_whole == {}


@settings(max_examples=25, deadline=None)
@given(crowds(), st.lists(st.integers(0, 10**6), min_size=1, max_size=5), st.booleans())
def test_some_labels_only_in_the_order_given(crowd, picks, relabel):
    image, labels, connectivity, chunks = crowd
    present = np.unique(labels[labels > 0])
    if len(present) == 0:
        return
    wanted = [int(present[pick % len(present)]) for pick in picks]
    keywords = {"labels": wanted, "relabel": relabel, "connectivity": connectivity}
    expected = photutils_result(image, labels, 2, **keywords)
    found = deblend_sources(lazy(image, chunks), lazy(labels, chunks), 2, **keywords, max_peaks=10**6)
    np.testing.assert_array_equal(found, expected.data)
    same_map(found.parent_to_deblended_labels, expected.parent_to_deblended_labels)


@pytest.mark.parametrize("chunks", [(300, 300), (64, 50), (7, 300), (1, 300), (300, 1)])
def test_one_segment_over_everything(chunks):
    rng = np.random.default_rng(3)
    image = ndimage.gaussian_filter(rng.normal(0, 1, (300, 300)), 8) * 100 + 50
    labels = np.ones(image.shape, int)
    expected = reference(image, labels, 50, contrast=0.01)
    assert expected.max() > 10
    np.testing.assert_array_equal(deblend_sources(lazy(image, chunks), labels, 50, contrast=0.01), expected)


def test_large_parts_are_read_again(monkeypatch):
    monkeypatch.setattr("galprep_dask.segmentation._deblend_blocks._SMALL_PART", 30)
    expected = reference(IMAGE, LABELS)
    for chunks in ((33, 41), (7, 9), (120, 20)):
        np.testing.assert_array_equal(deblend_sources(lazy(IMAGE, chunks), LABELS), expected)


def test_a_label_in_pieces_that_end_inside_their_blocks():
    # Each piece alone would be split; together they share one minimum, one flux and one running number.
    labels = np.where(LABELS > 0, (LABELS % 2) + 1, 0)
    expected = reference(IMAGE, labels, 5, contrast=0.05)
    assert expected.max() > 4
    for chunks in ((40, 50), (60, 75), (120, 150), (11, 13)):
        np.testing.assert_array_equal(deblend_sources(lazy(IMAGE, chunks), labels, contrast=0.05), expected)
    with pytest.warns(NotDeblendedWarning, match="past max_pixels"):
        whole = deblend_sources(lazy(IMAGE, (40, 50)), labels, contrast=0.05, max_pixels=3000)
    np.testing.assert_array_equal(whole, labels)
    assert whole.left_whole == {1: "pixels", 2: "pixels"}


def test_splits_what_it_should():
    assert LABELS.max() == 6
    found = deblend_sources(IMAGE, Segmentation(LABELS), contrast=0.001)
    assert isinstance(found, Segmentation)
    assert isinstance(found, DeblendedSegmentation)
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


def test_bad_pixels_that_cut_a_piece_off():
    y, x = np.indices((21, 41))
    image = sum(np.exp(-((x - c) ** 2 + (y - 10) ** 2) / 20) for c in (12, 22))
    labels = (image > 0.01).astype(int)
    mask = np.zeros(image.shape, bool)
    mask[:, 30] = True  # what lies beyond is fainter than the faintest threshold, and touches no peak
    cut_off = np.where(mask, 0, labels)
    with pytest.raises(ValueError, match="Deblending failed"):
        reference(image, cut_off, 5, n_levels=8, mode="linear")
    results = [
        np.asarray(deblend_sources(lazy(np.where(mask, hidden, image), chunks), labels, mask=mask, n_levels=8,
                                   mode="linear"))
        for hidden in (0.0, 1e30, np.nan) for chunks in (50, 7, 3)
    ]  # fmt: skip
    for found in results:
        np.testing.assert_array_equal(found, results[0])
    np.testing.assert_array_equal(results[0] > 0, cut_off > 0)
    assert results[0].max() == 2
    assert set(results[0][:, 31:].ravel()) == {0, results[0][10, 29]}


def test_budget_of_pixels_and_of_peaks():
    boxes = [
        (rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in ndimage.find_objects(LABELS)
    ]
    largest = int(np.argmax(boxes)) + 1
    expected = reference(IMAGE, LABELS, labels=[label for label in range(1, 7) if label != largest])
    several = photutils_result(IMAGE, LABELS, contrast=0).parent_to_deblended_labels  # what any two peaks split
    assert 1 < len(several) < 6
    for chunks in ((120, 150), (33, 41), (5, 150)):
        with pytest.warns(NotDeblendedWarning, match=f"1 of the sources .*label {largest} .*past max_pixels"):
            found = deblend_sources(lazy(IMAGE, chunks), LABELS, max_pixels=max(boxes) - 1)
        np.testing.assert_array_equal(found, expected)
        (label,) = found.left_whole
        assert found.left_whole == {label: "pixels"}
        np.testing.assert_array_equal(np.asarray(found) == label, largest == LABELS)
        with pytest.warns(NotDeblendedWarning, match=f"{len(several)} of the sources .*max_peaks=1;"):
            found = deblend_sources(lazy(IMAGE, chunks), LABELS, max_peaks=1)
        np.testing.assert_array_equal(found, LABELS)
        assert found.left_whole == dict.fromkeys(several, "peaks")


def test_noise_on_a_large_source_is_counted_by_the_thresholds():
    rng = np.random.default_rng(0)
    y, x = np.indices((150, 150))
    image = 1000 * np.exp(-np.hypot(y - 75, x - 75) / 20) + ndimage.gaussian_filter(rng.normal(0, 1, (150, 150)), 1)
    labels = (image > 5).astype(int)
    np.testing.assert_array_equal(deblend_sources(image, labels, 5, max_peaks=20), reference(image, labels))
    noise = 100 + ndimage.gaussian_filter(rng.normal(0, 5, (150, 150)), 1)
    with pytest.warns(NotDeblendedWarning, match="past max_peaks"):
        assert deblend_sources(noise, np.ones_like(labels), 5).n_labels == 1


def test_labels_past_int32():
    near = np.where(LABELS > 0, LABELS + np.int64(2**31 - 8), 0)
    with pytest.raises(ParameterError, match="int32"):
        deblend_sources(IMAGE, near, relabel=False)
    np.testing.assert_array_equal(deblend_sources(IMAGE, near), deblend_sources(IMAGE, LABELS))


@pytest.mark.parametrize("dtype", ["i2", "i8", "u2", ">f4", "f2"])
def test_other_types_of_pixels(dtype):
    image = (IMAGE * 20 + 200).astype(dtype)
    native = image.astype(image.dtype.newbyteorder("="))
    np.testing.assert_array_equal(deblend_sources(lazy(image, 50), LABELS), reference(native, LABELS))
    assert deblend_sources(IMAGE > 1, LABELS).n_labels == 6


class Count(Callback):
    """Tasks that were run, one number for each call of the scheduler."""

    def __init__(self):
        self.stages = []

    def _start(self, dsk):
        self.stages.append(0)

    def _posttask(self, key, result, dsk, state, worker_id):
        self.stages[-1] += 1


def tasks_per_chunk(side):
    image, labels = np.tile(IMAGE, (8, 8))[:960, :960], np.tile(LABELS, (8, 8))[:960, :960]
    labels, _ = ndimage.label(labels, np.ones((3, 3)))
    lazy_image = da.random.default_rng(0).normal(0, 1e-9, image.shape, chunks=side) + image
    with Count() as count:
        deblend_sources(lazy_image, lazy(labels, side)).data.sum().compute()
    return [tasks / lazy_image.npartitions for tasks in count.stages]


def test_tasks_per_chunk_do_not_grow():
    few, many = tasks_per_chunk(120), tasks_per_chunk(30)
    assert len(few) == len(many) == 5  # see, count, join, count, write
    assert max(few + many) <= 8
    assert max(many) <= max(few) * 1.2


def test_the_image_is_not_read_again_when_labels_are_computed():
    image = lazy(IMAGE, 40)
    found = deblend_sources(image, lazy(LABELS, 40))
    assert image.name not in found.data.dask.layers  # dask may send what is there and not asked for
    found = deblend_sources(image, lazy(LABELS, 40), mask=lazy(IMAGE > 40, 40))
    assert image.name in found.data.dask.layers


def test_nothing_is_deblended_again_when_labels_are_computed(monkeypatch):
    found = deblend_sources(lazy(IMAGE, 40), LABELS)

    def never(*args, **kwargs):
        raise AssertionError

    monkeypatch.setattr("galprep_dask.segmentation._kernels.cutouts.deblend_ranks", never)
    np.testing.assert_array_equal(found.data[30:70, 20:].compute(), reference(IMAGE, LABELS)[30:70, 20:])


def test_eight_threads_at_once_leave_no_filter_of_warnings_behind():
    image = IMAGE - 1.5  # not positive: photutils replaces the mode, and warns of it
    expected = reference(image, LABELS)
    before = list(warnings.filters)
    for found in run_together(lambda: np.asarray(deblend_sources(lazy(image, 31), lazy(LABELS, 31)))):
        np.testing.assert_array_equal(found, expected)
    assert warnings.filters == before


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
        {"labels": [1, 99]},
        {"labels": 0},
        {"labels": 1.5},
        {"max_pixels": 0},
        {"max_peaks": 1.5},
        {"contrast_method": "valley"},
    ):
        with pytest.raises(ParameterError, match=next(iter(wrong))):
            deblend_sources(IMAGE, LABELS, **wrong)
    with pytest.raises(ImageShapeError, match="segmentation has shape"):
        deblend_sources(IMAGE, LABELS[1:])
    with pytest.raises(ImageShapeError, match="mask has shape"):
        deblend_sources(IMAGE, LABELS, mask=np.zeros((3, 3)))
    corners = np.kron(np.eye(3), np.ones((3, 3)))
    with pytest.raises(ParameterError, match="label 7 .*connectivity=4"):
        deblend_sources(corners * np.repeat([3.0, 2.0, 3.0], 3), corners.astype(int) * 7, 2, connectivity=4)
    with pytest.raises(ParameterError, match="float64"):
        deblend_sources(IMAGE, LABELS * 1.0)
