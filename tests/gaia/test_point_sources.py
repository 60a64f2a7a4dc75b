import numpy as np
import pytest
from astropy.table import Table
from fields_on_sky import wcs_at

from galprep_dask import gaia
from galprep_dask.errors import ParameterError

SHAPE = (500, 500)


def table(**columns):
    n = len(next(iter(columns.values())))
    return Table({"ra": 150 + 0.001 * np.arange(n), "dec": np.full(n, 2.0)} | columns)


MIXED = {
    "duplicated_source": [False, True, False, False, False, False, False, False],
    "classprob_dsc_combmod_galaxy": [0.0, 0.9, 0.9, 0.0, 0.0, np.nan, 0.0, 0.0],
    "classprob_dsc_combmod_quasar": [0.0, 0.0, 0.0, 0.9, 0.0, np.nan, 0.0, 0.0],
    "ruwe": [1.0, 1.0, 1.0, 1.0, 3.0, np.nan, 1.0, 1.0],
    "astrometric_excess_noise": [0.1, 0.0, 0.0, 0.0, 9.0, np.nan, 9.0, 9.0],
    "astrometric_excess_noise_sig": [50.0, 0.0, 0.0, 0.0, 9.0, np.nan, 1.0, 9.0],
}


def test_reasons_and_counts():
    wcs = wcs_at(150.003, 2.0, SHAPE)
    every = gaia.gaia_sources(wcs, SHAPE, 2016.0, catalog=table(**MIXED), keep_extended=True)
    assert every["extended"].tolist() == ["", "duplicated_source", "galaxy", "quasar", "ruwe", "", "", "excess_noise"]
    stars = gaia.gaia_sources(wcs, SHAPE, 2016.0, catalog=table(**MIXED))
    assert len(stars) == 3
    assert stars.meta["counts"] == every.meta["counts"] == {
        "in_image": 8, "duplicated_source": 1, "excess_noise": 1, "galaxy": 1, "quasar": 1, "ruwe": 1, "stars": 3
    }  # fmt: skip


def test_limits():
    read = gaia.read_gaia_table(table(**MIXED))
    none = dict.fromkeys(("max_ruwe", "max_excess_noise", "max_galaxy_probability", "max_quasar_probability"))
    assert (gaia.extended_because(read, **none) == "").sum() == 7  # a duplicated source is two in any case
    assert gaia.extended_because(read, **(none | {"max_ruwe": 2.9})).tolist().count("ruwe") == 1
    assert gaia.extended_because(read, **(none | {"max_ruwe": 3.0})).tolist().count("ruwe") == 0
    for name in none:
        for wrong in (-1, np.nan):
            with pytest.raises(ParameterError, match=f"{name}="):
                gaia.extended_because(read, **{name: wrong})
            with pytest.raises(ParameterError, match=f"{name}="):
                gaia.gaia_sources(wcs_at(1, 1, SHAPE), SHAPE, 2016.0, **{name: wrong})


def test_candidates_and_unknown_significance():
    flags = {"in_galaxy_candidates": ["true", "false", "False"], "in_qso_candidates": [0, 1, 0]}
    read = gaia.read_gaia_table(table(**flags, astrometric_excess_noise=[0.0, 0.0, 5.0]))
    assert gaia.extended_because(read).tolist() == ["galaxy", "quasar", "excess_noise"]
    assert gaia.extended_because(read, max_galaxy_probability=None)[0] == ""


def test_masked_flags_and_probabilities_count_for_the_source():
    mask = [True, False]
    masked = table(ruwe=np.ma.array([9.0, 1.0], mask=mask), duplicated_source=np.ma.array([True, True], mask=mask))
    assert gaia.extended_because(gaia.read_gaia_table(masked)).tolist() == ["", "duplicated_source"]


def test_a_table_without_such_columns_is_all_stars():
    assert gaia.extended_because(gaia.read_gaia_table(table(pm=[1.0, 2.0]))).tolist() == ["", ""]
