"""Images in an object store: a server that speaks its protocol, in a process of its own."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
import s3fs
from astropy.io import fits

import galprep_dask as gp
from galprep_dask.errors import ImageNotFoundError

PIXELS = np.random.default_rng(0).normal(size=(700, 900)).astype("f4")
CREDENTIALS = {"key": "anyone", "secret": "anything"}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Storage options of a server with one bucket, ``mosaics``."""
    folder = tmp_path_factory.mktemp("store")
    log = (folder / "log").open("w+")
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"], stdout=log, stderr=log,
        env=os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    try:
        options = CREDENTIALS | {"endpoint_url": _address(folder / "log", server)}
        filesystem = s3fs.S3FileSystem(**options)
        filesystem.mkdir("mosaics")
        fits.writeto(folder / "plain.fits", PIXELS, fits.Header({"GAIN": 2.5}))
        tiles = fits.CompImageHDU((PIXELS * 100).astype("i4"), compression_type="RICE_1", name="SCI")
        fits.HDUList([fits.PrimaryHDU(), tiles]).writeto(folder / "tiles.fits")
        for name in ("plain.fits", "tiles.fits"):
            filesystem.put(str(folder / name), f"mosaics/{name}")
        gp.make_image(PIXELS, chunks=300, gain=1.5).to_zarr(
            "s3://mosaics/image.zarr", storage_options=options, consolidated=False
        )
        yield options
    finally:
        server.terminate()
        server.wait()
        log.close()


def _address(log, server) -> str:
    """Wait for the server to say where it listens."""
    for _ in range(600):
        for word in log.read_text().split():
            if word.startswith("http://127.0.0.1:"):
                return word
        assert server.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(log.read_text())


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
