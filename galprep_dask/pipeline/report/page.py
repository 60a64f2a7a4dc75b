"""The page itself: one HTML file that holds all it shows, and may ask for nothing."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from galprep_dask.pipeline.report.facts import plain

__all__ = ["render"]

_FILES = Path(__file__).parent / "page_files"


def render(content: dict[str, Any]) -> Iterator[str]:
    """
    Give the page piece by piece.

    Parameters
    ----------
    content : dict
        What ``page.html`` names. Texts in it are data: they are escaped, and a script that got in all the same would
        not run, as the page names its own by their hash.

    Yields
    ------
    str
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FILES), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {"json": _json, "plain": plain}
    style, script = ((_FILES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    yield from environment.get_template("page.html").generate(
        content, style=Markup(style), script=Markup(script), policy=_policy(style, script)
    )


def _policy(style: str, script: str) -> str:
    """Forbid every request, and every script and style but these two."""
    return (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(value: Any) -> Markup:
    """Write JSON that may stand in a script element: no text in it can end the element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))
