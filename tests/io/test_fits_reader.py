import ctypes
import gzip
import os
import pickle
import threading
import tracemalloc
import warnings

import dask
import fsspec
import numpy as np
import pytest
from astropy.io import fits
from concurrency import run_fresh, run_together
from hypothesis import given, settings
from hypothesis import strategies as st
from served import RangeServer
from strategies import chunkings

from galprep_dask import open_image
from galprep_dask.errors import (
    HDUError,
    ImageFileError,
    ImageNotFoundError,
    ImageShapeError,
    NotLazyWarning,
    ParameterError,
)
from galprep_dask.io import byte_ranges, fits_reader
from galprep_dask.io.fits_find import find_plane
from galprep_dask.io.fits_reader import FitsPlane, reader_of
from galprep_dask.io.open import lazy_plane
from galprep_dask.io.unpacked import Unpacked

BITPIX = {8: ">u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
UNSIGNED = {16: 2**15, 32: 2**31, 64: 2**63}


@pytest.fixture
def server(tmp_path):
    """A web server on this machine for the files of ``tmp_path``."""
    with RangeServer(tmp_path) as running:
        yield running


def write_raw(path, stored, cards=()):
    """Write stored numbers and scaling keywords to a file just as they are."""
    bitpix = next(n for n, dtype in BITPIX.items() if np.dtype(dtype) == stored.dtype)
    header = fits.Header([("SIMPLE", True), ("BITPIX", bitpix), ("NAXIS", stored.ndim)])
    for n, length in enumerate(reversed(stored.shape), start=1):
        header[f"NAXIS{n}"] = length
    header.extend(cards)
    body = stored.tobytes()
    path.write_bytes(header.tostring().encode() + body + b"\0" * (-len(body) % 2880))
    return path


def stored_numbers(bitpix, shape, seed=0):
    rng = np.random.default_rng(seed)
    dtype = np.dtype(BITPIX[bitpix])
    if bitpix < 0:
        stored = rng.normal(size=shape).astype(dtype)
        stored.flat[:6] = [np.nan, np.inf, -np.inf, -0.0, 1e-30, 3]
    else:
        limits = np.iinfo(dtype)
        stored = rng.integers(limits.min, limits.max, shape, dtype.newbyteorder("="), endpoint=True).astype(dtype)
        stored.flat[:5] = [3, 0, limits.min, limits.max, 3]
    return stored


SCALINGS = {
    "plain": {},
    "scale": {"BSCALE": 0.37, "BZERO": -12.5},
    "scale one": {"BSCALE": 1.0, "BZERO": 7.0},
    "zero only": {"BZERO": 100},
    "blank": {"BLANK": 3},
    "blank zero": {"BLANK": 0},
    "blank scaled": {"BLANK": 3, "BSCALE": 2.0, "BZERO": 0.5},
}
CASES = [(bitpix, name) for bitpix in BITPIX for name in SCALINGS if bitpix > 0 or "blank" not in name]


@pytest.mark.parametrize(("bitpix", "name"), CASES)
def test_pixels_equal_those_of_astropy(tmp_path, bitpix, name):
    path = write_raw(tmp_path / "image.fits", stored_numbers(bitpix, (37, 29)), SCALINGS[name].items())
    expected = fits.getdata(path)
    found = open_image(path, chunks=((10, 1, 26), (29,)))["data"]
    assert found.dtype == np.dtype("f8" if bitpix in (32, 64, -64) else "f4")
    assert found.dtype.isnative
    values = found.values
    assert values.dtype == found.dtype
    np.testing.assert_array_equal(values, expected.astype(found.dtype))
    # The reader itself has astropy's dtype, whatever the image is made of afterwards.
    plane = find_plane(str(path))
    assert plane.dtype == expected.dtype.newbyteorder("=")
    np.testing.assert_array_equal(plane[:], expected)
    np.testing.assert_array_equal(np.signbit(plane[:]), np.signbit(expected))
    if name in ("blank", "blank scaled"):
        assert np.isnan(values[0, 0])
        assert not np.isnan(values[0, 1])


@pytest.mark.parametrize("dtype", ["i1", "u2", "u4", "u8"])
@pytest.mark.parametrize("blank", [False, True])
def test_unsigned_integers_and_signed_bytes(tmp_path, dtype, blank):
    limits = np.iinfo(dtype)
    whole = np.random.default_rng(1).integers(limits.min, limits.max, (19, 23), dtype, endpoint=True)
    whole.flat[:2] = limits.min, limits.max
    path = tmp_path / "image.fits"
    fits.PrimaryHDU(whole).writeto(path)
    if blank and dtype != "i1":
        with fits.open(path, mode="update", do_not_scale_image_data=True) as hdus:
            hdus[0].header["BLANK"] = 5
    expected = fits.getdata(path)
    plane = find_plane(str(path))
    assert plane.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(plane[:], expected)
    found = open_image(path, chunks=7)["data"]
    np.testing.assert_array_equal(found.values, expected.astype(found.dtype))


@given(st.data())
@settings(max_examples=40)
def test_ragged_chunks_and_slices_do_not_matter(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("ragged")
    shape = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    bitpix = data.draw(st.sampled_from([8, 16, -32, -64]))
    stored = stored_numbers(bitpix, (max(6, shape[0]), max(6, shape[1])))[: shape[0], : shape[1]]
    path = write_raw(folder / "image.fits", np.ascontiguousarray(stored))
    expected = fits.getdata(path)
    chunks = tuple(data.draw(chunkings(length)) for length in shape)
    found = open_image(path, chunks=chunks)["data"]
    assert found.chunks == chunks
    expected = expected.astype(found.dtype)
    np.testing.assert_array_equal(found.data.compute(scheduler="sync"), expected)
    index = tuple(
        slice(*sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n)))), data.draw(st.integers(1, 3)))
        for n in shape
    )
    np.testing.assert_array_equal(found[index].data.compute(scheduler="sync"), expected[index])


@pytest.mark.parametrize(
    "index",
    [
        np.s_[3], np.s_[-1, -2], np.s_[:, 5], np.s_[::-1, ::-2], np.s_[[5, 3, 3, 29]], np.s_[2:9, [0, 22]],
        np.s_[4:4], np.s_[:, None, 3:5], np.s_[..., 7], np.s_[None, 1:3, [4, 4]],
    ],
)  # fmt: skip
def test_dask_indexing_of_every_kind(tmp_path, index):
    path = write_raw(tmp_path / "image.fits", stored_numbers(-32, (30, 23)))
    expected = fits.getdata(path)
    found = open_image(path, chunks=(7, 10))["data"].data[index]
    np.testing.assert_array_equal(found.compute(scheduler="sync"), expected[index])


def test_index_beyond_the_image_is_an_index_error(tmp_path):
    plane = find_plane(str(write_raw(tmp_path / "image.fits", stored_numbers(16, (30, 23)))))
    for index in (30, -31, (0, 23), [1, 30], (slice(None), [-24])):
        with pytest.raises(IndexError, match="out of bounds"):
            plane[index]
    assert plane[[], 1:3].shape == (0, 2)
    assert plane[np.arange(30) == 4].tolist() == plane[4:5].tolist()


# Tile-compressed ------------------------------------------------------------------------------------------


def compressed(path, whole, kind, **options):
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(whole, compression_type=kind, **options)]).writeto(path)
    return path


@pytest.mark.parametrize("kind", ["RICE_1", "GZIP_1", "GZIP_2", "HCOMPRESS_1"])
@pytest.mark.parametrize("dtype", ["i2", "i4", "u1", "u2", "f4", "f8"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_tile_compressed_pixels_equal_those_of_astropy(tmp_path, kind, dtype, tile):
    rng = np.random.default_rng(2)
    whole = rng.normal(1000 if dtype == "u2" else 100, 10, (53, 70)).astype(dtype)
    if tile is None and kind == "HCOMPRESS_1":
        tile = (16, 70)
    if np.dtype(dtype).kind == "f" and kind != "HCOMPRESS_1":
        whole[3, 4] = np.nan
    path = compressed(tmp_path / "image.fits.fz", whole, kind, tile_shape=tile)
    expected = fits.getdata(path, 1)
    plane = find_plane(str(path))
    assert plane.dtype == expected.dtype.newbyteorder("=")
    for chunks in ("auto", 16, ((1, 30, 22), (69, 1))):
        found = open_image(path, chunks=chunks)
        assert found.attrs["hdu"] == 1
        np.testing.assert_array_equal(found["data"].values, expected.astype(found["data"].dtype))


def test_auto_chunks_of_compressed_images_are_whole_tiles(tmp_path):
    whole = np.zeros((2500, 4100), "i2")
    for tile, expected in {(1, 4100): (1023, 4100), (100, 300): (2000, 2100), (2500, 4100): (2500, 4100)}.items():
        path = compressed(tmp_path / f"{tile}.fits", whole, "RICE_1", tile_shape=tile)
        chunks = open_image(path)["data"].chunks
        assert (chunks[0][0], chunks[1][0]) == expected
        for axis, side, length in zip(chunks, tile, whole.shape, strict=True):
            assert all(size % side == 0 for size in axis[:-1])
            assert sum(axis) == length


def test_compressed_reader_decompresses_only_the_tiles_it_needs(tmp_path):
    whole = np.random.default_rng(0).integers(0, 2**31, (4096, 1024), dtype="i4")
    path = compressed(tmp_path / "image.fits", whole, "GZIP_1", tile_shape=(64, 1024))
    data = open_image(path, chunks=(64, 1024))["data"]
    drop_from_memory(path)
    np.testing.assert_array_equal(data[640:704].values, whole[640:704])
    # Table and header, read ahead, and one of 64 tiles.
    assert pages_in_memory(path) * mmap_page() < 0.25 * path.stat().st_size


@pytest.fixture
def unpacked_regions(monkeypatch):
    """What astropy was asked to unpack."""
    regions, unpack = [], FitsPlane._through_astropy

    def counted(plane, region):
        regions.append(tuple((axis.start, axis.stop) for axis in region))
        return unpack(plane, region)

    monkeypatch.setattr(FitsPlane, "_through_astropy", counted)
    return regions


def test_tiles_that_cross_chunks_are_unpacked_once_and_kept_for_the_next_pass(tmp_path, unpacked_regions):
    whole = np.random.default_rng(0).normal(size=(60, 70)).astype("f4")
    path = compressed(tmp_path / "image.fits", whole, "GZIP_2", tile_shape=(1, 70), quantize_level=0)
    data = open_image(path, chunks=(20, 16))["data"].data
    for _ in range(3):
        np.testing.assert_array_equal(data.compute(), whole)
    assert sorted(unpacked_regions) == [((y, y + 20), (0, 70)) for y in (0, 20, 40)]
    data[:20, :16].compute()[:] = 0  # one's own copy
    np.testing.assert_array_equal(data[:20, :16], whole[:20, :16])
    path.unlink()
    compressed(path, -whole, "GZIP_2", tile_shape=(1, 70), quantize_level=0)
    os.utime(path, ns=(1, 1))
    np.testing.assert_array_equal(open_image(path, chunks=(20, 16))["data"], -whole)


def test_a_gzipped_file_is_unpacked_once_while_it_is_kept(tmp_path, unpacked_regions):
    whole = np.random.default_rng(0).normal(size=(60, 70)).astype("f4")
    fits.writeto(tmp_path / "image.fits.gz", whole)
    with pytest.warns(NotLazyWarning):
        data = open_image(tmp_path / "image.fits.gz", chunks=20)["data"]
    np.testing.assert_array_equal(data, whole)
    assert unpacked_regions == [((0, 60), (0, 70))]


def test_of_more_than_is_kept_only_tiles_that_cross_chunks_are_kept(tmp_path, unpacked_regions, monkeypatch):
    monkeypatch.setattr(fits_reader, "_unpacked", Unpacked(n_bytes=20 * 70 * 4))
    whole = np.random.default_rng(0).normal(size=(60, 70)).astype("f4")
    path = compressed(tmp_path / "image.fits", whole, "GZIP_2", tile_shape=(1, 70), quantize_level=0)
    for chunks, expected in (((20, 70), 3), ((20, 35), 3), ((30, 35), 4)):
        unpacked_regions.clear()
        np.testing.assert_array_equal(open_image(path, chunks=chunks)["data"].data.compute(scheduler="sync"), whole)
        assert len(unpacked_regions) == expected


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["vircam_h/image_1.fits", "decam_tc8/c4d_171113_060340_oow_r_ls9.N6.fits"])
def test_real_compressed_images(shared_data, name):
    expected = fits.getdata(shared_data / name, 1)
    image = open_image(shared_data / name, chunks=500)
    np.testing.assert_array_equal(image["data"].values, expected)
    assert image.attrs["hdu"] == 1


@pytest.mark.shared_data
def test_every_real_image_equals_astropy(shared_data):
    count = 0
    for path in sorted(shared_data.glob("*/*.fits")):
        with fits.open(path) as hdus:
            for number, hdu in enumerate(hdus):
                if hdu.is_image and hdu.data is not None:
                    found = open_image(path, number, chunks=100)["data"].data.compute(scheduler="sync")
                    np.testing.assert_array_equal(found, hdu.data.astype(found.dtype), err_msg=f"{path.name} {number}")
                    count += 1
    assert count > 30


# Which HDU ------------------------------------------------------------------------------------------------


@pytest.fixture
def several(tmp_path):
    """An empty primary, a table, a cube, an image SCI, its mask, a second SCI."""
    path = tmp_path / "several.fits"
    science = fits.ImageHDU(np.full((4, 5), 1.0), name="SCI", ver=1)
    fits.HDUList([
        fits.PrimaryHDU(header=fits.Header([("GAIN", 2.5), ("EXPTIME", 60.0)])),
        fits.BinTableHDU.from_columns([fits.Column("a", "J", array=[1, 2])], name="TAB"),
        fits.ImageHDU(np.zeros((3, 4, 5), "f4"), name="CUBE"),
        science,
        fits.ImageHDU(np.eye(4, 5, dtype="u1"), name="DQ"),
        fits.ImageHDU(np.full((4, 5), 2.0), name="SCI", ver=2),
        fits.ImageHDU(np.zeros(7), name="SPECTRUM"),
    ]).writeto(path)  # fmt: skip
    return path


@pytest.mark.parametrize(
    ("hdu", "number"),
    [(None, 3), (3, 3), ("SCI", 3), ("sci", 3), (("SCI", 2), 5), (-2, 5), ("DQ", 4), (2, 2), ("CUBE", 2)],
)
def test_hdu_by_index_name_and_from_the_end(several, hdu, number):
    image = open_image(several, hdu)
    assert image.attrs["hdu"] == number
    np.testing.assert_array_equal(image["data"].values, fits.getdata(several, number))
    assert image.attrs["gain"] == 2.5  # from the primary


@pytest.mark.parametrize("hdu", [7, -8, "SKY", ("SCI", 3)])
def test_hdu_that_is_not_there(several, hdu):
    with pytest.raises(HDUError) as caught:
        open_image(several, hdu)
    message = str(caught.value)
    assert message.startswith(f"{str(several)!r} has no HDU {hdu!r}. It has 0: PRIMARY (no image); 1: TAB (no image); ")
    assert "2: CUBE 3x4x5; 3: SCI 4x5; 4: DQ 4x5;" in message


@pytest.mark.parametrize("hdu", [0, 1, "TAB", "SPECTRUM"])
def test_hdu_without_an_image(several, hdu):
    with pytest.raises(HDUError, match=r"is not a 2-D image or a cube\. It has 0: PRIMARY"):
        open_image(several, hdu)


def test_file_without_an_image(tmp_path):
    path = tmp_path / "table.fits"
    fits.BinTableHDU.from_columns([fits.Column("a", "J", array=[1])]).writeto(path)
    with pytest.raises(HDUError, match=r"'.*table.fits' holds no image\. It has 0: PRIMARY \(no image\); 1: "):
        open_image(path)


def test_axes_of_length_one_are_left_out(tmp_path):
    whole = np.arange(20, dtype="f4").reshape(1, 1, 4, 5)
    path = tmp_path / "radio.fits"
    fits.writeto(path, whole)
    image = open_image(path, chunks=3)
    assert image["data"].dims == ("y", "x")
    np.testing.assert_array_equal(image["data"].values, whole[0, 0])
    path = compressed(tmp_path / "radio.fits.fz", whole.astype("i4"), "GZIP_1", tile_shape=(1, 1, 2, 5))
    np.testing.assert_array_equal(open_image(path, chunks=3)["data"].values, whole[0, 0])


def test_cubes(tmp_path):
    whole = np.random.default_rng(0).normal(size=(6, 14, 15)).astype("f4")
    path = tmp_path / "cube.fits"
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(whole, name="FLUX"), fits.ImageHDU(whole**2, name="STAT")]).writeto(
        path
    )
    for chunks in ("auto", 5, {"spectral": 2, "y": 4}, (6, 3, 15)):
        cube = open_image(path, chunks=chunks)
        assert cube["data"].dims == ("spectral", "y", "x")
        assert cube.attrs["hdu"] == 1
        np.testing.assert_array_equal(cube["data"].values, whole)
    np.testing.assert_array_equal(cube["data"][2:4, 3, 5:9].values, whole[2:4, 3, 5:9])
    assert open_image(path, mask=np.zeros((14, 15)))["mask"].dims == ("y", "x")
    compressed(tmp_path / "cube.fits.fz", whole, "GZIP_2", tile_shape=(1, 7, 15), quantize_level=0)
    np.testing.assert_array_equal(open_image(tmp_path / "cube.fits.fz", chunks=4)["data"].values, whole)


# Whole-file compression -----------------------------------------------------------------------------------


def test_gzipped_files_are_read_with_a_warning(tmp_path):
    whole = stored_numbers(-32, (30, 23))
    plain = write_raw(tmp_path / "image.fits", whole)
    path = tmp_path / "image.fits.gz"
    path.write_bytes(gzip.compress(plain.read_bytes()))
    with pytest.warns(NotLazyWarning, match=r"image.fits.gz' is compressed as a whole \(gzip\).*Unpack it") as caught:
        image = open_image(path, chunks=(7, 10))
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert image["data"].chunks == ((7, 7, 7, 7, 2), (10, 10, 3))
    np.testing.assert_array_equal(image["data"].values, fits.getdata(plain))
    np.testing.assert_array_equal(image["data"][3:9, 20:].values, fits.getdata(plain)[3:9, 20:])
    memory = fsspec.filesystem("memory")
    memory.pipe("/gzipped/image.fits.gz", path.read_bytes())
    with pytest.warns(NotLazyWarning):
        image = open_image("memory://gzipped/image.fits.gz")
    np.testing.assert_array_equal(image["data"].values, fits.getdata(plain))


# How much is read -----------------------------------------------------------------------------------------


def mmap_page():
    return os.sysconf("SC_PAGE_SIZE")


def drop_from_memory(path):
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
    assert pages_in_memory(path) == 0


def pages_in_memory(path):
    """Pages of a file that the system has read from the disk."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    size = os.path.getsize(path)
    descriptor = os.open(path, os.O_RDONLY)
    address = libc.mmap(None, size, 1, 1, descriptor, 0)
    os.close(descriptor)
    pages = ctypes.create_string_buffer(-(-size // mmap_page()))
    assert libc.mincore(address, size, pages) == 0
    libc.munmap(address, size)
    return sum(byte & 1 for byte in pages.raw)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A 64 MiB image whose rows are 128 KiB long, 16384 of its pixels to the row of a narrow chunk."""
    path = tmp_path_factory.mktemp("wide") / "wide.fits"
    whole = np.arange(512 * 32768, dtype=">f4").reshape(512, 32768)
    return write_raw(path, whole), whole


@pytest.mark.parametrize(
    ("region", "pages_a_row"), [(np.s_[64:128, :], 32), (np.s_[:, 9000:9100], 2), (np.s_[100:300, 5000:5200], 2)]
)
def test_reading_a_region_touches_little_more_than_its_own_bytes(wide, region, pages_a_row):
    path, whole = wide
    data = open_image(path, chunks=(64, 32768))["data"]
    drop_from_memory(path)
    np.testing.assert_array_equal(data[region].data.compute(scheduler="sync"), whole[region])
    rows = whole[region].shape[0]
    # The kernel reads 128 KiB ahead at the end of a contiguous region.
    assert rows <= pages_in_memory(path) <= rows * pages_a_row + 33


def test_slice_of_an_image_reads_the_region_and_not_the_chunks(wide, monkeypatch):
    path, whole = wide
    regions = []
    read = FitsPlane._read
    monkeypatch.setattr(FitsPlane, "_read", lambda plane, region: (regions.append(region), read(plane, region))[1])
    image = open_image(path, chunks=(256, 2048))
    cut = image["data"][150:350, 2000:2200]
    np.testing.assert_array_equal(cut.data.compute(scheduler="sync"), whole[150:350, 2000:2200])
    assert sum((y.stop - y.start) * (x.stop - x.start) for y, x in regions) == 200 * 200
    assert len(regions) == 4


OPEN_LARGE = """
import sys
from galprep_dask import open_image
path = sys.argv[1]
small = open_image(sys.argv[2])  # what is loaded at the first call is no part of a file's size

def bytes_read():
    with open("/proc/self/io") as file:
        return int(file.readline().split()[1])

before = bytes_read()
image = open_image(path)
print(bytes_read() - before)
before = bytes_read()
open_image(path, mask=1)
print(bytes_read() - before)
print(image["data"].shape)
print(float(image["data"][32767, 32767]))
"""


def test_opening_four_gigabytes_reads_headers_only(tmp_path):
    path = tmp_path / "large.fits"
    header = fits.Header([("SIMPLE", True), ("BITPIX", -32), ("NAXIS", 2), ("NAXIS1", 32768), ("NAXIS2", 32768)])
    header["EXTEND"] = True
    mask = fits.Header([("XTENSION", "IMAGE"), ("BITPIX", 8), ("NAXIS", 2), ("NAXIS1", 32768), ("NAXIS2", 32768)])
    mask["PCOUNT"], mask["GCOUNT"] = 0, 1
    first, second = header.tostring().encode(), mask.tostring().encode()
    end = len(first) + -(-4 * 32768**2 // 2880) * 2880
    with open(path, "wb") as file:
        file.write(first)
        file.seek(len(first) + 4 * (32768**2 - 1))
        file.write(np.array([7.5], ">f4").tobytes())
        file.seek(end)
        file.write(second)
        file.truncate(end + len(second) + -(-(32768**2) // 2880) * 2880)
    small = write_raw(tmp_path / "small.fits", stored_numbers(-32, (3, 4)))
    read, with_mask, shape, last = run_fresh(OPEN_LARGE, path, small).splitlines()
    assert int(read) < 10e6
    assert int(with_mask) < 10e6
    assert shape == "(32768, 32768)"
    assert last == "7.5"


def test_graph_is_small_and_holds_no_pixels_and_no_file(tmp_path):
    header = fits.Header([("COMMENT", "x" * 60)] * 500)
    plain = tmp_path / "image.fits"
    fits.writeto(plain, np.zeros((640, 640), "f4"), header)
    tiled = compressed(tmp_path / "image.fits.fz", np.zeros((640, 640), "i4"), "RICE_1", tile_shape=(20, 20))
    for path in (plain, tiled):
        sizes = {}
        for side in (80, 20):
            image = open_image(path, chunks=side)
            graph = image["data"].data.dask
            sizes[len(graph)] = len(pickle.dumps(graph))
            assert len(graph) == (640 // side) ** 2
            for task in dict(graph).values():
                assert not any(isinstance(part, np.ndarray) and part.size for part in getattr(task, "args", ()))
        assert max(sizes.values()) < 4000
        materialised = pickle.dumps(dict(graph))
        assert len(materialised) / len(graph) < 700
        copied = pickle.loads(pickle.dumps(image))
        np.testing.assert_array_equal(copied["data"].values, image["data"].values)


def test_image_is_the_same_name_for_the_same_file_and_another_for_another(tmp_path):
    path = write_raw(tmp_path / "image.fits", stored_numbers(-32, (6, 7)))
    first = open_image(path)["data"].data.name
    assert open_image(path)["data"].data.name == first
    os.utime(path, ns=(1, 1))
    assert open_image(path)["data"].data.name != first


# Threads --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["plain", "rice", "hcompress", "memory", "http", "unpacked once"])
def test_eight_threads_read_the_right_pixels_of_one_file(tmp_path, server, source, monkeypatch):
    if source != "unpacked once":
        monkeypatch.setattr(fits_reader, "_unpacked", Unpacked(n_bytes=0))  # every thread does it by itself
    whole = np.random.default_rng(3).integers(0, 30000, (400, 300), dtype="i4")
    path = tmp_path / "image.fits"
    if source == "plain":
        fits.writeto(path, whole)
    else:
        kind = "HCOMPRESS_1" if source == "hcompress" else "RICE_1"
        compressed(path, whole, kind, tile_shape=(20, 300))
    url = str(path)
    if source == "memory":
        url = "memory://threads/image.fits"
        fsspec.filesystem("memory").pipe("/threads/image.fits", path.read_bytes())
    if source == "http":
        url = server.url("image.fits")
    data = open_image(url, chunks=(37, 100))["data"].data

    for values in run_together(lambda: data.compute(scheduler="sync")):
        np.testing.assert_array_equal(values, whole)
    np.testing.assert_array_equal(data.compute(scheduler="threads", num_workers=8), whole)


def test_eight_threads_that_open_files_leave_the_warning_filters_alone(tmp_path):
    path = write_raw(tmp_path / "image.fits", stored_numbers(-32, (6, 7)))
    before = list(warnings.filters)
    run_together(lambda: [open_image(path) for _ in range(10)])
    assert list(warnings.filters) == before


def test_files_of_ended_threads_are_closed(tmp_path):
    whole = np.zeros((40, 30), "i4")
    paths = [compressed(tmp_path / f"{n}.fits", whole, "RICE_1") for n in range(9)]
    images = [open_image(path)["data"].data for path in paths]

    def open_files():
        links = (os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd"))
        return [os.readlink(link) for link in links if os.path.islink(link)]

    counts = []

    def read():
        for image in images:
            image.compute(scheduler="sync")
        counts.append(sum(str(tmp_path) in name for name in open_files()))

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    assert counts == [4]  # a few are kept, to be quick at the next chunk
    assert not any(str(tmp_path) in name for name in open_files())


# Remote ---------------------------------------------------------------------------------------------------


def test_memory_urls(tmp_path):
    path = write_raw(tmp_path / "image.fits", stored_numbers(16, (30, 23)), [("BSCALE", 0.5), ("BLANK", 3)])
    fsspec.filesystem("memory").pipe("/remote/image.fits", path.read_bytes())
    for chunks in ("auto", (7, 10), ((30,), (23,))):
        image = open_image("memory://remote/image.fits", chunks=chunks)
        np.testing.assert_array_equal(image["data"].values, fits.getdata(path))
    assert image.attrs["path"] == "memory://remote/image.fits"


@pytest.mark.parametrize("kind", [None, "RICE_1", "GZIP_2"])
def test_http_urls(tmp_path, server, kind):
    whole = np.random.default_rng(4).normal(size=(300, 200)).astype("f4")
    path = tmp_path / "image.fits"
    if kind is None:
        fits.writeto(path, whole)
    else:
        compressed(path, whole, kind, tile_shape=(10, 200))
    image = open_image(server.url("image.fits"), chunks=(70, 90))
    np.testing.assert_array_equal(image["data"].values, fits.getdata(path))


def test_http_reads_little_more_than_the_bytes_of_a_region(tmp_path, server):
    whole = np.random.default_rng(5).normal(size=(2048, 4096)).astype("f4")
    fits.writeto(tmp_path / "image.fits", whole)
    image = open_image(server.url("image.fits"), chunks=(256, 1024))
    assert server.take_requests()[1] < 2**20  # of 32 MiB
    np.testing.assert_array_equal(image["data"][256:512, 1024:2048].values, whole[256:512, 1024:2048])
    requests, n_bytes = server.take_requests()
    assert requests < 256  # rows
    assert n_bytes <= 1.25 * 256 * 1024 * 4
    np.testing.assert_array_equal(image["data"][100:150, 30:90].values, whole[100:150, 30:90])
    requests, n_bytes = server.take_requests()
    assert requests < 50
    assert n_bytes <= 50 * 60 * 4 + 2**18
    assert open_image(server.url("image.fits"))["data"].chunks == ((2048,), (4096,))
    server.take_requests()
    np.testing.assert_array_equal(open_image(server.url("image.fits"))["data"].values, whole)
    assert server.take_requests()[0] <= 4 + 6  # pieces, and the headers


def test_rows_far_apart_are_asked_for_one_by_one(tmp_path, server):
    whole = np.random.default_rng(7).normal(size=(40, 20000)).astype("f4")
    fits.writeto(tmp_path / "image.fits", whole)
    image = open_image(server.url("image.fits"), chunks=(20, 5000))["data"]
    server.take_requests()
    np.testing.assert_array_equal(image[20:, 5000:10000].values, whole[20:, 5000:10000])
    assert server.take_requests() == (20, 20 * 5000 * 4)
    plane = reader_of(image.data)
    regions = [(slice(3, 9), slice(100 + x, 130 + x)) for x in (0, 20, 4000, 19000)] + [(slice(8, 10), slice(0, 20000))]
    server.take_requests()
    for region, values in zip(regions, plane.windows(regions), strict=True):
        np.testing.assert_array_equal(values, whole[region])
    # Rows 3 to 7 of the first two, which overlap, with the third, and of the fourth with the rows beyond; and the rest.
    assert server.take_requests()[0] == 6


def test_a_long_run_is_read_in_pieces_side_by_side(tmp_path, server, monkeypatch):
    monkeypatch.setattr(byte_ranges, "_PIECE", 10_000)
    whole = np.random.default_rng(8).normal(size=(90, 100)).astype("f4")
    fits.writeto(tmp_path / "image.fits", whole)
    image = open_image(server.url("image.fits"), chunks=(90, 100))["data"]
    server.take_requests()
    np.testing.assert_array_equal(image.values, whole)
    assert server.take_requests() == (4, 36_000)


def test_http_reads_the_tiles_of_a_region_only(tmp_path, server):
    whole = np.random.default_rng(6).integers(0, 2**31, (2048, 2048), dtype="i4")
    path = compressed(tmp_path / "image.fits.fz", whole, "GZIP_1", tile_shape=(128, 2048))
    image = open_image(server.url("image.fits.fz"), chunks=(128, 2048))
    server.take_count()
    np.testing.assert_array_equal(image["data"][640:768].data.compute(scheduler="sync"), whole[640:768])
    assert server.take_count() < 0.2 * path.stat().st_size


def test_url_that_is_not_there(server):
    with pytest.raises(ImageNotFoundError, match=r"there is no file 'http://127.0.0.1:\d+/none.fits'"):
        open_image(server.url("none.fits"))
    with pytest.raises(ImageNotFoundError, match="there is no file 'memory://none.fits'"):
        open_image("memory://none.fits")


def test_server_that_breaks_down_is_named(tmp_path, server):
    fits.writeto(tmp_path / "image.fits", np.zeros((40, 30)))
    image = open_image(server.url("image.fits"))
    server.break_down()
    with pytest.raises(ImageFileError, match=r"image.fits' \[HDU 0\] cannot be read.*500.*Check the address"):
        image["data"].data.compute(scheduler="sync")
    with pytest.raises(ImageFileError, match=r"image.fits' cannot be read.*Check the address"):
        open_image(server.url("image.fits"))


def test_unknown_protocol_is_named():
    with pytest.raises(ImageFileError, match="'nonsense://a/b.fits' cannot be read.*nonsense"):
        open_image("nonsense://a/b.fits")


def test_file_urls_and_relative_paths_hold_when_the_directory_changes(tmp_path, monkeypatch):
    whole = stored_numbers(-32, (6, 7))
    write_raw(tmp_path / "image.fits", whole)
    np.testing.assert_array_equal(open_image(f"file://{tmp_path}/image.fits")["data"].values, whole)
    monkeypatch.chdir(tmp_path)
    image = open_image("image.fits")
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(image["data"].values, whole)


# Errors ---------------------------------------------------------------------------------------------------


def test_missing_file(tmp_path):
    path = str(tmp_path / "none.fits")
    with pytest.raises(ImageNotFoundError) as caught:
        open_image(path)
    assert str(caught.value) == f"there is no file {path!r}. Check the path."
    assert isinstance(caught.value, FileNotFoundError)


def test_directory(tmp_path):
    with pytest.raises(ImageFileError, match="is a directory, and no Zarr store. Name a FITS file"):
        open_image(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n" + b"\0" * 5000, b"SIMPLE  =", b"text\n" * 2000])
def test_file_that_is_no_fits(tmp_path, content):
    path = tmp_path / "image.fits"
    path.write_bytes(content)
    with pytest.raises(ImageFileError, match=r"image.fits' cannot be read as FITS: .+It may be truncated, damaged or"):
        open_image(path)


@pytest.mark.parametrize("lost", [1, 2880, 5 * 2880])
def test_truncated_file(tmp_path, lost):
    path = write_raw(tmp_path / "image.fits", stored_numbers(-64, (60, 40)))
    size = path.stat().st_size
    pad = -60 * 40 * 8 % 2880
    os.truncate(path, size - pad - lost)
    with pytest.raises(ImageFileError) as caught:
        open_image(path)
    assert str(caught.value) == (
        f"{str(path)!r} [HDU 0] is truncated: its header promises {size - pad} bytes, the file has "
        f"{size - pad - lost}. Fetch or write it again."
    )


def test_truncated_file_that_is_remote(tmp_path, server):
    path = write_raw(tmp_path / "image.fits", stored_numbers(-64, (60, 40)))
    os.truncate(path, 10000)
    with pytest.raises(ImageFileError, match="is truncated: its header promises"):
        open_image(server.url("image.fits"))


def test_truncated_compressed_file(tmp_path):
    path = compressed(tmp_path / "image.fits", stored_numbers(32, (60, 40)).astype("i4"), "GZIP_1")
    os.truncate(path, path.stat().st_size - 2880)
    with pytest.raises(ImageFileError, match=r"\[HDU 1\] is truncated: its header promises \d+ bytes, the file has"):
        open_image(path)


def test_truncated_gzip_file(tmp_path):
    plain = write_raw(tmp_path / "image.fits", stored_numbers(-64, (600, 400)))
    path = tmp_path / "image.fits.gz"
    content = gzip.compress(plain.read_bytes())
    path.write_bytes(content[: len(content) // 2])

    def read():
        open_image(path)["data"].data.compute(scheduler="sync")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotLazyWarning)  # it comes only if the header can be read
        with pytest.raises(ImageFileError, match="cannot be read as FITS"):
            read()


def test_damaged_tile_is_an_error_that_names_the_file(tmp_path):
    path = compressed(tmp_path / "image.fits", stored_numbers(32, (60, 40)).astype("i4"), "GZIP_1")
    content = bytearray(path.read_bytes())
    start = content.index(b"\x1f\x8b\x08", 2880)
    content[start : start + 40] = b"\xff" * 40
    path.write_bytes(content)
    with pytest.raises(ImageFileError, match=r"image.fits' \[HDU 1\] cannot be read"):
        open_image(path)["data"].data.compute(scheduler="sync")


@pytest.mark.parametrize("kind", [None, "RICE_1"])
def test_file_that_changed_since_it_was_opened(tmp_path, kind):
    path = tmp_path / "image.fits"
    whole = np.zeros((60, 40), "i4")

    def write(value):
        path.unlink(missing_ok=True)
        fits.writeto(path, whole + value) if kind is None else compressed(path, whole + value, kind)

    write(0)
    image = open_image(path)
    assert (image["data"].values == 0).all()
    write(1)
    os.utime(path, ns=(5, 5))
    with pytest.raises(ImageFileError, match="image.fits' was changed since it was opened. Open it again"):
        image["data"].data.compute()
    assert (open_image(path)["data"].values == 1).all()
    path.unlink()
    with pytest.raises(ImageNotFoundError, match="there is no file"):
        image["data"].data.compute()


@pytest.mark.parametrize("chunks", [{"z": 5}, {"y": 5, "spectral": 5}, (5, 5, 5), ((1, 2), (7,)), "many", 0, {2: 5}])
def test_chunks_that_do_not_fit(tmp_path, chunks):
    path = write_raw(tmp_path / "image.fits", stored_numbers(-32, (6, 7)))
    for source in (path, np.zeros((6, 7))):
        with pytest.raises(ParameterError, match="chunks="):
            open_image(source, chunks=chunks)


def test_chunks_that_fit(tmp_path):
    path = write_raw(tmp_path / "image.fits", stored_numbers(-32, (6, 7)))
    for source in (path, np.zeros((6, 7))):
        for chunks, expected in {
            4: ((4, 2), (4, 3)), -1: ((6,), (7,)), (6, 2): ((6,), (2, 2, 2, 1)), "auto": ((6,), (7,)),
        }.items():  # fmt: skip
            assert open_image(source, chunks=chunks)["data"].chunks == expected
        assert open_image(source, chunks={"x": 4})["data"].chunks == ((6,), (4, 3))
        assert open_image(source, chunks={0: 5, "x": -1})["data"].chunks == ((5, 1), (7,))


SMALL_MEMORY = """
import resource, sys
from galprep_dask import open_image
data = open_image(sys.argv[1], chunks=-1)["data"].data
data[:10, :10].compute(scheduler="sync")
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]) * 2**20,) * 2)
try:
    data.compute(scheduler="sync")
except MemoryError as error:
    print("MemoryError:", error)
"""


@pytest.mark.parametrize("room", [200, 700])
def test_lack_of_memory_is_a_memory_error(tmp_path, room):
    """Of 500 MiB neither the map (200) nor the copy (700) finds room; both are to say so."""
    path = tmp_path / "image.fits"
    header = fits.Header([("SIMPLE", True), ("BITPIX", -32), ("NAXIS", 2), ("NAXIS1", 11500), ("NAXIS2", 11400)])
    path.write_bytes(header.tostring().encode())
    os.truncate(path, 2880 + -(-11500 * 11400 * 4 // 2880) * 2880)
    assert run_fresh(SMALL_MEMORY, path, room).startswith("MemoryError: ")


def test_reading_a_chunk_takes_the_memory_of_the_chunk(wide):
    path, _ = wide
    plane = find_plane(str(path))
    tracemalloc.start()
    plane[256:512, 8192:16384]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 256 * 8192 * 4 <= peak < 1.1 * 256 * 8192 * 4


def test_opening_computes_nothing(several, no_compute):
    with no_compute():
        open_image(several, mask=4, weight=(str(several), "SCI"), sigma=np.ones((4, 5)))


# Planes ---------------------------------------------------------------------------------------------------


def test_planes_from_paths_hdus_and_arrays(tmp_path, several):
    science, mask = fits.getdata(several, 3), fits.getdata(several, 4)
    other = tmp_path / "mask.fits"
    fits.writeto(other, mask.astype("i2") * 256)
    for given_mask in (4, -3, (several, 4), (str(several), "DQ"), other, str(other), mask, mask.astype(bool)):
        image = open_image(several, chunks=3, mask=given_mask)
        assert image["mask"].dtype == bool
        assert image["mask"].chunks == image["data"].chunks
        np.testing.assert_array_equal(image["mask"].values, mask != 0)
    for name in ("weight", "sigma"):
        for plane in (5, (several, ("SCI", 2)), science * 2):
            image = open_image(several, chunks=3, **{name: plane})
            np.testing.assert_array_equal(image[name].values, science * 2)
            assert image[name].dtype == np.float64


@pytest.mark.parametrize("name", ["mask", "weight", "sigma"])
def test_planes_of_another_shape(tmp_path, several, name):
    other = tmp_path / "plane.fits"
    fits.writeto(other, np.zeros((5, 4)))
    with pytest.raises(ImageShapeError) as caught:
        open_image(several, **{name: other})
    assert str(caught.value) == (
        f"{str(other)!r} [HDU 0] has shape (5, 4), but the image it is given for has (4, 5).\n"
        "    Cut or pad it to the image."
    )
    with pytest.raises(
        ImageShapeError, match=rf"^{name} has shape \(5, 4\), but data of '.*several.fits' \[HDU 3\] has"
    ):
        open_image(several, **{name: np.zeros((5, 4))})
    with pytest.raises(ImageNotFoundError, match="none.fits"):
        open_image(several, **{name: tmp_path / "none.fits"})
    with pytest.raises(HDUError, match="has no HDU 9"):
        open_image(several, **{name: 9})


@pytest.mark.parametrize("gain", [0, -2.0, np.nan])
def test_gain_must_be_positive(several, gain):
    with pytest.raises(ParameterError, match=r"gain=.*; expected a positive number"):
        open_image(several, gain=gain)


def test_blocks_are_not_views_of_the_file(several):
    with dask.config.set(scheduler="sync"):
        values = open_image(several)["data"].values
    values[:] = 5
    assert (fits.getdata(several, 3) == 1).all()


@pytest.mark.parametrize(
    ("dtype", "keywords"),
    [
        ("u1", {}), (">i2", {"BSCALE": 0.5, "BZERO": 3.0, "BLANK": 7}), (">i2", {"BZERO": 32768}), (">f4", {}),
        (">f8", {"BZERO": 1.0}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("shape", [(40, 50), (3, 40, 50)])
@pytest.mark.parametrize("longest_span", [2**20, 0])
def test_windows_are_parts_of_the_image(tmp_path, monkeypatch, dtype, keywords, shape, longest_span):
    monkeypatch.setattr("galprep_dask.io.fits_reader._LONGEST_SPAN", longest_span)
    path = tmp_path / "image.fits"
    stored = np.random.default_rng(0).integers(0, 99, shape).astype(dtype)
    hdu = fits.PrimaryHDU(stored)
    hdu.header.update(keywords)
    header = hdu.header.tostring().encode()
    path.write_bytes(header + stored.tobytes() + bytes(-stored.nbytes % 2880))
    plane = find_plane(str(path), None, {})
    array = lazy_plane(plane, 20, dtype=plane.dtype)
    leading = (slice(0, 3),) * (len(shape) - 2)
    regions = [
        (*leading, slice(3, 9), slice(10, 50)),
        (*leading, slice(0, 40), slice(49, 50)),
        (*leading, slice(3, 9), slice(10, 50)),
    ]
    for reader in (plane, reader_of(array)):
        for region, window in zip(regions, reader.windows(regions), strict=True):
            np.testing.assert_array_equal(window, plane[region])
            assert window.dtype == plane.dtype
            window[...] = 0  # its pixels are its own
            np.testing.assert_array_equal(plane[region].any(), True)
    assert reader_of(array + 1) is None
    assert reader_of(array.rechunk(7)) is None
    assert reader_of(array[..., 1:]) is None
    with path.open("ab") as file:
        file.write(bytes(2880))
    with pytest.raises(ImageFileError, match="was changed since it was opened"):
        plane.windows(regions)
