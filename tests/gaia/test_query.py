import logging
import socket
import socketserver
import threading
import warnings

import numpy as np
import pytest
from astropy.table import QTable
from concurrency import run_fresh
from fields_on_sky import stars_around, wcs_at
from tap_server import Archive, make_catalog

from galprep_dask import gaia
from galprep_dask.errors import (
    GaiaQueryError,
    GaiaRowLimitError,
    GaiaUnavailableError,
    GalprepError,
    GalprepWarning,
    MissingWCSError,
    NoMatchWarning,
    ParameterError,
)

SHAPE = (1200, 1000)
QUICK = {"epoch": 2016.0, "backoff": 0.01, "timeout": 20.0, "max_wait": 20.0, "retries": 2}
IMPATIENT = {"silent": {"timeout": 1.0}, "trickle": {"max_wait": 1.0}}


@pytest.fixture(scope="module")
def field():
    wcs = wcs_at(151.7, 2.2, SHAPE, angle=30)
    ra, dec, x, y = stars_around(wcs, SHAPE, 400)
    return wcs, make_catalog(ra, dec)


@pytest.fixture
def options(tmp_path):
    return QUICK | {"cache": tmp_path / "cache"}


def expected(catalog, wcs, shape, epoch=2016.0):
    """The same from the whole table at once, without tiles."""
    return gaia.gaia_sources(wcs, shape, epoch, catalog=catalog, keep_extended=True)


def assert_same(answer, other):
    assert answer["source_id"].tolist() == other["source_id"].tolist()
    for name in ("ra_obs", "dec_obs", "x", "y", "pmra", "phot_g_mean_mag"):
        np.testing.assert_array_equal(np.asarray(answer[name]), np.asarray(other[name]))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_both_ways_of_asking_give_the_stars_of_the_image(field, options, asynchronous, compressed):
    wcs, catalog = field
    with Archive(catalog, compressed=compressed) as archive:
        stars = gaia.query_gaia(wcs, SHAPE, url=archive.url, asynchronous=asynchronous, **options)
    assert archive.asked_with == {"async" if asynchronous else "sync"}
    assert_same(stars, expected(catalog, wcs, SHAPE))
    assert 100 < len(stars) < len(catalog)
    assert np.isnan(stars["pmra"].value).sum() > 20  # those without a proper motion are there
    x, y = wcs.all_world2pix(stars["ra_obs"].value, stars["dec_obs"].value, 0)
    np.testing.assert_allclose(stars["x"], x, atol=1e-6)
    np.testing.assert_allclose(stars["y"], y, atol=1e-6)


@pytest.mark.parametrize(
    ("ra", "dec", "shape", "tile_size"),
    [
        (0.0, 12.0, (900, 1100), 0.25),
        (359.99, -45.0, (900, 1100), 0.1),
        (40.0, 89.98, (1500, 1500), 0.25),
        (210.0, -90.0, (1500, 1500), 0.5),
        (0.0, 90.0, (2500, 1500), 0.1),
        (77.0, 71.3, (300, 9000), None),
        (200.0, 0.0, (4000, 4000), 0.1),
    ],
)
def test_tiles_join_without_gap_or_double(ra, dec, shape, tile_size, options):
    wcs = wcs_at(ra, dec, shape, angle=17)
    ra, dec, x, y = stars_around(wcs, shape, 2000)
    catalog = make_catalog(ra, dec)
    with Archive(catalog) as archive:
        stars = gaia.query_gaia(wcs, shape, url=archive.url, tile_size=tile_size, asynchronous=False, **options)
    inside = (x >= -0.5) & (x <= shape[1] - 0.5) & (y >= -0.5) & (y <= shape[0] - 0.5)
    assert len(archive.queries) > 1
    assert_same(stars, expected(catalog, wcs, shape))
    # Parallax moves stars by a fraction of an arcsec across the edge, few of them.
    assert abs(len(stars) - inside.sum()) <= 5
    assert len(np.unique(stars["source_id"])) == len(stars)


def test_margin_and_magnitude(field, options):
    wcs, catalog = field
    with Archive(catalog) as archive:
        all_of_them = gaia.query_gaia(wcs, SHAPE, url=archive.url, margin_arcsec=26, **options)
        bright = gaia.query_gaia(wcs, SHAPE, url=archive.url, max_magnitude=15.5, **options)
    outside = (all_of_them["x"] < -0.5) | (all_of_them["y"] < -0.5)
    assert outside.any()
    assert all_of_them["x"].min() >= -100.5
    assert 0 < len(bright) < len(all_of_them)
    assert bright["phot_g_mean_mag"].value.max() <= 15.5


def test_large_areas_are_asked_for_as_jobs(options):
    shape = (4000, 4000)
    wcs = wcs_at(20.0, -30.0, shape, scale=2.0)
    ra, dec, _, _ = stars_around(wcs, shape, 500)
    catalog = make_catalog(ra, dec)
    with Archive(catalog, phases=("EXECUTING",)) as archive:
        stars = gaia.query_gaia(wcs, shape, url=archive.url, **options)
    assert archive.asked_with == {"async"}
    assert_same(stars, expected(catalog, wcs, shape))


# What goes wrong -------------------------------------------------------------------------------------------


FAULTS = [
    503, 429, 500, 502, "maintenance", "silent", "trickle", "hung up", "truncated", "truncated without length",
    "empty", "no table",
]  # fmt: skip

ANSWERS = {}  # of the one field that all these ask for


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_passes_ends_in_a_catalogue(field, options, fault):
    wcs, catalog = field
    with Archive(catalog, faults=[fault, fault], answers=ANSWERS) as archive:
        stars = gaia.query_gaia(
            wcs, SHAPE, url=archive.url, tile_size=5, asynchronous=False, **(options | IMPATIENT.get(fault, {}))
        )
    assert_same(stars, expected(catalog, wcs, SHAPE))
    assert len(archive.requests) == 3


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_stays_ends_in_one_clear_error(field, options, fault):
    wcs, catalog = field
    archive = Archive(catalog, faults=[fault] * 50, answers=ANSWERS)
    with archive, pytest.raises(GaiaUnavailableError) as caught:
        gaia.query_gaia(
            wcs, SHAPE, url=archive.url, tile_size=5, asynchronous=False, **(options | IMPATIENT.get(fault, {}))
        )
    message = str(caught.value)
    assert archive.url in message
    assert "tried 3 times" in message
    assert "gaia_catalog=" in message
    assert 'crossmatch="auto" or False' in message
    assert "<" not in message  # no page of HTML
    assert len(message) < 600
    assert isinstance(caught.value, ConnectionError)
    assert len(archive.requests) == 3
    assert not list((options["cache"]).glob("*"))


@pytest.mark.parametrize("fault", [503, "maintenance", "silent", "hung up"])
def test_a_job_that_is_not_taken_is_given_again(field, options, fault):
    wcs, catalog = field
    with Archive(catalog, faults=[fault], answers=ANSWERS) as archive:
        stars = gaia.query_gaia(
            wcs, SHAPE, url=archive.url, tile_size=5, asynchronous=True, **(options | IMPATIENT.get(fault, {}))
        )
    assert_same(stars, expected(catalog, wcs, SHAPE))


def test_slow_answers_are_waited_for(field, options):
    wcs, catalog = field
    with Archive(catalog, faults=["slow"]) as archive:
        stars = gaia.query_gaia(wcs, SHAPE, url=archive.url, tile_size=5, asynchronous=False, **options)
    assert len(stars)
    assert len(archive.requests) == 1


@pytest.mark.parametrize("phases", [("ABORTED",), ("EXECUTING",) * 1000, ("<html>maintenance</html>",) * 9])
def test_jobs_that_come_to_nothing(field, options, phases):
    wcs, catalog = field
    with (
        Archive(catalog, phases=phases) as archive,
        pytest.raises(GaiaUnavailableError, match="tried 2 times: its job"),
    ):
        gaia.query_gaia(
            wcs, SHAPE, url=archive.url, tile_size=5, asynchronous=True,
            **(options | {"max_wait": 0.4, "retries": 1}),
        )  # fmt: skip


def test_a_job_outlives_moments_without_an_answer(field, options):
    wcs, catalog = field
    with Archive(catalog, answers=ANSWERS) as archive:
        archive.get_faults = [True, True, False, True]
        stars = gaia.query_gaia(wcs, SHAPE, url=archive.url, tile_size=5, asynchronous=True, **options)
        assert len(archive.jobs) == 1
        archive.get_faults = [True] * 4
        stars = gaia.query_gaia(
            wcs, SHAPE, url=archive.url, tile_size=5, asynchronous=True, **(options | {"cache": False})
        )
        assert len(archive.jobs) == 3  # that one was given up
    assert_same(stars, expected(catalog, wcs, SHAPE))


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("status", [301, 308])
def test_an_archive_that_has_moved(field, options, asynchronous, status):
    wcs, catalog = field
    with Archive(catalog, faults=[status]) as archive:
        with pytest.raises(GaiaQueryError, match=r"moved to https://elsewhere\.example/tap.*url="):
            gaia.query_gaia(wcs, SHAPE, url=archive.url, asynchronous=asynchronous, **options)
        assert len(archive.requests) == 1


def test_a_job_that_fails_says_why(field, options):
    wcs, catalog = field
    archive = Archive(catalog, phases=("EXECUTING", "ERROR"))
    with archive, pytest.raises(GaiaQueryError, match="Unknown column nonsense"):
        gaia.query_gaia(wcs, SHAPE, url=archive.url, tile_size=5, asynchronous=True, **options)
    assert sum(method == "POST" for method, _ in archive.requests) == 1


def test_a_query_that_is_refused_is_not_repeated(field, options):
    wcs, catalog = field
    with Archive(catalog) as archive:
        with pytest.raises(GaiaQueryError, match="Unknown column nonsense"):
            gaia.query_gaia(wcs, SHAPE, url=archive.url, columns=["nonsense"], asynchronous=False, **options)
        assert len(archive.requests) == 1
    with Archive(catalog, faults=[404]) as archive, pytest.raises(GaiaQueryError, match=r"status 404.*Check url="):
        gaia.query_gaia(wcs, SHAPE, url=archive.url, asynchronous=False, **options)


def test_an_answer_as_long_as_the_limit_is_no_catalogue(field, options):
    wcs, catalog = field
    with Archive(catalog) as archive:
        with pytest.raises(GaiaRowLimitError, match=r"cut at 50 rows, row_limit=50.*tile_size="):
            gaia.query_gaia(wcs, SHAPE, url=archive.url, tile_size=5, row_limit=50, **options)
        # Not even when that happens to be all there is.
        with pytest.raises(GaiaRowLimitError):
            gaia.query_gaia(wcs, SHAPE, url=archive.url, tile_size=5, row_limit=len(catalog), **options)
        assert len(gaia.query_gaia(wcs, SHAPE, url=archive.url, tile_size=5, row_limit=len(catalog) + 1, **options))


def test_a_limit_of_the_server_is_no_catalogue(field, options):
    wcs, catalog = field
    archive = Archive(catalog, server_limit=60)
    with archive, pytest.raises(GaiaRowLimitError, match=r"cut at 60 rows, the server's own limit"):
        gaia.query_gaia(wcs, SHAPE, url=archive.url, tile_size=5, **options)
    assert not list((options["cache"]).glob("*"))


def test_what_is_too_long_to_wait_for_becomes_a_job(field, options):
    wcs, catalog = field
    with Archive(catalog) as archive:
        archive.sync_limit = 60
        stars = gaia.query_gaia(wcs, SHAPE, url=archive.url, tile_size=5, asynchronous=False, **options)
    assert archive.asked_with == {"sync", "async"}
    assert_same(stars, expected(catalog, wcs, SHAPE))


def test_no_server_at_all(field, options, closed_port):
    wcs, _ = field
    url = f"http://127.0.0.1:{closed_port}/tap"
    with pytest.raises(GaiaUnavailableError, match=r"Connection refused.*gaia_catalog=.*crossmatch"):
        gaia.gaia_sources(wcs, SHAPE, 2016.0, url=url, **{k: v for k, v in options.items() if k != "epoch"})


@pytest.fixture
def closed_port():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


def test_who_cannot_wait_is_told_at_once_that_nobody_is_there(field, options, closed_port, monkeypatch):
    """Without a pause, where the same is tried again and again otherwise."""
    pauses = []
    monkeypatch.setattr("galprep_dask.gaia.tap.time.sleep", pauses.append)
    url = f"http://127.0.0.1:{closed_port}/tap"
    with pytest.raises(GaiaUnavailableError, match=r"cannot be reached: .*refused.*gaia_catalog=.*crossmatch"):
        gaia.query_gaia(field[0], SHAPE, url=url, reach_within=3.0, **options)
    assert pauses == []
    with pytest.raises(GaiaUnavailableError, match="tried 3 times"):
        gaia.query_gaia(field[0], SHAPE, url=url, **options)
    assert len(pauses) == 2


def test_a_name_that_is_looked_up_for_ever_is_not_waited_for(field, options, monkeypatch):
    asked, done = threading.Event(), threading.Event()

    def never(*args, **kwargs):
        asked.set()
        done.wait(60)
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", never)
    with pytest.raises(GaiaUnavailableError, match=r"no connection within 0\.2 s"):
        gaia.query_gaia(field[0], SHAPE, url="http://archive.example/tap", reach_within=0.2, **options)
    assert asked.is_set()
    done.set()


def test_a_server_that_is_there_but_busy_is_asked_again_all_the_same(field, options):
    wcs, catalog = field
    with Archive(catalog, faults=[503, "hung up"], answers=ANSWERS) as archive:
        stars = gaia.query_gaia(
            wcs, SHAPE, url=archive.url, tile_size=5, asynchronous=False, reach_within=3.0, **options
        )
    assert_same(stars, expected(catalog, wcs, SHAPE))
    assert len(archive.requests) == 3


def test_the_proxy_of_the_environment_is_taken(field, options, monkeypatch):
    wcs, _ = field
    heard = []

    class Proxy(socketserver.StreamRequestHandler):
        def handle(self):
            heard.append(self.rfile.readline().decode().split()[:2])
            self.wfile.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    with socketserver.TCPServer(("127.0.0.1", 0), Proxy) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.server_address[1]}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        with pytest.raises(GaiaUnavailableError, match="Tunnel connection failed: 403"):
            gaia.query_gaia(wcs, SHAPE, url="https://archive.example/tap-server/tap", **(options | {"retries": 0}))
        with pytest.raises(GaiaUnavailableError, match="cannot be reached: Tunnel connection failed: 403"):
            gaia.query_gaia(wcs, SHAPE, url="https://archive.example/tap-server/tap", reach_within=3.0, **options)
        proxy.shutdown()
        thread.join()
    assert heard == 2 * [["CONNECT", "archive.example:443"]]


def test_retries_wait_longer_each_time(field, options, monkeypatch):
    wcs, catalog = field
    pauses = []
    monkeypatch.setattr("galprep_dask.gaia.tap.time.sleep", pauses.append)
    with Archive(catalog, faults=[503, 503, 429, 503]) as archive:
        gaia.query_gaia(
            wcs, SHAPE, url=archive.url, tile_size=5, asynchronous=False, **(options | {"retries": 4, "backoff": 3.0})
        )
    assert pauses == [3.0, 6.0, 0.0, 24.0]  # where the server says how long, that


# The cache -------------------------------------------------------------------------------------------------


def test_what_was_asked_once_is_not_asked_again(field, options):
    wcs, catalog = field
    with Archive(catalog) as archive:
        first = gaia.query_gaia(wcs, SHAPE, url=archive.url, **options)
        asked = len(archive.requests)
        second = gaia.query_gaia(wcs, SHAPE, url=archive.url, **options)
        # Another band of the field, shifted and at another time: the same tiles of the sky.
        other = gaia.query_gaia(wcs_at(151.701, 2.201, SHAPE), SHAPE, url=archive.url, **(options | {"epoch": 2016.3}))
        assert len(archive.requests) == asked
    # And with no network at all.
    third = gaia.query_gaia(wcs, SHAPE, url=archive.url, **options)
    assert_same(second, first)
    assert_same(third, first)
    assert len(other)


def test_tiles_that_came_before_a_failure_are_kept(field, options):
    wcs, catalog = field
    with Archive(catalog) as archive:
        archive.faults = [None, None, 503, 503, 503]
        with pytest.raises(GaiaUnavailableError):
            gaia.query_gaia(wcs, SHAPE, url=archive.url, tile_size=0.05, **(options | {"asynchronous": False}))
        done = len(archive.queries)
        assert done == 2
        gaia.query_gaia(wcs, SHAPE, url=archive.url, tile_size=0.05, **(options | {"asynchronous": False}))
    assert len(set(archive.queries)) == len(archive.queries)


def test_a_damaged_file_of_the_cache_is_asked_for_again(field, options, caplog):
    wcs, catalog = field
    with Archive(catalog) as archive:
        first = gaia.query_gaia(wcs, SHAPE, url=archive.url, **options)
        files = sorted(options["cache"].iterdir())
        assert {file.suffix for file in files} == {".parquet"}  # nothing half-written lies about
        files[0].write_bytes(files[0].read_bytes()[:100])
        asked = len(archive.queries)
        with caplog.at_level(logging.WARNING, "galprep_dask.gaia"):
            assert_same(gaia.query_gaia(wcs, SHAPE, url=archive.url, **options), first)
        assert len(archive.queries) == asked + 1
    assert "cannot be read and is asked for again" in caplog.text


def test_where_answers_are_kept(field, options, tmp_path, monkeypatch):
    wcs, catalog = field
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert gaia.cache_folder() == tmp_path / "xdg" / "galprep-dask" / "gaia"
    with Archive(catalog) as archive:
        gaia.query_gaia(wcs, SHAPE, url=archive.url, **(options | {"cache": True}))
        assert list(gaia.cache_folder().glob("*.parquet"))
        gaia.query_gaia(wcs, SHAPE, url=archive.url, **(options | {"cache": False}))
    assert not options["cache"].exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(ParameterError, match="is a file; expected a folder"):
        gaia.cache_folder(tmp_path / "file")
    with pytest.raises(ParameterError, match="cache=3.5"):
        gaia.cache_folder(3.5)


def test_a_cache_that_cannot_be_written_to_costs_a_warning(field, options, tmp_path):
    wcs, catalog = field
    (tmp_path / "file").write_text("")
    with Archive(catalog) as archive, pytest.warns(GalprepWarning, match="could not be kept"):
        stars = gaia.query_gaia(
            wcs, SHAPE, url=archive.url, tile_size=5, **(options | {"cache": tmp_path / "file" / "below"})
        )
    assert len(stars)


# Nothing is contacted unasked --------------------------------------------------------------------------------

REFUSING = """
import socket, sys
def refuse(*args, **kwargs):
    raise AssertionError("a connection was opened")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
import galprep_dask
from galprep_dask import gaia
assert not {name for name in sys.modules if name.startswith(("astroquery", "requests", "pyvo"))}
from astropy.table import Table
from astropy.wcs import WCS
wcs = WCS(naxis=2)
wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [30.0, 30.0], [50.5, 50.5]
wcs.wcs.cdelt = [-0.2 / 3600, 0.2 / 3600]
table = Table({"ra": [30.0], "dec": [30.0]})
assert len(gaia.gaia_sources(wcs, (100, 100), 2017.87, catalog=table)) == 1
assert not {name for name in sys.modules if name.startswith(("astroquery", "requests", "pyvo"))}
import galprep_dask.gaia.tap
print("nothing was contacted")
"""


def test_nothing_is_contacted_at_import_or_with_a_table():
    assert run_fresh(REFUSING) == "nothing was contacted\n"


def test_a_server_that_is_there_is_not_asked_when_there_is_a_table(field, options):
    wcs, catalog = field
    with Archive(catalog) as archive:
        assert len(gaia.gaia_sources(wcs, SHAPE, 2016.0, catalog=catalog))
        with pytest.raises(ParameterError, match="url are for the archive"):
            gaia.gaia_sources(wcs, SHAPE, 2016.0, catalog=catalog, url=archive.url)
        assert archive.requests == []


# Parameters ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"timeout": 0}, {"max_wait": -1}, {"retries": -1}, {"backoff": float("nan")}, {"row_limit": 0},
        {"tile_size": 0}, {"tile_size": 100}, {"url": "ftp://x"}, {"epoch": 58070.2}, {"epoch": "yesterday"},
        {"reach_within": 0.0}, {"margin_arcsec": -1}, {"max_magnitude": float("inf")}, {"cache": 3.5},
    ],
)  # fmt: skip
def test_parameters_that_make_no_sense(field, options, wrong):
    with pytest.raises(ParameterError, match=next(iter(wrong)).removesuffix("_arcsec")):
        gaia.query_gaia(field[0], SHAPE, **(options | wrong))


def test_images_without_a_place_on_the_sky(options):
    from astropy.wcs import WCS

    with pytest.raises(MissingWCSError):
        gaia.query_gaia(WCS(naxis=2), SHAPE, **options)
    with pytest.raises(ParameterError, match="wcs is a str|wcs is a list"):
        gaia.query_gaia([1, 2], SHAPE, **options)
    for shape in [(0, 10), 5, (1, 2, 3)]:
        with pytest.raises(ParameterError, match="shape="):
            gaia.query_gaia(wcs_at(1, 2, SHAPE), shape, **options)


def test_an_empty_part_of_the_sky_is_an_empty_table_and_a_warning(options):
    catalog = make_catalog([10.0], [10.0])
    wcs = wcs_at(200.0, 40.0, SHAPE)
    rest = {name: value for name, value in options.items() if name != "epoch"}
    with Archive(catalog) as archive, pytest.warns(NoMatchWarning, match="no source in the image, ra 19"):
        stars = gaia.gaia_sources(wcs, SHAPE, 2016.0, url=archive.url, **rest)
    assert isinstance(stars, QTable)
    assert len(stars) == 0
    assert {"x", "y", "ra_obs", "extended"} <= set(stars.colnames)


def test_errors_are_the_packages_own():
    for error in (GaiaQueryError, GaiaRowLimitError, GaiaUnavailableError):
        assert issubclass(error, GalprepError)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from galprep_dask.gaia import tap  # noqa: F401
