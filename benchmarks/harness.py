"""What benchmarks share: lines that say where they were run, and numbers taken in fresh processes."""

import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

#: Those whose versions a number may depend on, peers among them; what is not installed is left out.
_PACKAGES = ("numpy", "dask", "numba", "astropy", "photutils", "scipy", "jax", "sep", "zarr")


def machine() -> str:
    """Give processor, cores, memory and load, Python and versions of packages, and limits, in a line each."""
    model = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor() or platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = [f"{name} {found}" for name in _PACKAGES if (found := _version(name))]
    return (
        f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, load {os.getloadavg()[0]:.1f}, {platform.system()}\n"
        f"Python {platform.python_version()}, galprep-dask {_version('galprep-dask')}, {', '.join(versions)}\n"
        f"{_fresh('import harness; print(harness.limits())').stdout.rstrip()}"
    )


def limits() -> str:
    """
    Give what the machine does at most: a copy in memory, a file written, and read from memory and from the disk.

    To be called in a process of its own, as its memory would count as that of the caller.
    """
    import numpy as np

    n_bytes, piece = 2**28, 2**24
    pixels, copy = np.ones((2, n_bytes), "u1")  # pages that have been touched
    told = {"copy in memory": _seconds(lambda: np.copyto(copy, pixels))}
    with tempfile.NamedTemporaryFile(buffering=0) as file:

        def write():
            for start in range(0, n_bytes, piece):
                file.write(random[start : start + piece])
            os.fsync(file.fileno())

        def read():
            file.seek(0)
            while file.readinto(copy[:piece]):
                pass

        random = memoryview(np.random.default_rng(0).bytes(n_bytes))
        told["write and sync"] = _seconds(write)
        told["read from the system's memory"] = _seconds(read)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        told["read from the disk"] = _seconds(read)
    return "one core, 256 MiB: " + ", ".join(f"{name} {256 / taken:.0f} MiB/s" for name, taken in told.items())


def _seconds(action) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def run_fresh(code: str, *arguments) -> list[float]:
    """Run code in a fresh process and give the numbers that it prints."""
    return [float(word) for word in _fresh(code, *map(str, arguments)).stdout.split()]


def _fresh(code: str, *arguments: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return done


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
