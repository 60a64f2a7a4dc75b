import os

import dask.array as da
import numpy as np
import pytest
from astropy.io import fits
from distributed import Client, LocalCluster

from galprep_dask import make_image, open_image, write_image
from galprep_dask.blockwise import merge_blocks_at
from galprep_dask.errors import ImageFileError
from galprep_dask.neighbours import map_halo


@pytest.fixture(scope="module")
def client():
    """A client of a cluster of two worker processes."""
    with (
        LocalCluster(n_workers=2, threads_per_worker=2, processes=True, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        yield client


def worker_of(block):
    return np.full(block.shape, os.getpid())


def around(window):
    return window + np.roll(window, 1, 0) + np.roll(window, -1, 1)


def total(block, origin):
    return np.array([block.sum(dtype=float), origin[0] * block.size])


@pytest.fixture
def whole():
    pixels = np.random.default_rng(0).normal(size=(300, 200)).astype("f4")
    pixels.flat[:4] = np.nan, np.inf, -np.inf, -0.0
    pixels.flags.writeable = False
    return pixels


@pytest.mark.parametrize("kind", [None, "RICE_1", "GZIP_2", "HCOMPRESS_1"])
def test_two_processes_read_the_right_pixels(tmp_path, client, whole, kind):
    path = tmp_path / "image.fits"
    if kind is None:
        fits.writeto(path, whole)
    else:
        fits.CompImageHDU(
            np.nan_to_num(whole, posinf=1, neginf=1) * 100, compression_type=kind, tile_shape=(20, 200)
        ).writeto(path)
    data = open_image(path, chunks=37)["data"].data
    np.testing.assert_array_equal(data.compute(), fits.getdata(path, 0 if kind is None else 1))
    assert len(np.unique(data.map_blocks(worker_of, dtype=int).compute())) == 2


@pytest.mark.parametrize("compression", [None, "GZIP_2"])
def test_two_processes_write_the_right_pixels(tmp_path, client, whole, compression):
    image = make_image(da.from_array(whole, chunks=37), mask=whole > 1)
    path = write_image(image, tmp_path / "image.fits", compression=compression)
    with fits.open(path) as hdus:
        hdus.verify("exception")
        data, mask = hdus[-2].data, hdus[-1].data
        np.testing.assert_array_equal(data, whole)
        np.testing.assert_array_equal(np.signbit(data), np.signbit(whole))
        np.testing.assert_array_equal(mask, whole > 1)
    assert os.listdir(tmp_path) == ["image.fits"]


def test_halos_and_sums_are_those_of_one_process(client, whole):
    finite = np.nan_to_num(whole, posinf=1, neginf=1)
    lazy = da.from_array(finite, chunks=(41, 37))
    padded = np.pad(finite, 2)
    np.testing.assert_array_equal(map_halo(around, lazy, 2, dtype="f4").compute(), around(padded)[2:-2, 2:-2])
    np.testing.assert_array_equal(
        *(merge_blocks_at(total, sum, lazy).compute(**how)[0, 0] for how in ({}, {"scheduler": "sync"}))
    )


def test_errors_come_back_with_the_name_of_the_file(tmp_path, client, whole):
    path = tmp_path / "image.fits"
    fits.writeto(path, whole)
    image = open_image(path, chunks=100)
    os.utime(path, ns=(1, 1))
    with pytest.raises(ImageFileError, match="image.fits' was changed since it was opened"):
        image["data"].data.compute()
    with pytest.raises(ImageFileError, match="image.fits' was changed since it was opened"):
        write_image(image, tmp_path / "out.fits")
    assert os.listdir(tmp_path) == ["image.fits"]
