"""Stars of three instruments: the median FWHM of what is selected, and that of stars that are known to be some."""

import warnings

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from scipy.ndimage import map_coordinates
from scipy.optimize import curve_fit
from star_fields import detected

from galprep_dask.errors import NoStarsError
from galprep_dask.psf import select_stars
from galprep_dask.stats import sigma_clipped_stats

pytestmark = pytest.mark.shared_data

#: Bright stars of the selection whose own profiles are measured: bright, round, alone and not saturated; x, y.
BRIGHT = {
    "image_1": [
        (783, 1088), (795, 888), (645, 451), (686, 185), (1663, 612), (1556, 1304), (1166, 1354), (456, 917),
        (423, 615), (1445, 713), (585, 938), (643, 289), (1125, 467), (199, 1776), (808, 356), (395, 69),
    ],
    "image_8": [
        (969, 210), (826, 1078), (838, 877), (687, 441), (728, 175), (1706, 600), (1210, 1343), (499, 907), (465, 605),
        (1488, 702), (628, 928), (686, 279), (243, 1767), (1168, 456), (191, 585), (851, 346),
    ],
}  # fmt: skip


def fwhm_of_profile(image, positions, reach):
    """FWHM of stars laid over one another: a Moffat profile through all pixels within ``reach`` of their centres."""
    radii, light = [], []
    for x, y in positions:
        y0, x0 = round(y), round(x)
        box = image[y0 - 7 : y0 + 8, x0 - 7 : x0 + 8].astype(float)
        iy, ix = np.mgrid[-7:8, -7:8]
        centre = [0.0, 0.0]
        for _ in range(20):
            weight = box * np.exp(-((ix - centre[0]) ** 2 + (iy - centre[1]) ** 2) / 6)
            step = [np.sum(weight * (axis - c)) / np.sum(weight) for axis, c in zip((ix, iy), centre, strict=True)]
            centre = [c + 1.5 * s for c, s in zip(centre, step, strict=True)]
        distance = np.hypot(ix - centre[0], iy - centre[1])
        near = distance < reach
        radii.append(distance[near])
        light.append(box[near] / box[distance < 5].sum())

    def moffat(r, peak, alpha, beta):
        return peak * (1 + (r / alpha) ** 2) ** -beta

    radii, light = np.concatenate(radii), np.concatenate(light)
    _, alpha, beta = curve_fit(moffat, radii, light, p0=(light.max(), reach, 3.0), maxfev=5000)[0]
    return 2 * alpha * np.sqrt(2 ** (1 / beta) - 1)


def half_light_diameter(image, x, y, reach):
    """Diameter of the circle with half of the light that is within ``reach``; tenths of pixels, interpolated."""
    dy, dx = np.mgrid[-reach : reach + 0.05 : 0.1, -reach : reach + 0.05 : 0.1]
    light = map_coordinates(np.asarray(image, float), [y + dy, x + dx], order=3)
    radii = np.hypot(dx, dy)
    inside = radii <= reach
    order = np.argsort(radii[inside])
    grown = np.cumsum(light[inside][order])
    return 2 * np.interp(0.5, grown / grown[-1], radii[inside][order])


def sky_subtracted(hdu):
    data = np.asarray(hdu.data, np.float32)
    return data - np.float32(sigma_clipped_stats(data)[1])


@pytest.mark.parametrize("name", ["image_1", "image_8"])
def test_vircam(name, shared_data):
    with fits.open(shared_data / f"vircam_h/{name}.fits") as hdus:
        image, header = sky_subtracted(hdus[1]), hdus[1].header
        stars = select_stars(image, detected(image, 3.0), header=header)
    assert stars["used"].sum() > 40
    assert stars.meta["fwhm"] == pytest.approx(fwhm_of_profile(image, BRIGHT[name], 2.5), rel=0.03)
    used = stars[stars["used"]]
    near = [np.hypot(used["x"] - x, used["y"] - y).min() < 1 for x, y in BRIGHT[name]]
    assert sum(near) >= 13


@pytest.fixture
def decam(shared_data):
    folder = shared_data / "decam_tc8"
    with fits.open(folder / "c4d_171113_060340_ooi_r_ls9.N6.fits") as hdus:
        image, header = sky_subtracted(hdus[1]), hdus[1].header
    with fits.open(folder / "c4d_171113_060340_oow_r_ls9.N6.fits") as hdus, np.errstate(divide="ignore"):
        sigma = 1 / np.sqrt(np.asarray(hdus[1].data, float))
    gaia = Table.read(folder / "gaia-chunk-05483.fits")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # units of the survey's own
        model = Table.read(folder / "c4d_171113_060340_ooi_r_ls9-psfex.fits")[0]
    return image, header, sigma, gaia, model


def test_decam_and_the_psfex_model_of_its_survey(decam):
    image, header, sigma, gaia, model = decam
    stars = select_stars(image, detected(image), header=header, gaia=gaia, crossmatch=True, sigma=sigma)
    used = stars[stars["used"]]
    assert (used["gaia_row"] >= 0).all()
    u, v = ((used[axis][0] - model[f"polzero{n}"]) / model[f"polscal{n}"] for n, axis in ((1, "x"), (2, "y")))
    psf = np.tensordot([1, u, u * u, v, u * v, v * v], np.asarray(model["psf_mask"], float), 1)
    expected = fwhm_of_profile(psf, [(31, 31)], 4.0)
    assert stars.meta["fwhm"] == pytest.approx(expected, rel=0.03)
    own = fwhm_of_profile(image, zip(used["x"], used["y"], strict=True), 4.0)
    assert stars.meta["fwhm"] == pytest.approx(own, rel=0.03)
    # psf_fwhm of the model is another quantity, the diameter that holds half of the light. The star agrees in it, too.
    assert half_light_diameter(psf, 31, 31, 31) == pytest.approx(model["psf_fwhm"], rel=0.03)
    here = half_light_diameter(image, used["x"][0], used["y"][0], 8)
    assert here == pytest.approx(half_light_diameter(psf, 31, 31, 8), rel=0.03)


@pytest.fixture
def kids(shared_data):
    folder = shared_data / "kids_g279148"
    planes = [fits.getdata(folder / f"G279148{name}.fits") for name in ("fitim", "sigma", "segim", "psfim")]
    return [np.asarray(plane, kind) for plane, kind in zip(planes, ("f4", "f8", "i4", "f8"), strict=True)]


def test_a_cutout_of_one_galaxy_has_no_star(kids):
    """All that is bright enough is the galaxy, and a source that the edge cuts through."""
    image, sigma, labels, psf = kids
    with pytest.raises(NoStarsError, match="'central bad pixels' took the last 1 of 4 sources"):
        select_stars(image, labels, sigma=sigma)
    # What a lower limit lets in is wider than the PSF that came with the cutout by a quarter: no star.
    faint = select_stars(image, detected(image), sigma=sigma, min_snr=10)
    assert faint["used"].sum() == 1
    assert faint.meta["fwhm"] > 1.2 * fwhm_of_profile(psf, [(12, 12)], 3.5)


def test_kids_psf_on_its_own_noise(kids):
    """Where the cutout is empty it is given stars of the PSF that was made for it."""
    image, sigma, _, psf = kids
    image = image.copy()
    rng = np.random.default_rng(0)
    places = [(15, 13), (42, 13), (68, 13), (88, 34), (88, 13), (13, 170), (88, 140), (88, 165), (38, 171)]
    for (x, y), snr in zip(places, (60, 90, 120, 150, 200, 250, 300, 400, 500), strict=True):
        star = psf * snr * np.median(sigma) / np.sqrt((psf**2).sum())
        star += rng.normal(size=psf.shape) * np.sqrt(np.maximum(star, 0) * 1e-13)
        image[y - 12 : y + 13, x - 12 : x + 13] += star.astype("f4")
    stars = select_stars(image, detected(image), sigma=sigma)
    used = stars[stars["used"]]
    known = np.array(places)
    assert all(np.hypot(*(known - (row["x"], row["y"])).T).min() < 1.5 for row in used)
    assert len(used) >= 6
    assert stars.meta["fwhm"] == pytest.approx(fwhm_of_profile(psf, [(12, 12)], 3.5), rel=0.03)
