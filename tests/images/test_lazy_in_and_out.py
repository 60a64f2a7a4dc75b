"""Lazy data goes in and comes out: what is computed, when, and how much of the image for it."""

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.nddata import CCDData, StdDevUncertainty
from astropy.wcs import WCS
from fields import SCALE, tan_header
from target_field import DEC, RA, SHAPE

from galprep_dask import images as IM
from galprep_dask import make_image, open_image, write_image

CHUNKS = (50, 60)
SOURCES = ["numpy", "dask", "dataarray", "ccddata", "dataset", "file"]


def source(kind, path):
    pixels, header = fits.getdata(path).astype("f4"), fits.getheader(path)
    pixels.flags.writeable = False
    if kind == "file":
        return path
    if kind == "numpy":
        return pixels
    if kind == "dask":
        return da.from_array(pixels, chunks=CHUNKS)
    if kind == "dataarray":
        return xr.DataArray(da.from_array(pixels, chunks=CHUNKS), dims=("y", "x"))
    if kind == "ccddata":
        return CCDData(pixels, unit="adu", wcs=WCS(header))
    return make_image(da.from_array(pixels, chunks=CHUNKS), header=header, zeropoint=25.5)


@pytest.mark.parametrize("kind", SOURCES)
def test_every_kind_goes_in_unread_and_gives_the_same(kind, flat, no_compute):
    sdmask = np.abs(fits.getdata(flat)) > 4
    what = source(kind, flat)
    with no_compute():
        img = IM.image(what, pixel_scales=SCALE)
        assert isinstance(img.data.data, da.Array)
        assert isinstance(img.data.mask, da.Array)
    if kind in ("dask", "dataarray", "dataset"):
        assert img.data.data.chunksize == CHUNKS
    masked = img.sky_subtraction(order=1, sdmask=sdmask)
    img.cal_sigma_image(1.0)
    cutout, cp = img.img_cut(RA, DEC, 10.0, referpix=(120, 100))

    reference = IM.image(flat)
    np.testing.assert_array_equal(masked, reference.sky_subtraction(order=1, sdmask=sdmask))
    reference.cal_sigma_image(1.0)
    expected, expected_cp = reference.img_cut(RA, DEC, 10.0)
    assert cp == expected_cp
    np.testing.assert_allclose(cutout, expected, atol=1e-5)
    np.testing.assert_allclose(img.cut_sigma_image, reference.cut_sigma_image, rtol=1e-5)
    np.testing.assert_array_equal(img.generate_cutmask(1.5), reference.generate_cutmask(1.5))


def regions(counted):
    """What was read since the last look, as (y0, y1, x0, x1)."""
    read = {(rows.start, rows.stop, columns.start, columns.stop) for rows, columns in counted.read}
    counted.read.clear()
    return read


def test_only_what_is_asked_for_is_read(flat, counting):
    counted = counting(fits.getdata(flat).astype("f4"))
    lazy = da.from_array(counted, chunks=CHUNKS)
    counted.read.clear()
    img = IM.image(open_image(lazy, header=fits.getheader(flat)))
    assert not counted.read
    under_the_cutout = {(50, 100, 60, 120), (50, 100, 120, 180), (100, 150, 60, 120), (100, 150, 120, 180)}
    img.img_cut(RA, DEC, 10.0)
    assert regions(counted) == under_the_cutout

    img.sky_subtraction(order=1, sdmask=np.zeros(SHAPE, bool))
    sigma = img.cal_sigma_image(1.0)
    counted.read.clear()
    for plane in (img.data.data, sigma, img.to_dataset()["data"].data, img.to_dataset()["sigma"].data):
        np.asarray(plane[:5, :5])
        assert regions(counted) == {(0, 50, 0, 60)}
    np.asarray(img.sky[:5, :5])
    assert not counted.read
    img.img_cut(RA, DEC, 10.0)
    assert regions(counted) == under_the_cutout


def test_what_comes_out_is_lazy(field, no_compute):
    img = IM.image(open_image(field[0], chunks=CHUNKS))
    masked = img.sky_subtraction(order=1, sdmask=np.zeros(SHAPE, bool))
    sigma = img.cal_sigma_image(1.0)
    for plane, dtype in (
        (img.data.data, "f4"), (img.data.mask, bool), (img.sky, "f8"), (masked, bool), (img.source_mask, bool),
        (sigma, "f4"),
    ):  # fmt: skip
        assert isinstance(plane, da.Array)
        assert (plane.shape, plane.dtype, plane.chunksize) == (SHAPE, dtype, CHUNKS)
    with no_compute():
        part = img.data[40:90, 30:100]
        assert isinstance(part.data, da.Array)
        assert isinstance(part.mask, da.Array)
        image = img.to_dataset()
        assert all(isinstance(plane.data, da.Array) for plane in image.data_vars.values())
        _ = image.galprep.cutout(RA, DEC, 21)
    np.testing.assert_array_equal(part.data, np.asarray(img.data.data)[40:90, 30:100])
    np.testing.assert_allclose(part.wcs.all_world2pix(RA, DEC, 0), [90, 60], atol=1e-9)


def test_prepared_image_as_a_dataset(field):
    mask, weight = np.zeros(SHAPE, bool), np.full(SHAPE, 0.25)
    mask[7, 8] = True
    image = open_image(field[0], mask=mask, weight=weight).assign_attrs(survey="kept")
    img = IM.image(image, zero_point=30.0)
    img.sky_subtraction(order=1, sdmask=mask)
    img.cal_sigma_image(50.0, gain=2.0)
    prepared = img.to_dataset()
    assert sorted(prepared.data_vars) == ["data", "mask", "sigma", "weight"]
    for name, expected in {"data": img.data.data, "mask": mask, "sigma": img.sigma_image, "weight": weight}.items():
        np.testing.assert_array_equal(prepared[name], expected)
    attrs = {name: prepared.attrs[name] for name in ("unit", "gain", "exptime", "zeropoint", "path", "hdu", "survey")}
    assert attrs == {"unit": "adu", "gain": 2.0, "exptime": 50.0, "zeropoint": 30.0, "path": str(field[0]), "hdu": 0,
                     "survey": "kept"}  # fmt: skip
    assert prepared.galprep.header["SKYMODEL"] == "polynomial"
    # The image that was passed in is as it was.
    assert "sigma" not in image
    np.testing.assert_array_equal(image["data"], fits.getdata(field[0]))


def test_dataset_goes_back_in_and_through_a_file(field, tmp_path):
    img = IM.image(field[0])
    img.sky_subtraction(order=1, sdmask=np.zeros(SHAPE, bool))
    img.cal_sigma_image(1.0)
    write_image(img.to_dataset(), tmp_path / "prepared.fits")
    for again in (IM.image(img.to_dataset()), IM.image(tmp_path / "prepared.fits")):
        np.testing.assert_array_equal(again.data.data, img.data.data)
        np.testing.assert_array_equal(again.sigma_image, img.sigma_image)
        again.img_cut(RA, DEC, 10.0)
        img.img_cut(RA, DEC, 10.0)
        np.testing.assert_array_equal(again.cut_sigma_image, img.cut_sigma_image)
        assert again.data.header["SKYMODEL"] == "polynomial"


def test_uncertainty_of_ccddata_is_the_sigma_image():
    uncertainty = StdDevUncertainty(np.full((30, 40), 2.5))
    img = IM.image(CCDData(np.zeros((30, 40)), unit="adu", uncertainty=uncertainty), pixel_scales=SCALE)
    np.testing.assert_array_equal(img.sigma_image, 2.5)


def test_cube_as_a_dataset(no_compute):
    cube = np.random.default_rng(0).normal(size=(4, 20, 30)).astype("f4")
    with no_compute():
        image = IM.image(da.from_array(cube, chunks=(4, 10, 10)), pixel_scales=SCALE).to_dataset()
    assert image["data"].dims == ("spectral", "y", "x")
    assert list(image.data_vars) == ["data"]


def test_what_a_user_puts_into_data_is_taken(flat):
    """Arrays in memory too, as a script for an image in memory would assign them."""
    pixels = fits.getdata(flat).astype("f4")
    img = IM.image(flat)
    img.data.data = pixels + 7
    assert isinstance(img.data.data, da.Array)
    img.data.mask = np.zeros(SHAPE, bool)
    img.data.mask[95, 118] = True
    img.sky_subtraction(polyfit=False, sdmask=np.abs(pixels) > 4)
    assert float(img.sky[0, 0]) == pytest.approx(7, abs=0.05)
    img.cal_sigma_image(1.0)
    cutout, (x0, _, y0, _) = img.img_cut(RA, DEC, 10.0)
    assert abs(img.sky_median) < 1
    assert np.argwhere(img.cut_mask_image).tolist() == [[95 - y0, 118 - x0]]
    assert bool(img.to_dataset()["mask"][95, 118])


def test_rotated_header_survives_the_dataset():
    header = tan_header(SHAPE, rotation=30.0)
    image = IM.image(make_image(np.zeros(SHAPE), header=header)).to_dataset()
    np.testing.assert_allclose(image.galprep.wcs.all_world2pix(RA, DEC, 0), [120, 100], atol=1e-9)
