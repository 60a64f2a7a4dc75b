"""Images in an object store."""

import numpy as np
import pytest
import s3fs
from astropy.io import fits
from object_store import object_store

import galprep_dask as gp
from galprep_dask.errors import ImageNotFoundError

PIXELS = np.random.default_rng(0).normal(size=(700, 900)).astype("f4")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Storage options of a server with one bucket, ``mosaics``."""
    folder = tmp_path_factory.mktemp("store")
    with object_store(folder, "mosaics") as options:
        filesystem = s3fs.S3FileSystem(**options)
        fits.writeto(folder / "plain.fits", PIXELS, fits.Header({"GAIN": 2.5}))
        tiles = fits.CompImageHDU((PIXELS * 100).astype("i4"), compression_type="RICE_1", name="SCI")
        fits.HDUList([fits.PrimaryHDU(), tiles]).writeto(folder / "tiles.fits")
        for name in ("plain.fits", "tiles.fits"):
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
