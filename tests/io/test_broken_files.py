"""Files that are broken in every way: the error names file and HDU; mistakes of our own are not told as theirs."""

import gzip
import os
import re
from operator import itemgetter

import numpy as np
import pytest
from astropy.io import fits

from galprep_dask import open_image
from galprep_dask.errors import HDUError, ImageFileError
from galprep_dask.io import fits_find
from galprep_dask.io.files import clear_errors


@pytest.fixture
def path(tmp_path):
    """A file of two images and a table."""
    path = tmp_path / "image.fits"
    table = fits.BinTableHDU.from_columns([fits.Column("a", "D", array=np.arange(5.0))])
    images = fits.PrimaryHDU(np.zeros((30, 40), "f4")), fits.ImageHDU(np.ones((20, 30), "i2"), name="SCI")
    fits.HDUList([*images, table]).writeto(path)
    return path


def with_card(path, keyword, text, after=0):
    """Write something else into the first card of a keyword behind so many bytes."""
    content = bytearray(path.read_bytes())
    at = content.index(keyword.ljust(8).encode(), after)
    content[at : at + 80] = f"{keyword:8}= {text:>20}".ljust(80).encode()
    path.write_bytes(content)


def read(path, hdu=None):
    return open_image(path, hdu=hdu)["data"].data.compute(scheduler="sync")


def failing(path, hdu, match):
    place = f"{str(path)!r} [HDU {hdu}]" if hdu is not None else repr(str(path))
    with pytest.raises(ImageFileError, match=f"^{re.escape(place)} {match}"):
        read(path, hdu)


@pytest.mark.parametrize("hdu", [0, 1])
def test_truncated_data(path, hdu):
    start = 2880 if hdu == 0 else path.read_bytes().index(b"XTENSION") + 2880
    os.truncate(path, start + 100)
    failing(path, hdu, r"is truncated: its header promises \d+ bytes, the file has")


def test_header_of_garbage(path):
    content = bytearray(path.read_bytes())
    content[:2880] = np.random.default_rng(0).bytes(2880)
    path.write_bytes(content)
    failing(path, None, r"cannot be read as FITS: .*damaged")
    failing(path, 1, r"cannot be read as FITS: .*damaged")


@pytest.mark.parametrize(("keyword", "text"), [("BITPIX", "0"), ("BITPIX", "'a'"), ("NAXIS1", "'a'"), ("NAXIS1", "-4")])
@pytest.mark.parametrize("hdu", [0, 1])
def test_cards_that_make_no_sense(path, keyword, text, hdu):
    with_card(path, keyword, text, after=0 if hdu == 0 else path.read_bytes().index(b"XTENSION"))
    with pytest.raises((ImageFileError, HDUError), match=re.escape(str(path))):
        read(path, hdu)


@pytest.mark.parametrize("keyword", ["BSCALE", "BZERO", "BLANK"])
def test_a_scaling_that_is_no_number(tmp_path, keyword):
    path = tmp_path / "image.fits"
    fits.writeto(path, np.zeros((30, 40), "i2"), fits.Header([("SPARE", 2)]))
    card = f"{keyword:8}= 'two'".ljust(30).encode()
    path.write_bytes(path.read_bytes().replace(b"SPARE   =                    2", card))
    failing(path, 0, f"cannot be read as FITS: .*{keyword}.*")


def test_an_extension_that_is_none(path):
    content = path.read_bytes().replace(b"XTENSION= 'IMAGE   '", b"XTENSION= 'RUBBISH '")
    path.write_bytes(content)
    with pytest.raises(HDUError, match="HDU 1 of .*image.fits' is not a 2-D image"):
        read(path, 1)


@pytest.mark.parametrize("hdu", [3, "WHT"])
def test_an_hdu_that_is_not_there(path, hdu):
    with pytest.raises(HDUError, match=rf"^'.*image.fits' has no HDU {hdu!r}. It has 0: PRIMARY 30x40; 1: SCI 20x30"):
        read(path, hdu)


def test_an_hdu_that_is_a_table(path):
    with pytest.raises(HDUError, match="^HDU 2 of '.*image.fits' is not a 2-D image"):
        read(path, 2)


@pytest.mark.filterwarnings("ignore::galprep_dask.errors.NotLazyWarning")  # it comes where the header can be read
@pytest.mark.parametrize("part", [0.02, 0.5, 0.999])
def test_truncated_gzip(tmp_path, part):
    path = tmp_path / "image.fits.gz"
    pixels = np.random.default_rng(0).normal(size=(60, 40))
    fits.writeto(tmp_path / "image.fits", pixels)
    content = gzip.compress((tmp_path / "image.fits").read_bytes())
    path.write_bytes(content[: int(part * len(content))])
    failing(path, 0, "cannot be read as FITS: .*truncated, damaged")


@pytest.mark.parametrize("hdu", [None, 1])
def test_an_empty_file(tmp_path, hdu):
    path = tmp_path / "image.fits"
    path.touch()
    failing(path, hdu, "cannot be read as FITS: ")


def test_a_directory(tmp_path):
    failing(tmp_path, None, "is a directory, and no Zarr store. Name a FITS file")


@pytest.fixture
def unreadable(path):
    """A file without permissions; root may read every file, and gives its rights away for the while."""
    path.chmod(0)
    if os.geteuid():
        yield path
    else:
        os.seteuid(65534)
        yield path
        os.seteuid(0)


def test_a_file_that_may_not_be_read(unreadable):
    failing(unreadable, None, "may not be read: Permission denied. Check its permissions")


@pytest.mark.parametrize(
    ("mistake", "kind"), [({}.__getitem__, KeyError), (itemgetter(9), IndexError), (int, TypeError), (None, TypeError)]
)
def test_mistakes_of_our_own_are_not_told_as_broken_files(path, monkeypatch, mistake, kind):
    monkeypatch.setattr(fits_find, "_leading_axes", mistake)
    with pytest.raises(kind):
        open_image(path)


def test_what_libraries_raise_over_a_file_is_told_as_its_fault():
    told = r"'a.fits' \[HDU 2\] cannot be read as FITS: .*Keyword 'NAXIS' not found"
    with pytest.raises(ImageFileError, match=told), clear_errors("a.fits", 2):
        fits.Header()["NAXIS"]
