"""The documented image preparation, run on real images of five instruments."""

import re
import warnings

import matplotlib
import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning

from galprep_dask import images as IM

pytestmark = pytest.mark.shared_data


def wcs_of(header):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)  # keywords of the observatory, kept as they are
        return WCS(header)


def sky_at(header, x, y):
    return tuple(float(value) for value in wcs_of(header).all_pix2world(x, y, 0))


# Image, HDU, target (x, y) in pixels, PSF FWHM and half-size in arcsec.
FIELDS = {
    "vircam_1": ("vircam_h/image_1.fits", 1, (439.5, 322.0), 1.0, 12.0),
    "vircam_8": ("vircam_h/image_8.fits", 1, (481.9, 312.2), 1.0, 12.0),
    "gama_vst_r": ("gama_g202627/VST_r.fits", 0, (300.2, 300.6), 0.8, 20.0),
    "gama_vista_k": ("gama_g202627/VISTA_K.fits", 0, (177.0, 177.0), 1.1, 20.0),
    "gama_galex_nuv": ("gama_g202627/GALEX_NUV.fits", 0, (40.6, 40.2), 5.0, 36.0),
    "hst_f160w": ("hst_xdf_f160w/xdf_hst_wfc3ir_60mas_f160w_sci.fits", 0, (100.4, 99.7), 0.18, 2.5),
}


def prepare(path, hdu, target, fwhm, half_size, folder):
    """The three documented steps, with what the documentation leaves undefined filled in."""
    header = fits.getheader(path, hdu)
    ra, dec = sky_at(header, *target)

    img = IM.image(path, hdu=hdu, unit="cR")
    masked = img.sky_subtraction(
        polyfit=True, order=3, filepath=folder / "subtracted.fits", psfFWHM=fwhm, nsigma=3.0, npixels=5,
        max_grow_size=100, addgrow=0,
    )  # fmt: skip
    imcut, cp = img.img_cut(ra, dec, half_size)
    sigma = img.cal_sigma_image(200, gain=1.0)
    img.cut_sigma_image = sigma[cp[2] : cp[3], cp[0] : cp[1]]
    img.cut_mask_image = img.generate_cutmask(
        fwhm, data=imcut, nsigma=2.0, npixels=15, nlevels=32, contrast=0.001, deblend=False, growmethod=True,
        max_grow_size=15, addgrow=1,
    )  # fmt: skip
    img.write_imcut(ra, dec, folder / "cut.fits", header=header)
    return img, masked, cp, header, (ra, dec)


@pytest.mark.parametrize("name", FIELDS)
def test_documented_steps_give_a_cutout_file_that_a_fit_can_use(name, shared_data, tmp_path):
    path, hdu, target, fwhm, half_size = FIELDS[name]
    path = shared_data / path
    img, masked, cp, header, (ra, dec) = prepare(path, hdu, target, fwhm, half_size, tmp_path)
    x0, x1, y0, y1 = cp
    original = fits.getdata(path, hdu)

    with fits.open(tmp_path / "cut.fits") as hdus:
        hdus.verify("exception")
        image, mask, sigma = (hdus[n].data for n in range(3))
        assert image.shape == mask.shape == sigma.shape == (y1 - y0, x1 - x0)
        assert image.dtype == sigma.dtype == np.dtype(">f4")
        assert mask.dtype == np.uint8
        assert set(np.unique(mask)) <= {0, 1}
        assert np.isfinite(sigma).all()
        assert (sigma > 0).all()
        assert np.isfinite(image).all()

        # The target is where it was, to the pixel and to 1e-3 px on the sky, at all corners too.
        cut_wcs, parent = wcs_of(hdus[0].header), wcs_of(header)
        np.testing.assert_allclose(cut_wcs.all_world2pix(ra, dec, 0), np.subtract(target, (x0, y0)), atol=1e-3)
        corners = np.array([[0, 0], [x1 - x0 - 1, 0], [0, y1 - y0 - 1], [x1 - x0 - 1, y1 - y0 - 1]], dtype=float)
        on_sky = cut_wcs.all_pix2world(corners, 0)
        np.testing.assert_allclose(on_sky, parent.all_pix2world(corners + (x0, y0), 0), rtol=0, atol=1e-9)
        assert hdus[0].header["RA_TARG"] == ra
        assert hdus[0].header["DEC_TARG"] == dec

        # The pixels are those of the original minus the sky that is kept beside them.
        sky = np.asarray(img.sky)[y0:y1, x0:x1]
        expected = (original[y0:y1, x0:x1] - sky).astype("f4")
        good = np.isfinite(expected)
        np.testing.assert_array_equal(image[good], expected[good])
        assert (mask[~good] == 1).all()
        assert mask[round(target[1] - y0), round(target[0] - x0)] == 0

    with fits.open(tmp_path / "subtracted.fits") as hdus:
        assert hdus[0].header["SKYMODEL"] == "polynomial"
        assert hdus[0].header["SKYORDER"] == 3
        np.testing.assert_array_equal(hdus[0].data, np.asarray(img.data.data))
    # Least squares leaves a mean of zero on what it was fitted to: sky within the clipping limit.
    left = np.asarray(img.data.data)[~np.asarray(masked)].astype(float)
    left = left[np.abs(left) <= 3 * img.sky_model.rms]
    assert abs(left.mean()) < 0.02 * left.std()


@pytest.mark.parametrize("name", ["vircam_1", "gama_vst_r"])
def test_the_documentation_s_own_code_runs(name, shared_data, tmp_path, monkeypatch):
    """Its text, with the import lines and, for a file with an empty primary, the HDU changed."""
    pages = sorted((shared_data.parent / "seed").glob("*.rst"))
    if not pages:
        pytest.skip("the documentation is not there")
    blocks = re.findall(r"\.\. code-block:: python\n\n((?:    .*\n|\n)+)", pages[0].read_text())
    code = "\n".join(re.sub(r"^    ", "", block, flags=re.MULTILINE) for block in blocks[:2])
    code = code.replace("from galfits import images as IM", "from galprep_dask import images as IM")
    code = code.replace("import gsutils", "from galprep_dask import gsutils")
    path, hdu, target, fwhm, _ = FIELDS[name]
    if hdu:
        code = code.replace("hdu[0]", f"hdu[{hdu}]").replace("unit='cR'", f"hdu={hdu}, unit='cR'")
    assert "galfits" not in code
    assert code.count("galprep_dask") == 2

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    monkeypatch.setattr(plt, "show", lambda: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "cutimg").mkdir()
    (tmp_path / "data" / "tmass_H.fits").symlink_to(shared_data / path)
    header = fits.getheader(shared_data / path, hdu)
    ra, dec = sky_at(header, *target)
    # The block that draws the mask names it mask0.
    code = code.replace("    # Visualize the cutout", "# Visualize the cutout")
    code = re.sub(r"(?m)^(outname = )", r"mask0 = img.cut_mask_image\n\1", code)
    names = {"band": "H", "ra": ra, "dec": dec, "psfFWHM": fwhm, "addgrow": 1, "resupath": "", "tagname": "it"}
    try:
        exec(compile(code, "documentation", "exec"), names)
    finally:
        plt.close("all")
        if "hdu" in names:
            names["hdu"].close()

    assert (tmp_path / "it_H_cutout.png").stat().st_size > 1000
    with fits.open(tmp_path / "cutimg" / "tmass_H_cut.fits") as hdus:
        x0, _, y0, _ = names["cp"]
        position = wcs_of(hdus[0].header).all_world2pix(ra, dec, 0)
        np.testing.assert_allclose(position, np.subtract(target, (x0, y0)), atol=1e-3)
        assert (hdus[2].data > 0).all()


def test_one_galaxy_lies_at_the_same_place_in_three_instruments(shared_data, tmp_path):
    """VST r, VISTA K and GALEX NUV have three pixel scales and one sky."""
    ra, dec = sky_at(fits.getheader(shared_data / "gama_g202627/VST_r.fits"), 300.5, 300.5)
    for name, radius in (("VST_r", 8.0), ("VISTA_K", 8.0), ("GALEX_NUV", 12.0)):
        img = IM.image(shared_data / f"gama_g202627/{name}.fits")
        img.sky_subtraction(order=1, psfFWHM=1.0 if radius < 10 else 5.0)
        cut, (x0, x1, y0, y1) = img.img_cut(ra, dec, radius)
        scale = img._scale()
        assert cut.shape == (2 * round(radius / scale) + 1,) * 2
        x, y = img.coordinates_transfer_para["x0"], img.coordinates_transfer_para["y0"]
        assert abs(x - (x1 - x0 - 1) / 2) <= 0.5
        assert abs(y - (y1 - y0 - 1) / 2) <= 0.5


def test_empty_primary_gives_way_to_the_first_image_with_a_warning(shared_data):
    from galprep_dask.errors import HDUFallbackWarning

    with pytest.warns(HDUFallbackWarning, match="HDU 1 is used"):
        img = IM.image(shared_data / "vircam_h/image_1.fits")
    assert img.data.data.shape == (1836, 1816)


def test_galfits_own_cutouts_open_without_a_wcs(shared_data):
    from galprep_dask import open_image
    from galprep_dask.errors import MissingWCSError

    image = open_image(shared_data / "galfits_j0056/sdssr_cut.fits", mask=1, sigma=2)
    assert image["mask"].dtype == bool
    assert image.attrs["gain"] == 4.22
    with pytest.raises(MissingWCSError, match=r"sdssr_cut.fits' \[HDU 0\] has no celestial WCS"):
        _ = image.galprep.wcs


def test_nan_border_is_masked_in_the_cutout(shared_data, tmp_path):
    path = shared_data / "vics82/VICS82-test_J.fits"
    original = fits.getdata(path)
    y, x = np.argwhere(np.isnan(original))[0]
    img = IM.image(path)
    img.sky_subtraction(psfFWHM=1.8)
    img.cal_sigma_image(1.0, gain=1.0)
    ny, nx = original.shape
    box = [max(x - 5, 0), min(x + 6, nx), max(y - 5, 0), min(y + 6, ny)]
    _, (x0, x1, y0, y1) = img.img_cut(0, 0, None, referpix=(x, y), cutposition=box)
    img.write_imcut(*sky_at(fits.getheader(path), x, y), tmp_path / "cut.fits")
    nan = np.isnan(original[y0:y1, x0:x1])
    assert nan.any()
    with fits.open(tmp_path / "cut.fits") as hdus:
        np.testing.assert_array_equal(hdus[1].data.astype(bool), nan)
        assert (hdus[2].data > 0).all()
        assert np.isfinite(hdus[0].data).all()
