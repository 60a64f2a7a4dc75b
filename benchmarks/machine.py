"""What every benchmark says of where it was run, so that a table can be read later."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

#: Those whose versions a number may depend on, peers among them; what is not installed is left out.
_PACKAGES = ("numpy", "dask", "numba", "astropy", "photutils", "scipy", "jax", "sep", "zarr")


def machine_line() -> str:
    """Give processor, cores, memory, load, Python and versions of packages in two lines."""
    model = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor() or platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = [f"{name} {found}" for name in _PACKAGES if (found := _version(name))]
    return (
        f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, load {os.getloadavg()[0]:.1f}, {platform.system()}\n"
        f"Python {platform.python_version()}, galprep-dask {_version('galprep-dask')}, {', '.join(versions)}"
    )


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
