import os

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from astropy.io import fits
from astropy.wcs import WCS
from fields import tan_header
from hypothesis import HealthCheck, given, settings
from photutils.segmentation import SegmentationImage
from strategies import chunks_for

from galprep_dask import make_image, write_image
from galprep_dask.errors import (
    HDUError,
    ImageFileError,
    ImageNotFoundError,
    ImageShapeError,
    NotLazyWarning,
    OutputExistsError,
    ParameterError,
)
from galprep_dask.segmentation import Segmentation, detect_sources, read_segmentation, write_segmentation

#: Labels at which types end: float32's whole numbers, uint16, int32.
EDGES = [1, 2**15, 2**16 - 1, 2**24 - 1, 2**24, 2**24 + 1, 2**25 + 1, 2**31 - 2, 2**31 - 1]


def edge_labels(shape=(50, 41)):
    labels = np.random.default_rng(0).choice([0, 0, 0, *EDGES], shape).astype("i4")
    labels.flags.writeable = False
    return labels


@pytest.mark.parametrize("name", ["labels.fits", "labels.zarr"])
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chunks=chunks_for((50, 41)), read=chunks_for((50, 41)))
def test_labels_survive_to_the_bit_under_every_chunking(tmp_path, name, chunks, read):
    labels = edge_labels()
    path = write_segmentation(da.from_array(labels, chunks=chunks, name=False), tmp_path / name, overwrite=True)
    found = read_segmentation(path, chunks=read)
    assert isinstance(found, Segmentation)
    assert found.data.chunks == read
    assert found.data.dtype == np.int32
    np.testing.assert_array_equal(found, labels)
    assert found.labels.tolist() == EDGES


@pytest.mark.parametrize("compression", [None, "RICE_1", "GZIP_1", "GZIP_2"])
def test_photutils_takes_what_was_written(tmp_path, compression):
    labels = edge_labels()
    path = write_segmentation(Segmentation(da.from_array(labels, chunks=17)), tmp_path / "labels.fits",
                              compression=compression)  # fmt: skip
    with fits.open(path) as hdus:
        hdus.verify("exception")
        assert len(hdus) == (1 if compression is None else 2)
    photutils_own = SegmentationImage(fits.getdata(path))
    np.testing.assert_array_equal(photutils_own.data, labels)
    np.testing.assert_array_equal(read_segmentation(path, chunks=13), labels)
    assert os.listdir(tmp_path) == ["labels.fits"]


@pytest.mark.parametrize(
    ("dtype", "tiled"),
    [(dtype, tiled) for dtype in ("u1", "i2", "u2", ">i4", "u4", "f4", "f8") for tiled in (False, True)]
    + [("i8", False)],  # FITS has no tile compression of 64-bit integers
)
def test_reads_what_astropy_and_photutils_write(tmp_path, dtype, tiled):
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 200, (31, 23)).astype(dtype)
    if np.dtype(dtype).itemsize >= 4 and dtype != "f4":
        labels[3:5, 3:5] = 2**31 - 1
    path = tmp_path / "seg.fits"
    if tiled:
        lossless = {"compression_type": "GZIP_2", "quantize_level": 0} if labels.dtype.kind == "f" else {}
        fits.CompImageHDU(SegmentationImage(labels.astype("i8")).data.astype(dtype), **lossless).writeto(path)
    else:
        fits.writeto(path, labels)
    found = read_segmentation(path, chunks=10)
    np.testing.assert_array_equal(found, labels.astype("i8"))
    assert found.data.dtype == np.int32


def test_scaled_integers_and_blank(tmp_path):
    hdu = fits.PrimaryHDU(np.arange(12, dtype="i4").reshape(3, 4))
    hdu.header["BLANK"] = 5
    hdu.writeto(tmp_path / "blank.fits")
    assert np.asarray(read_segmentation(tmp_path / "blank.fits")).tolist() == [
        [0, 1, 2, 3],
        [4, 0, 6, 7],
        [8, 9, 10, 11],
    ]
    hdu = fits.PrimaryHDU(np.arange(12, dtype="i4").reshape(3, 4))
    hdu.header["BSCALE"], hdu.header["BZERO"] = 2.0, 2.0**30 + 1
    hdu.writeto(tmp_path / "scaled.fits")
    expected = np.arange(12).reshape(3, 4) * 2 + 2**30 + 1
    np.testing.assert_array_equal(read_segmentation(tmp_path / "scaled.fits"), expected)


def test_check_image_like_that_of_sextractor(tmp_path):
    header = tan_header((30, 20), SOFTNAME="SExtractor", SOFTVERS="2.25.0")
    labels = np.kron(np.arange(6, dtype="i4").reshape(3, 2), np.ones((10, 10), "i4"))
    fits.writeto(tmp_path / "check.fits", labels, header)
    found = read_segmentation(tmp_path / "check.fits")
    assert found.labels.tolist() == [1, 2, 3, 4, 5]
    assert found.areas.tolist() == [100] * 5


def test_float_labels_of_a_real_file(shared_data):
    path = shared_data / "kids_g279148" / "G279148segim.fits"
    found = read_segmentation(path, chunks=40)
    np.testing.assert_array_equal(found, fits.getdata(path).astype(int))
    assert found.labels.tolist() == [1, 3, 4, 5]


def test_round_trip_of_a_real_field(tmp_path, shared_data):
    pixels = fits.getdata(shared_data / "hst_xdf_f160w" / "xdf_hst_wfc3ir_60mas_f160w_sci.fits")
    found = detect_sources(da.from_array(pixels, chunks=70), 0.005)
    for name in ("a.fits", "a.zarr"):
        again = read_segmentation(write_segmentation(found, tmp_path / name), chunks=(33, 200))
        np.testing.assert_array_equal(again, found)
        np.testing.assert_array_equal(again.labels, found.labels)
        np.testing.assert_array_equal(again.areas, found.areas)
        assert again.bbox == found.bbox


def test_the_plane_called_segmentation_is_found(tmp_path):
    labels = edge_labels()
    image = make_image(np.full(labels.shape, 0.5), segmentation=labels, chunks=20)
    for name, compression in (("a.fits", None), ("b.fits", "RICE_1"), ("a.zarr", None)):
        path = write_image(image, tmp_path / name, compression=compression)
        np.testing.assert_array_equal(read_segmentation(path), labels)
    np.testing.assert_array_equal(read_segmentation(tmp_path / "a.fits", hdu="SEGMENTATION"), labels)
    np.testing.assert_array_equal(read_segmentation(tmp_path / "a.fits", hdu=1), labels)


def test_zarr_of_others(tmp_path):
    labels = edge_labels()
    array = zarr.create_array(str(tmp_path / "bare.zarr"), shape=labels.shape, chunks=(20, 20), dtype="i8")
    array[:] = labels
    np.testing.assert_array_equal(read_segmentation(tmp_path / "bare.zarr"), labels)
    named = xr.Dataset({"seg": (("row", "column"), labels.astype("u4"))})
    named.to_zarr(tmp_path / "named.zarr", zarr_format=2, consolidated=False)  # 0 is the fill value of this format
    np.testing.assert_array_equal(read_segmentation(tmp_path / "named.zarr", chunks={"y": 7, "x": 41}), labels)
    named.assign(other=named["seg"]).to_zarr(tmp_path / "two.zarr", consolidated=False)
    with pytest.raises(ImageShapeError, match="'seg'.* but no 'segmentation'"):
        read_segmentation(tmp_path / "two.zarr")


def test_header_and_sky_coordinates_are_kept(tmp_path):
    labels = edge_labels()
    header = tan_header(labels.shape, BUNIT="adu", FILTER="r", BSCALE=2.0)
    before = header.copy()
    for given_header in (header, WCS(header)):
        path = write_segmentation(labels, tmp_path / "a.fits", header=given_header, overwrite=True)
        with fits.open(path) as hdus:
            assert "BUNIT" not in hdus[0].header
            assert hdus[0].header["BITPIX"] == 32
            np.testing.assert_array_equal(hdus[0].data, labels)
            np.testing.assert_allclose(
                WCS(hdus[0].header).all_pix2world([[3.0, 7.0]], 0), WCS(header).all_pix2world([[3.0, 7.0]], 0)
            )
    assert fits.getheader(write_segmentation(labels, tmp_path / "b.fits", header=header))["FILTER"] == "r"
    assert header == before
    path = write_segmentation(labels, tmp_path / "a.zarr", header=header)
    assert "FILTER" in xr.open_zarr(path, consolidated=False).attrs["header"]


def test_opening_reads_no_pixels_and_writing_holds_few(tmp_path, no_compute):
    path = write_segmentation(np.ones((300, 200), int), tmp_path / "a.fits")
    with no_compute():
        found = read_segmentation(path, chunks=50)
    assert len(dict(found.data.__dask_graph__())) <= 3 * found.data.npartitions


def test_compressed_as_a_whole(tmp_path):
    labels = edge_labels()
    fits.writeto(tmp_path / "a.fits.gz", labels)
    with pytest.warns(NotLazyWarning, match="compressed as a whole"):
        found = read_segmentation(tmp_path / "a.fits.gz", chunks=11)
    np.testing.assert_array_equal(found, labels)


def test_files_that_hold_no_labels(tmp_path):
    with pytest.raises(ImageNotFoundError, match="there is no file"):
        read_segmentation(tmp_path / "none.fits")
    with pytest.raises(ImageNotFoundError, match="there is no Zarr store"):
        read_segmentation(tmp_path / "none.zarr")
    (tmp_path / "text.fits").write_text("label")
    with pytest.raises(ImageFileError, match=r"text\.fits"):
        read_segmentation(tmp_path / "text.fits")
    fits.writeto(tmp_path / "cube.fits", np.zeros((3, 4, 5), "i4"))
    with pytest.raises(ImageShapeError, match=r"cube\.fits.*\(3, 4, 5\)"):
        read_segmentation(tmp_path / "cube.fits")
    with pytest.raises(HDUError, match="no HDU 4"):
        read_segmentation(tmp_path / "cube.fits", hdu=4)
    with pytest.raises(ParameterError, match="hdu=1"):
        read_segmentation(write_segmentation(np.eye(3, dtype=int), tmp_path / "a.zarr"), hdu=1)
    for value, dtype, words in (
        (1.5, "f4", "pixels like 1.5"),
        (-1, "i2", "labels from -1 to 0"),
        (-3.0, "f8", "labels from -3 to 0"),
        (2**31, "i8", "to 2147483648"),
        (np.inf, "f4", "inf"),
        (2**24, "f4", "float32"),
    ):
        pixels = np.zeros((6, 7), dtype)
        pixels[2, 3] = value
        fits.writeto(tmp_path / "wrong.fits", pixels, overwrite=True)
        found = read_segmentation(tmp_path / "wrong.fits", chunks=3)
        with pytest.raises(ParameterError, match=rf"wrong\.fits.*{words}"):
            np.asarray(found)


def test_what_cannot_be_written(tmp_path):
    labels = np.eye(3, dtype=int)
    path = write_segmentation(labels, tmp_path / "a.fits")
    before = path.read_bytes()
    with pytest.raises(OutputExistsError, match="exists"):
        write_segmentation(labels, path)
    for wrong in (labels * -1, labels * 2**31):
        with pytest.raises(ParameterError, match="segmentation has labels from"):
            write_segmentation(wrong, path, overwrite=True)
    with pytest.raises(ParameterError, match="float64"):
        write_segmentation(labels * 1.0, path, overwrite=True)
    with pytest.raises(ParameterError, match="HCOMPRESS_1"):
        write_segmentation(labels, path, overwrite=True, compression="HCOMPRESS_1")
    with pytest.raises(ParameterError, match="Zarr stores have their own"):
        write_segmentation(labels, tmp_path / "a.zarr", compression="RICE_1")
    with pytest.raises(ParameterError, match="header is a dict"):
        write_segmentation(labels, tmp_path / "b.fits", header={"FILTER": "r"})
    with pytest.raises(ParameterError, match="upload"):
        write_segmentation(labels, "s3://bucket/a.fits")
    assert os.listdir(tmp_path) == ["a.fits"]
    assert path.read_bytes() == before
