from galprep_dask import __version__

project = "galprep-dask"
author = "The galprep-dask developers"
copyright = f"2026, {author}"
release = version = __version__

extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
]

exclude_patterns = ["_build"]
templates_path = []
default_role = "code"

html_theme = "furo"
html_title = f"galprep-dask {release}"

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 600  # seconds a cell; the first of a fresh installation compiles

autosummary_generate = True
autodoc_default_options = {"members": True}
autodoc_typehints = "none"  # the docstrings name types in the words of the field
numpydoc_show_class_members = False
