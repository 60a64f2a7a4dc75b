"""Public functions and classes say what they take, give and raise, and show an example that runs."""

import dataclasses
import inspect
from importlib import import_module

import pytest
from numpydoc.validate import validate

ROOMS = (
    "", ".stats", ".sky", ".segmentation", ".masks", ".noise", ".cutouts", ".gaia", ".psf", ".images", ".gsutils",
    ".plotting",
)  # fmt: skip

#: Parameters all described, in order, with a type; a summary; no unknown section; a Returns section.
CODES = {"GL06", "GL07", "GL08", "SS01", "SS06", "PR01", "PR02", "PR03", "PR04", "RT01"}


def public_names():
    names = {}
    for room in ROOMS:
        module = import_module(f"galprep_dask{room}")
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.isfunction(thing) or inspect.isclass(thing):
                names[f"{thing.__module__}.{thing.__qualname__}"] = thing
    return names


@pytest.mark.parametrize("name", sorted(public_names()))
def test_docstring_is_complete(name):
    found = {code: message for code, message in validate(name)["errors"] if code in CODES}
    if dataclasses.is_dataclass(public_names()[name]):
        found.pop("PR01", None)  # its attributes are what is described
    assert not found


#: What is shown as part of another example, or is a container of results.
WITHOUT_EXAMPLE = {
    "galprep_dask.sky.constant.ConstantSky", "galprep_dask.sky.polynomial.PolynomialSky",
    "galprep_dask.sky.piecewise.PiecewiseSky", "galprep_dask.sky.mesh.MeshSky",
    "galprep_dask.segmentation.detect.Segmentation", "galprep_dask.cutouts.cutout.cut_header",
    "galprep_dask.gaia.footprint.Footprint",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(public_names()) - WITHOUT_EXAMPLE))
def test_docstring_has_an_example(name):
    assert ">>>" in inspect.getdoc(public_names()[name])
