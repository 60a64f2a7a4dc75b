"""The configuration that ``galprep init`` writes: every key, with what it does."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from pydantic import BaseModel

from galprep_dask.pipeline.config import Band, Config

__all__ = ["config_template"]

_HEAD = """\
# Configuration of `galprep run`. Paths are relative to this file. Keys behind a # have the value that is shown.
"""

#: What stands where nothing is given, for someone to write over.
_EXAMPLE = {"name": "r", "image": "mosaic_r.fits"}


def config_template(
    bands: Iterable[Mapping] = (), *, targets: str | None = None, output: str | None = None
) -> str:
    """
    Give a configuration with every key and its default, in comments.

    Parameters
    ----------
    bands : iterable of mapping
        Keys of a table ``[[bands]]`` to fill in, for each image. By default an example.
    targets, output : str, optional
        Table of the targets, and folder for what is written.

    Returns
    -------
    str
        TOML, which :func:`galprep_dask.pipeline.config.read_config` takes as it is.

    Examples
    --------
    >>> print(config_template().splitlines()[2])
    targets = "targets.ecsv"         # Table of the targets: any that astropy reads, with ra and dec in degrees
    >>> "mosaic_k.fits" in config_template([{"name": "k", "image": "mosaic_k.fits"}])
    True
    """
    top = {"targets": targets or "targets.ecsv", "output": output or Config.model_fields["output"].default}
    lines = [_HEAD, "".join(_line(name, Config, top) for name in top), "# One [[bands]] for every image of the field."]
    for band in list(bands) or [_EXAMPLE]:
        lines.append("[[bands]]\n" + "".join(_line(name, Band, band) for name in Band.model_fields))
    for name, field in Config.model_fields.items():
        section = field.default
        if isinstance(section, BaseModel):
            keys = "".join(_line(key, type(section)) for key in type(section).model_fields)
            lines.append(f"# {type(section).__doc__}\n[{name}]\n{keys}")
    return "\n".join(lines)


def _line(name: str, model: type[BaseModel], given: Mapping | None = None) -> str:
    field = model.model_fields[name]
    text = f"{name} = {_toml(given[name])}" if given and name in given else f"# {name} = {_toml(field.default)}"
    return f"{text:<32s} # {field.description}\n"


def _toml(value) -> str:
    if value is None:
        return "..."
    # What JSON makes of these, TOML understands.
    return json.dumps(value, ensure_ascii=False)
