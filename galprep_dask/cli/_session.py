"""What every command that computes shares: where it runs, and whether it shows progress."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from galprep_dask.cli._options import HDU, Json, Overwrite, Scheduler, Workers, hdu_of
from galprep_dask.cli._progress import Steps
from galprep_dask.cli._report import report
from galprep_dask.errors import ParameterError

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["HDU", "Json", "Overwrite", "Scheduler", "Workers", "hdu_of", "report", "session"]


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
        with Client(scheduler, timeout="10s") as client:
            yield client
        return
    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        yield client
