"""An object store: a server that speaks the protocol, in a process of its own."""

import os
import subprocess
import sys
import time
from contextlib import contextmanager

import s3fs

__all__ = ["object_store"]


@contextmanager
def object_store(folder, bucket):
    """Give the storage options of a server with one bucket; its log is in ``folder``."""
    with (folder / "log").open("w+") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"], stdout=log, stderr=log,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "ignore"},
        )  # fmt: skip
        try:
            options = {"key": "anyone", "secret": "anything", "endpoint_url": _address(folder / "log", server)}
            s3fs.S3FileSystem(**options).mkdir(bucket)
            yield options
        finally:
            server.terminate()
            server.wait()


def _address(log, server) -> str:
    """Wait for the server to say where it listens."""
    for _ in range(600):
        for word in log.read_text().split():
            if word.startswith("http://127.0.0.1:"):
                return word
        assert server.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(log.read_text())
