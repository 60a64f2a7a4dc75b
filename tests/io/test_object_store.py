"""Images in an object store."""

import numpy as np
import pytest
import s3fs
from astropy.io import fits
from fields import tan_header
from object_store import count_reads, object_store

import galprep_dask as gp
from galprep_dask.cutouts import cutout_many, extract_stamps
from galprep_dask.errors import ImageNotFoundError

WIDE = np.random.default_rng(1).normal(size=(128, 8192)).astype("f4")
PIXELS = np.random.default_rng(0).normal(size=(700, 900)).astype("f4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the log of the server is."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def store(folder):
    """Storage options of a server with one bucket, ``mosaics``."""
    with object_store(folder, "mosaics") as options:
        filesystem = s3fs.S3FileSystem(**options)
        fits.writeto(folder / "plain.fits", PIXELS, fits.Header({"GAIN": 2.5}))
        fits.writeto(folder / "wide.fits", WIDE, tan_header(WIDE.shape))
        tiles = fits.CompImageHDU((PIXELS * 100).astype("i4"), compression_type="RICE_1", name="SCI")
        fits.HDUList([fits.PrimaryHDU(), tiles]).writeto(folder / "tiles.fits")
        for name in ("plain.fits", "wide.fits", "tiles.fits"):
            filesystem.put(str(folder / name), f"mosaics/{name}")
        gp.make_image(PIXELS, chunks=300, gain=1.5).to_zarr(
            "s3://mosaics/image.zarr", storage_options=options, consolidated=False
        )
        yield options


def test_plain_image_whole_and_in_part(store):
    image = gp.open_image("s3://mosaics/plain.fits", storage_options=store, chunks=(200, 300))
    assert image.attrs["gain"] == 2.5
    np.testing.assert_array_equal(image["data"], PIXELS)
    np.testing.assert_array_equal(image["data"][100:150, 200:260], PIXELS[100:150, 200:260])


def test_blocks_and_cutouts_take_few_requests(store, folder):
    image = gp.open_image("s3://mosaics/wide.fits", storage_options=store, chunks=(64, 7168))
    with count_reads(folder, store, "mosaics") as reads:
        np.testing.assert_array_equal(image["data"][64:, :7168], WIDE[64:, :7168])
    assert reads == [1]  # of 64 rows, with a seventh more than is wanted
    x, y = np.array([[1000.0, 3000.0, 5030.0], [20.0, 30.0, 40.0]])
    ra, dec = image.galprep.wcs.all_pix2world(x, y, 0)
    with count_reads(folder, store, "mosaics") as reads:
        cuts, _ = cutout_many(image, ra, dec, 9)
    for cut, at_x, at_y in zip(cuts, (1000, 3000, 5030), (20, 30, 40), strict=True):
        np.testing.assert_array_equal(cut["data"], WIDE[at_y - 4 : at_y + 5, at_x - 4 : at_x + 5])
    assert reads[0] < 9 * 3  # rows
    stamps = np.empty((3, 9, 9), "f4")
    extract_stamps(image["data"].data, x, y, 9, out=stamps)
    np.testing.assert_array_equal(stamps, [cut["data"] for cut in cuts])


def test_tile_compressed_image(store):
    image = gp.open_image("s3://mosaics/tiles.fits", "SCI", storage_options=store)
    np.testing.assert_array_equal(image["data"], (PIXELS * 100).astype("i4"))


def test_zarr_store(store):
    image = gp.open_image("s3://mosaics/image.zarr", storage_options=store)
    assert image["data"].data.chunksize == (300, 300)
    assert image.attrs["gain"] == 1.5
    np.testing.assert_array_equal(image["data"], PIXELS)


@pytest.mark.parametrize("path", ["s3://mosaics/other.fits", "s3://nowhere/plain.fits", "s3://mosaics/other.zarr"])
def test_what_is_not_there_is_named(store, path):
    with pytest.raises(ImageNotFoundError, match=path):
        gp.open_image(path, storage_options=store)
