"""A code that is not ours fits galaxies from our files, and finds what was put in."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from galaxy_fits import fit_with_pysersic, galaxy_mosaic, prepare_cutouts

from galprep_dask.cutouts import validate_files


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Four galaxies: the truth, the files, and the fits of the files."""
    folder = tmp_path_factory.mktemp("fits")
    image, truth, _, psf = galaxy_mosaic(4, seed=11)
    paths = prepare_cutouts(image, truth, psf, folder)
    return truth.targets, paths, fit_with_pysersic(paths)


@pytest.mark.parametrize("name", ["flux", "r_eff", "n"])
def test_pysersic_recovers_what_was_put_in(fitted, name):
    truth, _, fits_of_files = fitted
    value, error = np.array([fit[name] for fit in fits_of_files]).T
    pulls = (value - truth[name]) / error
    assert (error / value < 0.12).all()  # errors that mean something
    assert np.abs(pulls).max() < 3.5
    assert np.sqrt(np.mean(pulls**2)) < 2


def test_magnitudes_follow_from_the_zero_point_in_the_file(fitted):
    truth, paths, fits_of_files = fitted
    for target, path, fit in zip(truth, paths, fits_of_files, strict=True):
        zero_point = fits.getval(path, "MAGZERO")
        magnitude, error = zero_point - 2.5 * np.log10(fit["flux"][0]), 1.086 * fit["flux"][1] / fit["flux"][0]
        assert abs(magnitude - (27 - 2.5 * np.log10(target["flux"]))) < 3.5 * error


def test_the_galaxy_is_where_the_header_says(fitted):
    truth, paths, fits_of_files = fitted
    for path, fit in zip(paths, fits_of_files, strict=True):
        header = fits.getheader(path)
        x, y = WCS(header).all_world2pix(header["RA_TARG"], header["DEC_TARG"], 0)
        for name, expected in (("xc", x), ("yc", y)):
            assert abs(fit[name][0] - expected) < max(4 * fit[name][1], 0.02)


def test_the_sky_of_the_files_is_zero(fitted):
    _, _, fits_of_files = fitted
    for fit in fits_of_files:
        assert abs(fit["sky_back"][0]) < 4 * fit["sky_back"][1]


def test_the_files_are_valid(fitted):
    _, paths, _ = fitted
    findings = validate_files(paths)
    assert {finding.level for finding in findings} == {"ok"}
    ratios = [finding.value for finding in findings if finding.check == "noise"]
    np.testing.assert_allclose(ratios, 1, atol=0.05)
