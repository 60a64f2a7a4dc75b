import os
import sys
from contextlib import contextmanager
from pathlib import Path

import dask
import pytest
from hypothesis import settings

# Arithmetic on arrays is slow at its first call and quick afterwards, so no deadline; on a build machine the
# same examples every time.
settings.register_profile("galprep", deadline=None, max_examples=50, derandomize=bool(os.environ.get("CI")))
settings.load_profile("galprep")


#: A program to be run, which sets JAX to double precision: imported, it would do so for every test.
collect_ignore = ["pysersic_fit.py"]


def pytest_configure(config):
    config.addinivalue_line("markers", "shared_data: reads the real images of the shared data folder")


@pytest.fixture(autouse=True, scope="module")
def no_client_left_behind():
    """A client that outlives its module would take over the computations of those that follow."""
    yield
    if "distributed" in sys.modules:
        from distributed import get_client

        with pytest.raises(ValueError, match="client"):
            get_client()
    assert dask.config.get("scheduler", None) is None


@pytest.fixture(scope="session")
def shared_data():
    """Folder of real images: $GALPREP_SHARED_DATA, or shared/data beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("GALPREP_SHARED_DATA") or beside)
    if not folder.is_dir():
        pytest.skip(f"there is no folder {folder} of real images; GALPREP_SHARED_DATA names another")
    return folder


@pytest.fixture
def no_compute():
    """Give a context manager in which every computation of dask raises AssertionError."""

    def refuse(graph, keys, **kwargs):
        raise AssertionError("something was computed that should have stayed lazy")

    @contextmanager
    def guard():
        with dask.config.set(scheduler=refuse):
            yield

    return guard
