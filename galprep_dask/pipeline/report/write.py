"""From the folder of a run to the page."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from galprep_dask.io.atomic import atomic_path
from galprep_dask.pipeline import layout
from galprep_dask.pipeline.report.facts import cuts_of, facts_of, settings_of
from galprep_dask.pipeline.report.figures import pictures_of
from galprep_dask.pipeline.report.findings import LEVELS, Finding, findings_of
from galprep_dask.pipeline.report.folder import BandFolder, RunFolder, read_folder
from galprep_dask.pipeline.report.page import render
from galprep_dask.pipeline.report.targets import STATUSES, Target, gather, table_of
from galprep_dask.pipeline.report.thumbnails import Thumbnail, side_for, thumbnail

__all__ = ["Written", "write_page", "write_report"]

#: Thumbnails that the page unpacks at a time.
BLOCK = 200


class Written(NamedTuple):
    """The file of a report, and what it says: counts of targets by state, and findings."""

    path: Path
    targets: dict[str, int]
    findings: list[Finding]


def write_report(folder: str | os.PathLike) -> Path:
    """
    Write ``report.html`` into the folder of a run.

    Parameters
    ----------
    folder : path
        Output folder of ``galprep run``.

    Returns
    -------
    Path
        The page: one file with all its pictures, that asks for nothing from anywhere. The same folder gives the same
        bytes, wherever it lies.

    Raises
    ------
    ReportError
        There is no such folder, or no manifest in it that can be read. All else that is missing or damaged is said in
        the page, where it would have been.
    OutputError
        The page cannot be written.
    """
    return write_page(folder).path


def write_page(folder: str | os.PathLike, progress: Callable[[int, int], None] | None = None) -> Written:
    """
    Write the report, and say what it says.

    Parameters
    ----------
    folder : path
        As for :func:`write_report`.
    progress : callable, optional
        Called as ``progress(done, total)`` with the number of thumbnails.

    Returns
    -------
    Written
    """
    run = read_folder(folder)
    targets = gather(run.products)
    thumbnails = _thumbnails(run, targets, progress)
    bands = [_band(run, band) for band in run.bands]
    findings = _findings(run, targets, thumbnails, bands)
    counts = {status: sum(target.status == status for target in targets) for status in STATUSES}
    content = {
        "version": run.version,
        "counts": counts,
        "products": _product_counts(run),
        "flags": Counter(flag for target in targets for flag in target.flags).most_common(),
        "findings_of_run": findings,
        "failures": [target for target in targets if target.status in ("failed", "partly")],
        "bands": bands,
        "settings": settings_of(run.settings),
        "hashes": sorted({product.parameters for product in run.products if product.parameters}),
        "table": table_of(run, targets) | {"block": BLOCK},
        "blocks": _blocks(run, targets, thumbnails),
    }
    path = layout.report_file(run.path)
    with atomic_path(path, overwrite=True) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(render(content))
    return Written(path, counts, findings)


def _thumbnails(run: RunFolder, targets: list[Target], progress) -> dict[tuple[str, str], Thumbnail]:
    """Draw the cutouts that are there, in threads, which share the reading and the packing."""
    wanted = [
        product for target in targets for product in target.products
        if product.kind == "cutout" and product.status == "done"
    ]  # fmt: skip
    side, root = side_for(len(wanted)), Path(os.path.abspath(run.path))

    def draw(product) -> Thumbnail:
        file = root / product.path if product.path else layout.cutout_file(root, product.file_name, product.band)
        if not Path(os.path.normpath(file)).is_relative_to(root):
            return Thumbnail(problem=f"{product.path} lies outside of the folder of the run")
        return thumbnail(file, side)

    drawn = {}
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for number, (product, small) in enumerate(zip(wanted, pool.map(draw, wanted), strict=True), start=1):
            drawn[product.file_name, product.band] = small
            if progress is not None:
                progress(number, len(wanted))
    return drawn


def _band(run: RunFolder, band: BandFolder) -> dict[str, Any]:
    cuts = cuts_of(band)
    return {
        "name": band.name,
        "failed": band.record.get("status") != "done",
        "findings": findings_of(band),
        "facts": facts_of(band),
        "cuts": cuts,
        "pictures": pictures_of(run.path, band),
        "image": str(band.record.get("image", "")),
        "version": str(band.record.get("version", "")),
        "parameters": str(band.record.get("parameters", "")),
        "inputs": _as_list(band.record.get("inputs")),
        "settings": settings_of(band.section("settings") if isinstance(band.section("settings"), dict) else {}),
    }


def _findings(run: RunFolder, targets: list[Target], thumbnails, bands) -> list[Finding]:
    found = [Finding("error", "run", problem) for problem in run.problems]
    if not targets:
        found.append(Finding("error", "run", "The manifest has no rows: nothing was made."))
    names = {target.file_name: target.name for target in targets}
    found += [
        Finding("error", f"{names[file_name]}, {band}", small.problem)
        for (file_name, band), small in thumbnails.items() if small.problem
    ]  # fmt: skip
    found += [finding for band in bands for finding in band["findings"]]
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))


def _product_counts(run: RunFolder) -> list[tuple[str, str, dict[str, int]]]:
    counts: dict[tuple[str, str], Counter] = {}
    for product in run.products:
        counts.setdefault((product.kind, product.band), Counter())[product.status] += 1
    return [(kind, band, dict(count)) for (kind, band), count in counts.items()]


def _blocks(run: RunFolder, targets: list[Target], thumbnails) -> Iterable[tuple[str, dict]]:
    """Give the thumbnails in blocks, each with the identifier under which the page looks for it."""
    for b, band in enumerate(run.bands):
        for start in range(0, len(targets), BLOCK):
            part = targets[start : start + BLOCK]
            small = [thumbnails.get((target.file_name, band.name), Thumbnail()) for target in part]
            if any(one.image or one.problem for one in small):
                yield f"small-{b}-{start // BLOCK}", {
                    "image": [one.image for one in small],
                    "mask": [one.mask for one in small],
                    "problem": {str(n): one.problem for n, one in enumerate(small) if one.problem},
                }


def _as_list(inputs) -> list[list[tuple[str, str]]]:
    """Give the identity of each input as lines, whichever way the record keeps them."""
    if isinstance(inputs, dict) and not all(isinstance(item, dict) for item in inputs.values()):
        inputs = [inputs]
    if isinstance(inputs, dict):
        inputs = [{"role": role, **item} for role, item in inputs.items()]
    return [settings_of(item) for item in inputs or [] if isinstance(item, dict)]
