import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import QTable

from galprep_dask.errors import OutputError, OutputExistsError, ParameterError
from galprep_dask.segmentation import catalog_file as module
from galprep_dask.segmentation import write_catalog


def table(n=5):
    values = np.linspace(0, 80, n)
    sky = SkyCoord(values * u.deg, -values * u.deg, frame="galactic")
    label = np.arange(n, dtype=np.int32) + 1
    return QTable({"label": label, "x_centroid": values, "sky_centroid": sky, "area": values * u.pix**2})


@pytest.mark.parametrize("suffix", [".parquet", ".ecsv", ".fits"])
def test_comes_back_as_it_was(tmp_path, suffix):
    path = write_catalog(table(), tmp_path / f"sources{suffix}")
    assert path == tmp_path / f"sources{suffix}"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    back = QTable.read(path)
    assert back.colnames == ["label", "x_centroid", "ra", "dec", "area"]
    assert back["area"].unit == u.pix**2
    np.testing.assert_array_equal(back["label"], table()["label"])
    np.testing.assert_array_equal(back["x_centroid"], table()["x_centroid"])
    sky = SkyCoord(back["ra"], back["dec"], frame="icrs")
    assert sky.separation(table()["sky_centroid"]).arcsec.max() < 1e-9
    empty = QTable.read(write_catalog(table()[:0], path, overwrite=True))
    assert (len(empty), empty["area"].unit) == (0, u.pix**2)


def test_a_million_rows(tmp_path):
    back = QTable.read(write_catalog(table(1_000_000), tmp_path / "sources.parquet"))
    assert len(back) == 1_000_000
    assert back["label"][-1] == 1_000_000


def test_errors(tmp_path, monkeypatch):
    path = write_catalog(table(), tmp_path / "sources.ecsv")
    with pytest.raises(OutputExistsError):
        write_catalog(table(2), path)
    assert len(QTable.read(path)) == 5
    with pytest.raises(ParameterError, match=r"sources\.txt"):
        write_catalog(table(), tmp_path / "sources.txt")
    with pytest.raises(OutputError, match="no directory"):
        write_catalog(table(), tmp_path / "nowhere" / "sources.ecsv")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ParameterError, match="pyarrow"):
        write_catalog(table(), tmp_path / "sources.parquet")
    assert [file.name for file in tmp_path.iterdir()] == ["sources.ecsv"]
