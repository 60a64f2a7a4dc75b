from concurrency import run_fresh

LOADED = """
import sys
import galprep_dask
names = {name.partition(".")[0] for name in sys.modules}
print(sorted(names & {"jax", "matplotlib", "astroquery", "photutils", "distributed", "numba"}))
"""

BEYOND_FOUNDATIONS = """
import sys
import xarray, astropy.io.fits, dask.array
before = set(sys.modules)
import galprep_dask
print(sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""


def test_import_loads_no_heavy_package():
    assert run_fresh(LOADED) == "[]\n"


def test_import_loads_nothing_beside_its_foundations():
    assert run_fresh(BEYOND_FOUNDATIONS) == "['galprep_dask']\n"


def test_public_names_are_there():
    import galprep_dask

    assert {"open_image", "write_image", "make_image"} <= set(dir(galprep_dask))
    for name in ("open_image", "write_image", "make_image", "image", "io", "errors"):
        assert getattr(galprep_dask, name) is not None
    assert not hasattr(galprep_dask, "nonsense")
