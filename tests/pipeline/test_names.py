import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galprep_dask.pipeline.names import file_names, safe_name

HOSTILE = [
    "../../x", "/abs", "a" * 300, "🌌 galaxy", "a b", "", "   ", ".", "..", "-rf", "CON", "a/b\\c", "a\0b", "a\nb",
    "~root", "$(x)", "\u202egnp.exe", "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_become_plain_files(name, tmp_path):
    safe = safe_name(name)
    assert re.fullmatch(r"[A-Za-z0-9+][A-Za-z0-9+._-]*", safe)
    assert len(safe) <= 80
    path = tmp_path / f"{safe}.fits"
    path.write_text("")
    assert path.resolve().parent == tmp_path.resolve()
    assert path.resolve().name == path.name


@given(st.lists(st.text(), min_size=2, max_size=12, unique=True))
def test_different_names_never_share_a_file(names):
    files = file_names(names, [(1.0, 2.0)] * len(names))
    assert len({name.casefold() for name in files}) == len(names)
    assert all(Path(name).name == name for name in files)


def test_names_do_not_depend_on_the_order_of_the_list():
    names = ["a", "A", "b", "a", "a b", "a_b"]
    positions = [(float(k), 0.0) for k in range(len(names))]
    expected = dict(zip(positions, file_names(names, positions), strict=True))
    for seed in range(5):
        order = random.Random(seed).sample(range(len(names)), len(names))
        shuffled = [positions[k] for k in order]
        assert file_names([names[k] for k in order], shuffled) == [expected[p] for p in shuffled]


def test_ordinary_names_are_kept():
    names = ["NGC_1052", "J003515.16+084859.9", "42"]
    assert file_names(names, [(0.0, 0.0)] * 3) == names
