"""Stamps: the pixels that slicing gives, of every kind of array, each chunk read once."""

import pickle
import threading
from collections import Counter

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.nddata import Cutout2D
from concurrency import run_together
from hypothesis import given
from hypothesis import strategies as st
from strategies import chunked

from galprep_dask import open_image
from galprep_dask.cutouts import extract_stamps, stamp_origins
from galprep_dask.errors import ImageShapeError, ParameterError
from galprep_dask.io.fits_reader import FitsPlane

SHAPE = (130, 170)


def whole(dtype="f4", seed=0):
    pixels = (np.random.default_rng(seed).normal(0, 100, SHAPE)).astype(dtype)
    pixels.flags.writeable = False
    return pixels


def positions(n=200, seed=1, reach=8):
    rng = np.random.default_rng(seed)
    return rng.uniform(-reach, SHAPE[1] + reach, n), rng.uniform(-reach, SHAPE[0] + reach, n)


def by_slicing(image, x, y, size, fill):
    """What a stamp is, written down another way."""
    padded = np.pad(image, 2 * size + 100, constant_values=fill)
    x0, y0 = (np.floor(np.asarray(at) - (size - 1) / 2 + 0.5).astype(int) + 2 * size + 100 for at in (x, y))
    return np.array([padded[i : i + size, j : j + size] for i, j in zip(y0, x0, strict=True)]).reshape(-1, size, size)


@given(chunked(max_side=40), st.data())
def test_stamps_are_those_of_slicing_for_every_chunking_and_kind(both, data):
    image, lazy = both
    n, size = data.draw(st.integers(0, 12)), data.draw(st.integers(1, 50))
    place = st.floats(-30, 70)
    x, y = (data.draw(st.lists(place, min_size=n, max_size=n)) for _ in range(2))
    x, y = np.round(x, 3), np.round(y, 3)
    expected = by_slicing(image, x, y, size, np.nan)
    np.testing.assert_array_equal(extract_stamps(image, x, y, size), expected)
    with dask.config.set({"array.chunk-size": data.draw(st.sampled_from(["128MiB", f"{5 * 4 * size**2}B"]))}):
        stamps = extract_stamps(lazy, x, y, size)
    assert isinstance(stamps, da.Array)
    np.testing.assert_array_equal(stamps.compute(), expected)
    out = np.empty((n, size, size), "f4")
    assert extract_stamps(lazy, x, y, size, out=out) is out
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("dtype", ["?", "u1", "i2", "u2", "i4", "i8", "f2", "f4", "f8", "g", ">f4", ">i2", ">f8"])
def test_every_dtype_with_its_own_value_beyond_the_edge(dtype):
    image = whole(dtype)
    fill = {"b": True, "f": np.nan}.get(image.dtype.kind, 0)
    x, y = positions()
    native = image.astype(image.dtype.newbyteorder("="))
    for found in (extract_stamps(image, x, y, 9), extract_stamps(da.from_array(image, chunks=40), x, y, 9).compute()):
        assert found.dtype == native.dtype
        assert found.dtype.isnative
        np.testing.assert_array_equal(found, by_slicing(native, x, y, 9, fill))
    other = extract_stamps(image, [-50.0], [-50.0], 3, fill_value=1)
    np.testing.assert_array_equal(other, np.ones((1, 3, 3)))


def test_bits_of_a_nan_are_kept():
    image = np.full((5, 5), 0x7FC12345, "u4").view("f4")
    assert (extract_stamps(image, [2.0], [2.0], 3).view("u4") == 0x7FC12345).all()


def test_stamps_are_those_of_astropy():
    image = whole()
    x, y = (np.clip(at, 0, n - 1) for at, n in zip(positions(reach=0), SHAPE[::-1], strict=True))
    found = extract_stamps(image, x, y, 21)
    for k in range(len(x)):
        theirs = Cutout2D(image, (x[k], y[k]), 21, mode="partial", fill_value=np.nan)
        np.testing.assert_array_equal(found[k], theirs.data)
        x0, y0 = stamp_origins([x[k]], [y[k]], 21)
        assert (x0[0], y0[0]) == (
            theirs.origin_original[0] - theirs.origin_cutout[0],
            theirs.origin_original[1] - theirs.origin_cutout[1],
        )


@pytest.mark.parametrize("size", [1, 2, 20, 21])
def test_the_position_is_within_half_a_pixel_of_the_middle(size):
    x, y = positions(500)
    x0, y0 = stamp_origins(x, y, size)
    for at, first in ((x, x0), (y, y0)):
        assert np.abs(at - first - (size - 1) / 2).max() <= 0.5 + 1e-6
    assert stamp_origins([0.5, 1.5, -0.5], [7, 7, 7], 1)[0].tolist() == [1, 2, 0]


def test_labels_and_masks_go_with_the_image():
    image, mask, labels = whole(), whole() > 50, (whole() > 0).astype("i4") * 13_000_001
    x, y = positions()
    pixels, masked, segments = (extract_stamps(plane, x, y, 15) for plane in (image, mask, labels))
    np.testing.assert_array_equal(masked, ~(pixels <= 50))
    np.testing.assert_array_equal(segments, np.where(pixels > 0, 13_000_001, 0))


def test_xarray_gives_a_lazy_array_with_dims(no_compute):
    image = xr.DataArray(da.from_array(whole(), chunks=50), dims=("y", "x"))
    x, y = positions()
    with no_compute():
        stamps = extract_stamps(image, x, y, 9)
    assert stamps.dims == ("stamp", "y", "x")
    assert isinstance(stamps.data, da.Array)
    np.testing.assert_array_equal(stamps, by_slicing(whole(), x, y, 9, np.nan))


@pytest.mark.parametrize("chunk_size", ["128MiB", "10kiB"])
@pytest.mark.parametrize("with_out", [False, True])
def test_every_chunk_is_read_once_and_none_without_a_stamp(chunk_size, with_out):
    reads, lock = Counter(), threading.Lock()

    def read(block, block_info=None):
        with lock:
            reads[block_info[0]["chunk-location"]] += 1
        return block

    lazy = da.from_array(whole(), chunks=(20, 25)).map_blocks(read, dtype="f4", meta=np.empty((0, 0), "f4"))
    x, y = np.random.default_rng(3).uniform(0, [80, 60], (300, 2)).T
    with dask.config.set({"array.chunk-size": chunk_size}):
        out = np.empty((300, 7, 7), "f4") if with_out else None
        found = np.asarray(extract_stamps(lazy, x, y, 7, out=out))
    np.testing.assert_array_equal(found, by_slicing(whole(), x, y, 7, np.nan))
    assert set(reads.values()) == {1}
    assert len(reads) in (4 * 4, 4 * 4 - 1)


def test_a_mosaic_on_disk(tmp_path):
    fits.writeto(tmp_path / "mosaic.fits", whole())
    x, y = positions()
    image = open_image(tmp_path / "mosaic.fits", chunks=40)
    expected = by_slicing(whole(), x, y, 9, np.nan)
    np.testing.assert_array_equal(extract_stamps(image["data"].data, x, y, 9), expected)
    out = np.empty_like(expected)
    np.testing.assert_array_equal(extract_stamps(image["data"], x, y, 9, out=out), expected)
    with fits.open(tmp_path / "mosaic.fits", memmap=True) as hdus:
        np.testing.assert_array_equal(extract_stamps(hdus[0].data, x, y, 9), expected)


@pytest.mark.parametrize("everywhere", [True, False])
def test_pixels_on_disk_are_read_once_and_those_of_chunks_without_a_stamp_never(everywhere, tmp_path, monkeypatch):
    fits.writeto(tmp_path / "mosaic.fits", np.arange(90.0 * 400).reshape(90, 400))
    regions, read, lock = [], FitsPlane._read, threading.Lock()

    def counted(plane, region):
        with lock:
            regions.append(region)
        return read(plane, region)

    monkeypatch.setattr(FitsPlane, "_read", counted)
    image = open_image(tmp_path / "mosaic.fits", chunks=(30, 100))["data"].data
    x, y = np.random.default_rng(3).uniform(0, [400 if everywhere else 195, 90], (500, 2)).T
    extract_stamps(image, x, y, 7, out=np.empty((500, 7, 7)))
    times = np.zeros((90, 400), int)
    for region in regions:
        times[region] += 1
    assert (times[:, : 400 if everywhere else 200] == 1).all()
    assert times[:, 200:].any() == everywhere
    # Runs of whole rows where all is wanted.
    assert {region[1].stop - region[1].start for region in regions} == {400 if everywhere else 100}


@pytest.mark.parametrize("side", [8, 32])
def test_tasks_per_chunk_do_not_grow_with_the_image(side):
    lazy = da.zeros((side * 16, side * 16), chunks=16, dtype="f4")
    n = 10 * side**2
    x, y = np.random.default_rng(0).uniform(0, side * 16, (2, n))
    with dask.config.set({"array.chunk-size": "1MiB"}):
        stamps = extract_stamps(lazy, x, y, 9)
    (optimized,) = dask.optimize(stamps)
    assert len(dict(optimized.dask)) <= 2 * side**2 + len(stamps.chunks[0])
    assert len(pickle.dumps(optimized.dask)) < 2000 * side**2


def test_arrays_that_are_not_contiguous_and_threads_that_share_one():
    image = np.repeat(whole(), 2, axis=1)[:, ::2]
    x, y = positions(2000)
    expected = by_slicing(whole(), x, y, 61, np.nan)  # several tasks of threads
    for found in run_together(lambda: extract_stamps(image, x, y, 61), 4):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(extract_stamps(whole().T, y, x, 61), expected.transpose(0, 2, 1))


def test_no_position_and_positions_far_outside():
    for kind in (whole(), da.from_array(whole(), chunks=50)):
        empty = extract_stamps(kind, [], [], 9)
        assert (empty.shape, empty.dtype) == ((0, 9, 9), "f4")
        assert np.asarray(empty).shape == (0, 9, 9)
        assert np.isnan(np.asarray(extract_stamps(kind, [1e300, -1e300, 5e3], [5.0, 1e18, 5.0], 9))).all()


@pytest.mark.parametrize(
    ("x", "y", "keywords", "message"),
    [
        ([5.0, np.nan], [5.0, 5.0], {}, r"1 of 2 positions are not finite, the first is x\[1\]=nan, y\[1\]=5.0"),
        ([5.0], [-np.inf], {}, "positions are not finite"),
        ([5.0, 6.0], [5.0], {}, r"x has shape \(2,\), y has \(1,\)"),
        ([[5.0]], [[5.0]], {}, "x has shape"),
        (["a"], [5.0], {}, "cannot be taken for positions"),
        ([5.0], [5.0], {"size": 0}, "size=0"),
        ([5.0], [5.0], {"size": -3}, "size=-3"),
        ([5.0], [5.0], {"size": 2.5}, "size=2.5"),
        ([5.0], [5.0], {"size": (3, 3)}, "size="),
        ([5.0], [5.0], {"fill_value": "x"}, "fill_value='x' is no value of an image of dtype float32"),
        ([5.0], [5.0], {"out": [1]}, "out is list"),
        ([5.0], [5.0], {"out": np.empty((1, 9, 9))}, "out is ndarray of float64; expected a writeable .* of float32"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(x, y, keywords, message):
    for kind in (whole(), da.from_array(whole(), chunks=50)):
        with pytest.raises(ParameterError, match=message):
            extract_stamps(kind, x, y, **({"size": 9} | keywords))


def test_fill_values_that_the_dtype_cannot_hold():
    for dtype, fill in (("i2", np.nan), ("u1", -1), ("i2", 1e6), ("?", 7), ("i4", 0.5)):
        with pytest.raises(ParameterError, match=f"fill_value={fill} is no value of an image of dtype"):
            extract_stamps(whole(dtype), [5.0], [5.0], 9, fill_value=fill)


def test_arrays_that_are_no_image():
    with pytest.raises(ImageShapeError, match="expected a two-dimensional image"):
        extract_stamps(np.zeros((3, 4, 5)), [1.0], [1.0], 3)
    with pytest.raises(ImageShapeError, match=r"out has shape \(2, 9, 9\); expected \(1, 9, 9\)"):
        extract_stamps(whole(), [5.0], [5.0], 9, out=np.empty((2, 9, 9), "f4"))
    with pytest.raises(ParameterError, match="masked array"):
        extract_stamps(np.ma.masked_array(whole(), whole() > 0), [1.0], [1.0], 3)


def test_a_stamp_larger_than_the_image():
    found = extract_stamps(whole(), [60.0], [70.0], 401)
    assert np.isfinite(found).sum() == whole().size
    np.testing.assert_array_equal(found, by_slicing(whole(), [60.0], [70.0], 401, np.nan))
