import os
import time
from functools import partial

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from concurrency import run_fresh, run_together
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import chunked

from galprep_dask import __version__, make_image, open_image, write_image
from galprep_dask.errors import ImageFileError, OutputError, OutputExistsError, ParameterError
from galprep_dask.image import celestial_wcs, image_header
from galprep_dask.io import fits_tiles
from galprep_dask.io.fits_writer import _Region


def checked(path):
    """Read a file with nothing but astropy, which must find no fault with it."""
    with fits.open(path, memmap=False) as hdus:
        hdus.verify("exception")
        return [(hdu.name, hdu.header.copy(), None if hdu.data is None else hdu.data.copy()) for hdu in hdus]


def same_bits(found, expected):
    """Equal as numbers, NaN and the sign of zero included."""
    assert found.dtype.newbyteorder("=") == expected.dtype.newbyteorder("=")
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))


def awkward_floats(shape, dtype, seed=0):
    whole = np.random.default_rng(seed).normal(100, 5, shape).astype(dtype)
    whole.flat[:6] = [np.nan, np.inf, -np.inf, -0.0, 0.0, np.finfo(dtype).tiny]
    return whole


def leftovers(folder):
    return sorted(name for name in os.listdir(folder) if name.startswith(".") or "part" in name)


@pytest.fixture
def full(tmp_path):
    """An image with every plane, raggedly chunked."""
    whole = awkward_floats((50, 41), "f4")
    header = fits.Header()
    header["OBJECT"] = "M 31"
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
    header["CRVAL1"], header["CRVAL2"], header["CRPIX1"], header["CRPIX2"] = 10.0, 41.0, 20.0, 25.0
    header["CDELT1"], header["CDELT2"] = -1e-4, 1e-4
    # What says how the pixels of another file were stored.
    header["BITPIX"], header["BZERO"], header["BLANK"], header["NAXIS1"], header["EXTNAME"] = 16, 32768, 5, 7, "OLD"
    header.add_history("seen by the telescope")
    return make_image(
        da.from_array(whole, chunks=((1, 30, 19), (40, 1))), mask=whole > 105, sigma=np.abs(whole),
        weight=whole.astype("f8"),
        segmentation=np.arange(50 * 41).reshape(50, 41), header=header, unit="adu",
        gain=2.5, exptime=60, zeropoint=25.5,
    )  # fmt: skip


PLANE_DTYPES = {"data": "f4", "mask": "u1", "sigma": "f4", "weight": "f8", "segmentation": "i4"}


@pytest.mark.parametrize("compression", [None, "GZIP_1", "GZIP_2"])
@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_every_plane_is_written_to_the_bit(tmp_path, full, compression, scheduler):
    with dask.config.set(scheduler=scheduler):
        path = write_image(full, tmp_path / "image.fits", compression=compression, history=["sky: order 3", "again"])
    found = checked(path)
    if compression is not None:
        assert found[0][2] is None
        del found[0]
    assert [name for name, *_ in found[1:]] == ["MASK", "SIGMA", "WEIGHT", "SEGMENTATION"]
    for (_, _, pixels), (name, dtype) in zip(found, PLANE_DTYPES.items(), strict=True):
        same_bits(pixels, full[name].values.astype(dtype))
    header = found[0][1]
    assert header["OBJECT"] == "M 31"
    assert (header["GAIN"], header["EXPTIME"], header["MAGZERO"], header["BUNIT"]) == (2.5, 60.0, 25.5, "adu")
    assert header["GPVERS"] == __version__
    assert list(header["HISTORY"]) == ["seen by the telescope", "sky: order 3", "again"]
    assert not {"BZERO", "BLANK"} & set(header)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("compression", [None, "GZIP_2"])
def test_what_was_written_opens_as_it_was(tmp_path, full, compression):
    path = write_image(full, tmp_path / "image.fits", compression=compression)
    found = open_image(path, chunks=17)
    assert list(found) == list(full)
    for name in full:
        assert found[name].dtype == full[name].dtype
        same_bits(found[name].values * 1, full[name].values * 1)
    for name in ("unit", "gain", "exptime", "zeropoint"):
        assert found.attrs[name] == full.attrs[name]
    for position in ((0, 0), (19, 24), (-3.5, 70.25)):
        np.testing.assert_array_equal(
            celestial_wcs(image_header(found)).all_pix2world(*position, 0),
            celestial_wcs(image_header(full)).all_pix2world(*position, 0),
        )
    again = write_image(found, tmp_path / "again.fits", compression=compression)
    np.testing.assert_equal([entry[1:] for entry in checked(again)], [entry[1:] for entry in checked(path)])


@pytest.mark.parametrize("compression", [None, "GZIP_1", "GZIP_2", "RICE_1"])
def test_the_same_image_gives_the_same_bytes_at_another_time(tmp_path, full, compression):
    """Gzip writes the time into its streams."""
    first = write_image(full, tmp_path / "first.fits", compression=compression)
    if compression is not None:
        time.sleep(1.1)
    second = write_image(full, tmp_path / "second.fits", compression=compression)
    assert first.read_bytes() == second.read_bytes()


@given(st.sampled_from(["f4", "f8"]).flatmap(chunked))
@settings(max_examples=30)
def test_ragged_chunks_do_not_matter(tmp_path_factory, images):
    whole, lazy = images
    path = tmp_path_factory.mktemp("ragged") / "image.fits"
    with dask.config.set(scheduler="threads"):
        write_image(make_image(lazy, mask=lazy > 0), path)
    (_, _, data), (_, _, mask) = checked(path)
    same_bits(data, whole)
    np.testing.assert_array_equal(mask, whole > 0)


@given(st.sampled_from(["f4", "f8"]).flatmap(chunked), st.booleans(), st.booleans())
def test_regions_are_written_by_map_and_by_rows_alike(tmp_path_factory, images, shared, passing):
    whole, lazy = images
    path = tmp_path_factory.mktemp("region") / "pixels"
    path.write_bytes(b"\xaa" * (2880 + whole.nbytes + 100))
    target = _Region(str(path), 2880, whole.shape, whole.dtype.newbyteorder(">"), shared, passing)
    da.store(lazy, target, lock=False, scheduler="threads")
    content = path.read_bytes()
    assert content[2880:-100] == whole.astype(whole.dtype.newbyteorder(">")).tobytes()
    assert set(content[:2880] + content[-100:]) == {0xAA}


@pytest.mark.parametrize("item", [">f4", ">f8"])
@pytest.mark.parametrize("chunks", [(2, 5000), (3, 2**18 + 1), 4096])
def test_long_rows_are_written_a_piece_at_a_time(tmp_path, monkeypatch, item, chunks):
    """By calls, of which each may write less than it is given."""
    whole = np.random.default_rng(0).normal(size=(3, 2**18 + 1)).astype(item)
    write, calls = os.pwrite, []

    def half(descriptor, piece, position):
        calls.append(len(piece))
        return write(descriptor, piece[: max(1, len(piece) // 2)] if len(calls) % 3 == 0 else piece, position)

    monkeypatch.setattr(os, "pwrite", half)
    path = tmp_path / "pixels"
    path.write_bytes(b"\xaa" * (2880 + whole.nbytes + 100))
    target = _Region(str(path), 2880, whole.shape, np.dtype(item), False)
    da.store(da.from_array(whole.astype(whole.dtype.newbyteorder("=")), chunks=chunks), target, lock=False)
    content = path.read_bytes()
    assert content[2880:-100] == whole.tobytes()
    assert set(content[:2880] + content[-100:]) == {0xAA}
    assert 0 < max(calls) <= 2**20


@pytest.mark.parametrize("shared", [False, True])
def test_blocks_of_a_cube_and_empty_blocks_find_their_place(tmp_path, shared):
    whole = np.random.default_rng(0).normal(size=(4, 9, 8)).astype("f4")
    path = tmp_path / "pixels"
    path.write_bytes(bytes(whole.nbytes))
    target = _Region(str(path), 0, whole.shape, np.dtype(">f4"), shared)
    da.store(da.from_array(whole, chunks=(3, 4, 5)), target, lock=False)
    target[slice(0, 0), slice(0, 9), slice(0, 8)] = whole[:0]
    assert path.read_bytes() == whole.astype(">f4").tobytes()


def test_trouble_with_a_block_is_not_hidden_by_trouble_with_the_map(tmp_path):
    path = tmp_path / "pixels"
    path.write_bytes(bytes(4))
    target = _Region(str(path), 0, (1, 1), np.dtype(">f4"), False)
    with pytest.raises(ValueError, match="broadcast"):
        target[slice(0, 1), slice(0, 1)] = _NotPixels()


class _NotPixels:
    """Says that it has one pixel, and has many."""

    shape, size = (1, 1), 1

    def __array__(self, dtype=None, copy=None):
        return np.zeros((2, 3))


def test_cubes_are_written(tmp_path):
    whole = awkward_floats((3, 20, 11), "f4")
    path = write_image(make_image(whole, chunks=(2, 7, 5)), tmp_path / "cube.fits")
    same_bits(checked(path)[0][2], whole)
    np.testing.assert_array_equal(open_image(path)["data"].values, whole)


def test_worker_processes_write_the_right_pixels(tmp_path):
    whole = awkward_floats((120, 90), "f4")
    image = make_image(da.from_array(whole, chunks=50), mask=whole > 100)
    with dask.config.set(scheduler="processes", num_workers=2):
        plain = write_image(image, tmp_path / "plain.fits")
    same_bits(checked(plain)[0][2], whole)
    np.testing.assert_array_equal(checked(plain)[1][2], whole > 100)


def test_eight_threads_write_eight_files(tmp_path):
    whole = awkward_floats((120, 90), "f8")
    image = make_image(whole, chunks=50)
    names = iter([f"{n}.fits" for n in range(8)])
    for path in run_together(lambda: write_image(image, tmp_path / next(names))):
        same_bits(checked(path)[0][2], whole)


def test_one_target_written_by_eight_threads_is_whole(tmp_path):
    whole = awkward_floats((120, 90), "f8")
    image = make_image(whole, chunks=50)
    run_together(lambda: write_image(image, tmp_path / "image.fits", overwrite=True))
    same_bits(checked(tmp_path / "image.fits")[0][2], whole)
    assert os.listdir(tmp_path) == ["image.fits"]


@pytest.mark.parametrize("dtype", ["u2", "i1", "?", "i8", ">f4", "u8", "f2"])
def test_pixels_of_other_dtypes_are_written_as_floats(tmp_path, dtype):
    """A Dataset made by hand: unsigned integers once came out shifted."""
    whole = np.array([[0, 1, 100], [1, 0, 1]]).astype(dtype)
    image = xr.Dataset({"data": (("y", "x"), whole), "mask": (("y", "x"), whole.astype("i8") * 256),
                        "segmentation": (("y", "x"), whole.astype("u8"))})  # fmt: skip
    data, mask, segmentation = checked(write_image(image, tmp_path / "image.fits"))
    assert data[1]["BITPIX"] == (-32 if np.dtype(dtype).itemsize <= 4 else -64)
    assert data[2].tolist() == whole.tolist()
    assert mask[2].tolist() == (whole != 0).astype(int).tolist()
    assert segmentation[1]["BITPIX"] == 32
    assert segmentation[2].tolist() == whole.astype(int).tolist()


def test_numpy_arrays_are_images_too(tmp_path):
    whole = awkward_floats((5, 6), "f8")
    whole.flags.writeable = False
    same_bits(checked(write_image(whole, tmp_path / "image.fits"))[0][2], whole)


def test_nothing_is_modified(full, tmp_path):
    header, attrs, names = full.attrs["header"], dict(full.attrs), list(full)
    write_image(full, tmp_path / "image.fits", history="one line")
    assert (full.attrs, full.attrs["header"], list(full)) == (attrs, header, names)


def test_history_that_is_one_text_is_one_line(tmp_path, full):
    path = write_image(full, tmp_path / "image.fits", history="sky: order 3")
    assert list(fits.getheader(path)["HISTORY"])[-1] == "sky: order 3"


@pytest.mark.parametrize("given", [{"unit": "µJy"}, {"history": ["Ångström"]}, {"history": ["two\nlines"]}])
def test_text_that_no_header_holds(tmp_path, full, given):
    image = full.assign_attrs(unit=given.pop("unit", "adu"))
    with pytest.raises(ParameterError, match="a FITS header holds printable ASCII only"):
        write_image(image, tmp_path / "image.fits", **given)


# Tile compression -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["GZIP_1", "GZIP_2"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_lossless_compression_over_several_bands(tmp_path, monkeypatch, compression, dtype):
    monkeypatch.setattr(fits_tiles, "_BAND_PIXELS", 400)
    whole = awkward_floats((53, 61), dtype)
    whole[20:30] = np.nan
    whole[40] = 7
    image = make_image(whole, chunks=(17, 23), segmentation=np.arange(whole.size).reshape(whole.shape))
    path = write_image(image, tmp_path / "image.fits.fz", compression=compression)
    _, data, segmentation = checked(path)
    same_bits(data[2], whole)
    assert segmentation[2].tolist() == image["segmentation"].values.tolist()
    for chunks in ("auto", 10):
        np.testing.assert_array_equal(open_image(path, chunks=chunks)["data"].values, whole)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("band", [400, 10**6])
def test_rice_is_within_half_a_step_and_keeps_nan(tmp_path, monkeypatch, dtype, band):
    monkeypatch.setattr(fits_tiles, "_BAND_PIXELS", band)
    whole = np.random.default_rng(0).normal(100, 5, (70, 61)).astype(dtype)
    whole[5, 3:9] = np.nan  # in the first band; later bands have none, or other ones
    whole[40, 0] = np.nan
    path = write_image(make_image(whole, chunks=19), tmp_path / "image.fits", compression="RICE_1")
    _, (_, header, found) = checked(path)
    with fits.open(path, disable_image_compression=True) as hdus:
        step = np.asarray(hdus[1].data["ZSCALE"], float)[:, None]
        assert hdus[1].header["ZQUANTIZ"] == "SUBTRACTIVE_DITHER_1"
    assert (step > 0).all()
    np.testing.assert_array_equal(np.isnan(found), np.isnan(whole))
    # Half a step is reached only where the dither of reading is that of writing, tile by tile.
    assert np.nanmax(np.abs(found.astype(float) - whole) / step) < 0.5 + 1e-3
    assert header["GPVERS"] == __version__
    np.testing.assert_array_equal(open_image(path)["data"].values, found)


def test_rice_keeps_every_bit_of_labels_and_masks(tmp_path, monkeypatch, full):
    monkeypatch.setattr(fits_tiles, "_BAND_PIXELS", 100)
    path = write_image(full.drop_vars(["sigma", "weight"]), tmp_path / "image.fits", compression="RICE_1")
    found = open_image(path)
    np.testing.assert_array_equal(found["mask"].values, full["mask"].values)
    np.testing.assert_array_equal(found["segmentation"].values, full["segmentation"].values)


def test_finer_quantisation_is_closer(tmp_path):
    whole = np.random.default_rng(0).normal(100, 5, (64, 64)).astype("f4")
    errors = []
    for level in (4, 64):
        path = write_image(make_image(whole), tmp_path / f"{level}.fits", compression="RICE_1", quantize_level=level)
        errors.append(np.std(checked(path)[1][2] - whole))
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.1)


@pytest.mark.parametrize(
    ("given", "message"),
    [({"compression": "ZIP"}, "compression='ZIP'; expected one of GZIP_1, GZIP_2, RICE_1, or None"),
     ({"compression": "RICE_1", "quantize_level": 0}, "quantize_level=0 keeps floats as they are, which RICE_1")],
)  # fmt: skip
def test_compression_that_cannot_be(tmp_path, full, given, message):
    with pytest.raises(ParameterError, match=message):
        write_image(full, tmp_path / "image.fits", **given)
    with pytest.raises(ParameterError, match="cubes are written without tile compression"):
        write_image(make_image(np.zeros((2, 3, 4))), tmp_path / "image.fits", compression="GZIP_1")
    with pytest.raises(ParameterError, match="Zarr stores have their own"):
        write_image(full, tmp_path / "image.zarr", compression="GZIP_1")
    assert os.listdir(tmp_path) == []


# Whole or not at all --------------------------------------------------------------------------------------


def fail_late(block, block_info=None):
    """Fail in the last block only, when others are under way."""
    if block_info[0]["chunk-location"] == (3, 3):
        time.sleep(0.05)
        raise ZeroDivisionError("in the middle")
    time.sleep(0.02)
    return block


@pytest.mark.parametrize("compression", [None, "GZIP_1"])
def test_failure_in_the_middle_leaves_things_as_they_were(tmp_path, monkeypatch, compression):
    monkeypatch.setattr(fits_tiles, "_BAND_PIXELS", 20 * 40)
    image = make_image(
        da.zeros((80, 80), chunks=20, dtype="f4").map_blocks(fail_late, dtype="f4", meta=np.empty((0, 0), "f4"))
    )
    path = tmp_path / "image.fits"
    write = partial(write_image, image, path, compression=compression, overwrite=True)
    with pytest.raises(ZeroDivisionError, match="in the middle"), dask.config.set(num_workers=4):
        write()
    time.sleep(0.2)  # what the other threads had begun
    assert os.listdir(tmp_path) == []
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError, match="in the middle"), dask.config.set(num_workers=4):
        write()
    time.sleep(0.2)
    assert os.listdir(tmp_path) == ["image.fits"]
    assert path.read_bytes() == b"old"


def test_source_that_cannot_be_read_is_not_called_trouble_with_the_output(tmp_path):
    source = tmp_path / "source.fits"
    fits.writeto(source, np.zeros((40, 30), "f4"))
    image = open_image(source)
    os.utime(source, ns=(1, 1))
    with pytest.raises(ImageFileError, match="source.fits' was changed since it was opened"):
        write_image(image, tmp_path / "image.fits")
    assert os.listdir(tmp_path) == ["source.fits"]


def test_existing_files_are_kept_unless_asked(tmp_path, full):
    path = tmp_path / "image.fits"
    path.write_bytes(b"old")
    with pytest.raises(OutputExistsError) as caught:
        write_image(full, path)
    assert str(caught.value) == f"{str(path)!r} exists. Pass overwrite=True to replace it, or another path."
    assert isinstance(caught.value, FileExistsError)
    assert path.read_bytes() == b"old"
    write_image(full, path, overwrite=True)
    assert checked(path)[0][1]["OBJECT"] == "M 31"


@pytest.mark.parametrize("compression", [None, "GZIP_2"])
def test_image_is_written_over_the_file_it_is_read_from(tmp_path, compression):
    whole = awkward_floats((50, 41), "f4")
    path = tmp_path / "image.fits"
    fits.writeto(path, whole)
    image = open_image(path, chunks=20)
    write_image(image.assign(data=image["data"] * 2), path, overwrite=True, compression=compression)
    same_bits(open_image(path)["data"].values, whole * 2)
    with pytest.raises(ImageFileError, match="was changed since it was opened"):
        image["data"].data.compute()


def test_places_that_cannot_be_written_to(tmp_path, full):
    file = tmp_path / "file"
    file.write_bytes(b"")
    missing = tmp_path / "none" / "image.fits"
    with pytest.raises(OutputError) as caught:
        write_image(full, missing)
    assert str(caught.value) == (
        f"cannot write {str(missing)!r}: there is no directory {str(missing.parent)!r}. Make it first."
    )
    with pytest.raises(OutputError, match="there is no directory"):
        write_image(full, file / "image.fits")
    with pytest.raises(OutputError, match="cannot write '/proc/image.fits'"):
        write_image(full, "/proc/image.fits")
    with pytest.raises(ParameterError, match="cannot write to 's3://a/b.fits': write a local file and upload it"):
        write_image(full, "s3://a/b.fits")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="cannot write '.*folder': .*directory"):
        write_image(full, tmp_path / "folder", overwrite=True)
    assert leftovers(tmp_path) == []


FULL_DISK = """
import resource, sys
import dask.array as da
from galprep_dask import make_image, write_image
from galprep_dask.errors import OutputError
image = make_image(da.random.default_rng(0).normal(size=(1000, 1000), chunks=200))
resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
try:
    write_image(image, sys.argv[1], compression=sys.argv[2] or None, overwrite=True)
except OutputError as error:
    print(error)
"""


@pytest.mark.parametrize("compression", ["", "GZIP_1"])
def test_full_disk_is_an_output_error_and_leaves_nothing(tmp_path, compression):
    path = tmp_path / "image.fits"
    path.write_bytes(b"old")
    said = run_fresh(FULL_DISK, path, compression)
    assert said.startswith(f"cannot write {str(path)!r}: [Errno 27] File too large")
    assert said.endswith("Free some space or choose another directory.\n")
    assert os.listdir(tmp_path) == ["image.fits"]
    assert path.read_bytes() == b"old"


# Memory ---------------------------------------------------------------------------------------------------

PEAK = """
import resource, sys
import dask, dask.array as da, numpy as np
from galprep_dask import make_image, write_image
def ramp(block_info=None):
    (y0, y1), (x0, x1) = block_info[None]["array-location"]
    return np.add.outer(np.arange(y0, y1, dtype="f4") * 3, np.arange(x0, x1, dtype="f4"))
write_image(make_image(np.zeros((64, 64), "f4")), sys.argv[1] + ".small")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
data = da.map_blocks(ramp, chunks=((1024,) * 8, (1024,) * 8), dtype="f4", meta=np.empty((0, 0), "f4"))
with dask.config.set(num_workers=2):
    write_image(make_image(data), sys.argv[1])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_writing_takes_the_memory_of_a_few_blocks(tmp_path):
    """256 MiB of pixels, most of them never in memory at once."""
    path = tmp_path / "image.fits"
    peak = int(run_fresh(PEAK, path)) * 1024
    assert peak < 160 * 2**20
    with fits.open(path) as hdus:
        hdu = hdus[0]
        assert hdu.shape == (8192, 8192)
        np.testing.assert_array_equal(
            hdu.section[5000:5002, 3000:3300], np.add.outer([15000.0, 15003.0], np.arange(3000.0, 3300.0))
        )


def test_a_file_url_is_a_path_and_the_name_of_a_packed_file_is_refused(tmp_path):
    path = write_image(np.ones((5, 6)), f"file://{tmp_path}/image.fits")
    assert path == tmp_path / "image.fits"
    assert open_image(f"file://{path}")["data"].shape == (5, 6)
    path = write_image(np.ones((5, 6)), tmp_path / "an image 100%.fits")
    assert open_image(path.as_uri())["data"].shape == (5, 6)
    path.unlink()
    with pytest.raises(ParameterError, match="image.fits.gz.*compression="):
        write_image(np.ones((5, 6)), tmp_path / "image.fits.gz")
    assert sorted(os.listdir(tmp_path)) == ["image.fits"]
