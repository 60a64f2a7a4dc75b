"""Threads that start at the same moment, and code in a fresh interpreter."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

__all__ = ["run_fresh", "run_together"]


def run_together(func, count=8):
    """Call ``func`` in ``count`` threads that wait for each other, and list what they give."""
    barrier = threading.Barrier(count)

    def call(_):
        barrier.wait(timeout=60)
        return func()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(call, range(count)))


def run_fresh(code, *arguments, timeout=120):
    """Run code in a new interpreter that finds what this one finds, warnings being errors; give its output."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        env=environment, capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout
