import threading
import time

import numpy as np
import pytest
from concurrency import run_together

from galprep_dask.io.unpacked import Unpacked

IMAGE = np.arange(40.0).reshape(8, 5)
ALL = slice(0, 5)


class Unpacking:
    """Gives rows of the image, and counts how often."""

    def __init__(self):
        self.regions = []

    def __call__(self, rows):
        self.regions.append((rows.start, rows.stop))
        return IMAGE[rows].copy()


@pytest.fixture
def unpack():
    return Unpacking()


def read(unpacked, unpack, y, x=ALL, around=None, image="a"):
    rows = slice(y.start // 4 * 4, -(-y.stop // 4) * 4) if around is None else around
    return unpacked.read(image, (y, x), (rows, ALL), lambda: unpack(rows))


def test_what_lies_in_a_kept_box_is_not_unpacked_again(unpack):
    unpacked = Unpacked(10_000)
    for y, x in ((slice(1, 3), slice(0, 2)), (slice(0, 4), slice(2, 5)), (slice(3, 4), slice(1, 2))):
        np.testing.assert_array_equal(read(unpacked, unpack, y, x), IMAGE[y, x])
    assert unpack.regions == [(0, 4)]
    np.testing.assert_array_equal(read(unpacked, unpack, slice(3, 5)), IMAGE[3:5])  # sticks out of it
    np.testing.assert_array_equal(read(unpacked, unpack, slice(4, 8)), IMAGE[4:])
    assert unpack.regions == [(0, 4), (0, 8)]
    read(unpacked, unpack, slice(4, 8), image="b")
    assert unpack.regions[2:] == [(4, 8)]


def test_those_used_last_are_kept_within_the_bound(unpack):
    unpacked = Unpacked(2 * 4 * 5 * 8)  # two boxes of four rows
    images = ["a", "b", "a", "c", "a", "b"]
    for image in images:
        read(unpacked, unpack, slice(0, 4), image=image)
    assert len(unpack.regions) == 4  # a, b, c in place of b, b again
    read(unpacked, unpack, slice(0, 8), image="large")  # as much as may be kept: all others go
    read(unpacked, unpack, slice(0, 8), image="large")
    read(unpacked, unpack, slice(0, 4))
    assert len(unpack.regions) == 6
    few = Unpacked(10_000, n_boxes=2)
    for image in images:
        read(few, unpack, slice(0, 4), image=image)
    assert len(unpack.regions) == 10


def test_more_than_the_bound_is_given_and_not_kept(unpack):
    unpacked = Unpacked(100)
    for _ in range(2):
        np.testing.assert_array_equal(read(unpacked, unpack, slice(2, 4)), IMAGE[2:4])
    assert len(unpack.regions) == 2


def test_threads_that_want_the_same_tiles_unpack_them_once():
    unpacked, calls = Unpacked(10_000), []

    def slowly(rows):
        calls.append(threading.get_ident())
        time.sleep(0.05)  # the others come meanwhile
        return IMAGE[rows].copy()

    for found in run_together(lambda: read(unpacked, slowly, slice(1, 3))):
        np.testing.assert_array_equal(found, IMAGE[1:3])
    assert len(calls) == 1


def test_a_failure_is_raised_and_the_next_tries_again(unpack):
    unpacked = Unpacked(10_000)

    def damaged(rows):
        raise OSError("damaged")

    for _ in range(2):
        with pytest.raises(OSError, match="damaged"):
            read(unpacked, damaged, slice(1, 3))
    np.testing.assert_array_equal(read(unpacked, unpack, slice(1, 3)), IMAGE[1:3])


def test_what_is_kept_cannot_be_written_to(unpack):
    found = read(Unpacked(10_000), unpack, slice(1, 3))
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 0
