"""Bars that show how much of a computation is done, wherever it runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dask.callbacks import Callback
from rich.progress import Progress

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Steps"]

#: Seconds between two questions to a scheduler.
_PERIOD = 0.3


class Steps:
    """
    Say which step is being done.

    Parameters
    ----------
    progress : Progress or None
        Where bars are shown; None stays quiet.
    client : distributed.Client or None
        The cluster that computes; None for dask's own threads.
    """

    def __init__(self, progress: Progress | None, client: Client | None = None):
        self._progress = progress
        self._client = client

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Show a bar of the tasks of all that is computed within."""
        if self._progress is None:
            yield
            return
        task = self._progress.add_task(name, total=None)
        try:
            with _Counted(self._progress, task) if self._client is None else _asked(self._client, self._progress, task):
                yield
        finally:
            done = max(self._progress.tasks[task].completed, 1)
            self._progress.update(task, total=done, completed=done)


class _Counted(Callback):
    """Advance a bar with every task that dask's threads have done."""

    def __init__(self, progress: Progress, task):
        super().__init__()
        self._progress, self._task = progress, task
        self._before = 0

    def _start_state(self, dsk, state):
        self._before = int(self._progress.tasks[self._task].completed)
        waiting = sum(len(state[name]) for name in ("ready", "waiting", "running"))
        self._progress.update(self._task, total=self._before + waiting)

    def _posttask(self, key, result, dsk, state, worker_id):
        self._progress.advance(self._task)


@contextmanager
def _asked(client: Client, progress: Progress, task) -> Iterator[None]:
    """Ask a scheduler again and again how many tasks are done and how many are left, and move a bar by that."""
    over = threading.Event()

    def watch():
        before = None
        while not over.wait(_PERIOD):
            try:
                done, left = client.run_on_scheduler(_tasks)
            except Exception:  # whatever it is, nothing but a bar depends on it
                return
            before = done if before is None else before
            if done > before or left:
                progress.update(task, completed=done - before, total=done - before + left)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join(timeout=5)


def _tasks(dask_scheduler) -> tuple[int, int]:
    """Count the tasks that a scheduler has ever seen done, and those that it has yet to do."""
    done = sum(prefix.state_counts["memory"] for prefix in dask_scheduler.task_prefixes.values())
    states = ("waiting", "no-worker", "queued", "processing")
    return done, sum(group.states[name] for group in dask_scheduler.task_groups.values() for name in states)
