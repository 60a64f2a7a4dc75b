"""Cutouts and stamps on worker processes: products are written where the pixels are, the same as those of threads."""

import os
from functools import partial

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.wcs import WCS
from command_line import galprep, write_field
from distributed import Client, LocalCluster
from fields import tan_header

from galprep_dask import make_image, open_image
from galprep_dask.cluster import computes_on_cluster
from galprep_dask.cutouts import cutout_many, extract_stamps, write_product
from galprep_dask.errors import NoGoodPixelsError
from galprep_dask.masks import grow_mask, target_mask

SHAPE = (310, 290)
X, Y = np.random.default_rng(1).uniform(-10, [300, 320], (60, 2)).T


@pytest.fixture(scope="module")
def client():
    with (
        dask.config.set({"distributed.worker.multiprocessing-method": "spawn"}),
        LocalCluster(n_workers=2, threads_per_worker=2, processes=True, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def image(tmp_path):
    pixels = np.random.default_rng(0).normal(100, 5, SHAPE).astype("f4")
    fits.writeto(tmp_path / "mosaic.fits", pixels, tan_header(SHAPE))
    opened = open_image(tmp_path / "mosaic.fits", chunks=64)
    return opened.assign(sigma=np.sqrt(opened["data"]), mask=opened["data"] > 115)


def write(k, cut, folder):
    if k == 7:
        raise NoGoodPixelsError("target 7 is not wanted")
    planes = {"mask": cut["mask"], "sigma": cut["sigma"]}
    write_product(
        folder / f"{k}.fits", cut["data"], **planes, header=cut.galprep.header, history=[f"PID {os.getpid()}"]
    )
    return os.getpid()


def test_workers_write_the_products_of_threads(tmp_path, client, image):
    ra, dec = WCS(tan_header(SHAPE)).all_pix2world(X, Y, 0)
    ra[5] = np.nan
    folders = tmp_path / "cluster", tmp_path / "threads"
    tables, workers = [], []
    for folder, scheduler in zip(folders, (None, "threads"), strict=True):
        folder.mkdir()
        with dask.config.set({} if scheduler is None else {"scheduler": scheduler}):
            results, table = cutout_many(image, ra, dec, 41, sink=partial(write, folder=folder))
        tables.append(table)
        workers.append({pid for pid in results if pid is not None})
    assert len(workers[0]) == 2
    assert os.getpid() not in workers[0]
    assert workers[1] == {os.getpid()}
    for name in tables[0].colnames:
        np.testing.assert_array_equal(tables[0][name], tables[1][name])
    assert tables[0]["reason"][7] == "target 7 is not wanted"
    names = sorted(os.listdir(folders[0]))
    assert names == sorted(os.listdir(folders[1])) == sorted(f"{k}.fits" for k in np.flatnonzero(tables[0]["cut"]))
    for name in names:
        with fits.open(folders[0] / name) as one, fits.open(folders[1] / name) as other:
            for ours, theirs in zip(one, other, strict=True):
                np.testing.assert_array_equal(ours.data, theirs.data)
            assert one[0].header["CRPIX1"] == other[0].header["CRPIX1"]


def test_cutouts_without_a_sink_come_back(client, image):
    ra, dec = WCS(tan_header(SHAPE)).all_pix2world(X, Y, 0)
    found, _ = cutout_many(image, ra, dec, 41)
    with dask.config.set(scheduler="threads"):
        expected, _ = cutout_many(image, ra, dec, 41)
    assert sum(cut is not None for cut in found) > 40
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            xr.testing.assert_identical(one, other)


def test_stamps_are_those_of_one_process(client, image):
    expected = extract_stamps(image["data"].values, X, Y, 21)
    lazy = image["data"].data
    np.testing.assert_array_equal(extract_stamps(lazy, X, Y, 21).compute(), expected)
    out = np.empty_like(expected)
    assert extract_stamps(lazy, X, Y, 21, out=out) is out
    np.testing.assert_array_equal(out, expected)
    kept = client.persist(da.from_array(np.asarray(lazy), chunks=64) * 2)
    np.testing.assert_array_equal(extract_stamps(kept, X, Y, 21).compute(), 2 * expected)
    swapped = np.asarray(lazy).astype(">f4")
    np.testing.assert_array_equal(extract_stamps(swapped, X, Y, 21), expected)


def test_images_that_the_workers_keep(client):
    pixels = np.arange(100.0 * 100).reshape(100, 100)
    image = make_image(client.persist(da.from_array(pixels, chunks=30) + 1), header=tan_header((100, 100)))
    ra, dec = WCS(tan_header((100, 100))).all_pix2world([50.0, 29.5], [60.0, 29.5], 0)
    found, _ = cutout_many(image, ra, dec, 11)
    np.testing.assert_array_equal(found[0]["data"], pixels[55:66, 45:56] + 1)


def masked(k, cut):
    return computes_on_cluster(), target_mask(cut["data"].values, 20, 20, fwhm=2.5)


@pytest.mark.timeout(60)
def test_what_a_sink_computes_is_computed_where_it_runs(client, image):
    """Tasks that gave tasks to their own scheduler waited for each other without an end."""
    ra, dec = WCS(tan_header(SHAPE)).all_pix2world(X[:12], Y[:12], 0)
    found, table = cutout_many(image, ra, dec, 41, sink=masked)
    with dask.config.set(scheduler="threads"):
        expected, _ = cutout_many(image, ra, dec, 41, sink=masked)
    for k in np.flatnonzero(table["cut"]):
        assert not found[k][0]
        np.testing.assert_array_equal(found[k][1], expected[k][1])


@pytest.mark.timeout(60)
def test_commands_cut_on_workers_what_they_cut_on_threads(tmp_path, client):
    write_field(tmp_path)
    command = ("cutout", "mosaic.fits", "--targets", "targets.ecsv", "--no-sigma")
    with dask.config.set(scheduler="threads"):
        assert galprep(*command, "-o", "threads", cwd=tmp_path)[::2] == (0, "")
    assert galprep(*command, "-o", "workers", "--scheduler", client.scheduler.address, cwd=tmp_path)[::2] == (0, "")
    for path in (tmp_path / "threads").iterdir():
        assert path.read_bytes() == (tmp_path / "workers" / path.name).read_bytes()


def grown(seed):
    pixels = np.random.default_rng(seed).normal(size=(40, 50))
    return grow_mask((pixels > 2).astype("i4"), pixels, sky_level=0.0, sky_std=1.0, max_grow_size=5)


@pytest.mark.timeout(60)
def test_whole_images_can_be_grown_in_tasks(client):
    """One image a task: as many tasks as there are threads waited for a thread to become free."""
    for seed, mask in enumerate(client.gather(client.map(grown, range(8)))):
        np.testing.assert_array_equal(mask, grown(seed))
