"""Where a command computes, and whether it shows progress."""

from __future__ import annotations

import logging
import signal
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from importlib.util import find_spec
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING

import dask
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from galprep_dask.cli._progress import Steps
from galprep_dask.errors import ClusterError, GalprepWarning, ParameterError

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
        with _losses_named(), Client(scheduler, timeout="10s") as client:
            _check_versions(client, scheduler)
            yield client
        return
    # A process that is forked inherits locks of threads that it does not have: JAX hangs in it.
    with dask.config.set({"distributed.worker.multiprocessing-method": "spawn"}):
        with _not_interrupted():
            # What matters is raised here as well; the rest tells, for example, that a worker is slow to go.
            cluster = LocalCluster(
                n_workers=workers, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL
            )
        with _losses_named(), cluster, Client(cluster) as client:
            yield client


def _check_versions(client: Client, scheduler: str) -> None:
    """Have the scheduler and all workers know the functions that are sent to them."""
    import galprep_dask

    ours, found = galprep_dask.__version__, client.get_versions(packages=["galprep_dask"])
    for who, has in {f"the scheduler at {scheduler}": found["scheduler"], **found["workers"]}.items():
        theirs = has["packages"].get("galprep_dask") if has else None
        if theirs != ours:
            raise ParameterError(
                f"{who} has {f'galprep-dask {theirs}' if theirs else 'no galprep-dask'}, and this is {ours}. Start the "
                "scheduler and all workers from environments with the same version."
            )
    if not found["workers"]:
        warnings.warn(f"{scheduler} has no workers yet: nothing is done until one joins.", GalprepWarning, stacklevel=2)


@contextmanager
def _not_interrupted() -> Iterator[None]:
    """
    Keep Ctrl-C from the processes and threads that are started within, now and later.

    A terminal sends it to all of them: workers would end with a traceback each, before they are told to.
    """
    resource_tracker.ensure_running()  # the thread that starts it is interrupted again afterwards
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _losses_named() -> Iterator[None]:
    """Say what became of a cluster that was lost while it computed, and let nothing else be said of it."""
    from distributed import KilledWorker

    # A client that is interrupted leaves behind what it was waiting in, and asyncio would tell of that.
    log = logging.getLogger("asyncio")
    level = log.level
    log.setLevel(logging.CRITICAL)
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
    finally:
        log.setLevel(level)
