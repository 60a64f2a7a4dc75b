import pickle
import threading
import warnings

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from astropy import units as u
from hypothesis import given, settings
from hypothesis import strategies as st
from photutils.segmentation import SegmentationImage
from photutils.segmentation import detect_sources as photutils_detect
from strategies import chunked, chunks_for, scenes

from galprep_dask import blockwise
from galprep_dask.blockwise import objects_of_blocks
from galprep_dask.errors import ImageShapeError, NoSourcesWarning, ParameterError
from galprep_dask.segmentation import Segmentation, deblend_sources, detect, detect_sources, smooth


def reference(image, threshold, n_pixels, connectivity=8, mask=None):
    """Labels of photutils on the whole array; it raises when all is masked, and gives None where nothing is."""
    if mask is not None and mask.all():
        return np.zeros(image.shape, int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = photutils_detect(image, threshold, n_pixels, connectivity=connectivity, mask=mask)
    return np.zeros(image.shape, int) if found is None else found.data


def labels_of(*args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoSourcesWarning)
        return np.asarray(detect_sources(*args, **kwargs))


@given(scenes(), st.sampled_from([4, 8]), st.integers(1, 12), st.floats(-0.5, 4), st.booleans(), st.booleans())
def test_labels_are_those_of_photutils(scene, connectivity, n_pixels, threshold, masked, map_of_threshold):
    image, mask, chunks = scene
    lazy = da.from_array(image, chunks=chunks, name=False)
    if map_of_threshold:
        y, x = np.indices(image.shape)
        threshold = threshold + np.sin(x / 3) * np.cos(y / 2)
    mask = mask if masked else None
    expected = reference(image, threshold, n_pixels, connectivity, mask)
    for data in (image, lazy):
        found = labels_of(data, threshold, n_pixels, connectivity=connectivity, mask=mask)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, expected)


@given(chunked("f4"), st.integers(1, 3), st.floats(-1e3, 1e3))
def test_parity_with_nan_and_single_pixels(images, n_pixels, threshold):
    image, lazy = images
    expected = reference(image, threshold, n_pixels, mask=~np.isfinite(image))
    np.testing.assert_array_equal(labels_of(lazy, threshold, n_pixels), expected)


@settings(max_examples=15)
@given(scenes(min_side=4))
def test_pixels_whose_threshold_is_nan_belong_to_no_source(scene):
    image, hidden, chunks = scene
    threshold = np.where(hidden, np.nan, 1.0)
    expected = reference(image, threshold, 3)
    found = labels_of(da.from_array(image, chunks=chunks, name=False), threshold, 3)
    np.testing.assert_array_equal(found, expected)
    assert not found[hidden].any()
    with pytest.warns(NoSourcesWarning):
        assert detect_sources(image, np.full(image.shape, np.nan)).n_labels == 0


@pytest.mark.parametrize("connectivity", [4, 8])
def test_a_spiral_and_a_comb_across_every_chunk(connectivity):
    y, x = np.indices((40, 40)) - 19.5
    spiral = np.sin(np.hypot(x, y) - np.arctan2(y, x)) > 0.3
    comb = np.zeros((40, 40), bool)
    comb[:, ::2] = comb[-1] = True
    diagonal = (x + y) % 5 == 0
    for shape in (spiral, comb, diagonal, ~spiral, spiral & diagonal):
        image = shape.astype("f4")
        expected = reference(image, 0.5, 3, connectivity)
        found = labels_of(da.from_array(image, chunks=3, name=False), 0.5, 3, connectivity=connectivity)
        np.testing.assert_array_equal(found, expected)


def test_the_threshold_itself_is_not_above_it():
    image = np.array([[1.0, 1.0, np.nextafter(1.0, 2)]])
    assert labels_of(image, 1.0, 1).tolist() == [[0, 0, 1]]
    tenth = np.full((1, 3), 0.1, "f4")  # 0.1 in float32 is above 0.1
    for threshold in (0.1, np.float64(0.1), np.full((1, 3), 0.1)):
        np.testing.assert_array_equal(labels_of(tenth, threshold, 1), reference(tenth, threshold, 1))


def test_values_under_the_mask_and_infinite_pixels_belong_to_no_source():
    image = np.zeros((20, 20))
    image[5:9, 5:9] = image[12:15, 3:9] = 10.0
    mask = np.zeros(image.shape, bool)
    mask[5:7, 5:9] = True
    expected = labels_of(image, 1.0, mask=mask)
    assert np.bincount(expected.ravel()).tolist() == [374, 8, 18]
    for hidden in (0.0, 1e30, np.nan, np.inf, -np.inf):
        np.testing.assert_array_equal(labels_of(np.where(mask, hidden, image), 1.0, mask=mask), expected)
    np.testing.assert_array_equal(labels_of(np.where(mask, np.inf, image), 1.0), expected)
    map_with_nan = np.where(mask, np.nan, 1.0)
    np.testing.assert_array_equal(labels_of(image, map_with_nan), expected)


@given(scenes(min_side=8))
def test_attributes_are_those_of_photutils(scene):
    image, mask, chunks = scene
    labels = labels_of(image, 2.0, 3, mask=mask) * 3  # not consecutive
    labels[labels == 6] = 0
    found = Segmentation(da.from_array(labels, chunks=chunks, name=False))
    assert isinstance(found.data, da.Array)
    assert found.data.dtype == np.int32
    assert found.data.chunks == chunks
    expected = SegmentationImage(labels)
    np.testing.assert_array_equal(found.labels, expected.labels)
    assert found.n_labels == expected.n_labels
    assert found.max_label == expected.max_label
    np.testing.assert_array_equal(found.areas, expected.areas)
    assert found.bbox == expected.bbox
    assert found.shape == expected.shape
    np.testing.assert_array_equal(np.asarray(found), labels)


@pytest.mark.parametrize("dtype", ["i1", "u2", ">i4", ">i8", "u8"])
def test_labels_of_every_integer_type(dtype):
    labels = np.zeros((6, 7), dtype)
    labels[2:4, 3:5] = 100
    labels.flags.writeable = False
    found = Segmentation(labels)
    assert found.data.dtype == np.int32
    assert found.labels.tolist() == [100]
    assert found.areas.tolist() == [4]
    assert found.bbox == SegmentationImage(labels.astype(int)).bbox


def test_a_single_large_label_needs_no_memory_for_those_below():
    labels = np.zeros((6, 7), "i8")
    labels[2:4, 3:5], labels[5, 5] = 2**31 - 1, 4
    found = Segmentation(labels)
    assert found.labels.tolist() == [4, 2**31 - 1]
    assert found.areas.tolist() == [1, 4]
    assert (found.bbox[1].ixmin, found.bbox[1].ixmax, found.bbox[1].iymin, found.bbox[1].iymax) == (3, 5, 2, 4)


def test_labels_that_int32_does_not_hold_are_an_error_not_another_label():
    for wrong in (2**31, -1, 2**32 + 1):
        with pytest.raises(ParameterError, match=str(wrong)):
            Segmentation(np.array([[0, wrong]])).labels  # noqa: B018
    with pytest.raises(ParameterError, match="float64"):
        Segmentation(np.zeros((3, 3)))


def test_kinds_of_input():
    image = np.zeros((20, 20))
    image[5:9, 5:9] = 10.0
    expected = reference(image, 1.0, 5)
    image.flags.writeable = False
    named = xr.DataArray(image, dims=("y", "x"))
    for data in (image, image.astype(">f4"), image.astype(">i2"), image.astype(bool) * 2, named):
        np.testing.assert_array_equal(detect_sources(data, 1.0), expected)
    np.testing.assert_array_equal(detect_sources(image > 0, 0.5), expected)
    level = xr.DataArray(da.ones((20, 20), chunks=7), dims=("y", "x"))
    np.testing.assert_array_equal(detect_sources(named, level, mask=xr.zeros_like(named)), expected)
    assert repr(detect_sources(image, 1.0)) == "<Segmentation 20 x 20, 1 sources>"


@pytest.mark.parametrize("pixels", [0.0, np.nan])
def test_nothing_found_is_a_warning_and_an_empty_segmentation(pixels):
    with pytest.warns(NoSourcesWarning, match="no source of 5 connected pixels"):
        found = detect_sources(da.full((10, 12), pixels, chunks=5), 1.0)
    assert type(found.bbox) is list
    assert (found.n_labels, found.max_label) == (0, 0)
    assert len(found.labels) == len(found.areas) == len(found.bbox) == 0
    assert (found.labels.dtype, found.areas.dtype, found.data.dtype) == (np.int32, np.int64, np.int32)
    assert found.bbox_limits.shape == (0, 4)
    assert not np.asarray(found).any()
    assert found.shape == (10, 12)


def test_eight_threads_at_once():
    image = np.random.default_rng(0).normal(0, 1, (200, 200))
    lazy = da.from_array(image, chunks=50, name=False)
    expected = reference(image, 1.0, 3)
    barrier, results = threading.Barrier(8), [None] * 8

    def work(n):
        barrier.wait()
        results[n] = np.asarray(detect_sources(lazy, 1.0, 3))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for found in results:
        np.testing.assert_array_equal(found, expected)


def test_units_are_those_of_photutils():
    image = np.zeros((12, 12), np.float32)
    image[2:5, 2:5], image[7:9, 7:10] = 0.1, 3.0
    for threshold in (0.1, 0.2, np.float32(0.1), np.full(image.shape, 0.1), np.full(image.shape, 0.2, np.float32)):
        for unit in (u.Jy, u.electron / u.s, u.dimensionless_unscaled):
            # 0.1 as a float32 is above 0.1 as a float64, which a Quantity is and a Python number is not.
            expected = photutils_detect(image << unit, threshold * unit, 5).data
            np.testing.assert_array_equal(labels_of(image << unit, threshold * unit, 5), expected)
    other_units = [
        (image << u.Jy, 0.2), (image, 0.2 * u.Jy), (image << u.Jy, 0.2 * u.mJy), (image << u.Jy, 0.2 * u.adu),
        (image << u.Jy, np.full(image.shape, 0.2)), (image << u.dimensionless_unscaled, 0.2),
    ]  # fmt: skip
    for data, threshold in other_units:
        with pytest.raises(ValueError, match="same units"):
            photutils_detect(data, threshold, 5)
        with pytest.raises(ParameterError, match=r"data has .* threshold has .* expected one unit"):
            detect_sources(data, threshold, 5)
    with pytest.raises(ParameterError, match="data has no unit, threshold has Jy"):
        detect_sources(da.from_array(image), 0.2 * u.Jy, 5)
    with pytest.raises(ParameterError, match="measure has Jy, error has no unit"):
        detect_sources(image, 0.2, 5, measure=image << u.Jy, error=image)


def test_n_pixels_that_is_whole_is_taken_whatever_its_type():
    image = np.zeros((12, 12))
    image[2:5, 2:5], image[7:9, 7:10] = 1.0, 3.0
    for n_pixels in (7.0, np.float32(7), np.int8(7), np.float64(1.0), True):
        expected = photutils_detect(image, 0.5, n_pixels).data
        found = detect_sources(image, 0.5, n_pixels)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(deblend_sources(image, found, n_pixels), expected)


def test_errors():
    image = np.zeros((10, 12))
    for n_pixels in (0, -1, 2.5, "5", 0.5, -2.0, np.nan, np.inf, None):
        with pytest.raises(ParameterError, match="n_pixels"):
            detect_sources(image, 1.0, n_pixels)
    with pytest.raises(ParameterError, match="connectivity"):
        detect_sources(image, 1.0, connectivity=6)
    for threshold in (np.nan, np.inf):
        with pytest.raises(ParameterError, match="threshold"):
            detect_sources(image, threshold)
    with pytest.raises(ImageShapeError, match="threshold has shape"):
        detect_sources(image, np.zeros((12, 10)))
    with pytest.raises(ImageShapeError, match="mask has shape"):
        detect_sources(image, 1.0, mask=np.zeros((12, 10), bool))
    with pytest.raises(ImageShapeError, match="error has shape"):
        detect_sources(image, 1.0, measure=image, error=image.T)
    with pytest.raises(ParameterError, match="masked array"):
        detect_sources(np.ma.masked_array(image), 1.0)


@st.composite
def shapes(draw):
    """Shapes that are hard to follow from block to block, and ragged chunks."""
    ny, nx = draw(st.tuples(st.integers(1, 34), st.integers(1, 34)))
    y, x = np.indices((ny, nx))
    dy, dx = y - ny / 2, x - nx / 2
    radius, pitch = np.hypot(dy, dx), draw(st.integers(2, 7))
    name = draw(
        st.sampled_from(["spiral", "rings", "trails", "checkerboard", "diagonals", "all", "combs", "maze", "corners"])
    )
    shape = {
        "spiral": np.sin(2 * np.pi * radius / pitch - np.arctan2(dy, dx)) > draw(st.floats(-0.5, 0.8)),
        "rings": radius % pitch < pitch / 2,
        "trails": (x + pitch * y) % (pitch + 3) == 0,
        "checkerboard": (x + y) % 2 == 0,
        "diagonals": (x - y) % pitch == 0,
        "all": np.ones((ny, nx), bool),
        "combs": (x % 2 == 0) | (y == draw(st.sampled_from([0, ny - 1]))),
        "maze": np.random.default_rng(pitch).random((ny, nx)) < draw(st.floats(0.3, 0.7)),
        "corners": (x // pitch + y // pitch) % 2 == 0,
    }[name]
    return shape ^ draw(st.booleans()), draw(chunks_for((ny, nx)))


@settings(max_examples=200)
@given(shapes(), st.sampled_from([4, 8]), st.integers(1, 9))
def test_shapes_that_close_over_many_blocks(scene, connectivity, n_pixels):
    shape, chunks = scene
    image = shape.astype("f4")
    lazy = da.from_array(image, chunks=chunks, name=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoSourcesWarning)
        found = detect_sources(lazy, 0.5, n_pixels, connectivity=connectivity)
    expected = reference(image, 0.5, n_pixels, connectivity)
    np.testing.assert_array_equal(np.asarray(found), expected)
    known = SegmentationImage(expected)
    np.testing.assert_array_equal(found.labels, known.labels)
    np.testing.assert_array_equal(found.areas, known.areas)
    assert found.bbox == known.bbox
    assert found.data.chunks == chunks


@pytest.mark.parametrize(("connectivity", "n_sources"), [(8, 1), (4, 2)])
@pytest.mark.parametrize("mirrored", [False, True])
def test_contact_exactly_where_four_blocks_meet(connectivity, n_sources, mirrored):
    image = np.zeros((8, 8))
    image[2:4, 2:4] = image[4:6, 4:6] = 1.0
    image = image[:, ::-1] if mirrored else image
    for chunks in (4, (4, 8), (1, 4), 1, 8):
        found = detect_sources(da.from_array(image, chunks=chunks), 0.5, 3, connectivity=connectivity)
        assert found.n_labels == n_sources
        np.testing.assert_array_equal(found, reference(image, 0.5, 3, connectivity))


def test_a_source_of_enough_pixels_none_of_whose_parts_has_them():
    image = np.zeros((6, 6))
    image[2:4, 2:4] = 1.0  # one pixel in each of four blocks
    lazy = da.from_array(image, chunks=3)
    assert detect_sources(lazy, 0.5, 4).areas.tolist() == [4]
    assert labels_of(lazy, 0.5, 5).max() == 0


def test_chunks_of_one_pixel():
    image = np.random.default_rng(3).normal(size=(13, 17))
    lazy = da.from_array(image, chunks=1, name=False)
    for connectivity in (4, 8):
        expected = reference(image, 0.3, 2, connectivity)
        np.testing.assert_array_equal(detect_sources(lazy, 0.3, 2, connectivity=connectivity), expected)


def test_integers_of_64_bits_are_not_rounded():
    image = np.array([[2**60, 2**60 + 1, 2**60 + 1]])
    np.testing.assert_array_equal(detect_sources(image, 2**60, 1), [[0, 1, 1]])


def test_the_labels_are_lazy_and_the_table_is_known(no_compute):
    image = np.random.default_rng(1).normal(size=(60, 70))
    found = detect_sources(smooth(da.from_array(image, chunks=16), 2.0), 0.4)
    with no_compute():
        assert isinstance(found.data, da.Array)
        assert found.data.dtype == np.int32
        known = found.labels, found.areas, found.bbox_limits
        assert len(found.bbox) == found.n_labels == found.max_label > 10
    given = Segmentation(found.data)
    for one, other in zip(known, (given.labels, given.areas, given.bbox_limits), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("share", [0, 250, 10**6])
def test_labels_are_the_same_whether_runs_are_kept_or_not(share, monkeypatch):
    image = np.random.default_rng(2).normal(size=(60, 70))
    image[25:35, :] += 3  # some blocks have more runs than others
    pixels, read = da.from_array(image, chunks=((20, 1, 39), (30, 40)), name=False), []

    def block(given):
        read.append(given.shape)
        return given

    watched = pixels.map_blocks(block, dtype="f8", meta=np.empty((0, 0)))
    monkeypatch.setattr(detect, "KEPT_BYTES", share * pixels.npartitions)
    found = detect_sources(watched, 0.8, 3)
    read.clear()
    np.testing.assert_array_equal(found, reference(image, 0.8, 3))
    kept = {0: 0, 250: 2, 10**6: 6}[share]
    assert len(read) == 6 - kept
    assert n_tasks(found.data) <= 3 * pixels.npartitions


def test_pixels_that_changed_after_detection_are_an_error(monkeypatch):
    monkeypatch.setattr(detect, "KEPT_BYTES", 0)
    pixels = np.zeros((9, 9))
    pixels[2:5, 2:5] = 1.0
    image = da.zeros((9, 9), chunks=9).map_blocks(lambda block: pixels.copy(), dtype="f8")
    found = detect_sources(image, 0.5)
    pixels[7, :] = 1.0
    with pytest.raises(ParameterError, match="no longer"):
        np.asarray(found)


def test_more_sources_than_labels_are_an_error(monkeypatch):
    image = np.zeros((9, 9))
    image[::4, ::4] = 1.0
    assert detect_sources(image, 0.5, 1).n_labels == 9
    monkeypatch.setattr(detect, "MAX_LABEL", 8)
    with pytest.raises(ParameterError, match="9 sources"):
        detect_sources(image, 0.5, 1)


def first_pass(*args, monkeypatch, **kwargs):
    """Give the array that is computed when sources are detected, and the Segmentation."""
    built = []

    def keep(*these, **how):
        built.append(objects_of_blocks(*these, **how))
        return built[-1]

    monkeypatch.setattr(blockwise, "objects_of_blocks", keep)
    found = detect_sources(*args, **kwargs)
    return built[0], found


def test_few_tasks_a_chunk_however_many_chunks(monkeypatch):
    for blocks in (8, 32):
        image = da.zeros((blocks * 12, blocks * 12), chunks=12) + np.eye(blocks * 12)
        threshold, mask = da.full_like(image, 0.1), da.zeros_like(image, dtype=bool)
        first, found = first_pass(
            smooth(image, 1.5), threshold, mask=mask, measure=image, error=image, monkeypatch=monkeypatch
        )
        assert found.n_labels == 1
        for result in (first, found.data):
            assert n_tasks(result) <= 8 * blocks**2
        assert len(pickle.dumps(found.data)) < 3000 * blocks**2
        # Where nothing is to be smoothed: the source, and one task for each pass.
        first, found = first_pass(image, 0.5, monkeypatch=monkeypatch)
        for result in (first, found.data):
            assert n_tasks(result) <= 3 * blocks**2


def n_tasks(array):
    return len(dict(array.__dask_optimize__(array.__dask_graph__(), array.__dask_keys__())))


def test_labels_made_elsewhere_are_looked_at_block_by_block():
    labels = np.zeros((40, 50), "i8")
    labels[3:30, 5:45] = 7
    labels[10, 10], labels[39, 49] = 2**31 - 1, 2
    seen = []

    def block(which):
        seen.append(which.shape)
        return which

    lazy = da.from_array(labels, chunks=10).map_blocks(block, dtype=labels.dtype, meta=np.empty((0, 0), labels.dtype))
    found = Segmentation(lazy)
    assert seen == []
    assert found.labels.tolist() == [2, 7, 2**31 - 1]
    assert found.areas.tolist() == [1, 27 * 40 - 1, 1]
    assert found.bbox_limits.tolist() == [[49, 50, 39, 40], [5, 45, 3, 30], [10, 11, 10, 11]]
    assert len(seen) == 20
