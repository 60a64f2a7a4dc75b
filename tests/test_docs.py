"""The pages say what they promise to say: every argument, every public name, and figures that their scripts draw."""

import ast
import inspect
import re
import runpy
from importlib import import_module
from pathlib import Path

import pytest

from galprep_dask import gsutils
from galprep_dask.images import image

DOCS = Path(__file__).resolve().parents[1] / "docs"
FROM_GALFITS = (DOCS / "user_guide" / "from_galfits.md").read_text()
ROOMS = ("stats", "sky", "segmentation", "masks", "noise", "cutouts", "gaia", "psf", "images", "gsutils", "plotting")


def tables():
    """Map the name of each function to the arguments of its table and their defaults, as the page gives them."""
    found = {}
    for section in re.split(r"^### ", FROM_GALFITS, flags=re.M)[1:]:
        name, arguments = re.match(r"`([\w.]+)`", section).group(1), {}
        for names, defaults in re.findall(r"^\| (`.*?`) \|(.*?)\|", section, flags=re.M):
            names, defaults = (re.findall(r"`(.*?)`", cell) for cell in (names, defaults))
            defaults = defaults * len(names) if len(defaults) == 1 else defaults or ["required"] * len(names)
            arguments |= dict(zip(names, defaults, strict=True))
        found[name] = arguments
    return found


def function(name):
    return {"image": image.__init__, "gsutils.normimg": gsutils.normimg}.get(name) or getattr(image, name)


@pytest.mark.parametrize("name", tables())
def test_every_argument_is_in_the_table_with_its_default(name):
    signature = {
        argument.name: "required" if argument.default is inspect.Parameter.empty else repr(argument.default)
        for argument in inspect.signature(function(name)).parameters.values()
        if argument.name != "self"
    }
    assert tables()[name] == signature


def test_every_call_of_the_documentation_is_in_the_tables(shared_data):
    """Functions and arguments of the example code and of the overview, as they are spelled there."""
    pages = list((shared_data.parent / "seed").glob("*.rst"))
    if not pages:
        pytest.skip("the documentation of GalfitS is not there")
    text = pages[0].read_text()
    calls = {}
    for block in re.findall(r"\.\. code-block:: python\n\n((?:(?:    .*)?\n)+)", text):
        for node in ast.walk(ast.parse(inspect.cleandoc(block))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                calls.setdefault(node.func.attr, set()).update(word.arg for word in node.keywords)
    for name, arguments in re.findall(r"^- \*\*(\w+)\((.*)\)\*\*", text, flags=re.M):
        calls.setdefault(name, set()).update(re.findall(r"(\w+)(?==|,|$)", re.sub(r"=\[.*?\]|=[^,]*", "", arguments)))
    calls["gsutils.normimg"] = calls.pop("normimg")
    ours = {name: calls[name] for name in tables() if name in calls}
    assert set(ours) == set(tables())
    for name, arguments in ours.items():
        assert arguments <= set(tables()[name]), name


def test_every_line_of_the_documented_examples_is_run(shared_data):
    """The page with the examples has all lines of them, in their order, but for two imports."""
    pages = list((shared_data.parent / "seed").glob("*.rst"))
    if not pages:
        pytest.skip("the documentation of GalfitS is not there")
    page = (DOCS / "user_guide" / "galfits_example.md").read_text()
    cells = re.findall(r"```\{code-cell\} ipython3\n(.*?)```", page, flags=re.S)
    run = iter([line.strip() for cell in cells for line in cell.splitlines()])
    for block in re.findall(r"\.\. code-block:: python\n\n((?:(?:    .*)?\n)+)", pages[0].read_text()):
        for line in filter(None, map(str.strip, block.splitlines())):
            if not line.startswith(("from galfits import", "import gsutils")):
                assert line in run, line  # an iterator: what comes later has to be found further on


def test_every_public_name_is_in_the_reference():
    listed = set(re.findall(r"^   ([\w.]+)$", (DOCS / "reference" / "index.md").read_text(), flags=re.M))
    public = {f"{room}.{name}" for room in ROOMS for name in import_module(f"galprep_dask.{room}").__all__}
    assert public | {"open_image", "make_image", "write_image"} <= listed


def test_figures_are_what_their_scripts_draw():
    scripts = sorted((DOCS / "figures").glob("*.py"))
    assert scripts
    for script in scripts:
        for name, text in runpy.run_path(str(script))["draw"]().items():
            assert (script.parent / name).read_text() == text, f"run python docs/figures/{script.name}"


def test_links_between_pages_lead_somewhere():
    for page in DOCS.glob("**/*.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).is_file(), f"{page.name}: {target}"
