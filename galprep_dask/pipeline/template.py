"""The configuration that ``galprep init`` writes: every key, with what it does."""

from __future__ import annotations

from pydantic import BaseModel

from galprep_dask.pipeline.config import Band, Config

__all__ = ["config_template"]

_HEAD = """\
# Configuration of `galprep run`. Paths are relative to this file. Keys behind a # have the value that is shown.

targets = "targets.ecsv"          # {targets}
output = "galprep-run"            # {output}

# One [[bands]] for every image of the field.
[[bands]]
name = "r"                        # {name}
image = "mosaic_r.fits"           # {image}
"""


def config_template() -> str:
    """
    Give a configuration with every key and its default, in comments.

    Returns
    -------
    str
        TOML, which :func:`galprep_dask.pipeline.config.read_config` takes as it is.

    Examples
    --------
    >>> print(config_template().splitlines()[2])
    targets = "targets.ecsv"          # Table of the targets: any that astropy reads, with ra and dec in degrees
    """
    said = {name: field.description for model in (Config, Band) for name, field in model.model_fields.items()}
    lines = [_HEAD.format(**said)]
    lines.append("".join(_line(name, Band) for name in Band.model_fields if name not in ("name", "image")))
    for name, field in Config.model_fields.items():
        section = field.default
        if isinstance(section, BaseModel):
            keys = "".join(_line(key, type(section)) for key in type(section).model_fields)
            lines.append(f"# {type(section).__doc__}\n[{name}]\n{keys}")
    return "\n".join(lines)


def _line(name: str, model: type[BaseModel]) -> str:
    field = model.model_fields[name]
    return f"{f'# {name} = {_toml(field.default)}':<33s} # {field.description}\n"


def _toml(value) -> str:
    if value is None:
        return "..."
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else repr(value)
