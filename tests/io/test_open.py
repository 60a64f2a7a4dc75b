import logging
import shutil
import warnings

import dask.array as da
import fsspec
import numpy as np
import pytest
import xarray as xr
import zarr
from astropy import units
from astropy.io import fits
from astropy.nddata import CCDData, InverseVariance, StdDevUncertainty, UnknownUncertainty, VarianceUncertainty
from astropy.wcs import WCS
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import LocalStore

from galprep_dask import make_image, open_image, write_image
from galprep_dask.errors import (
    GalprepWarning,
    ImageFileError,
    ImageNotFoundError,
    ImageShapeError,
    OutputExistsError,
    ParameterError,
)
from galprep_dask.image import celestial_wcs, image_header
from galprep_dask.io.zarr import _Directory


@pytest.fixture
def wcs():
    made = WCS(naxis=2)
    made.wcs.ctype = "RA---TAN", "DEC--TAN"
    made.wcs.crval = 150.0, 2.0
    made.wcs.crpix = 3.0, 2.0
    made.wcs.cdelt = -1e-4, 1e-4
    return made


@pytest.fixture
def whole():
    pixels = np.random.default_rng(0).normal(size=(14, 15))
    pixels.flags.writeable = False
    return pixels


@pytest.fixture
def full(whole, wcs):
    return make_image(
        whole, chunks=5, mask=whole > 1, sigma=np.abs(whole), weight=whole**2, segmentation=np.eye(14, 15),
        header=wcs.to_header(), unit="adu", gain=2.5, exptime=60, zeropoint=25.5, path="somewhere.fits", hdu=3,
    )  # fmt: skip


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name in expected:
        assert found[name].dims == expected[name].dims
        assert found[name].dtype == expected[name].dtype
        np.testing.assert_array_equal(found[name].values, expected[name].values)


# Arrays ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [np.asarray, da.from_array, xr.DataArray, lambda a: xr.DataArray(da.from_array(a)), list]
)
def test_arrays_with_a_wcs(whole, wcs, kind):
    image = open_image(kind(whole), wcs=wcs, gain=1.5, mask=whole > 1, unit="Jy", chunks=4)
    assert image["data"].chunks == ((4, 4, 4, 2), (4, 4, 4, 3))
    np.testing.assert_array_equal(image["data"].values, whole)
    np.testing.assert_array_equal(image["mask"].values, whole > 1)
    assert (image.attrs["gain"], image.attrs["unit"]) == (1.5, "Jy")
    # CRPIX = (3, 2) is x = 2, y = 1 from zero.
    found = celestial_wcs(image_header(image)).all_world2pix(150.0, 2.0, 0)
    assert found == pytest.approx((2.0, 1.0), abs=1e-8)


def test_arrays_with_a_header(whole):
    header = fits.Header([("EGAIN", 3.5), ("BUNIT", "electron"), ("HISTORY", "one"), ("HISTORY", "two")])
    image = open_image(whole, header=header)
    assert (image.attrs["gain"], image.attrs["unit"]) == (3.5, "electron")
    assert list(image_header(image)["HISTORY"]) == ["one", "two"]
    assert len(header) == 4


def test_big_endian_arrays_become_native():
    image = open_image(np.arange(6, dtype=">f4").reshape(2, 3))
    assert image["data"].dtype == np.dtype("f4")
    assert image["data"].dtype.isnative
    assert image["data"].values.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_datasets_take_what_is_given_and_keep_the_rest(full):
    image = open_image(full.assign_attrs(note="kept"), gain=9, mask=np.zeros((14, 15)))
    assert image.attrs == dict(full.attrs) | {"gain": 9.0, "note": "kept"}
    assert not image["mask"].values.any()
    assert_same(image.drop_vars("mask"), full.drop_vars("mask"))


@pytest.mark.parametrize(
    ("uncertainty", "name", "power"),
    [(StdDevUncertainty, "sigma", 1), (VarianceUncertainty, "sigma", 0.5), (InverseVariance, "weight", 1)],
)
def test_ccddata(whole, wcs, uncertainty, name, power):
    spread = np.abs(whole) + 1
    meta = {
        "EGAIN": 2.0,
        "airmass": 1.25,
        "a name that is long": "text",
        "not a number": np.nan,
        "list": [1, 2],
        "BUNIT": "x",
    }
    ccd = CCDData(whole, unit="adu", wcs=wcs, mask=whole > 1, uncertainty=uncertainty(spread), meta=meta)
    image = open_image(ccd)
    np.testing.assert_array_equal(image["data"].values, whole)
    np.testing.assert_array_equal(image["mask"].values, whole > 1)
    np.testing.assert_array_equal(image[name].values, spread**power)
    assert (image.attrs["gain"], image.attrs["unit"]) == (2.0, units.adu.to_string())
    assert image_header(image)["AIRMASS"] == 1.25
    assert celestial_wcs(image_header(image)).all_world2pix(150.0, 2.0, 0) == pytest.approx((2.0, 1.0), abs=1e-8)
    replaced = open_image(ccd, sigma=np.ones((14, 15)), mask=whole > 2)
    assert (replaced["sigma"].values == 1).all()
    assert "weight" not in replaced
    np.testing.assert_array_equal(replaced["mask"].values, whole > 2)


def test_ccddata_with_a_fits_header_and_with_nothing(whole):
    header = fits.Header([("EXPTIME", 30.0), ("COMMENT", "one"), ("COMMENT", "two")])
    image = open_image(CCDData(whole, unit="electron", meta=header))
    assert list(image) == ["data"]
    assert image.attrs["exptime"] == 30.0
    assert list(image_header(image)["COMMENT"]) == ["one", "two"]
    with pytest.raises(ParameterError, match="uncertainty of type 'unknown' is neither std, var nor ivar. Pass sigma="):
        open_image(CCDData(whole, unit="adu", uncertainty=UnknownUncertainty(whole)))


def test_what_is_no_image_is_refused(whole, tmp_path):
    with pytest.raises(ImageShapeError, match=r"data has shape \(14,\)"):
        open_image(whole[:, 0])
    with pytest.raises(ImageFileError, match="expected a path, an image array, CCDData or a Dataset"):
        open_image(object())
    with pytest.raises(ImageShapeError, match="is no image; expected a variable 'data'"):
        open_image(xr.Dataset({"flux": (("y", "x"), whole)}))
    with pytest.raises(ParameterError, match="hdu=1 is for files; got a ndarray"):
        open_image(whole, 1)
    with pytest.raises(ParameterError, match="wcs= and header= are for arrays"):
        open_image(tmp_path / "image.fits", wcs=WCS(naxis=2))
    with pytest.raises(ParameterError, match="mask='a.fits': pass an array, or open it with open_image first"):
        open_image(make_image(whole), mask="a.fits")


def test_opening_arrays_computes_nothing(no_compute):
    def refuse(block):
        raise AssertionError("computed")

    lazy = da.zeros((14, 15), chunks=4).map_blocks(refuse, dtype="f8", meta=np.empty((0, 0)))
    with no_compute():
        open_image(lazy, mask=lazy, weight=lazy, sigma=lazy)
        open_image(xr.DataArray(lazy))
        open_image(make_image(lazy), mask=lazy)


# Zarr -----------------------------------------------------------------------------------------------------


def quietly(write, *arguments, **options):
    """Call ``to_zarr`` or the like; consolidated metadata of Zarr 3 give a warning that is not ours."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        write(*arguments, **options)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("consolidated", [False, None])
def test_to_zarr_and_back(tmp_path, full, version, consolidated):
    path = tmp_path / "image.zarr"
    quietly(full.assign_attrs(note="kept").to_zarr, path, zarr_format=version, consolidated=consolidated)
    image = open_image(path)
    assert_same(image, full)
    assert image["data"].chunks == full["data"].chunks
    expected = dict(full.attrs) | {"note": "kept", "path": str(path)}
    del expected["hdu"]  # a store has none
    assert image.attrs == expected


def test_write_image_to_zarr_and_back(tmp_path, full):
    ragged = full.chunk({"y": (1, 9, 4), "x": (15,)})
    ragged["mask"] = ragged["mask"].chunk({"y": (7, 7)})
    path = write_image(ragged, tmp_path / "image.zarr")
    assert path == tmp_path / "image.zarr"
    image = open_image(str(path), chunks={"x": 4}, gain=7)
    assert_same(image, full)
    assert image["data"].chunks[1] == (4, 4, 4, 3)
    assert image.attrs["gain"] == 7.0
    assert [entry.name for entry in tmp_path.iterdir()] == ["image.zarr"]
    with pytest.raises(OutputExistsError, match=r"image.zarr' exists. Pass overwrite=True"):
        write_image(full, path)


def test_zarr_written_over_itself_and_left_alone_by_a_failure(tmp_path, full):
    path = write_image(full, tmp_path / "image.zarr")
    image = open_image(path)
    write_image(image.assign(data=image["data"] * 2), path, overwrite=True)
    np.testing.assert_array_equal(open_image(path)["data"].values, full["data"].values * 2)

    def fail(block):
        raise ZeroDivisionError("in the middle")

    broken = image.assign(data=(("y", "x"), image["data"].data.map_blocks(fail, dtype="f8", meta=np.empty((0, 0)))))
    with pytest.raises(ZeroDivisionError, match="in the middle"):
        write_image(broken, path, overwrite=True)
    np.testing.assert_array_equal(open_image(path)["data"].values, full["data"].values * 2)
    assert [entry.name for entry in tmp_path.iterdir()] == ["image.zarr"]


def test_a_store_that_is_removed_while_a_block_is_written_is_not_made_anew(tmp_path, monkeypatch):
    store = _Directory(tmp_path / "image.zarr")
    (tmp_path / "image.zarr").mkdir()
    block = default_buffer_prototype().buffer.from_bytes(b"pixels")
    for key in ("zarr.json", "data/c/0/0"):
        store.set_sync(key, block)
    assert (tmp_path / "image.zarr/data/c/0/0").read_bytes() == b"pixels"
    write = LocalStore.set_sync

    def remove_and_write(*arguments):
        shutil.rmtree(tmp_path / "image.zarr")
        write(*arguments)

    monkeypatch.setattr(LocalStore, "set_sync", remove_and_write)
    with pytest.raises(FileNotFoundError, match="was removed while it was written to"):
        store.set_sync("data/c/0/1", block)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("version", [2, 3])
def test_bare_zarr_arrays(tmp_path, whole, version):
    path = tmp_path / "bare"
    made = zarr.create_array(path, shape=whole.shape, dtype=whole.dtype, chunks=(5, 4), zarr_format=version)
    made[:] = whole
    image = open_image(path)
    assert image["data"].chunks == ((5, 5, 4), (4, 4, 4, 3))
    np.testing.assert_array_equal(image["data"].values, whole)
    np.testing.assert_array_equal(open_image(zarr.open_array(path, mode="r"), chunks=7)["data"].values, whole)
    assert open_image(path, chunks=(14, 5))["data"].chunks == ((14,), (5, 5, 5))


def test_zarr_in_memory_urls(full):
    quietly(full.to_zarr, "memory://store/image.zarr", consolidated=False)
    assert_same(open_image("memory://store/image.zarr"), full)
    fsspec.filesystem("memory").rm("/store", recursive=True)


def test_stores_that_are_none(tmp_path, whole):
    with pytest.raises(ImageNotFoundError, match=r"there is no Zarr store '.*none.zarr'. Check the path"):
        open_image(tmp_path / "none.zarr")
    (tmp_path / "damaged.zarr").mkdir()
    (tmp_path / "damaged.zarr" / "zarr.json").write_text("{")
    with pytest.raises(ImageFileError, match="damaged.zarr' cannot be read as Zarr"):
        open_image(tmp_path / "damaged.zarr")
    quietly(xr.Dataset({"flux": (("y", "x"), whole)}).to_zarr, tmp_path / "other.zarr", consolidated=False)
    with pytest.raises(ImageShapeError, match=r"has the variables \['flux'\], but no 'data'"):
        open_image(tmp_path / "other.zarr")
    quietly(make_image(whole).to_zarr, tmp_path / "image.zarr", consolidated=False)
    with pytest.raises(ParameterError, match="chunks={'z': 4} names"):
        open_image(tmp_path / "image.zarr", chunks={"z": 4})


def test_attributes_survive_netcdf(tmp_path, full):
    path = tmp_path / "image.nc"
    # The classic format has no bool, which xarray stores as bytes with a note.
    full.to_netcdf(path, engine="scipy")
    with xr.open_dataset(path, engine="scipy") as stored:
        image = open_image(stored.load())
    for name, value in full.attrs.items():
        assert image.attrs[name] == value
    assert_same(image, full)


# What a file says about itself ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cards", "name", "value", "keyword"),
    [({"GAIN": 1.5}, "gain", 1.5, "GAIN"), ({"EGAIN": 2}, "gain", 2.0, "EGAIN"),
     ({"HIERARCH CELL.GAIN": 3.5}, "gain", 3.5, "CELL.GAIN"),
     ({"GAIN": 0.0, "EGAIN": 4.0}, "gain", 4.0, "EGAIN"), ({"GAIN": "high", "EGAIN": 4.0}, "gain", 4.0, "EGAIN"),
     ({"EXPTIME": 60}, "exptime", 60.0, "EXPTIME"), ({"TEXPTIME": 90.5}, "exptime", 90.5, "TEXPTIME"),
     ({"MAGZERO": 25.5}, "zeropoint", 25.5, "MAGZERO"), ({"MAGZP": -2.5}, "zeropoint", -2.5, "MAGZP"),
     ({"PHOTZP": 0}, "zeropoint", 0.0, "PHOTZP"), ({"ZP": 27}, "zeropoint", 27.0, "ZP")],
)  # fmt: skip
def test_quantities_from_header_keywords_are_logged(tmp_path, caplog, cards, name, value, keyword):
    path = tmp_path / "image.fits"
    fits.writeto(path, np.zeros((2, 3)), fits.Header(list(cards.items())))
    with caplog.at_level(logging.INFO, logger="galprep_dask.io"):
        assert open_image(path).attrs[name] == value
    assert any(f"{name} of {str(path)!r} [HDU 0]: {keyword}=" in line for line in caplog.messages)
    assert open_image(path, **{name: 7}).attrs[name] == 7.0


def test_quantity_that_is_nowhere_is_absent(tmp_path):
    fits.writeto(tmp_path / "image.fits", np.zeros((2, 3)), fits.Header([("GAIN", -1.0)]))
    attrs = open_image(tmp_path / "image.fits").attrs
    assert not {"gain", "exptime", "zeropoint", "unit"} & set(attrs)


def test_card_that_cannot_be_read_is_passed_over(tmp_path, caplog):
    path = tmp_path / "image.fits"
    fits.writeto(path, np.zeros((2, 3)), fits.Header([("GAIN", "12345"), ("EGAIN", 2.5)]))
    path.write_bytes(path.read_bytes().replace(b"'12345   '", b"1,5       "))
    assert open_image(path).attrs["gain"] == 2.5
    assert any("GAIN='1,5' is not usable and was passed over" in line for line in caplog.messages)


def test_headers_go_to_zarr_and_fits_and_back(tmp_path, whole):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fits.verify.VerifyWarning)
        header = fits.Header([("HIERARCH ESO DET GAIN", 1.25, "a long name"), ("LONG", "many words " * 20)])
    for text in ("one", "", "one", "h" * 100):
        header.add_history(text)
        header.add_comment(text)
    fits.writeto(tmp_path / "image.fits", whole, header)
    first = open_image(tmp_path / "image.fits")
    second = open_image(write_image(first, tmp_path / "copy.fits"))
    third = open_image(write_image(second, tmp_path / "copy.zarr"))
    for image in (first, second, third):
        found = image_header(image)
        assert found["HIERARCH ESO DET GAIN"] == 1.25
        assert found["LONG"] == header["LONG"]
        assert list(found["HISTORY"]) == list(header["HISTORY"])
        assert list(found["COMMENT"]) == list(header["COMMENT"])


def test_file_that_lost_its_planes_opens_with_a_warning(tmp_path, full):
    path = write_image(full[["data", "mask"]], tmp_path / "image.fits")
    fits.writeto(tmp_path / "copy.fits", fits.getdata(path), fits.getheader(path))
    with pytest.warns(GalprepWarning, match=r"promises the plane 'mask' \(GPPLANES\).*Pass mask=") as caught:
        image = open_image(tmp_path / "copy.fits")
    assert list(image) == ["data"]
    assert caught[0].filename == __file__
