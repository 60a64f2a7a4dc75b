"""``galprep run``: all targets in all bands, from a configuration."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from galprep_dask.cli._options import Json, Scheduler, Workers
from galprep_dask.cli._report import report
from galprep_dask.cli._session import session

__all__ = ["run"]


def run(
    config: Annotated[Path, typer.Argument(help="Configuration; galprep init writes one to begin with.")],
    force: Annotated[
        bool, typer.Option("--force", help="Go on with another configuration: make anew what the change touches.")
    ] = False,
    clean: Annotated[bool, typer.Option("--clean", help="Remove intermediate images at the end.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    workers: Workers = 0,
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """
    Prepare every target of a list in every band for a fit: cutouts, PSFs, GalfitS and GALFIT files, manifest, report.

    Started again it does what is missing, whatever ended it. Exit status: 0 all is made, 1 some targets or bands
    failed (the manifest says why), 2 bad input. Examples:

        galprep run config.toml

        galprep run config.toml --dry-run

        galprep run config.toml --workers 4 --clean
    """
    from galprep_dask.pipeline.config import read_config
    from galprep_dask.pipeline.run import plan_run, run_config

    asked = read_config(config)
    if dry_run:
        plan = plan_run(asked, force=force)
        rows = asdict(plan) if as_json else _rows_of_plan(plan)
        report(rows, title=f"what a run of {config} would do", as_json=as_json)
        return
    with session(workers, scheduler, quiet=as_json) as shown:
        result = run_config(asked, force=force, clean=clean, step=shown.step)
    report(asdict(result) | {"ok": result.ok}, title=f"run of {config}", as_json=as_json)
    if not result.ok:
        raise typer.Exit(1)


def _rows_of_plan(plan) -> dict:
    rows = {"targets": plan.n_targets}
    for band, steps in plan.steps.items():
        rows[f"{band}: steps"] = ", ".join(steps) or "nothing to be done"
        if band in plan.problems:
            rows[f"{band}: problem"] = plan.problems[band]
        else:
            counts = plan.cutouts[band]
            rows[f"{band}: cutouts"] = ", ".join(f"{n} {what}" for what, n in counts.items())
    return rows
