"""What the recipes say of files as they are distributed, on real ones."""

from functools import partial

import numpy as np
import pytest

from galprep_dask import masks, noise, open_image, sky
from galprep_dask.cutouts import cutout

pytestmark = pytest.mark.shared_data


def test_jwst_pixels_scatter_as_their_error_says_and_squares_do_not(shared_data):
    folder = shared_data / "jwst_egs_40"
    image = open_image(folder / "f200w.fits", sigma=folder / "f200w_err.fits", mask=folder / "f200w_mask.fits")
    model, masked = sky.fit_sky_between_sources(image["data"], image["mask"], fit=sky.fit_median_sky, fwhm=3.5)
    image = image.galprep.subtract_sky(model)
    assert 0.9 < image.galprep.check_sigma(masked).ratio < 1.2
    factor = noise.correlation_factor(image["data"], masked, block_size=8)
    assert 1.5 < factor < 2.5
    header = image.galprep.with_sigma(masked, rms=image["sigma"], fac1=0, correlation=factor).galprep.header
    assert 0.9 < header["SIGCHK"] * header["SIGCOR"] < 1.2


def test_decam_weights_and_bits_of_the_legacy_survey(shared_data):
    folder, name = shared_data / "decam_tc8", "c4d_171113_060340_oo{}_r_ls9.N6.fits"
    flags = open_image(folder / name.format("d"))["data"].astype("int32")
    bad = masks.flag_mask(flags)
    image = open_image(folder / name.format("i"), weight=folder / name.format("w"), mask=bad)
    assert not bool(image["mask"].any())  # as the README of the folder says
    assert "gain" not in image.attrs  # GAINA and GAINB are those of two amplifiers
    model, masked = sky.fit_sky_between_sources(image["data"], image["mask"], fit=sky.fit_median_sky, fwhm=4.6)
    prepared = image.galprep.subtract_sky(model).galprep.with_sigma(masked, fac1=0, exptime=1.0, rescale=True)
    header = prepared.galprep.header
    assert abs(header["SIGCHK"] - 1) < 0.02
    assert bool((np.isfinite(prepared["sigma"]) & (prepared["sigma"] > 0)).all())


def test_vista_header_projection_and_a_sigma_by_mesh(shared_data):
    image = open_image(shared_data / "vircam_h" / "image_1.fits").isel(y=slice(0, 768), x=slice(0, 768))
    assert image.attrs["hdu"] == 1
    assert image.attrs["zeropoint"] == 30.0
    assert image.galprep.header["CTYPE1"] == "RA---ZPN"
    fit = partial(sky.fit_piecewise_sky, piece_size=256)
    model, masked = sky.fit_sky_between_sources(image["data"], fit=fit, fwhm=2.7)
    image = image.galprep.subtract_sky(model)
    mesh = sky.fit_mesh_sky(image["data"], masked, box_size=64, exclude_percentile=80)
    header = image.galprep.with_sigma(masked, rms=mesh.rms_image(), fac1=0).galprep.header
    assert abs(header["SIGCHK"] - 1) < 0.02
    ra, dec = image.galprep.wcs.all_pix2world(400.25, 300.5, 0)
    cut = cutout(image, float(ra), float(dec), 61)
    x, y = cut.galprep.wcs.all_world2pix(ra, dec, 0)
    assert abs(x - 30) <= 0.5 + 1e-6
    assert abs(y - 30) <= 0.5 + 1e-6
