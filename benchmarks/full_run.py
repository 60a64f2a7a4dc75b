"""
All benchmarks one after another, into one dated text with the machine that they were run on.

Run ``python benchmarks/full_run.py [--only NAME ...] [--quick] [--folder F]`` with nothing else running. What each
prints is appended to ``results/DATE.txt`` beside this file as soon as it is there; one that fails is noted, and the
rest goes on. ``--quick`` takes sizes at which nothing is measured that would be worth keeping, and keeps nothing: it
shows that all of them run.
"""

import argparse
import datetime as dt
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent

#: What is run, and how, in this order. Sides of 32768 want 31 GiB of disk.
COMMANDS = {
    "io": ["--size", "8192", "--repeats", "2"],
    "stats": ["--repeats", "2"],
    "sky": ["--repeats", "2"],
    "segmentation": ["--repeats", "2", "--all-at-once", "4096", "32768"],
    "growth": ["--repeats", "2"],
    "deblend": ["--repeats", "2"],
    "noise": ["--repeats", "2"],
    "cutouts": ["--repeats", "2"],
    "gaia": ["--repeats", "2"],
    "stars": ["--seeds", "5"],
    "psf": ["--seeds", "2"],
    "graphs": ["--side", "8", "32"],
    "faults": ["--kills", "2"],
    "fit": ["--galaxies", "20"],
    "report": ["--targets", "1000", "--repeats", "2"],
    "run": [],
    "end_to_end": ["--size", "8192", "2048", "32768", "--peer", "16384", "--workers", "2"],
}

QUICK = {
    "io": ["--size", "1024", "--repeats", "1"],
    "stats": ["--size", "1024", "--repeats", "1"],
    "sky": ["--size", "1024", "--large", "2048", "--repeats", "1"],
    "segmentation": ["--size", "1024", "--repeats", "1", "--all-at-once", "1024"],
    "growth": ["--sizes", "1024", "2048", "--repeats", "1"],
    "deblend": ["--size", "512", "--repeats", "1"],
    "noise": ["--size", "1024", "--large", "2048", "--repeats", "1"],
    "cutouts": ["--size", "2048", "--targets", "50", "--stamp-image", "1024", "--stamps", "1000", "--repeats", "1"],
    "gaia": ["--rows", "10000", "--repeats", "1"],
    "stars": ["--areas", "80", "--seeds", "1", "--rows", "10000"],
    "psf": ["--parts", "losses"],
    "graphs": ["--side", "8"],
    "faults": ["--kills", "1", "--stage", "catalogue", "--size", "400"],
    "fit": ["--galaxies", "2"],
    "report": ["--targets", "20", "--repeats", "1"],
    "run": ["--size", "1024", "--targets", "20"],
    "end_to_end": ["--size", "2048", "--workers", "2"],
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(COMMANDS), default=list(COMMANDS))
    parser.add_argument("--quick", action="store_true", help="only see that all run: small sizes, nothing kept")
    parser.add_argument("--folder", help="where large files are made; the system's temporary folder by default")
    given = parser.parse_args()
    commands = QUICK if given.quick else COMMANDS
    kept = Path(os.devnull) if given.quick else HERE / "results" / f"{dt.date.today()}.txt"
    kept.parent.mkdir(exist_ok=True)
    environment = os.environ | ({"TMPDIR": given.folder} if given.folder else {})
    paths = str(HERE.parent / "tests"), os.environ.get("PYTHONPATH")  # bench_fit.py takes its galaxies from the tests
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    failed = []
    with kept.open("a", encoding="utf-8") as text:

        def tell(*lines):
            for file in (text, sys.stdout):
                print(*lines, sep="\n", file=file, flush=True)

        commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True,
                                check=False)  # fmt: skip
        tell(f"{dt.datetime.now():%Y-%m-%d %H:%M}, commit {commit.stdout.strip() or 'unknown'}")
        for name in given.only:
            command = [f"bench_{name}.py", *commands[name]]
            tell("", f"$ python benchmarks/{' '.join(command)}    (load {os.getloadavg()[0]:.1f})")
            begin = time.perf_counter()
            done = subprocess.run(
                [sys.executable, *command], cwd=HERE, env=environment, capture_output=True, text=True, check=False
            )
            tell(done.stdout.rstrip())
            if done.returncode:
                failed.append(name)
                tell(f"ended with status {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
            tell(f"({time.perf_counter() - begin:.0f} s)")
        tell("", f"failed: {', '.join(failed) or 'none'}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
