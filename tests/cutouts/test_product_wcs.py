"""The coordinates of a written cutout file are those of the mosaic, in every projection and spelling."""

import warnings

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning
from fields import gaussian, tan_header

from galprep_dask import open_image
from galprep_dask.cutouts import cutout, read_product, write_product
from galprep_dask.errors import DistortionWarning, NoWCSWarning, ParameterError, TargetOutsideWarning

SHAPE = (201, 241)
STAR = (83.25, 120.75)  # x, y
STEP = 0.5 / 3600


def without_matrix(**keywords):
    header = tan_header(SHAPE)
    for key in ("CD1_1", "CD1_2", "CD2_1", "CD2_2"):
        del header[key]
    header.update(keywords)
    return header


def headers():
    """A header of every kind that mosaics come in."""
    cos, sin = np.cos(np.radians(25)), np.sin(np.radians(25))
    sip = tan_header(SHAPE, CTYPE1="RA---TAN-SIP", CTYPE2="DEC--TAN-SIP", A_ORDER=2, B_ORDER=2)
    sip.update(A_2_0=2e-5, A_1_1=-1e-5, B_0_2=1.5e-5, B_2_0=-5e-6, AP_ORDER=1, BP_ORDER=1, AP_1_0=1e-6, BP_0_1=1e-6)
    tpv = tan_header(SHAPE, CTYPE1="RA---TPV", CTYPE2="DEC--TPV")
    tpv.update(PV1_0=1e-5, PV1_1=1.0, PV1_7=1e-2, PV2_0=-1e-5, PV2_1=1.0, PV2_7=-2e-2)
    return {
        "tan": tan_header(SHAPE),
        "rotated": tan_header(SHAPE, rotation=137.0),
        "flipped": without_matrix(CDELT1=STEP, CDELT2=STEP),
        "pc": without_matrix(PC1_1=cos, PC1_2=-sin, PC2_1=sin, PC2_2=cos, CDELT1=-STEP, CDELT2=STEP),
        "pc_in_degrees": without_matrix(PC1_1=-STEP * cos, PC1_2=STEP * sin, PC2_1=STEP * sin, PC2_2=STEP * cos,
                                        CDELT1=1.0, CDELT2=1.0),
        "crota": without_matrix(CDELT1=-STEP, CDELT2=STEP, CROTA2=25.0),
        "sip": sip,
        "tpv": tpv,
        "zpn": tan_header(SHAPE, CTYPE1="RA---ZPN", CTYPE2="DEC--ZPN", PV2_1=1.0, PV2_3=44.0, PV2_5=-10300.0),
        "fk5": tan_header(SHAPE, RADESYS="FK5", EQUINOX=2000.0),
        "fk4": tan_header(SHAPE, RADESYS="FK4", EQUINOX=1950.0, **{"DATE-OBS": "1980-01-01", "MJD-OBS": 44239.0}),
        "old_spelling": tan_header(SHAPE, RADECSYS="ICRS"),
        "galactic": tan_header(SHAPE, CTYPE1="GLON-TAN", CTYPE2="GLAT-TAN"),
        "poles": tan_header(SHAPE, LONPOLE=150.0, LATPOLE=2.0),
        "other_projection": tan_header(SHAPE, CTYPE1="RA---STG", CTYPE2="DEC--STG"),
        "alternative": tan_header(SHAPE, CTYPE1A="LINEAR", CTYPE2A="LINEAR", CRPIX1A=1.0, CRPIX2A=1.0, CRVAL1A=7.0,
                                  CRVAL2A=9.0, CDELT1A=2.0, CDELT2A=3.0),
        "dec_first": tan_header(SHAPE, CTYPE1="DEC--TAN", CTYPE2="RA---TAN", CRVAL1=2.0, CRVAL2=150.0),
    }  # fmt: skip


def wcs_of(header, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        return WCS(header, **kwargs)


def write_cutout(tmp_path, header, *, compressed=False, shape=(31, 45)):
    """From a mosaic on disk, with a star in it, to a cutout file around the star."""
    pixels = gaussian(SHAPE, *STAR, 1000, 2.0).astype("f4")
    kind = fits.CompImageHDU if compressed else fits.ImageHDU
    options = {"compression_type": "GZIP_2"} if compressed else {}
    mosaic = fits.HDUList([fits.PrimaryHDU(), kind(pixels, header, **options)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mosaic.writeto(tmp_path / "mosaic.fits")
    parent = wcs_of(fits.getheader(tmp_path / "mosaic.fits", 1))
    target = parent.pixel_to_world(*STAR).icrs  # as of any catalogue, whatever the coordinates of the mosaic
    image = open_image(tmp_path / "mosaic.fits")
    x0, y0 = 83 - shape[1] // 2, 121 - shape[0] // 2
    from galprep_dask.cutouts.cutout import cut_at

    cut = cut_at(image, y0, x0, *shape)
    path = write_product(tmp_path / "cut.fits", cut, ra=target.ra, dec=target.dec)
    return path, parent, (x0, y0)


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "tiles"])
@pytest.mark.parametrize("name", headers())
def test_written_wcs_is_that_of_the_mosaic(name, compressed, tmp_path):
    path, parent, offset = write_cutout(tmp_path, headers()[name], compressed=compressed)
    with fits.open(path) as hdus:
        hdus.verify("exception")
        written, pixels = hdus[0].header, hdus[0].data
        own = WCS(written)  # and no warning of any keyword
    corners = np.array([[0, 0], [44, 0], [0, 30], [44, 30], [-0.5, -0.5], [44.5, 30.5], [22.3, 14.8]])
    on_sky = parent.all_pix2world(corners + offset, 0)
    np.testing.assert_allclose(own.all_world2pix(on_sky, 0), corners, rtol=0, atol=1e-6)
    np.testing.assert_allclose(own.all_pix2world(corners, 0), on_sky, rtol=0, atol=1e-10)

    iy, ix = np.indices(pixels.shape)
    centre = np.array([(pixels * ix).sum(), (pixels * iy).sum()]) / pixels.sum(dtype=float)
    star = parent.all_pix2world([STAR], 0)
    np.testing.assert_allclose(own.all_world2pix(star, 0)[0], centre, rtol=0, atol=0.01)
    np.testing.assert_allclose(own.all_world2pix(star, 1)[0], centre + 1, rtol=0, atol=0.01)
    if name == "alternative":
        moved = WCS(written, key="A").wcs_pix2world(0, 0, 0)
        np.testing.assert_allclose(moved, wcs_of(headers()[name], key="A").wcs_pix2world(*offset, 0))
    leftover = [key for key in written if key.startswith(("ZIMAGE", "ZCMP", "TFORM", "ZTILE"))]
    assert leftover == []


def test_header_of_the_table_behind_tiles_is_cleaned(tmp_path):
    """Some read headers with compression switched off, and pass those."""
    tiles = fits.CompImageHDU(np.zeros(SHAPE, "f4"), tan_header(SHAPE))
    tiles.writeto(tmp_path / "tiles.fits")
    with fits.open(tmp_path / "tiles.fits", disable_image_compression=True) as hdus:
        raw = hdus[1].header.copy()
    assert "ZCMPTYPE" in raw
    write_product(tmp_path / "cut.fits", np.ones((5, 5)), header=raw)
    with fits.open(tmp_path / "cut.fits") as hdus:
        hdus.verify("exception")
        assert not [key for key in hdus[0].header if key.startswith(("Z", "TTYPE", "TFORM", "TFIELDS"))]
        assert hdus[0].data.shape == (5, 5)
        assert WCS(hdus[0].header).has_celestial


def test_axes_of_a_cube_stay_behind(tmp_path):
    header = tan_header(SHAPE, WCSAXES=3, CTYPE3="WAVE", CRVAL3=5e-7, CRPIX3=1.0, CDELT3=1e-10, CUNIT3="m", CD3_3=1e-10)
    write_product(tmp_path / "cut.fits", np.ones((5, 5)), header=header)
    own = WCS(fits.getheader(tmp_path / "cut.fits"))
    assert own.naxis == 2
    np.testing.assert_allclose(own.all_world2pix(150.0, 2.0, 0), [120, 100], atol=1e-9)
    assert header["WCSAXES"] == 3


def lookup_header():
    header = tan_header(SHAPE)
    text = header.tostring(sep="\n")
    cards = [
        "CPDIS1  = 'LOOKUP  '", "CPERR1  =   0.08 / largest", "DP1     = 'EXTVER: 1.0'", "DP1     = 'NAXES: 2.0'",
        "CPDIS2  = 'Lookup  '", "DP2     = 'EXTVER: 2.0'", "DP2     = 'NAXES: 2.0'",
        "D2IMDIS1= 'LOOKUP  '", "D2IM1   = 'EXTVER: 1.0'",
        "D2IMEXT = 'table.fits'",
    ]  # fmt: skip
    return fits.Header.fromstring(text.replace("END", "").rstrip() + "\n" + "\n".join(cards), sep="\n")


def test_lookup_tables_cannot_travel_and_that_is_said(tmp_path):
    header = lookup_header()
    with pytest.raises(Exception, match="HDUList"):
        WCS(header)  # without the tables astropy makes no WCS of it at all
    with pytest.warns(DistortionWarning, match=r"CPDIS1 \(up to 0.08 px\), CPDIS2, D2IMDIS1"):
        write_product(tmp_path / "cut.fits", np.ones((5, 5)), header=header)
    written = fits.getheader(tmp_path / "cut.fits")
    assert not [key for key in written if key.startswith(("CPDIS", "CPERR", "DP1", "DP2", "D2IM"))]
    np.testing.assert_allclose(WCS(written).all_world2pix(150.0, 2.0, 0), [120, 100], atol=1e-9)
    assert "DP1.EXTVER" in header
    image = open_image(np.ones(SHAPE), header=header)
    with pytest.warns(DistortionWarning, match="CPDIS1"):
        cut = cutout(image, 150.0, 2.0, 11)
    assert cut["data"].shape == (11, 11)


def test_header_without_wcs_is_said(tmp_path):
    with pytest.warns(NoWCSWarning, match=r"cut.fits' has no celestial WCS \(CTYPE1='', CTYPE2=''\)"):
        write_product(tmp_path / "cut.fits", np.ones((5, 5)), header=fits.Header({"CRVAL1": 3.0}), ra=1.0, dec=2.0)
    assert fits.getheader(tmp_path / "cut.fits")["RA_TARG"] == 1.0


def test_targets_that_cannot_be(tmp_path):
    path = tmp_path / "cut.fits"
    for ra, dec in ((150.0, None), (None, 2.0), (2.0, 150.0), (np.nan, 2.0), (3000.0, 2.0)):
        with pytest.raises(ParameterError, match="cut.fits"):
            write_product(path, np.ones((5, 5)), header=tan_header((5, 5)), ra=ra, dec=dec)
    assert not path.exists()
    for ra, dec in ((150.1, 2.0), (2.0, 1.0), (330.0, -2.0)):
        with pytest.warns(TargetOutsideWarning, match=r"cut.fits', ra=.*is at pixel x="):
            write_product(path, np.ones((5, 5)), header=tan_header((5, 5)), ra=ra, dec=dec, overwrite=True)


def test_target_with_a_unit(tmp_path):
    from astropy.coordinates import SkyCoord

    position = SkyCoord("10h00m00s", "+02d00m00s")
    header = tan_header((5, 5))
    path = write_product(tmp_path / "cut.fits", np.ones((5, 5)), header=header, ra=position.ra, dec=position.dec)
    assert fits.getheader(path)["RA_TARG"] == pytest.approx(150.0)
    assert read_product(path).galprep.wcs.has_celestial
