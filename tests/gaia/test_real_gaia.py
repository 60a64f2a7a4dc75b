"""A real image and the Gaia table of its field."""

import numpy as np
import pytest

from galprep_dask import gaia, open_image

pytestmark = pytest.mark.shared_data


@pytest.fixture(scope="module")
def decam(shared_data):
    folder = shared_data / "decam_tc8"
    image = open_image(folder / "c4d_171113_060340_ooi_r_ls9.N6.fits", 1)
    return image, folder / "gaia-chunk-05483.fits"


def windowed_centroid(pixels, x, y, sigma=2.0):
    for _ in range(20):
        x0, y0 = round(x), round(y)
        iy, ix = np.mgrid[y0 - 10 : y0 + 11, x0 - 10 : x0 + 11]
        window = np.exp(-((ix - x) ** 2 + (iy - y) ** 2) / (2 * sigma**2))
        weight = window * pixels[y0 - 10 : y0 + 11, x0 - 10 : x0 + 11]
        x, y = x + 2 * np.average(ix - x, weights=weight), y + 2 * np.average(iy - y, weights=weight)
    return x, y


def test_stars_of_the_second_release_are_where_the_image_has_them(decam):
    image, table = decam
    epoch = gaia.image_epoch(image)
    assert epoch == pytest.approx(2017.8665, abs=1e-4)  # DATE-OBS stands in the primary header only
    every = gaia.gaia_sources(image.galprep.wcs, image.galprep.shape, epoch, catalog=table, keep_extended=True)
    assert len(every) == 8
    assert set(every["ref_epoch"].value) == {2015.5}
    assert np.isnan(every["pmra"].value).sum() == 2
    assert every.meta["counts"] == {"in_image": 8, "excess_noise": 3, "stars": 5}

    stars = every[(every["extended"] == "") & (every["phot_g_mean_mag"].value < 19)]
    assert len(stars) == 3
    pixels = np.asarray(image["data"], float)
    pixels -= np.median(pixels)
    seen = np.array([windowed_centroid(pixels, x, y) for x, y in zip(stars["x"], stars["y"], strict=True)])
    offset = seen - np.transpose([stars["x"], stars["y"]])
    assert np.abs(np.median(offset, axis=0)).max() < 0.1
    index, _ = gaia.match_pixels(*seen.T, every["x"], every["y"], radius=1.5 * 4.6)
    assert every["source_id"][index].tolist() == stars["source_id"].tolist()


def test_the_table_of_the_brick_is_read_as_a_whole(decam):
    table = gaia.read_gaia_table(decam[1])
    assert len(table) == 884
    assert np.isnan(table["pmra"].value).sum() == 109
    assert table["duplicated_source"].sum() == 33
