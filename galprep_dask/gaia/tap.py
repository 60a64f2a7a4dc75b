"""One query to a TAP server: sent, waited for, fetched, and looked at before it is believed.

astroquery's client speaks the protocol. What it leaves open is closed here: connections time out, statuses are
checked, an answer is complete, a VOTable, and not cut at a limit of the server.
"""

from __future__ import annotations

import gzip
import io
import logging
import re
import tempfile
import threading
import time
import warnings
import zlib
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from astropy.io.votable import parse
from astropy.table import Table
from astroquery.utils.tap.conn.tapconn import TapConn
from astroquery.utils.tap.core import Tap
from astroquery.utils.tap.taputils import parse_http_response_error

from galprep_dask.errors import GaiaQueryError, GaiaRowLimitError, GaiaUnavailableError
from galprep_dask.image import WARNINGS_LOCK

__all__ = ["reach", "run_query"]

# Statuses that say "later", and what a proxy answers for a server that is down.
_LATER = (408, 425, 429, 500, 502, 503, 504)
_MOVED = (301, 302, 303, 307, 308)
_LONGEST_PAUSE = 60.0
_POLL = 0.5

_WAYS_OUT = (
    'Pass gaia_catalog= (a table on disk) to do without the network, or crossmatch="auto" or False to do without Gaia.'
)

_log = logging.getLogger("galprep_dask.gaia")


class _NotNowError(Exception):
    """The server did not give an answer this time."""

    def __init__(self, message: str, pause: float | None = None):
        super().__init__(message)
        self.pause = pause


def run_query(
    url: str, query: str, *, asynchronous: bool, row_limit: int, timeout: float, max_wait: float, retries: int,
    backoff: float,
) -> Table:  # fmt: skip
    """
    Run an ADQL query, again when the server does not answer.

    Parameters
    ----------
    url : str
        Of the TAP service.
    query : str
        ADQL.
    asynchronous : bool
        Whether to let the server work and ask for the result later.
    row_limit : int
        The most rows that are asked for.
    timeout : float
        Seconds that the server may be silent.
    max_wait : float
        Seconds for one try, waiting for a job and fetching its result included.
    retries : int
        How often to try again.
    backoff : float
        Seconds to the first retry; every further pause is twice as long.

    Returns
    -------
    Table
        Fewer than ``row_limit`` rows.

    Raises
    ------
    GaiaUnavailableError
        No try gave an answer.
    GaiaQueryError
        The server refuses the query.
    GaiaRowLimitError
        The answer was cut, here or by the server.
    """
    for attempt in range(retries + 1):
        try:
            answer = _fetch(url, query, asynchronous, row_limit, timeout, max_wait)
            table, complete = _read_votable(answer)
            break
        except (_NotNowError, OSError, HTTPException) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            if attempt == retries:
                raise GaiaUnavailableError(
                    f"the Gaia archive at {url} gave no catalogue, tried {retries + 1} times: {reason}. {_WAYS_OUT}"
                ) from error
            pause = getattr(error, "pause", None)
            pause = backoff * 2**attempt if pause is None else pause
            _log.warning("the Gaia archive at %s: %s; trying again in %.1f s", url, reason, pause)
            time.sleep(min(pause, _LONGEST_PAUSE))
    if not complete and not asynchronous:
        # Servers allow longer answers to jobs than to those that wait.
        return run_query(
            url, query, asynchronous=True, row_limit=row_limit, timeout=timeout, max_wait=max_wait, retries=retries,
            backoff=backoff,
        )  # fmt: skip
    if not complete or len(table) >= row_limit:
        limit = f"row_limit={row_limit}" if complete else "the server's own limit"
        raise GaiaRowLimitError(
            f"an answer of the Gaia archive was cut at {len(table)} rows, {limit}: stars are missing from it. Take "
            "smaller tiles (tile_size=), a brighter limit (max_magnitude=), or a larger row_limit=."
        )
    return table


def reach(url: str, within: float) -> None:
    """
    See whether a server can be connected to, through the proxy where there is one.

    Parameters
    ----------
    url : str
        Of the TAP service.
    within : float
        Seconds, asking for the address included.

    Raises
    ------
    GaiaUnavailableError
        It cannot.
    """
    outcome = []

    def connect():
        try:
            with _Connections(url, within) as connections:
                connections.get_connection(ishttps=urlsplit(url).scheme == "https").connect()
            outcome.append(None)
        except (OSError, HTTPException) as error:
            outcome.append(error)

    # Looking up a name knows no timeout.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(within)
    error = outcome[0] if outcome else TimeoutError(f"no connection within {within:g} s")
    if error is not None:
        reason = " ".join(str(error).split())[:200]
        raise GaiaUnavailableError(f"the Gaia archive at {url} cannot be reached: {reason}. {_WAYS_OUT}") from error


def _fetch(url: str, query: str, asynchronous: bool, row_limit: int, timeout: float, max_wait: float) -> bytes:
    """Give the bytes of the server's answer."""
    deadline = time.monotonic() + max_wait
    with tempfile.TemporaryDirectory() as folder, _Connections(url, timeout) as connections:
        tap = Tap(url=url, connhandler=_connection(url, connections, deadline))
        # The client insists on .gz, whatever the server sends.
        file = str(Path(folder, "answer.vot.gz"))
        if not asynchronous:
            tap.launch_job(query, output_file=file, dump_to_file=True, maxrec=row_limit)
        else:
            job = tap.launch_job_async(query, output_file=file, background=True, maxrec=row_limit)
            _wait_for(job, deadline)
            job.save_results()
        return Path(file).read_bytes()


def _wait_for(job, deadline: float) -> None:
    pause, unanswered = _POLL / 10, 0
    while True:
        try:
            phase, unanswered = job.get_phase(update=True).strip().upper(), 0
        except (_NotNowError, OSError, HTTPException):
            # A job goes on while its server does not answer for a moment.
            unanswered += 1
            if unanswered > 3:
                raise
            phase = "UNKNOWN"
        if phase == "COMPLETED":
            return
        if phase == "ERROR":
            raise GaiaQueryError(f"the Gaia archive could not carry out the query: {_job_error(job)}.")
        if phase not in ("PENDING", "QUEUED", "EXECUTING", "SUSPENDED", "HELD", "UNKNOWN"):
            raise _NotNowError(f"its job ended as {phase[:40]!r}")
        if time.monotonic() > deadline:
            raise _NotNowError("its job did not end in time (max_wait=)")
        time.sleep(pause)
        pause = min(2 * pause, 10 * _POLL)


def _job_error(job) -> str:
    try:
        return _message(job.get_error())
    except Exception:  # whatever is wrong with the explanation, the error is the one to be told
        return "it does not say why"


class _Connections:
    """Connections that give up after a while, take the proxy of the environment, and are closed in the end.

    astroquery's own do nothing of it.
    """

    def __init__(self, url: str, timeout: float):
        self.parts, self.timeout, self.opened = urlsplit(url), timeout, []

    def get_connection(self, *, ishttps: bool = False, cookie=None, verbose: bool = False) -> HTTPConnection:
        host, port = self.parts.hostname, self.parts.port
        proxy = urlsplit(getproxies().get("https", "")) if ishttps and not proxy_bypass(host) else None
        if proxy and proxy.hostname:
            connection = HTTPSConnection(proxy.hostname, proxy.port, timeout=self.timeout)
            connection.set_tunnel(host, port or 443)
        else:
            connection = (HTTPSConnection if ishttps else HTTPConnection)(host, port, timeout=self.timeout)
        self.opened.append(connection)
        return connection

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for connection_or_response in self.opened:
            connection_or_response.close()


class _CheckedConnection(TapConn):
    """A TAP connection whose answers are what they should be, or else say why not."""

    deadline = 0.0

    def __init__(self, *args, connhandler: _Connections, **kwargs):
        super().__init__(*args, connhandler=connhandler, **kwargs)
        # A connection hands itself over to its response, which then is what is to be closed.
        self.opened = connhandler.opened

    def execute_tappost(self, subcontext, data, *args, **kwargs):
        response = super().execute_tappost(subcontext, data, *args, **kwargs)
        self.opened.append(response)
        return _checked(response, (303,) if subcontext == "async" else (200, 303))

    def execute_tapget(self, subcontext, **kwargs):
        for _ in range(5):
            response = super().execute_tapget(subcontext, **kwargs)
            self.opened.append(response)
            if response.status not in _MOVED:
                break
            subcontext = response.getheader("Location", "")
        return _checked(response, (200,))

    def dump_to_file(self, output, response):
        with open(output, "wb") as file:
            while data := response.read1(1 << 16):
                file.write(data)
                if time.monotonic() > self.deadline:
                    raise _NotNowError("its answer did not end in time (max_wait=)")
        if response.length:
            raise _NotNowError(f"its answer broke off, {response.length} bytes short")


def _connection(url: str, connections: _Connections, deadline: float) -> _CheckedConnection:
    parts = urlsplit(url)
    context, _, last = parts.path.rstrip("/").rpartition("/")
    connection = _CheckedConnection(
        parts.scheme == "https", parts.hostname, server_context=context, tap_context=last, connhandler=connections
    )
    connection.deadline = deadline
    return connection


def _checked(response: HTTPResponse, expected: tuple[int, ...]) -> HTTPResponse:
    status = response.status
    if status in expected:
        return response
    if status in _MOVED:
        raise GaiaQueryError(
            f"the Gaia archive has moved to {response.getheader('Location')}. Pass its address as url=."
        )
    if status < 400:
        raise _NotNowError(f"it answered with status {status}, expected {' or '.join(map(str, expected))}")
    message = _message(response.read(1 << 16).decode("utf-8", "replace"), status)
    if status in _LATER:
        pause = response.getheader("Retry-After", "")
        raise _NotNowError(f"status {status} ({message})", float(pause) if pause.isdigit() else None)
    raise GaiaQueryError(
        f"the Gaia archive refused the query, status {status}: {message}. Check url=, table= and columns=."
    )


def _message(text: str, status: int = 0) -> str:
    """Give the words of an error page or document."""
    told = parse_http_response_error(text, status).removeprefix(f"Error {status}:")
    return " ".join(re.sub(r"<[^>]*>", " ", told).split())[:300].rstrip(".") or "no reason given"


def _read_votable(answer: bytes) -> tuple[Table, bool]:
    """Give the table of an answer, and whether the server gave all of it."""
    if answer[:2] == b"\x1f\x8b":
        try:
            answer = gzip.decompress(answer)
        except (EOFError, OSError, zlib.error) as error:
            raise _NotNowError(f"its answer is a damaged gzip file ({error})") from error
    if not re.search(rb"<(\w+:)?VOTABLE", answer[:2000]):
        page = _message(answer[:5000].decode("utf-8", "replace"))
        raise _NotNowError(f"it answered with a page that is no VOTable: {page}")
    try:
        with WARNINGS_LOCK, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # units and versions that every archive spells its own way
            document = parse(io.BytesIO(answer), verify="ignore")
    except Exception as error:  # the parser raises many kinds
        raise _NotNowError(f"its answer is a damaged VOTable ({' '.join(str(error).split())[:120]})") from error
    results = [resource for resource in document.resources if resource.type == "results"] or document.resources
    infos = [info for resource in results for info in resource.infos] + list(document.infos)
    status = [(str(info.value).upper(), info.content) for info in infos if info.name == "QUERY_STATUS"]
    refused = [content for value, content in status if value == "ERROR"]
    if refused:
        raise GaiaQueryError(f"the Gaia archive could not carry out the query: {_message(str(refused[0]))}.")
    if not results or not results[0].tables:
        raise _NotNowError("its answer is a VOTable without a table")
    with WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = results[0].tables[0].to_table(use_names_over_ids=True)
    return table, all(value != "OVERFLOW" for value, _ in status)
