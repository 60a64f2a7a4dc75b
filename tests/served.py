"""A web server that answers byte ranges and counts what it sends."""

import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._answer(send=False)

    def do_GET(self):
        self._answer(send=True)

    def _answer(self, *, send):
        path = self.server.folder / self.path.lstrip("/")
        if not path.is_file():
            self._say(404, b"")
            return
        if self.server.broken:
            self._say(500, b"")
            return
        if send:
            time.sleep(self.server.delay)
        size = path.stat().st_size
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted else 0
        stop = min(int(wanted[2]) + 1, size) if wanted and wanted[2] else size
        with open(path, "rb") as file:
            file.seek(start)
            content = file.read(stop - start)
        if wanted is None:
            self._say(200, content, send=send)
        else:
            self._say(206, content, {"Content-Range": f"bytes {start}-{stop - 1}/{size}"}, send=send)

    def _say(self, status, body, headers=None, *, send=True):
        self.send_response(status)
        for name, value in ({"Accept-Ranges": "bytes", "Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if send:
            with self.server.lock:
                self.server.sent += len(body)
                self.server.requests += 1
            self.wfile.write(body)

    def log_message(self, *arguments):
        pass


class _Server(ThreadingHTTPServer):
    request_queue_size = 256  # the rows of a block are asked for all at once
    daemon_threads = True


class RangeServer:
    """Serves a folder while it is entered; ``sent`` counts bytes of content, ``broken`` answers 500, ``delay`` in s."""

    def __init__(self, folder, delay=0.0):
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.folder = folder
        self._server.lock = threading.Lock()
        self._server.sent = self._server.requests = 0
        self._server.broken = False
        self._server.delay = delay
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def url(self, name):
        return f"http://127.0.0.1:{self._server.server_port}/{name}"

    def take_count(self):
        """Give the bytes sent since the last call."""
        with self._server.lock:
            count, self._server.sent = self._server.sent, 0
        return count

    def take_requests(self):
        """Give the requests for content answered since the last call, and the bytes sent since the last count."""
        with self._server.lock:
            counts = self._server.requests, self._server.sent
            self._server.requests = self._server.sent = 0
        return counts

    def break_down(self):
        self._server.broken = True
