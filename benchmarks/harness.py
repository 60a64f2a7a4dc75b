"""What benchmarks share: a line that says where they were run, and numbers taken in fresh processes."""

import os
import platform
import subprocess
import sys
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


def run_fresh(code: str, *arguments) -> list[float]:
    """Run code in a fresh process and give the numbers that it prints."""
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return [float(word) for word in done.stdout.split()]


def least_of(code: str, *arguments, repeats: int) -> tuple[float, float, list[float]]:
    """
    Run code that prints seconds, MiB and further numbers in a few fresh processes.

    Returns
    -------
    The least seconds, the greatest MiB, and the further numbers of the first.
    """
    runs = [run_fresh(code, *arguments) for _ in range(repeats)]
    return min(run[0] for run in runs), max(run[1] for run in runs), runs[0][2:]


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
