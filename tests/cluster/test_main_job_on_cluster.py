"""The main job on worker processes: the masks and labels of threads to the bit, and the same files."""

import numpy as np
import pytest
from astropy.io import fits
from distributed import Client, LocalCluster
from fields import tan_header, two_galaxies

from galprep_dask import images as IM
from galprep_dask import open_image
from galprep_dask.masks import ellipse_mask, grow_mask
from galprep_dask.segmentation import deblend_sources, detect_sources, smooth
from galprep_dask.sky import fit_mesh_sky, fit_piecewise_sky
from galprep_dask.stats import sigma_clipped_stats

SHAPE = (301, 341)


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0") as workers:
        yield workers


def prepare(path, folder, chunks):
    """The documented steps, with every way of masking; what they give, as arrays."""
    folder.mkdir()
    img = IM.image(open_image(path, chunks=chunks))
    masked = np.asarray(img.sky_subtraction(order=2, filepath=folder / "subtracted.fits"))
    img.cal_sigma_image(1.0)
    img.img_cut(150.0, 2.0, 25.0)
    img.cut_mask_image = img.generate_cutmask(1.5, deblend=True)
    img.write_imcut(150.0, 2.0, folder / "cut.fits")

    image = open_image(path, chunks=chunks)["data"]
    _, median, std = sigma_clipped_stats(image)
    smoothed = smooth(image, 3.0)
    segments = detect_sources(smoothed, median + 3 * std)
    growth = grow_mask(segments, image, sky_level=median, sky_std=std, max_grow_size=20)
    whole = [masked, segments.data, deblend_sources(smoothed, segments).data, growth, ellipse_mask(segments, image)]
    skies = [fit_mesh_sky(image, box_size=64).mesh, fit_piecewise_sky(image, piece_size=150).coefficients]
    return [np.asarray(array) for array in whole], skies


def test_masks_labels_and_files_are_those_of_threads(cluster, tmp_path):
    pixels, _, _ = two_galaxies(SHAPE, sky=50.0)
    fits.writeto(tmp_path / "field.fits", pixels, tan_header(SHAPE, GAIN=2.0, EXPTIME=10.0))
    on_threads, skies = prepare(tmp_path / "field.fits", tmp_path / "threads", chunks=(301, 341))
    with Client(cluster):
        on_workers, worker_skies = prepare(tmp_path / "field.fits", tmp_path / "workers", chunks=(100, 130))
    for threads, workers in zip(on_threads, on_workers, strict=True):
        np.testing.assert_array_equal(threads, workers)
    for threads, workers in zip(skies, worker_skies, strict=True):
        np.testing.assert_allclose(threads, workers, rtol=1e-11)
    for name in ("subtracted.fits", "cut.fits"):
        with fits.open(tmp_path / "threads" / name) as expected, fits.open(tmp_path / "workers" / name) as written:
            for one, other in zip(expected, written, strict=True):
                np.testing.assert_allclose(one.data, other.data, rtol=1e-5, atol=1e-5)
