from concurrency import run_fresh

LOADED = """
import sys
import galprep_dask
names = {name.partition(".")[0] for name in sys.modules}
print(sorted(names & {"jax", "matplotlib", "astroquery", "photutils", "distributed", "numba"}))
"""

TIMED = """
import time
start = time.perf_counter()
import {}
print(time.perf_counter() - start)
"""


def test_import_loads_no_heavy_package():
    assert run_fresh(LOADED) == "[]\n"


def test_import_takes_less_than_twice_its_foundations():
    ours, theirs = [], []
    for _ in range(3):
        theirs.append(float(run_fresh(TIMED.format("xarray, astropy.io.fits, dask.array"))))
        ours.append(float(run_fresh(TIMED.format("galprep_dask"))))
    assert min(ours) < 2 * min(theirs)


def test_public_names_are_there():
    import galprep_dask

    assert {"open_image", "write_image", "make_image"} <= set(dir(galprep_dask))
    for name in ("open_image", "write_image", "make_image", "image", "io", "errors"):
        assert getattr(galprep_dask, name) is not None
    assert not hasattr(galprep_dask, "nonsense")
