import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import MaskedColumn, QTable, Table
from fields_on_sky import stars_around, wcs_at
from hypothesis import given
from hypothesis import strategies as st
from tap_server import as_votable, make_catalog

from galprep_dask import gaia
from galprep_dask.errors import CatalogError, CatalogNotFoundError, NoMatchWarning, ParameterError

SHAPE = (600, 800)
NUMBERS = ("ra", "dec", "ref_epoch", "pmra", "pmdec", "parallax", "phot_g_mean_mag", "ruwe")


@pytest.fixture(scope="module")
def field():
    wcs = wcs_at(0.01, 5.0, SHAPE)
    ra, dec, _, _ = stars_around(wcs, SHAPE, 300, spread=3)
    return wcs, make_catalog(ra, dec)


def write_hats(table, folder, *, metadata=True, suffix=".parquet"):
    """A HATS catalogue: a partition a quarter of RA, and the files that stand beside them."""
    root = folder / "gaia"
    (root / "dataset").mkdir(parents=True)
    (root / "hats.properties").write_text("#HATS catalog\nobs_collection=gaia\nhats_col_ra=ra\nhats_col_dec=dec\n")
    (root / "partition_info.csv").write_text("Norder,Npix\n0,0\n")
    pq.write_table(pa.table({"Norder": [0], "Npix": [0]}), root / "per_partition_statistics.parquet")
    pq.write_table(pa.table({"source_id": [1]}), root / "dataset" / "data_thumbnail.parquet")
    collected = []
    for number in range(4):
        part = table[np.asarray(table["ra"]) // 90 == number]
        if not len(part):
            continue
        file = root / "dataset" / "Norder=0" / "Dir=0" / f"Npix={number}{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        arrow = as_arrow(part)
        pq.write_table(arrow, file, metadata_collector=collected)
        collected[-1].set_file_path(file.relative_to(root / "dataset").as_posix())
    if metadata:
        pq.write_metadata(arrow.schema, root / "dataset" / "_metadata", metadata_collector=collected)
    return root


def joined(one, other):
    return Table({name: np.ma.concatenate([one[name], other[name]]) for name in one.colnames}, masked=True)


def as_arrow(table):
    return pa.table({
        name: pa.array(np.ma.getdata(table[name]).astype(table[name].dtype.newbyteorder("=")),
                       mask=np.ma.getmaskarray(np.ma.asarray(table[name])))
        for name in table.colnames
    })  # fmt: skip


def write_csv_like(table, path):
    table.write(path, format="ascii.csv", fill_values=[("--", "null")])


def write_gzipped(write, path):
    plain = path.with_suffix("")
    write(plain)
    path.write_bytes(gzip.compress(plain.read_bytes()))


WRITERS = {
    "stars.fits": lambda table, path: table.write(path),
    "stars.fits.gz": lambda table, path: table.write(path),
    "stars.parquet": lambda table, path: pq.write_table(as_arrow(table), path),
    "by_astropy.parquet": lambda table, path: table.filled(-999.0)[list(table.colnames)].write(path),
    "stars.csv": write_csv_like,
    "stars.csv.gz": lambda table, path: write_gzipped(lambda plain: write_csv_like(table, plain), path),
    "stars.ecsv": lambda table, path: table.write(path),
    "bulk.csv": lambda table, path: table.write(path, format="ascii.ecsv", delimiter=","),
    "stars.vot": lambda table, path: path.write_bytes(as_votable(table)),
    "binary.xml": lambda table, path: path.write_bytes(as_votable(table, tabledata_format="binary2")),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("cut", [False, True])
def test_formats_give_the_same_table(field, tmp_path, name, cut):
    wcs, catalog = field
    if name == "by_astropy.parquet":  # which writes no masks
        catalog = catalog[~np.ma.getmaskarray(catalog["pmra"])]
    WRITERS[name](catalog, tmp_path / name)
    footprint = gaia.make_footprint(wcs, SHAPE) if cut else None
    table = gaia.read_gaia_table(tmp_path / name, footprint=footprint)
    same = gaia.read_gaia_table(catalog, footprint=footprint)
    assert table["source_id"].tolist() == same["source_id"].tolist()
    assert table["source_id"].dtype == np.int64
    assert len(table) == len(catalog) if not cut else 0 < len(table) < len(catalog)
    for column in NUMBERS:
        np.testing.assert_allclose(
            u.Quantity(table[column]).value, u.Quantity(same[column]).value, rtol=1e-6 if "csv" in name else 0, atol=0
        )
    assert table["duplicated_source"].dtype == bool
    assert table["pmra"].unit == u.mas / u.yr


@pytest.mark.parametrize("metadata", [True, False])
@pytest.mark.parametrize("collection", [True, False])
def test_hats_catalogue(field, tmp_path, metadata, collection):
    wcs, catalog = field
    far = make_catalog(np.linspace(91, 269, 50), np.zeros(50))
    far["source_id"] += 1_000_000
    both = joined(catalog, far)
    root = write_hats(both, tmp_path, metadata=metadata)
    if collection:
        (tmp_path / "collection.properties").write_text("#HATS Collection\nhats_primary_table_url=gaia\n")
        root = tmp_path
    stars = gaia.gaia_sources(wcs, SHAPE, 2016.0, catalog=root)
    assert stars["source_id"].tolist() == gaia.gaia_sources(wcs, SHAPE, 2016.0, catalog=catalog)["source_id"].tolist()
    assert len(gaia.read_gaia_table(root)) == len(both)


@pytest.mark.parametrize("metadata", [True, False])
def test_partitions_elsewhere_on_the_sky_are_not_read(field, tmp_path, metadata):
    wcs, catalog = field
    far = make_catalog(np.linspace(91, 179, 50), np.zeros(50))
    both = joined(catalog, far)
    root = write_hats(both, tmp_path, metadata=metadata)
    elsewhere = root / "dataset" / "Norder=0" / "Dir=0" / "Npix=1.parquet"
    data = bytearray(elsewhere.read_bytes())
    data[4:200] = bytes(196)  # its rows can no longer be read, but what is known of them can
    elsewhere.write_bytes(data)
    assert len(gaia.gaia_sources(wcs, SHAPE, 2016.0, catalog=root))
    with pytest.raises(CatalogError, match="gaia' cannot be read"):
        gaia.read_gaia_table(root)


def test_folder_of_parquet_files(field, tmp_path):
    _, catalog = field
    for number in range(3):
        pq.write_table(as_arrow(catalog[number * 100 : number * 100 + 100]), tmp_path / f"part{number}.parquet")
    assert gaia.read_gaia_table(tmp_path)["source_id"].tolist() == catalog["source_id"].tolist()


def test_rows_without_coordinates_and_repeated_rows_are_left_out(field):
    _, catalog = field
    table = joined(catalog, catalog[:50])
    table["ra"].mask = np.arange(len(table)) == 7
    table["dec"][9] = np.nan
    assert len(gaia.read_gaia_table(table)) == len(catalog)  # 7 and 9 come again
    before = catalog.copy()
    gaia.read_gaia_table(catalog)
    assert (before == catalog).all()


def test_archive_answers_in_upper_and_lower_case(shared_data):
    lower = gaia.read_gaia_table(shared_data / "gaia_tap" / "1712337806100O-result.ecsv")
    upper = gaia.read_gaia_table(shared_data / "gaia_tap" / "1710099405832VAL-result.vot")
    assert lower["source_id"].tolist()[:2] == [6636090334814214528, 6636090339112400000]
    assert upper["source_id"].tolist() == [4583627001381815936, 5348723816842275584]
    assert lower.colnames == upper.colnames
    assert np.isnan(lower["pmra"].value).tolist() == [False, True, False, True, False]
    assert set(lower["ref_epoch"].value) == {2016.0}
    for table in (lower, upper):
        assert table["ra"].unit == u.deg
        assert (gaia.extended_because(table) == "").all()


SPELLINGS = {
    "ra": ["ra", "RA", "Ra", "RA_ICRS", "ra_icrs", "gaia_ra"], "dec": ["dec", "DEC", "DE_ICRS", "Dec", "gaia_dec"],
    "pmra": ["pmra", "PMRA", "pmRA"], "pmdec": ["pmdec", "PMDEC", "pmDE"], "parallax": ["parallax", "Plx", "PARALLAX"],
    "phot_g_mean_mag": ["phot_g_mean_mag", "PHOT_G_MEAN_MAG", "Gmag"], "ref_epoch": ["ref_epoch", "REF_EPOCH"],
    "source_id": ["source_id", "SOURCE_ID", "Source"], "ruwe": ["ruwe", "RUWE"],
}  # fmt: skip


@given(st.fixed_dictionaries({name: st.sampled_from(spellings) for name, spellings in SPELLINGS.items()}), st.randoms())
def test_spellings_of_columns(names, order):
    catalog = make_catalog([10.0, 20.0, 30.0], [1.0, 2.0, 3.0])
    columns = list(names)
    order.shuffle(columns)
    table = Table([catalog[name] for name in columns], names=[names[name] for name in columns])
    same = gaia.read_gaia_table(catalog)
    read = gaia.read_gaia_table(table)
    for name in SPELLINGS:
        np.testing.assert_array_equal(np.asarray(read[name]), np.asarray(same[name]))


def test_units_are_converted():
    table = QTable({
        "ra": [1.0, 2.0] * u.hourangle, "dec": [60.0, -120.0] * u.arcmin, "pmra": [1.0, 2.0] * u.arcsec / u.yr,
        "pmdec": [0.0, 0.0] * u.mas / u.yr, "ref_epoch": [2016.0, 2016.0] * u.yr,
    })  # fmt: skip
    read = gaia.read_gaia_table(table)
    assert read["ra"].value.tolist() == [15.0, 30.0]
    assert read["dec"].value.tolist() == [1.0, -2.0]
    np.testing.assert_allclose(read["pmra"].value, [1000.0, 2000.0], rtol=1e-15)
    hours = Table({"ra": MaskedColumn([1.0], unit="h"), "dec": [0.0]})
    assert gaia.read_gaia_table(hours)["ra"].value.tolist() == [15.0]
    with pytest.raises(CatalogError, match="'dec' of the table is in mag; expected deg"):
        gaia.read_gaia_table(Table({"ra": [1.0], "dec": MaskedColumn([1.0], unit="mag")}))


def test_units_in_the_spelling_of_the_archive(tmp_path):
    columns = [fits.Column(name, "D", unit=unit, array=np.array([10.0, 20.0]))
               for name, unit in {"RA": "Angle[deg]", "DEC": "Angle[deg]", "PMRA": "Angular Velocity[mas.year**-1]",
                                  "PMDEC": "mas.yr**-1", "REF_EPOCH": "'yr'"}.items()]  # fmt: skip
    columns[-1].array[:] = 2016.0
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "archive.fits")
    read = gaia.read_gaia_table(tmp_path / "archive.fits")
    assert read["ra"].value.tolist() == read["pmra"].value.tolist() == read["pmdec"].value.tolist() == [10.0, 20.0]


def test_units_that_astropy_writes_into_parquet(tmp_path):
    table = QTable({"ra": [0.0, 1.0] * u.hourangle, "dec": [5.0, 5.0] * u.deg})
    table.write(tmp_path / "hours.parquet")
    footprint = gaia.make_footprint(wcs_at(15.0, 5.0, SHAPE), SHAPE)
    assert gaia.read_gaia_table(tmp_path / "hours.parquet")["ra"].value.tolist() == [0.0, 15.0]
    assert gaia.read_gaia_table(tmp_path / "hours.parquet", footprint=footprint)["ra"].value.tolist() == [15.0]


@pytest.mark.parametrize("kind", ["table", "parquet"])
def test_right_ascensions_below_zero(field, tmp_path, kind):
    wcs, catalog = field
    turned = catalog.copy()
    turned["ra"] = np.where(catalog["ra"] > 180, catalog["ra"] - 360, catalog["ra"])
    if kind == "parquet":
        pq.write_table(as_arrow(turned), tmp_path / "turned.parquet")
        turned = tmp_path / "turned.parquet"
    stars = gaia.gaia_sources(wcs, SHAPE, 2016.0, catalog=turned)
    same = gaia.gaia_sources(wcs, SHAPE, 2016.0, catalog=catalog)
    assert stars["source_id"].tolist() == same["source_id"].tolist()
    assert (stars["ra"].value >= 0).all()


def test_epoch_of_positions():
    base = {"ra": [10.0], "dec": [10.0]}
    moving = base | {"pmra": [5.0], "pmdec": [1.0]}
    assert gaia.read_gaia_table(Table(moving | {"DESIGNATION": ["Gaia DR2 123"]}))["ref_epoch"].value == 2015.5
    assert gaia.read_gaia_table(Table(moving | {"designation": [b"Gaia EDR3 123"]}))["ref_epoch"].value == 2016.0
    assert gaia.read_gaia_table(Table(moving), ref_epoch=2015.5)["ref_epoch"].value == 2015.5
    assert gaia.read_gaia_table(Table({"RAJ2000": [1.0], "DEJ2000": [2.0], "pmRA": [3.0], "pmDE": [4.0]}))[
        "ref_epoch"
    ].value == 2000.0  # fmt: skip
    # Without motion the epoch does not matter.
    assert np.isnan(gaia.read_gaia_table(Table(base))["ref_epoch"].value)
    assert len(gaia.gaia_sources(wcs_at(10, 10, SHAPE), SHAPE, 2020.0, catalog=Table(base))) == 1
    with pytest.raises(CatalogError, match="no ref_epoch to start from"):
        gaia.read_gaia_table(Table(moving))
    with pytest.raises(CatalogError, match="holds no Julian years"):
        gaia.read_gaia_table(Table(moving | {"epoch": [57388.0]}))
    with pytest.raises(ParameterError, match="ref_epoch=57388"):
        gaia.read_gaia_table(Table(moving), ref_epoch=57388.0)


# Bad input ---------------------------------------------------------------------------------------------------


def test_table_without_coordinates(tmp_path):
    table = Table({"source_id": [1], "ra": [2.0], "magnitude": [3.0]})
    with pytest.raises(CatalogError, match=r"the table has no dec\. Its columns are source_id, ra, magnitude"):
        gaia.read_gaia_table(table)
    for name in ("x.fits", "x.parquet", "x.csv", "x.ecsv", "x.vot"):
        table[["source_id", "magnitude"]].write(tmp_path / name, **({"format": "votable"} if "vot" in name else {}))
        with pytest.raises(CatalogError, match=rf"{name}' has no ra and no dec"):
            gaia.read_gaia_table(tmp_path / name)


@pytest.mark.parametrize("kind", ["table", "fits", "parquet", "csv"])
def test_coordinates_in_hours(tmp_path, kind):
    wcs = wcs_at(200.0, 5.0, SHAPE)
    ra, dec, _, _ = stars_around(wcs, SHAPE, 100)
    table = Table({"ra": ra / 15, "dec": dec})
    source = table if kind == "table" else tmp_path / f"hours.{kind}"
    if kind != "table":
        table.write(source)
    with pytest.raises(CatalogError, match=r"if its right ascensions, all of 24 and less, were hours.*by 15"):
        gaia.gaia_sources(wcs, SHAPE, 2016.0, catalog=source)


@pytest.mark.parametrize("kind", ["table", "ecsv", "csv"])
def test_coordinates_as_text(tmp_path, kind):
    table = Table({"ra": ["10:20:30.1", "10:20:31"], "dec": ["-01:02:03", "-01:02:05"]})
    source = table if kind == "table" else tmp_path / f"text.{kind}"
    if kind != "table":
        table.write(source)
    with pytest.raises(CatalogError, match=r"10:20:30\.1.*number"):
        gaia.read_gaia_table(source)
    with pytest.raises(CatalogError, match=r"10:20:30\.1.*number"):
        gaia.gaia_sources(wcs_at(155, -1, SHAPE), SHAPE, 2016.0, catalog=source)


def test_coordinates_that_are_none():
    with pytest.raises(CatalogError, match="Are they swapped"):
        gaia.read_gaia_table(Table({"ra": [10.0, 20.0], "dec": [200.0, 100.0]}))
    with pytest.raises(CatalogError, match="no row has both"):
        gaia.read_gaia_table(Table({"ra": [np.nan, 10.0], "dec": [1.0, np.nan]}))


def test_identifiers_that_are_floats():
    with pytest.raises(CatalogError, match="holds no identifiers .*float64"):
        gaia.read_gaia_table(Table({"source_id": [4.583627001381815936e18], "ra": [1.0], "dec": [2.0]}))
    named = Table({"source_id": ["Gaia DR3 4583627001381815936"], "ra": [1.0], "dec": [2.0]})
    assert gaia.read_gaia_table(named)["source_id"].tolist() == [4583627001381815936]


def test_files_that_are_not_there_or_of_no_known_kind(tmp_path):
    with pytest.raises(CatalogNotFoundError, match=r"there is no catalogue .*nowhere\.fits"):
        gaia.read_gaia_table(tmp_path / "nowhere.fits")
    for name in ("stars.xlsx", "stars", "stars.gz"):
        (tmp_path / name).write_bytes(b"whatever")
        with pytest.raises(ParameterError, match=r"cannot tell what kind of catalogue .*FITS \(.fits\), Parquet"):
            gaia.read_gaia_table(tmp_path / name)
    (tmp_path / "folder").mkdir()
    with pytest.raises(CatalogError, match="folder without Parquet files"):
        gaia.read_gaia_table(tmp_path / "folder")
    with pytest.raises(ParameterError, match="is a URL"):
        gaia.read_gaia_table("https://example.org/gaia.fits")
    with pytest.raises(ParameterError, match="gaia_catalog is a int"):
        gaia.read_gaia_table(3)


@pytest.mark.parametrize("name", [name for name in WRITERS if name.startswith("stars") and name != "stars.csv"])
def test_truncated_and_foreign_files(field, tmp_path, name):
    _, catalog = field
    WRITERS[name](catalog, tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for content in (whole[: len(whole) // 3], b"\x00\x01nonsense" * 50, b""):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CatalogError, match=f"{name}'"):
            gaia.read_gaia_table(tmp_path / name)


def test_fits_without_a_table(tmp_path):
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(np.zeros((4, 4)))]).writeto(tmp_path / "image.fits")
    with pytest.raises(CatalogError, match="no table among its 2 HDUs"):
        gaia.read_gaia_table(tmp_path / "image.fits")


def test_table_of_another_part_of_the_sky(field):
    _, catalog = field
    with pytest.warns(NoMatchWarning, match="the Gaia table has no source in the image"):
        stars = gaia.gaia_sources(wcs_at(100.0, 50.0, SHAPE), SHAPE, 2016.0, catalog=catalog)
    assert len(stars) == 0
    assert stars.meta["counts"] == {"in_image": 0, "stars": 0}


def test_catalogue_written_by_lsdb():
    from pathlib import Path

    root = Path(__file__).with_name("hats_by_lsdb")
    wcs = wcs_at(10.0, 10.0, SHAPE)
    assert len(gaia.read_gaia_table(root)) == 40
    assert len(gaia.gaia_sources(wcs, SHAPE, 2016.0, catalog=root)) == 20
