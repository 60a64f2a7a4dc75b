"""Where a command computes, and whether it shows progress."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

import dask
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from galprep_dask.cli._progress import Steps
from galprep_dask.errors import ClusterError, ParameterError

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["session"]


@contextmanager
def session(workers: int = 0, scheduler: str | None = None, *, quiet: bool = False) -> Iterator[Steps]:
    """
    Compute on threads, worker processes or a cluster until the block ends.

    Parameters
    ----------
    workers : int
        Worker processes to start, each with one thread; 0 for threads in this process.
    scheduler : str, optional
        Address of a scheduler.
    quiet : bool
        Whether to show no progress; nor is any shown where stderr is not a terminal.

    Yields
    ------
    Steps

    Raises
    ------
    ParameterError
        Both are given, dask.distributed is not installed, or the scheduler does not answer.
    ClusterError
        The scheduler was lost while it computed, or a task killed every worker that tried it.
    """
    if workers and scheduler:
        raise ParameterError(f"--workers {workers} and --scheduler {scheduler}: give one of them.")
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    shown = not quiet and sys.stderr.isatty()
    with _client(workers, scheduler) as client:
        if not shown:
            yield Steps(None)
            return
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            yield Steps(progress, client)


@contextmanager
def _client(workers: int, scheduler: str | None) -> Iterator[Client | None]:
    if not workers and not scheduler:
        yield None
        return
    if find_spec("distributed") is None:
        raise ParameterError("--workers and --scheduler need dask.distributed: install galprep-dask[distributed].")
    from distributed import Client, LocalCluster

    if scheduler is not None:
        try:
            # A client that does not get through stays the default of all that is computed later, so one that is no
            # default goes first.
            Client(scheduler, timeout="10s", set_as_default=False).close()
        except (OSError, ValueError) as error:
            raise ParameterError(f"no dask scheduler answers at {scheduler!r}: {error}") from error
        with Client(scheduler, timeout="10s") as client, _losses_named():
            yield client
        return
    # A process that is forked inherits locks of threads that it does not have: JAX hangs in it.
    with (
        dask.config.set({"distributed.worker.multiprocessing-method": "spawn"}),
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
        _losses_named(),
    ):
        yield client


@contextmanager
def _losses_named() -> Iterator[None]:
    """Say what became of a cluster that was lost while it computed."""
    from distributed import KilledWorker

    try:
        yield
    except CancelledError as error:
        raise ClusterError(
            f"the scheduler was lost while it computed: {error}\n    Look into its log, start it and run this again."
        ) from error
    except KilledWorker as error:
        raise ClusterError(
            f"worker after worker died of the same task, for want of memory most likely: {error}\n"
            "    Give workers more memory or fewer threads, or make chunks smaller."
        ) from error
