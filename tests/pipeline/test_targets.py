import numpy as np
import pytest
from astropy import units as u
from astropy.table import MaskedColumn, QTable, Table

from galprep_dask.errors import TargetTableError
from galprep_dask.pipeline.targets import read_targets


@pytest.mark.parametrize("suffix", ["ecsv", "csv", "fits", "vot", "parquet"])
def test_kinds_of_tables(tmp_path, suffix):
    path = tmp_path / f"targets.{suffix}"
    table = Table({"NAME": ["NGC 1", "b"], "RA": [150.1, 10.0], "DEC": [-2.2, 5.0], "Z": [0.1, -9.0]})
    table["size"] = [9.0, 8.0]
    table.write(path, **({"format": "votable"} if suffix == "vot" else {}))
    targets = read_targets(path)
    assert [target.name for target in targets] == ["NGC 1", "b"]
    assert [(target.ra, target.dec) for target in targets] == [(150.1, -2.2), (10.0, 5.0)]
    assert [target.redshift for target in targets] == [0.1, None]
    assert [target.size for target in targets] == [9.0, 8.0]
    assert [target.row for target in targets] == [0, 1]
    assert targets[0].file_name.startswith("NGC_1-")


def test_units_are_heeded(tmp_path):
    path = tmp_path / "targets.ecsv"
    QTable({"ra": [10.0, 1.0] * u.hourangle, "dec": [0.1, 0.2] * u.rad}).write(path)
    targets = read_targets(path)
    assert [target.ra for target in targets] == pytest.approx([150.0, 15.0])
    assert [target.dec for target in targets] == pytest.approx(np.degrees([0.1, 0.2]))
    assert [target.name for target in targets] == ["target1", "target2"]
    assert (targets[0].redshift, targets[0].ebv, targets[0].size) == (None, 0.0, None)


def test_bad_rows_have_a_problem_and_stop_nothing(tmp_path):
    path = tmp_path / "targets.ecsv"
    Table({
        "id": [1, 2, 3, 4],
        "ra": MaskedColumn([1.0, np.nan, 3.0, 2.0], mask=[False, False, True, False]),
        "dec": [1.0, 2.0, 3.0, 150.0],
    }).write(path)  # fmt: skip
    problems = [target.problem for target in read_targets(path)]
    assert problems[0] == ""
    assert all("position is not known" in problem for problem in problems[1:3])
    assert "the other way round" in problems[3]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"x": [1.0], "dec": [2.0]}, r"no column for ra: looked for ra, .* in any capitals; it has x, dec"),
        ({"ra": [1.0]}, r"no column for dec"),
        ({"ra": ["10:00:00"], "dec": [2.0]}, r"'ra'.*holds text, '10:00:00'"),
        ({"ra": ["10.0", "--"], "dec": [2.0, 2.0]}, r"'ra'.*holds text, '--'"),
        ({"ra": [1.0] * u.m, "dec": [2.0]}, r"'ra'.*is in m; expected degrees"),
    ],
)
def test_tables_without_positions(tmp_path, table, message):
    path = tmp_path / "targets.ecsv"
    QTable(table).write(path)
    with pytest.raises(TargetTableError, match=message):
        read_targets(path)


def test_no_file_no_table_no_rows(tmp_path):
    with pytest.raises(TargetTableError, match=r"there is no file .*none\.fits"):
        read_targets(tmp_path / "none.fits")
    (tmp_path / "noise.fits").write_bytes(b"noise" * 1000)
    with pytest.raises(TargetTableError, match=r"cannot read the targets in .*noise\.fits"):
        read_targets(tmp_path / "noise.fits")
    Table(names=["ra", "dec"]).write(tmp_path / "empty.ecsv")
    with pytest.raises(TargetTableError, match="no rows"):
        read_targets(tmp_path / "empty.ecsv")
