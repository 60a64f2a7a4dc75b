"""What is done in another way where a client of ``dask.distributed`` computes."""

from __future__ import annotations

import os
import sys
import threading
import uuid
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import dask
from dask.base import get_scheduler

from galprep_dask.errors import GalprepWarning

__all__ = ["as_one_task", "computed_here", "computes_on_cluster", "is_task", "let_go", "wait_for"]

#: What one task may take along without a warning of dask's: stamps of some hundred stars are a few MiB.
_LARGE = "256 MiB"


def computes_on_cluster() -> bool:
    """Tell whether the workers of a client would do what is computed now."""
    return _client() is not None


def is_task() -> bool:
    """Tell whether we are within a task of a worker."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return False
    try:
        distributed.get_worker()
    except ValueError:
        return False
    return True


def _client():
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return None
    owner = getattr(get_scheduler(), "__self__", None)
    return owner if isinstance(owner, distributed.Client) else None


def let_go() -> None:
    """
    Have the scheduler told what the last computation has given up, before a graph with the same names is sent.

    A client tells it in two turns of its event loop, and sends a graph in one: a graph that is sent at once would
    overtake, and a scheduler that still knows a name with other tasks behind it complains.
    """
    client = _client()
    if client is not None and not client.asynchronous:
        client.sync(_nothing)


async def _nothing() -> None:
    """Be a turn of the event loop."""


def wait_for(kept):
    """Wait until the workers have all of what they are to keep; what fails there is raised here."""
    from distributed import futures_of, rejoin, secede, wait

    futures = futures_of(kept)
    # A task that waits gives its place to those that it waits for, as one that computes does.
    within = is_task()
    if within:
        secede()
    wait(futures)
    if within:
        rejoin()
    for future in futures:
        if future.status != "finished":
            future.result()
    return kept


class _ComputedHere:
    """
    While any thread is within it, what is computed is computed by the thread that asks for it.

    What is done in a task is small: threads started for it, and graphs made shorter, would cost more than they save.
    On a cluster tasks that hand tasks to their own scheduler can wait for each other.
    """

    def __init__(self):
        self._lock, self._within, self._setting = threading.Lock(), 0, None

    def __enter__(self):
        with self._lock:
            if self._within == 0:
                self._setting = dask.config.set({"scheduler": "synchronous", "optimization.fuse.active": False})
            self._within += 1

    def __exit__(self, *error):
        with self._lock:
            self._within -= 1
            if self._within == 0:
                self._setting.__exit__(None, None, None)


computed_here = _ComputedHere()


def as_one_task(func: Callable, /, **kwargs) -> Any:
    """
    Call a function on a worker, as one task with one thread, and wait for what it gives.

    Parameters
    ----------
    func : callable
        A function of a module, so that its name is all that travels.
    **kwargs
        What it is called with; it travels with the task, so that another worker can do it when one dies.

    Returns
    -------
    object
        What ``func`` returns. Warnings of ours that it gave are given here as well.
    """
    key = f"{func.__name__}-{uuid.uuid4().hex}"  # never taken for done before
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": _LARGE}):
        future = _client().submit(partial(_alone, func, kwargs), key=key, pure=False)
    result, given = future.result()
    for warning in given:
        warnings.warn(warning, stacklevel=3)
    return result


def _alone(func, kwargs) -> tuple[Any, list[GalprepWarning]]:
    # Read once, when JAX starts: a worker has as many tasks as it has threads, and none of them is to take all cores.
    # BLAS is told so by the nanny of the worker.
    os.environ.setdefault("PJRT_NPROC", "1")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = func(**kwargs)
    return result, [warning.message for warning in caught if issubclass(warning.category, GalprepWarning)]
