import os

import dask.array as da
import numpy as np
import pytest
from astropy.io import fits

from galprep_dask.io import fits_writer, page_cache
from galprep_dask.io.page_cache import is_passing, let_go_beside


def advised(monkeypatch):
    """Note what the system is told, and tell it all the same."""
    told, advise = [], os.posix_fadvise

    def note(descriptor, start, n_bytes, advice):
        told.append((start, n_bytes))
        advise(descriptor, start, n_bytes, advice)

    monkeypatch.setattr(os, "posix_fadvise", note)
    return told


def test_a_file_passes_if_it_is_more_than_half_of_the_memory(monkeypatch):
    monkeypatch.setattr(page_cache, "_memory", lambda: 2000)
    assert not is_passing(1000)
    assert is_passing(1001) == hasattr(os, "posix_fadvise")
    monkeypatch.delattr(os, "posix_fadvise", raising=False)
    assert not is_passing(1001)


def test_a_file_that_passes_has_the_same_bytes(tmp_path, monkeypatch):
    whole = np.random.default_rng(0).normal(size=(96, 64)).astype("f4")
    lazy = da.from_array(whole, chunks=(8, 16))
    hdus = [(fits.Header(), lazy), (fits.Header(), (lazy > 0).astype("u1"))]
    kept = fits_writer.write_hdus(hdus, tmp_path / "kept.fits")
    told = advised(monkeypatch)
    monkeypatch.setattr(page_cache, "_memory", lambda: 0)
    passed = fits_writer.write_hdus(hdus, tmp_path / "passed.fits")
    assert kept.read_bytes() == passed.read_bytes()
    np.testing.assert_array_equal(fits.getdata(passed), whole)
    assert told[-1] == (0, 0)  # the whole file, at the end


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the system takes no such advice")
@pytest.mark.parametrize(("shape", "chunks"), [((96, 64), (8, 16)), ((97, 61), (8, 16)), ((5, 40, 24), (1, 10, 24))])
def test_all_but_the_rim_of_a_plane_is_let_go(tmp_path, monkeypatch, shape, chunks):
    """Whatever the order of blocks, each byte is told of, and none that lies outside the plane."""
    told = advised(monkeypatch)
    path = tmp_path / "pixels"
    path.write_bytes(bytes(1000))
    image = da.zeros(shape, chunks=chunks, dtype="f4")
    with open(path, "rb") as file:
        for block in np.ndindex(image.numblocks):
            starts = [n * side for n, side in zip(block, chunks, strict=True)]
            let_go_beside(file.fileno(), 100, shape, 4, starts, image.blocks[block].shape)
    covered = np.zeros(100 + image.nbytes, bool)
    for start, n_bytes in told:
        assert start >= 100
        assert start + n_bytes <= len(covered)
        covered[start : start + n_bytes] = True
    assert covered[100:].mean() > 0.9


def test_no_advice_where_the_system_takes_none(tmp_path, monkeypatch):
    """As on macOS."""
    monkeypatch.setattr(page_cache, "_memory", lambda: 0)
    monkeypatch.delattr(os, "posix_fadvise", raising=False)
    whole = np.arange(20.0, dtype="f4").reshape(4, 5)
    path = fits_writer.write_hdus([(fits.Header(), da.from_array(whole, chunks=2))], tmp_path / "image.fits")
    np.testing.assert_array_equal(fits.getdata(path), whole)
