import pytest
from served import RangeServer


@pytest.fixture
def server(tmp_path):
    """A web server on this machine for the files of ``tmp_path``."""
    with RangeServer(tmp_path) as running:
        yield running
