"""
The report of a run with many targets: time to write it, its size, and how it opens in Chromium beside a plain page.

Run ``python benchmarks/bench_report.py [--targets N] [--bands B] [--side N] [--folder F] [--repeats R]``. The folder of
a run is made first, of 64 different cutouts under as many names as are wanted. The plain page is a table with every row
and every thumbnail of the report in it, as most reports are made. Needs playwright, and chromium on the path. See
README.md beside this file for how to read the numbers.
"""

import argparse
import json
import os
import re
import resource
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from astropy.table import Table
from harness import machine
from playwright.sync_api import sync_playwright

from galprep_dask.cutouts import write_product
from galprep_dask.pipeline import layout
from galprep_dask.pipeline.report import write_page

DIFFERENT = 64
OPTIONS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
#: Ends when the browser has drawn what a change of the page asked for, thumbnails decoded.
DRAWN = """async (change) => {
    const begin = performance.now();
    eval(change);
    await Promise.all([...document.querySelectorAll("#table img")].map((image) => image.decode()));
    await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
    return performance.now() - begin;
}"""
SET = "var tool = document.getElementById('{}'); tool.value = '{}'; tool.onchange()"
CHANGES = {
    "sort by a number": "document.querySelector('[data-sort=mag]').click()",
    "next page": "document.getElementById('next').click()",
    "last page": SET.format("page", "999999"),
    "filter by state": SET.format("status", "failed"),
    "all again": SET.format("status", ""),
}
COLUMNS = (
    "target", "file_name", "ra", "dec", "kind", "band", "path", "status", "reason", "flags", "mag", "re", "q",
    "masked",
)  # fmt: skip


def make_folder(folder, targets, bands, side):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] - side // 2
    for number in range(DIFFERENT):
        q, angle, size = rng.uniform(0.3, 1), rng.uniform(0, np.pi), rng.uniform(2, 8)
        u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        image = rng.normal(0, 1, (side, side)) + 80 * np.exp(-np.hypot(u, v / q) / size)
        near = rng.uniform(0, side, 2) - side // 2
        distance = np.hypot(x - near[0], y - near[1])
        image += 50 * np.exp(-((distance / 3) ** 2))
        write_product(folder / f"{number}.fits", image, mask=distance < 9, sigma=np.ones_like(image))
    rows = []
    for number in range(targets):
        name = f"J{number:06d}"
        layout.target_folder(folder, name).mkdir(parents=True)
        for band in bands:
            path, failed = layout.cutout_file(folder, name, band), number % 97 == 0
            if not failed:
                os.link(folder / f"{rng.integers(DIFFERENT)}.fits", path)
            status, reason = ("failed", "nothing is left to be fitted") if failed else ("done", "")
            numbers = rng.uniform(18, 24), rng.uniform(0.3, 3), rng.uniform(0.2, 1), rng.uniform(0.05, 0.3)
            path, flags = path.relative_to(folder).as_posix(), "edge" * (number % 9 == 0)
            rows.append((name, name, number / 30, 2.0, "cutout", band, path, status, reason, flags, *numbers))
    Table(rows=rows, names=COLUMNS).write(layout.manifest_file(folder), format="ascii.ecsv")
    for band in bands:
        layout.band_folder(folder, band).mkdir(parents=True)
        record = {"name": band, "status": "done", "sigma": {"sigchk": 1.0}}
        layout.band_record(folder, band).write_text(json.dumps(record))


def write_plain(report, path):
    """Write a page with the same thumbnails and names, all of them at once."""
    text = report.read_text()
    found = re.findall(r'<script type="application/json" id="small-(\d+)-(\d+)">(.*?)</script>', text)
    names = json.loads(re.search(r'id="data">(.*?)</script>', text)[1])["name"]
    blocks = {(int(band), int(block)): json.loads(held) for band, block, held in found}
    step = max(len(block["image"]) for block in blocks.values())
    bands = 1 + max(band for band, _ in blocks)
    with path.open("w") as file:
        file.write("<!doctype html><meta charset=utf-8><table>")
        for row, name in enumerate(names):
            pictures = [
                f'<img width=80 height=80 src="data:image/webp;base64,{blocks[band, row // step][layer][row % step]}">'
                for band in range(bands) for layer in ("image", "mask") if blocks[band, row // step][layer][row % step]
            ]  # fmt: skip
            file.write(f"<tr><td>{name}<td>{''.join(pictures)}")


def opened(browser, path, repeats):
    """Give the least time until a page is loaded, its memory, and the page."""
    times = []
    for _ in range(repeats):
        page = browser.new_context(viewport={"width": 1280, "height": 900}, bypass_csp=True).new_page()
        page.set_default_timeout(300_000)
        begin = time.perf_counter()
        page.goto(path.as_uri())
        page.evaluate("() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))")
        times.append(time.perf_counter() - begin)
        if len(times) < repeats:
            page.context.close()
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    metrics = {metric["name"]: metric["value"] for metric in session.send("Performance.getMetrics")["metrics"]}
    return min(times), metrics, page


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--targets", type=int, default=10_000)
    parser.add_argument("--bands", type=int, default=2)
    parser.add_argument("--side", type=int, default=101, help="pixels of a cutout")
    parser.add_argument("--folder", type=Path, help="where the run is made; a temporary folder by default")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    print(machine() + "\n")
    folder = Path(tempfile.mkdtemp(dir=given.folder))
    try:
        make_folder(folder, given.targets, [f"b{k}" for k in range(given.bands)], given.side)
        base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        begin, used = time.perf_counter(), time.process_time()
        report = write_page(folder).path
        wall, used = time.perf_counter() - begin, time.process_time() - used
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - base
        count = given.targets * given.bands
        print(f"{given.targets} targets x {given.bands} bands, cutouts of {given.side} x {given.side}")
        each = 1e3 * used / count
        print(f"written in {wall:.1f} s, {used:.1f} s of CPU, {each:.1f} ms a cutout; peak {peak:.0f} MiB more")
        plain = folder / "plain.html"
        write_plain(report, plain)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=OPTIONS)
            pages = {"report": report, "plain": plain}
            results = {name: opened(browser, path, given.repeats) for name, path in pages.items()}
            for name, path in pages.items():
                seconds, metrics, _ = results[name]
                print(
                    f"  {name:8s} {path.stat().st_size / 2**20:6.1f} MiB   opens in {seconds:6.2f} s"
                    f"  ({seconds / results['plain'][0]:.2f})   {metrics['Nodes']:8.0f} nodes"
                    f"   script heap {metrics['JSHeapUsedSize'] / 2**20:5.1f} MiB"
                )
            page = results["report"][2]
            for name, change in CHANGES.items():
                print(f"  {name:18s} {page.evaluate(DRAWN, change):6.0f} ms")
            browser.close()
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
