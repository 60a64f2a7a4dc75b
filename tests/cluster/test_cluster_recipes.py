"""The recipes for clusters in the documentation, as far as they go without one."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "user_guide" / "clusters.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def blocks(language):
    return [block for name, block in BLOCKS if name == language and not block.startswith(">>>")]


@pytest.mark.parametrize("recipe", blocks("python"))
def test_python_parses_and_what_is_ours_is_there(recipe):
    for node in ast.walk(ast.parse(recipe)):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("galprep_dask"):
            module = __import__(node.module, fromlist=["x"])
            assert all(hasattr(module, alias.name) for alias in node.names)


@pytest.mark.parametrize("recipe", blocks("bash"))
def test_commands_parse(recipe):
    subprocess.run(["bash", "-n"], input=recipe, text=True, check=True)


def test_nothing_was_overlooked():
    assert len(blocks("python")) == 4
    assert len(blocks("bash")) == 2
    assert len(BLOCKS) == 7
