"""An object store: a server that speaks the protocol, in a process of its own."""

import os
import subprocess
import sys
import time
from contextlib import contextmanager

import s3fs

__all__ = ["count_reads", "object_store"]


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


@contextmanager
def count_reads(folder, options, bucket):
    """Give a list to which the number of reads of objects in the block is added; what is read is under ``bucket``."""
    filesystem, found = s3fs.S3FileSystem(**options), []
    before = _reads(folder, filesystem, bucket)
    yield found
    found.append(_reads(folder, filesystem, bucket) - before)


def _reads(folder, filesystem, bucket) -> int:
    """Count reads in the log, which is written a moment after the answer: a mark tells when all is there."""
    mark = f"mark-{time.monotonic_ns()}"
    filesystem.exists(f"{bucket}/{mark}")
    while mark not in (text := (folder / "log").read_text()):
        time.sleep(0.01)
    return sum(f"GET /{bucket}/" in line and " 206 " in line for line in text.splitlines())


def _address(log, server) -> str:
    """Wait for the server to say where it listens."""
    for _ in range(600):
        for word in log.read_text().split():
            if word.startswith("http://127.0.0.1:"):
                return word
        assert server.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(log.read_text())
