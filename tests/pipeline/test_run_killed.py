"""Runs that are killed, and runs on a disk that is full: started again they end as if nothing had happened."""

import json
import subprocess
import sys

import pytest
from small_runs import inodes, tree, write_config, write_inputs

PROGRAM = """
import json, os, resource, signal, sys
import dask
from galprep_dask.pipeline.config import read_config
from galprep_dask.pipeline.run import run_config

def child(config, deadly=None, limit=None):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        said = os.fdopen(reader).read()
        os.waitpid(pid, 0)
        return said
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    replace, count = os.replace, [0]
    def counted(*names):
        count[0] += 1
        if count[0] == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*names)
    os.replace = counted
    try:
        result = run_config(read_config(config))
        os.write(writer, json.dumps([count[0], result.ok, result.written]).encode())
    except BaseException as error:
        os.write(writer, json.dumps([type(error).__name__, str(error)]).encode())
    os._exit(0)

for line in sys.stdin:
    print(child(**json.loads(line)) or "null", flush=True)
"""


@pytest.fixture(scope="module")
def start():
    """Run configurations in processes that may die; they are forked off one that has everything imported."""
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def run(config, **how):
            process.stdin.write(json.dumps({"config": str(config), **how}) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield run


@pytest.fixture(scope="module")
def whole(tmp_path_factory, start):
    folder = tmp_path_factory.mktemp("killed")
    write_inputs(folder)
    renames, ok, written = start(write_config(folder, output="whole"))
    assert ok
    assert written == 12
    return folder, renames


def finished(output):
    """What is finished, with the number of its file: products, and the steps that the records of the bands name."""
    found = {name: inode for name, inode in inodes(output).items() if name.startswith("targets/")}
    found = {name: inode for name, inode in found.items() if not name.rsplit("/")[-1].startswith(".")}
    for record in output.glob("bands/*/band.json"):
        for step, file in (("sky", "sky.npz"), ("sources", "sources.parquet"), ("preview", "preview.npz")):
            if step in json.loads(record.read_text())["steps"]:
                found[f"{record.parent.name} {step}"] = (record.parent / file).stat().st_ino
    return found


@pytest.mark.parametrize("share", [0.3, 0.93])
def test_a_killed_run_ends_as_if_it_had_not_been(whole, start, share):
    folder, renames = whole
    name = f"killed-{share}"
    config = write_config(folder, name=f"{name}.toml", output=name)
    assert start(config, deadly=int(share * renames)) is None
    before = finished(folder / name)
    assert len(before) < len(finished(folder / "whole"))
    _, ok, written = start(config)
    assert ok
    assert tree(folder / name) == tree(folder / "whole")
    after = finished(folder / name)
    assert all(after[piece] == inode for piece, inode in before.items())
    assert written == 12 - sum(piece.endswith(".fits") for piece in before)
    assert [path for path in (folder / name).rglob(".*.part") if "zarr" not in str(path.parent)] == []


def test_a_full_disk_is_an_error_and_nothing_is_half_written(whole, start):
    folder, _ = whole
    config = write_config(folder, name="full.toml", output="full")
    kind, said = start(config, limit=20_000)
    assert kind == "OutputError"
    assert said.startswith(f"cannot write '{folder}/full/")
    assert "File too large" in said
    assert start(config)[1]
    assert tree(folder / "full") == tree(folder / "whole")


def test_products_that_a_full_disk_refuses_are_rows(whole, start):
    folder, _ = whole
    config = write_config(folder, name="late.toml", output="late")
    assert start(config)[1]
    for path in (folder / "late/targets").glob("*/*"):
        path.unlink()
    kind, said = start(config, limit=14_000)  # the page on the run does not fit, either
    assert (kind, "report.html" in said) == ("OutputError", True)
    manifest = (folder / "late/manifest.ecsv").read_text()
    assert manifest.count("File too large") == 12
    assert not list((folder / "late/targets").glob("*/*"))
    assert start(config)[1:] == [True, 12]
    assert tree(folder / "late") == tree(folder / "whole")
