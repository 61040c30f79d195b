"""Duplicate ids are found exactly, however many ids there are."""

import random
import tracemalloc

import numpy as np
import pytest

from storage.duplicates import DuplicateFinder


def found_by_dictionary(ids: list[str]) -> list[list[int]]:
    first: dict[str, int] = {}
    return [[n, first[item]] for n, item in enumerate(ids) if first.setdefault(item, n) != n]


def test_no_ids_have_no_duplicates() -> None:
    """An empty finder finds an empty int64 array."""
    found = DuplicateFinder().duplicates()

    assert found.dtype == np.int64
    assert found.tolist() == []


def test_every_line_but_the_first_is_a_duplicate() -> None:
    """Each is told with the line that used the id first."""
    ids = DuplicateFinder()
    for line, item in [(3, "a"), (4, "b"), (9, "a"), (10, "é"), (12, "b"), (20, "a")]:
        ids.add(item, line)

    assert ids.duplicates().tolist() == [9, 12, 20]
    assert ids.duplicate_pairs().tolist() == [[9, 3], [12, 4], [20, 3]]


def test_ids_may_be_added_after_a_look() -> None:
    """Looking does not forget anything."""
    ids = DuplicateFinder()
    ids.add("a", 1)
    before = ids.duplicates().tolist()

    ids.add("a", 2)

    assert before == []
    assert ids.duplicates().tolist() == [2]


@pytest.mark.parametrize("seed", [1, 2])
def test_duplicates_over_many_blocks_are_those_of_a_dictionary(seed: int) -> None:
    """Ids that return in another block of the file are found, and no others."""
    rng = random.Random(seed)
    ids = [f"id-{rng.randrange(2_000_000)}" for _ in range(400_000)]
    finder = DuplicateFinder()
    for line, item in enumerate(ids):
        finder.add(item, line)

    found = finder.duplicate_pairs()

    assert found.tolist() == found_by_dictionary(ids)


def test_memory_does_not_grow_with_the_ids() -> None:
    """600,000 ids take no more memory than a quarter of them."""
    ids = DuplicateFinder()
    tracemalloc.start()
    peaks = []
    for part in range(4):
        tracemalloc.reset_peak()
        for n in range(150_000):
            ids.add(f"{part}-{n}", n)
        peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()

    assert len(ids.duplicates()) == 0
    assert peaks[3] < peaks[0] * 1.2
