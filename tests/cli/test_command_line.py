"""What all commands have in common: help, examples, JSON, errors, completion, progress, interrupts."""

import json
import os
import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from astropy.io import fits
from command_line import Terminal, galprep, write_field
from concurrency import run_fresh

from galprep_dask.cli import app

#: Run over a field of their own, in tests of their own.
ELSEWHERE = {"run", "report"}

COMMANDS = {command.callback.__name__: command for command in app.registered_commands}
EXAMPLES = {
    name: re.findall(r"^  (galprep .*)$", command.epilog or "", re.MULTILINE) for name, command in COMMANDS.items()
}
GUIDE = (Path(__file__).parents[2] / "docs" / "user_guide" / "command_line.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """Run all examples of the help texts and of the user guide, each once and in order, in one folder."""
    folder = tmp_path_factory.mktemp("field")
    write_field(folder)
    lines = [line for name in COMMANDS if name not in ELSEWHERE for line in EXAMPLES[name]]
    lines += re.findall(r"^\$ (galprep .*)$", GUIDE, re.MULTILINE)
    ran = {}
    for example in dict.fromkeys(lines):
        ran[example] = galprep(*shlex.split(example)[1:], cwd=folder)
        for cut in (folder / "cutouts").glob("middle.fits"):
            (folder / "cut.fits").write_bytes(cut.read_bytes())  # for the examples of validate
            cut.unlink()
    return folder, ran


# Help -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_described_and_has_examples(name):
    assert EXAMPLES[name]
    assert all(line.split()[1] == name for line in EXAMPLES[name])
    done = galprep(name, "--help", cwd=".")
    assert (done.status, done.err) == (0, "")
    for line in EXAMPLES[name]:
        assert f"    {line}\n" in done.out  # as it is to be typed, whatever the width
    command = typer.main.get_command(app).commands[name]
    for option in command.params:
        assert option.help, f"{name} {option.name}"


def test_examples_of_help_texts_and_user_guide_run(examples):
    _, ran = examples
    assert len(ran) > sum(map(len, EXAMPLES.values())) - 5
    for example, done in ran.items():
        assert (done.status, done.err) == (0, ""), (example, done)
        assert done.out, example


def test_options_that_commands_share_are_the_same():
    kinds = {}
    for name, command in typer.main.get_command(app).commands.items():
        for option in command.params:
            for spelling in option.opts:
                if spelling.startswith("--"):
                    kinds.setdefault(spelling, {}).setdefault(option.help, []).append(name)
    #: Where a word has one meaning as what is read and another as what is written, or its unit differs.
    different = {
        "--output", "--segmentation", "--size", "--targets", "--fwhm", "--box-size", "--psf", "--mask", "--sigma",
        "--sky-model",
    }  # fmt: skip
    assert {spelling for spelling, helps in kinds.items() if len(helps) > 1} <= different
    assert list(kinds["--n-sigma"].values()) == [["sky", "detect", "psf", "cutout"]]


def test_alone_it_shows_what_there_is_and_a_slip_gets_the_nearest_name():
    done = galprep(cwd=".")
    assert (done.status, done.out) == (2, "")
    for name in COMMANDS:
        assert f"\n  {name}" in done.err
    done = galprep("detekt", cwd=".")
    assert (done.status, done.out) == (2, "")
    assert done.err == "galprep: No such command 'detekt'. Did you mean 'detect'? See galprep --help.\n"
    done = galprep("sky", "a.fits", "-o", "b.fits", "--n-sigm", "3", cwd=".")
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "--n-sigma" in done.err


# Startup --------------------------------------------------------------------------------------------------

LOADED = """
import sys
from galprep_dask.cli import main
try:
    main([sys.argv[1]])
except SystemExit as end:
    assert not end.code
heavy = {"jax", "numba", "matplotlib", "astropy", "scipy", "photutils", "astroquery", "distributed", "zarr"}
print("loaded", sorted({name.partition(".")[0] for name in sys.modules} & heavy))
"""


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_load_nothing_heavy(option):
    assert run_fresh(LOADED, option).endswith("loaded []\n")


# Completion -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_of_shells(monkeypatch, shell):
    monkeypatch.setenv("_GALPREP_COMPLETE", f"source_{shell}")
    done = galprep(cwd=".")
    assert done.status == 0
    assert f"complete_{shell}" in done.out
    assert "galprep" in done.out
    if shell == "bash":
        assert subprocess.run(["bash", "-n"], input=done.out, text=True, check=False).returncode == 0

    def completed(*words):
        monkeypatch.setenv("_GALPREP_COMPLETE", f"complete_{shell}")
        monkeypatch.setenv("COMP_WORDS", " ".join(words))
        monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
        monkeypatch.setenv("_TYPER_COMPLETE_ARGS", " ".join(words))
        monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
        return galprep(cwd=".").out

    for name in COMMANDS:
        assert name in completed("galprep", "")
    assert "--segmentation" in completed("galprep", "psf", "--seg")
    assert "demo" not in completed("galprep", "psf", "--seg")


def test_completion_is_installed(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")  # there may be no shell above a test
    done = galprep("--install-completion", "bash", cwd=tmp_path)
    assert done.status in (0, None)
    assert "installed" in done.out
    script = tmp_path / ".bash_completions" / "galprep.sh"
    assert str(script) in (tmp_path / ".bashrc").read_text()
    assert "complete_bash" in script.read_text()


# JSON -----------------------------------------------------------------------------------------------------

AS_JSON = {
    "info": ["mosaic.fits"],
    "sky": ["image.fits", "-o", "j_sky.fits", "--model", "median"],
    "detect": ["mosaic_ss.fits", "-o", "j_sources.parquet"],
    "psf": ["mosaic.fits", "-o", "j_psf.fits", "--size", "31", "--degree", "0", "--at", "150,2", "--write-model",
            "j_model.fits", "--stars", "j_stars.fits"],
    "cutout": ["mosaic_ss.fits", "--ra", "150", "--dec", "2", "--no-sigma", "-o", "j_cutouts"],
    "validate": ["cut.fits"],
    "init": ["j_config.toml", "--band", "r=mosaic_r.fits"],
    "demo": ["--size", "300", "320", "--no-figures", "-o", "j_demo"],
}  # fmt: skip


def documented(name):
    """Keys of the object that a command prints, as the user guide lists them."""
    row = re.search(rf"^\| `{name}` \| (.*) \|$", GUIDE, re.MULTILINE)
    return re.findall(r"`(\w+)`", row[1])


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ELSEWHERE])
def test_json_is_one_object_with_the_documented_keys(examples, name):
    folder, _ = examples
    done = galprep(name, *AS_JSON[name], "--json", cwd=folder)
    assert (done.status, done.err, done.out.count("\n")) == (0, "", 1)

    def no_json(word):
        raise AssertionError(f"{word} is no JSON")

    told = json.loads(done.out, parse_constant=no_json)
    assert sorted(told) == sorted(documented(name))
    for file in told.get("files", []):
        assert (folder / file).is_file()
    if name == "demo":
        assert any(row["error"] is None for row in told["summary"])  # NaN in the table


# Errors ---------------------------------------------------------------------------------------------------

WRITING = {
    "sky": ["sky", "IMAGE", "--model", "median", "-o", "OUT/new.fits"],
    "detect": ["detect", "IMAGE", "-o", "OUT/new.fits"],
    "psf": ["psf", "IMAGE", "--psf", "psf.fits", "--at", "150,2", "-o", "OUT/new.fits"],
    "cutout": ["cutout", "IMAGE", "--ra", "150", "--dec", "2", "--no-sigma", "-o", "OUT"],
    "init": ["init", "OUT/new.toml", "--band", "r=IMAGE"],
    "demo": ["demo", "--size", "300", "320", "--no-figures", "-o", "OUT"],
}


def filled_in(arguments, image="image.fits", out="."):
    return [argument.replace("IMAGE", image).replace("OUT", out) for argument in arguments]


def assert_one_line_naming(done, *names):
    assert (done.status, done.out) == (2, ""), done
    assert done.err.startswith("galprep: ")
    assert done.err.count("\n") == 1, done.err
    for name in names:
        assert name in done.err


READING = {name: arguments for name, arguments in WRITING.items() if name != "demo"} | {"info": ["info", "IMAGE"]}


@pytest.mark.parametrize("name", READING)
def test_bad_images_are_a_line_and_status_2(examples, tmp_path, name):
    folder, _ = examples
    out = str(tmp_path)
    assert_one_line_naming(galprep(*filled_in(READING[name], "nowhere.fits", out), cwd=folder), "nowhere.fits")
    assert_one_line_naming(galprep(*filled_in(READING[name], "targets.ecsv", out), cwd=folder), "targets.ecsv")
    hdu = filled_in(READING[name], "mosaic.fits" if name != "init" else "mosaic.fits[7]", out)
    hdu += [] if name == "init" else ["--hdu", "7"]
    assert_one_line_naming(galprep(*hdu, cwd=folder), "mosaic.fits", "HDU 7")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_unknown_options_are_a_line_and_status_2(name):
    assert_one_line_naming(galprep(name, "--nonsense", cwd="."), "--nonsense", f"galprep {name} --help")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["sky", "mosaic.fits", "-o", "new.fits", "--model", "moon"], ("--model", "moon", "polynomial")),
        (["detect", "mosaic.fits", "-o", "new.fits", "--connectivity", "5"], ("connectivity=5",)),
        (["detect", "mosaic.fits", "-o", "new.fits", "--n-pixels", "0"], ("--n-pixels",)),
        (["psf", "mosaic.fits", "-o", "new.fits", "--crossmatch", "maybe"], ("--crossmatch", "maybe")),
        (["psf", "mosaic.fits", "-o", "new.fits", "--degree", "9"], ("--degree 9", "0 to 4")),
        (["psf", "mosaic.fits", "-o", "new.fits", "--at", "12h"], ("--at 12h", "RA,DEC")),
        (["psf", "mosaic.fits", "-o", "new.fits", "--x", "3"], ("--x and --y",)),
        (["psf", "mosaic.fits", "-o", "new.fits", "--psf", "psf.fits"], ("--at RA,DEC",)),
        (["cutout", "mosaic.fits", "-o", "new", "--sky-model", "moon"], ("--sky-model", "moon")),
        (["cutout", "mosaic.fits", "-o", "new"], ("--targets",)),
        (["cutout", "mosaic.fits", "-o", "new", "--ra", "1"], ("--dec",)),
        (["cutout", "mosaic.fits", "-o", "new", "--targets", "no.ecsv"], ("no.ecsv",)),
        (["cutout", "mosaic.fits", "-o", "new", "--ra", "150", "--dec", "2", "--psf", "no.fits"], ("no.fits",)),
        (["init", "new.toml", "--band", "r"], ("--band 'r'", "NAME=IMAGE")),
        (["init", "new.toml", "--targets", "no.ecsv"], ("no.ecsv",)),
        (["init", "new.toml", "--band", "a b=mosaic.fits"], ("bands[0].name",)),
        (["demo", "-o", "new", "--size", "3", "many"], ("--size", "integer")),
        (["demo", "-o", "new", "--size", "3", "4"], ("shape",)),
        (["validate", "--image"], ("--image",)),
    ],
)
def test_values_that_make_no_sense_are_status_2(examples, arguments, named):
    folder, _ = examples
    done = galprep(*arguments, cwd=folder)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("galprep: ")
    for name in named:
        assert name in done.err
    assert not list(folder.glob("new*.*"))


@pytest.mark.parametrize("name", WRITING)
def test_folders_that_cannot_be_written_to(examples, name):
    done = galprep(*filled_in(WRITING[name], out="/proc"), cwd=examples[0])
    assert_one_line_naming(done, "/proc")


@pytest.mark.parametrize("name", WRITING)
def test_full_disk_leaves_nothing_half_written(examples, tmp_path, name):
    folder, _ = examples
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2880, before[1]))
    try:
        done = galprep(*filled_in(WRITING[name], out=str(tmp_path)), cwd=folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_one_line_naming(done, str(tmp_path))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("name", [name for name in WRITING if name != "demo"])
def test_nothing_is_overwritten_unasked(examples, tmp_path, name):
    arguments = filled_in(WRITING[name], out=str(tmp_path))
    mine = tmp_path / {"cutout": "target.fits", "init": "new.toml"}.get(name, "new.fits")
    mine.write_text("mine")
    assert_one_line_naming(galprep(*arguments, cwd=examples[0]), str(mine), "--overwrite")
    assert mine.read_text() == "mine"
    assert galprep(*arguments, "--overwrite", cwd=examples[0]).status == 0
    assert mine.read_bytes() != b"mine"


# Progress and interrupts ----------------------------------------------------------------------------------


def test_progress_is_shown_on_a_terminal_and_nowhere_else(examples):
    folder, ran = examples
    arguments = ["sky", "image.fits", "-o", "shown.fits", "--model", "median", "--overwrite"]
    shown = galprep(*arguments, cwd=folder, err=Terminal())
    assert shown.status == 0
    for words in ("sky", "writing shown.fits", "100%", "\x1b["):
        assert words in shown.err
    assert "\x1b" not in shown.out
    quiet = galprep(*arguments, "--json", cwd=folder, err=Terminal())
    assert (quiet.status, quiet.err) == (0, "")
    for done in ran.values():
        assert "\x1b" not in done.out + done.err


#: Run a command that is interrupted, as by Ctrl-C, at the moment when it opens the file that it writes to.
INTERRUPTED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what is started in the background
sent = []
def interrupt(event, arguments):
    if event == "open" and str(arguments[0]).endswith(".part") and not sent:
        sent.append(True)
        os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(interrupt)
from galprep_dask.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize("name", ["sky", "cutout"])
def test_an_interrupt_is_status_130_and_leaves_nothing_half_written(examples, tmp_path, name):
    folder, _ = examples
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, *filled_in(WRITING[name], out=str(tmp_path))],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "galprep: interrupted.\n")
    for path in tmp_path.iterdir():  # a cutout that was nearly done may be finished
        assert path.suffix == ".fits"
        with fits.open(path, checksum=True) as hdus:
            hdus.verify("exception")
