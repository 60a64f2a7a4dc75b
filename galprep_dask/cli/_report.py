"""What a command did, for people or for programs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

__all__ = ["print_json", "report"]


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
        print_json(rows)
        return
    table = Table(show_header=False, title=escape(title), title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name.replace("_", " "), escape(_in_words(value)))
    Console(highlight=False).print(table)


def print_json(rows: dict[str, Any]) -> None:
    """Print one JSON object on a line; what is not finite is null, as JSON has no word for it."""
    sys.stdout.write(json.dumps(_plain(rows), allow_nan=False) + "\n")


def _plain(value):
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _in_words(value) -> str:
    if isinstance(value, Mapping):
        return "\n".join(f"{name}: {_in_words(item)}" for name, item in value.items())
    if isinstance(value, list):
        return "\n".join(map(_in_words, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
