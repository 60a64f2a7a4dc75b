"""A run: all bands, all targets; what is there already is kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from galprep_dask._version import __version__
from galprep_dask.errors import ConfigError, GalprepError, OutputError
from galprep_dask.pipeline import layout
from galprep_dask.pipeline.band import missing_steps, prepare_band
from galprep_dask.pipeline.config import Band, Config
from galprep_dask.pipeline.cutouts import Cut, cut_missing, plan_cutouts
from galprep_dask.pipeline.files import remove_leftovers
from galprep_dask.pipeline.manifest import Product, write_manifest
from galprep_dask.pipeline.pixels import fwhm_in_pixels, open_band
from galprep_dask.pipeline.records import read_json, write_json
from galprep_dask.pipeline.starts import Found, find_in_catalog
from galprep_dask.pipeline.steps import band_inputs, step_hashes
from galprep_dask.pipeline.targets import Target, read_targets
from galprep_dask.pipeline.texts import write_texts

__all__ = ["Plan", "RunResult", "plan_run", "run_config"]

Step = Callable[[str], AbstractContextManager]

#: Beyond this a sigma image, or a band's stars, deserve a look.
_SIGCHK = 0.8, 1.25


@dataclass(frozen=True)
class Plan:
    """
    What a run would do.

    Parameters
    ----------
    n_targets : int
        Rows of the list of targets.
    steps : dict
        For each band the steps to be done.
    cutouts : dict
        For each band how many cutouts are there and valid (``there``), ``missing``, and cannot be made
        (``impossible``).
    problems : dict
        For each band that cannot be opened, why.
    """

    n_targets: int
    steps: dict[str, list[str]]
    cutouts: dict[str, dict[str, int]]
    problems: dict[str, str]


@dataclass(frozen=True)
class RunResult:
    """
    What a run did.

    Parameters
    ----------
    output : Path
        Its folder.
    bands : dict
        The status of each band.
    done, failed, skipped : int
        Products.
    written : int
        Cutouts that were made now; the others were there.
    report : Path
        The page.
    """

    output: Path
    bands: dict[str, str]
    done: int
    failed: int
    skipped: int
    written: int
    report: Path

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return self.failed == 0 and all(status == "done" for status in self.bands.values())


def plan_run(config: Config, *, force: bool = False) -> Plan:
    """
    Say what a run would do, and write nothing.

    Parameters
    ----------
    config : Config
        From :func:`galprep_dask.pipeline.config.read_config`.
    force : bool
        As for :func:`run_config`.

    Returns
    -------
    Plan

    Raises
    ------
    TargetTableError, ConfigError
        As for :func:`run_config`.
    """
    output, targets = Path(config.output), read_targets(config.targets)
    inputs = {band.name: band_inputs(band) for band in config.bands}
    _check_unchanged(config, inputs, output, force)
    steps, cutouts, problems = {}, {}, {}
    for band in config.bands:
        hashes = step_hashes(config, band, inputs[band.name])
        steps[band.name] = missing_steps(output, band, hashes)
        try:
            cuts = plan_cutouts(config, band, hashes, targets, output, open_band(band))
        except GalprepError as error:
            problems[band.name] = str(error)
            continue
        impossible, there = (sum(map(bool, values)) for values in (
            [cut.reason for cut in cuts], [cut.masked is not None for cut in cuts],
        ))  # fmt: skip
        cutouts[band.name] = {
            "there": there, "missing": len(cuts) - there - impossible, "impossible": impossible,
        }  # fmt: skip
    return Plan(len(targets), steps, cutouts, problems)


def run_config(
    config: Config, *, force: bool = False, clean: bool = False, step: Step = lambda name: nullcontext()
) -> RunResult:
    """
    Prepare all targets in all bands for a fit.

    Parameters
    ----------
    config : Config
        From :func:`galprep_dask.pipeline.config.read_config`.
    force : bool
        Whether to go on in the folder of a run that was asked for something else: what the change touches is made
        anew.
    clean : bool
        Whether to remove intermediate images at the end.
    step : callable
        ``with step(name): ...`` is done around each step, to show progress.

    Returns
    -------
    RunResult

    Raises
    ------
    TargetTableError
        There are no targets.
    ConfigError
        The folder is that of a run with another configuration, inputs or version, and ``force`` is False.
    OutputError
        The folder cannot be written to.

    Notes
    -----
    Every file appears whole or not at all, and says, or has beside it in ``band.json``, what it was made with. So a run
    that was killed, at whatever moment, goes on from there when it is started again, and the result is the same to the
    byte. What is wrong with a target or a band ends neither the run nor the other targets: it is a row of the manifest,
    with the reason.
    """
    output, targets = Path(config.output), read_targets(config.targets)
    inputs = {band.name: band_inputs(band) for band in config.bands}
    _check_unchanged(config, inputs, output, force)
    try:
        output.mkdir(parents=True, exist_ok=True)
        remove_leftovers(output)
        write_json(layout.run_record(output), _asked(config, inputs))
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write to {str(output)!r}: {error.strerror}. Choose another output.") from error

    records, cuts, found, written = {}, {}, {}, 0
    for band in config.bands:
        records[band.name] = record = prepare_band(config, band, inputs[band.name], output, step)
        new, cuts[band.name], found[band.name] = _targets_of_band(config, band, inputs, record, targets, output, step)
        written += new
    remove_leftovers(output)  # of workers that died
    products = [
        product
        for n, target in enumerate(targets)
        for product in _products(config, output, target, [
            (band, records[band.name], cuts[band.name][n], found[band.name][n]) for band in config.bands
        ])
    ]  # fmt: skip
    write_manifest(output, products)
    page = _report(output, step)
    if clean:
        shutil.rmtree(layout.work_folder(output), ignore_errors=True)
    counts = {status: sum(product.status == status for product in products) for status in ("done", "failed", "skipped")}
    return RunResult(
        output, {name: record["status"] for name, record in records.items()}, **counts, written=written, report=page
    )


def _targets_of_band(
    config: Config, band: Band, inputs: dict, record: dict, targets: list[Target], output: Path, step: Step
) -> tuple[int, list[Cut], list[Found | None]]:
    """Make the cutouts of a band that are missing; a band that failed gives its reason to all of them."""
    hashes = step_hashes(config, band, inputs[band.name])
    reason = record["reason"]
    if record["status"] == "done":
        try:
            image = open_band(band)
            cuts = plan_cutouts(config, band, hashes, targets, output, image)
            there = sum(cut.masked is not None for cut in cuts)
            with step(f"{band.name}: cutouts"):
                cuts = cut_missing(config, band, record, cuts, output, image)
            written = sum(cut.masked is not None for cut in cuts) - there
            radius = max(fwhm_in_pixels(band, image), config.mask.source_diameter / 2 / record["pixel_scale"])
            return written, cuts, find_in_catalog(output, band.name, record, cuts, radius)
        except OutputError:
            raise
        except GalprepError as error:
            reason = " ".join(str(error).split())
    failed = [
        Cut(target, layout.cutout_file(output, target.file_name, band.name), "",
            reason=target.problem or f"band {band.name}: {reason}")
        for target in targets
    ]  # fmt: skip
    return 0, failed, [None] * len(targets)


def _products(config: Config, output: Path, target: Target, members: list):
    for band, record, cut, found in members:
        product = Product(target, "cutout", band.name, cut.path, cut.digest)
        if cut.reason:
            yield product.but(status="failed", reason=cut.reason)
            continue
        numbers = {
            "masked": cut.masked / (cut.nx * cut.ny), "sigchk": record["sigma"]["sigchk"],
            "fwhm": record["psf"].get("fwhm"),
        }  # fmt: skip
        if found is not None:
            numbers |= {"mag": found.mag, "re": found.r_eff, "q": found.axis_ratio}
        flags = {
            "edge": cut.padded > 0, "no_psf": record["psf"]["source"] == "none", "no_source": found is None,
            "sigma": not _SIGCHK[0] <= record["sigma"]["sigchk"] <= _SIGCHK[1],
            "psf_not_converged": not record["psf"].get("converged", True),
        }  # fmt: skip
        yield product.but(numbers=numbers, flags=[name for name, there in flags.items() if there])
    yield from write_texts(config, output, target, members)


def _report(output: Path, step: Step) -> Path:
    """Write the page, by what lies in the folder."""
    from galprep_dask.pipeline.report import write_report

    with step("report"):
        return write_report(output)



# Another configuration ---------------------------------------------------------------------------------------


def _asked(config: Config, inputs: dict) -> dict:
    """Give what a run was asked for, but for where it is written."""
    asked = config.model_dump(mode="json", exclude={"output"})
    return {"version": __version__, "config": asked, "inputs": inputs}


def _check_unchanged(config: Config, inputs: dict, output: Path, force: bool) -> None:
    before = read_json(layout.run_record(output))
    if before is None:
        if layout.run_record(output).exists() and not force:
            raise ConfigError(f"{str(layout.run_record(output))!r} cannot be read. Remove it, or run with --force.")
        return
    if force:
        return
    changes = list(_changes(before.get("config", {}), _asked(config, inputs)["config"], ""))
    if before.get("version") != __version__:
        changes.append(f"version: {before.get('version')} then, {__version__} now")
    for band in config.bands:
        started = (read_json(layout.band_record(output, band.name)) or {}).get("steps")
        then = before.get("inputs", {}).get(band.name, {})
        for name, identity in inputs[band.name].items():
            if started and name in then and then[name] != identity and then[name].get("path") == identity["path"]:
                changes.append(f"{identity['path']}: another file than then")
    if changes:
        raise ConfigError(
            f"{str(output)!r} is the folder of a run that was asked for something else:\n"
            + "\n".join(f"  {change}" for change in changes)
            + "\nRun with --force to make anew what this touches, or give another output."
        )


def _changes(then, now, place: str):
    """Say what differs between two configurations, key by key."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*then, *now]):
            yield from _changes(then.get(key), now.get(key), f"{place}.{key}" if place else str(key))
    elif isinstance(then, list) and isinstance(now, list) and all(isinstance(item, dict) for item in [*then, *now]):
        names = dict.fromkeys(item.get("name") for item in [*then, *now])
        parts = [{item.get("name"): item for item in items} for items in (then, now)]
        for name in names:
            yield from _changes(parts[0].get(name), parts[1].get(name), f"{place}[{name}]")
    elif then != now:
        yield f"{place}: {_short(then)} then, {_short(now)} now"


def _short(value) -> str:
    if isinstance(value, dict):
        return "there"
    return "not there" if value is None else repr(value)


