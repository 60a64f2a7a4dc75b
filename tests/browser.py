"""Headless Chromium for the tests of a page."""

import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

__all__ = ["chromium"]

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
#: It looks for updates and the like otherwise; the page itself may not ask for anything.
_OPTIONS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@contextmanager
def chromium():
    """Start the Chromium of the system, or that of ``playwright install chromium``; skip where there is neither."""
    with sync_playwright() as playwright:
        program = next(filter(None, map(shutil.which, _NAMES)), None) or playwright.chromium.executable_path
        if not Path(program).exists():
            pytest.skip("there is no Chromium: apt-get install chromium, or playwright install chromium")
        browser = playwright.chromium.launch(executable_path=program, args=_OPTIONS)
        yield browser
        browser.close()
