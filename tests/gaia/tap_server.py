"""A TAP server on loopback: real sockets, both ways of asking, and the ways in which archives fail."""

import gzip
import io
import itertools
import re
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import numpy as np
from astropy.io.votable import from_table
from astropy.io.votable.tree import Info
from astropy.table import Table

MAINTENANCE = b"<!DOCTYPE html><html><body><h1>The archive is down for maintenance</h1></body></html>"
ERROR = """<?xml version="1.0"?><VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3">
<RESOURCE type="results"><INFO name="QUERY_STATUS" value="ERROR">Unknown column nonsense</INFO></RESOURCE></VOTABLE>"""


def carry_out(query, catalog):
    """The part of ADQL that is needed: columns, TOP, one circle, ranges."""
    top, columns, table, where = re.fullmatch(r"SELECT TOP (\d+) (.+) FROM (\S+) WHERE (.+)", query).groups()
    assert table == "gaiadr3.gaia_source"
    ra0, dec0, radius = map(float, re.search(r"CIRCLE\('ICRS', (\S+), (\S+), (\S+)\)\)", where).groups())
    a, d = np.radians(catalog["ra"]), np.radians(catalog["dec"])
    cosine = np.sin(d) * np.sin(np.radians(dec0)) + np.cos(d) * np.cos(np.radians(dec0)) * np.cos(a - np.radians(ra0))
    keep = cosine >= np.cos(np.radians(radius))
    compare = {"<": np.less, "<=": np.less_equal, ">=": np.greater_equal}
    for name, sign, value in re.findall(r"(\w+) (<=|>=|<) (-?[\d.e+-]+)", where):
        keep &= compare[sign](np.ma.filled(catalog[name].astype(float), np.nan), float(value))
    return catalog[keep][columns.split(", ")][: int(top)]


def as_votable(table, status="OK", tabledata_format="tabledata"):
    document = from_table(table)
    resource = document.resources[0]
    resource.type = "results"
    resource.infos.append(Info(name="QUERY_STATUS", value=status))
    buffer = io.BytesIO()
    document.to_xml(buffer, tabledata_format=tabledata_format)
    return buffer.getvalue()


class Archive:
    """``faults`` are used up one a request that makes an answer; when they are, answers are right."""

    def __init__(
        self, catalog, *, faults=(), server_limit=None, compressed=False, answers=None, phases=("QUEUED", "EXECUTING")
    ):
        self.catalog, self.faults, self.server_limit = catalog, list(faults), server_limit
        self.compressed, self.phases = compressed, phases
        self.closing = threading.Event()
        self.answers = {} if answers is None else answers  # writing VOTables takes longer than all else
        self.requests, self.queries, self.jobs, self.numbers = [], [], {}, itertools.count(1)
        archive = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def log_message(self, *args):
                pass

            def do_GET(self):
                archive.requests.append(("GET", self.path))
                archive.get(self)

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                archive.requests.append(("POST", self.path))
                archive.post(self, {name: values[0] for name, values in parse_qs(body).items()})

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = False  # all of them are waited for at the end
        self.url = f"http://127.0.0.1:{self.server.server_port}/tap-server/tap"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exc):
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @property
    def asked_with(self):
        return {path.rsplit("/", 1)[-1] for method, path in self.requests if method == "POST"}

    def answer_to(self, query, limit):
        self.queries.append(query)
        if "nonsense" in query:
            return ERROR.encode()
        limit = min(limit, self.server_limit or limit)
        if (query, limit) not in self.answers:
            table = carry_out(query, self.catalog)
            self.answers[query, limit] = as_votable(table[:limit], "OVERFLOW" if len(table) > limit else "OK")
        answer = self.answers[query, limit]
        return gzip.compress(answer) if self.compressed else answer

    def post(self, request, form):
        kind = request.path.rsplit("/", 1)[-1]
        fault = self.faults.pop(0) if self.faults else None
        if fault and self.fail(request, fault, form):
            return
        answer = self.answer_to(form["QUERY"], int(form.get("MAXREC", 10**9)) if kind == "async" else min(
            int(form.get("MAXREC", 10**9)), self.sync_limit))  # fmt: skip
        if kind == "sync":
            self.send(request, 200, answer)
            return
        job = f"job{next(self.numbers)}"
        self.jobs[job] = {"answer": answer, "phases": list(self.phases), "fault": None}
        self.send(request, 303, b"", Location=f"{self.url}/async/{job}")

    sync_limit = 10**9
    get_faults = ()

    def fail(self, request, fault, form):
        """Do what a fault says; True when the request is dealt with."""
        if isinstance(fault, int):
            headers = {"Retry-After": "0"} if fault == 429 else {}
            headers |= {"Location": "https://elsewhere.example/tap"} if fault in (301, 308) else {}
            self.send(request, fault, b"<html><body>Service Unavailable</body></html>", **headers)
        elif fault == "maintenance":
            self.send(request, 200, MAINTENANCE)
        elif fault == "silent":
            self.closing.wait(10)
            request.close_connection = True
        elif fault == "trickle":
            request.send_response(200)
            request.end_headers()
            while not self.closing.wait(0.05):
                try:
                    request.wfile.write(b" ")
                except OSError:
                    break
        elif fault == "hung up":
            request.connection.shutdown(socket.SHUT_RDWR)
        elif fault in ("truncated", "truncated without length"):
            answer = self.answer_to(form["QUERY"], 10**9)
            request.send_response(200)
            if fault == "truncated":
                request.send_header("Content-Length", str(len(answer)))
            request.end_headers()
            request.wfile.write(answer[: 2 * len(answer) // 3])
        elif fault == "empty":
            self.send(request, 200, b"")
        elif fault == "no table":
            self.send(request, 200, b'<?xml version="1.0"?><VOTABLE version="1.4"><RESOURCE type="results"/></VOTABLE>')
        elif fault == "slow":
            time.sleep(0.3)
            return False
        else:
            raise AssertionError(fault)
        return True

    def get(self, request):
        if self.get_faults and self.get_faults.pop(0):
            self.send(request, 503, b"")
            return
        path = request.path.split("/tap-server/tap/", 1)[-1]
        if path.startswith("files/"):
            self.send(request, 200, self.jobs[path.removeprefix("files/")]["answer"])
            return
        _, job, *rest = path.split("/")
        state = self.jobs[job]
        if rest == ["phase"]:
            phase = state["phases"].pop(0) if state["phases"] else "COMPLETED"
            if phase in ("ERROR", "ABORTED"):
                state["phases"].insert(0, phase)
            self.send(request, 200, phase.encode())
        elif rest == ["results", "result"]:
            self.send(request, 303, b"", Location=f"{self.url}/files/{job}")
        elif rest == ["error"]:
            self.send(request, 200, ERROR.encode())
        else:
            self.send(request, 404, b"")

    @staticmethod
    def send(request, status, body, **headers):
        try:
            request.send_response(status)
            for name, value in headers.items():
                request.send_header(name.replace("_", "-"), value)
            request.send_header("Content-Type", "application/x-votable+xml")
            request.send_header("Content-Length", str(len(body)))
            request.end_headers()
            request.wfile.write(body)
        except OSError:
            pass  # who asked has gone


def make_catalog(ra, dec, seed=1):
    """A table as the archive's, with proper motions for two in three sources."""
    rng = np.random.default_rng(seed)
    n = len(ra)
    unknown = np.arange(n) % 3 == 2
    table = Table(masked=True)
    table["source_id"] = np.arange(n, dtype="int64") + 4_000_000_000_000_000_000
    table["ra"], table["dec"] = np.asarray(ra, float) % 360, np.asarray(dec, float)
    table["ref_epoch"] = np.full(n, 2016.0)
    for name, scale in {"pmra": 5.0, "pmdec": 5.0, "parallax": 0.5}.items():
        table[name] = np.ma.array(rng.normal(0, scale, n), mask=unknown)
    table["phot_g_mean_mag"] = rng.uniform(12, 20, n).astype("float32")
    table["ruwe"] = np.ma.array(rng.uniform(0.9, 1.2, n).astype("float32"), mask=unknown)
    for name in ("astrometric_excess_noise", "astrometric_excess_noise_sig", "classprob_dsc_combmod_galaxy",
                 "classprob_dsc_combmod_quasar"):  # fmt: skip
        table[name] = np.zeros(n, "float32")
    for name in ("in_galaxy_candidates", "in_qso_candidates", "duplicated_source"):
        table[name] = np.zeros(n, bool)
    return table
