"""What every command that computes shares: where it runs, how it shows progress, how it reports."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Annotated, Any

import dask
import typer
from dask.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from galprep_dask.errors import ClusterError, ParameterError

__all__ = ["HDU", "Json", "Overwrite", "Scheduler", "Session", "Workers", "hdu_of", "report", "session"]

HDU = Annotated[str | None, typer.Option(help="HDU index or EXTNAME; by default the first image.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Workers = Annotated[
    int, typer.Option(min=0, help="Start this many worker processes; 0 computes with threads, in this one.")
]
Scheduler = Annotated[
    str | None, typer.Option(help="Address of a dask scheduler to compute on, tcp://host:8786 for example.")
]


def hdu_of(text: str | None) -> int | str | None:
    """Take an HDU as given on the command line: a number, or a name."""
    return int(text) if text is not None and text.lstrip("-").isdigit() else text


class Session:
    """
    Say which step is being done.

    Parameters
    ----------
    progress : Progress or None
        Where bars are shown; None stays quiet.
    """

    def __init__(self, progress: Progress | None):
        self._progress = progress

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Show a bar of the tasks of all that is computed within."""
        if self._progress is None:
            yield
            return
        with _Bar(self._progress, name):
            yield


class _Bar(Callback):
    """Advance a bar with every task that dask's own scheduler has done."""

    def __init__(self, progress: Progress, name: str):
        super().__init__()
        self._progress = progress
        self._task = progress.add_task(name, total=None)
        self._before = 0

    def _start_state(self, dsk, state):
        self._before = int(self._progress.tasks[self._task].completed)
        waiting = sum(len(state[name]) for name in ("ready", "waiting", "running"))
        self._progress.update(self._task, total=self._before + waiting)

    def _posttask(self, key, result, dsk, state, worker_id):
        self._progress.advance(self._task)

    def __exit__(self, *args):
        done = self._progress.tasks[self._task]
        self._progress.update(self._task, total=max(done.completed, 1), completed=max(done.completed, 1))
        return super().__exit__(*args)


@contextmanager
def session(workers: int = 0, scheduler: str | None = None, *, quiet: bool = False) -> Iterator[Session]:
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
    Session

    Raises
    ------
    ParameterError
        Both are given, dask.distributed is not installed, or the scheduler does not answer.
    ClusterError
        The scheduler was lost while it computed, or a task killed every worker that tried it.
    """
    if workers and scheduler:
        raise ParameterError(f"--workers {workers} and --scheduler {scheduler}: give one of them.")
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    shown = Progress(*columns, console=console, transient=True) if console.is_terminal and not quiet else None
    with _client(workers, scheduler):
        if shown is None:
            yield Session(None)
        else:
            with shown:
                yield Session(shown)


@contextmanager
def _client(workers: int, scheduler: str | None) -> Iterator[None]:
    if not workers and not scheduler:
        yield
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
        with Client(scheduler, timeout="10s"), _losses_named():
            yield
        return
    # A process that is forked inherits locks of threads that it does not have: JAX hangs in it.
    with (
        dask.config.set({"distributed.worker.multiprocessing-method": "spawn"}),
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster),
        _losses_named(),
    ):
        yield


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


def report(rows: dict[str, Any], *, title: str, as_json: bool) -> None:
    """
    Print what a command did: one JSON object, or a table for people.

    Parameters
    ----------
    rows : dict
        Names and values.
    title : str
        Of the table.
    as_json : bool
        Which of both.
    """
    if as_json:
        json.dump(rows, sys.stdout, default=str)
        sys.stdout.write("\n")
        return
    table = Table(show_header=False, title=title, title_justify="left")
    for name, value in rows.items():
        text = f"{value:.6g}" if isinstance(value, float) else str(value)
        text = "\n".join(map(str, value)) if isinstance(value, list) else text
        table.add_row(name.replace("_", " "), text)
    Console(highlight=False).print(table)
