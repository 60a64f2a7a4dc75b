"""
The picture of a report in the user guide: its head and its table of targets, in headless Chromium.

Run ``python benchmarks/report_picture.py FOLDER/report.html docs/figures/report.png``. Needs playwright, and chromium
on the path.
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

WIDTH, HEAD, TABLE = 1160, 430, 620


def main(report, picture):
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=options)
        page = browser.new_context(viewport={"width": WIDTH, "height": 900}, color_scheme="light").new_page()
        page.goto(Path(report).resolve().as_uri())
        parts = [page.screenshot(clip={"x": 0, "y": 0, "width": WIDTH, "height": HEAD})]
        page.evaluate("document.querySelector('.top').remove(); document.querySelector('#targets').scrollIntoView()")
        page.evaluate("Promise.all([...document.querySelectorAll('#table img')].map((image) => image.decode()))")
        parts.append(page.screenshot(clip={"x": 0, "y": 60, "width": WIDTH, "height": TABLE}))
        browser.close()
    whole = Image.new("RGB", (WIDTH, HEAD + TABLE))
    for part, y in zip(parts, (0, HEAD), strict=True):
        whole.paste(Image.open(io.BytesIO(part)), (0, y))
    whole.quantize(224, dither=Image.Dither.NONE).save(picture, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
