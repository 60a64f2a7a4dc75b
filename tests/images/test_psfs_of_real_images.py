"""The PSF example of the documentation, step by step, on real images with their own gain, exposure and seeing."""

import numpy as np
import pytest
from astropy.io import fits

from galprep_dask import images as IM
from galprep_dask.cutouts import validate_files
from galprep_dask.psf import PSFModel, read_psfex

pytestmark = pytest.mark.shared_data

#: What both runs have in common: the example's arguments, but for those that belong to an image.
EXAMPLE = {
    "nsigma": 3.0, "npixels": 5, "starcord_list": None, "fluxthreshould": 0.0, "qt": 0.1, "sigfwhm": 3,
    "size": 31, "isolate": 0.3, "central_tol": 2, "notfit": False, "photutils_method": False, "oversampling": 1,
    "a_TV": 0, "a_sky": 0, "learning_rate": 2e-5, "num_steps": 80000, "makestackpsf": False, "verbose": True,
}  # fmt: skip


def check_file(path, img, psf, *, wings):
    """What was written is what was returned, and a fit can use it; ``wings``: levels that are right for them."""
    written = fits.getdata(path, 0)
    np.testing.assert_array_equal(written, psf.astype("f4"))
    assert abs(written.sum(dtype=float) - 1) < 1e-6
    y, x = np.mgrid[-15:16, -15:16]
    assert np.hypot((psf * x).sum(), (psf * y).sum()) < 0.005
    np.testing.assert_array_equal(PSFModel.from_fits(path).image, img.psf_model.image)
    found = {finding.check: finding.level for finding in validate_files([path]) if finding.check != "role"}
    assert found.pop("psf wings") in wings
    assert set(found.values()) == {"ok"}
    assert {"psf sum", "psf centre", "psf edge", "psf sides", "sigma"} <= set(found)


def test_example_on_an_infrared_detector(shared_data, tmp_path):
    imgname, outname = shared_data / "vircam_h" / "image_8.fits", tmp_path / "image_8_psf.fits"
    with fits.open(imgname) as hdu:
        head = hdu[1].header
        data = hdu[1].data
    img = IM.image(imgname, hdu=1, unit="adu")
    # Counts, not counts per second, so the exposure is 1. The sky was subtracted, but its photons made the noise.
    sigmaimg = img.cal_sigma_image(1.0, gain=head["GAIN"], fac1=1.0, fac2=1.0)
    epsf = img.generate_PSFs(
        psfFWHM=1.0, data=data, sigmaimg=sigmaimg, crossmatch=False, medianfwhm=2.8, droppsf=[], plot=False,
        filepaths=outname, **EXAMPLE,
    )  # fmt: skip
    assert epsf.shape == (31, 31)
    # A Moffat profile through the brightest stars, laid over one another, has 2.8 px.
    assert 2.7 < img.psf_model.fwhm < 3.1
    assert img.stars["used"].sum() >= 20
    assert img.psf_model.validation["reduced_chi2"] < 1.2
    check_file(outname, img, epsf, wings=("ok", "note"))


def test_example_on_a_ccd_with_gaia_and_figures(shared_data, tmp_path):
    folder = shared_data / "decam_tc8"
    imgname, outname = folder / "c4d_171113_060340_ooi_r_ls9.N6.fits", tmp_path / "c4d_psf.fits"
    head = fits.getheader(imgname, 1)
    img = IM.image(imgname, hdu=1, unit="adu")
    img.sky_subtraction(psfFWHM=1.1, order=3)
    sigmaimg = img.cal_sigma_image(1.0, gain=head["GAINA"], fac1=1.0, fac2=1.0)
    # The date, for proper motions, is in the primary header only.
    epsf = img.generate_PSFs(
        psfFWHM=1.1, data=img.data.data, sigmaimg=sigmaimg, crossmatch=True, medianfwhm=None, droppsf=[],
        gaia_catalog=folder / "gaia-chunk-05483.fits", plot=True, figurepath=tmp_path, filepaths=outname, **EXAMPLE,
    )  # fmt: skip
    stars = img.stars[img.stars["used"]]
    assert (stars["gaia_row"] >= 0).all()
    # Beside what the survey's PSFEx made of the whole detector.
    theirs = read_psfex(folder / "c4d_171113_060340_ooi_r_ls9-psfex.fits")
    expected = PSFModel.from_image(theirs.at(float(stars["x"][0]), float(stars["y"][0]))).fwhm
    assert img.psf_model.fwhm == pytest.approx(expected, rel=0.06)
    # One star alone: its noise is that of the wings.
    check_file(outname, img, epsf, wings=("ok", "note", "warning"))
    kinds = {file.stem.removeprefix("c4d_171113_060340_ooi_r_ls9_") for file in tmp_path.glob("*.png")}
    assert {"star_cuts", "stars", "psf"} <= kinds
