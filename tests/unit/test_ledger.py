"""The coordinator's books in bytes: they say what dicts and deques of everything would."""

from collections import deque
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from producer.ledger import Ledger
from producer.waiting import Waiting
from producer.work import Cut


def cuts() -> list[Cut]:
    """A plan of five shards of two tasks, and a retry of three, with a finished round between them."""
    numbers = np.array([0, 1, 0, 0, 1], np.int8)
    first = Cut(digest="a", first=0, rows=np.array([5, 4, 3, 2, 1]), tasks=("text", "image"), task_numbers=numbers)
    return [first, Cut(digest="b", first=9, rows=np.array([10, 20, 30]), is_retry=True, tasks=("text",))]


SHARDS = [0, 1, 2, 3, 4, 9, 10, 11]
ROWS = dict(zip(SHARDS, [5, 4, 3, 2, 1, 10, 20, 30], strict=True))
TASKS = {1: "image", 4: "image"}


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.just("mark"), st.sampled_from(SHARDS))
        | st.tuples(st.just("unmark"), st.sampled_from(SHARDS))
        | st.tuples(st.just("count"), st.sampled_from(SHARDS), st.integers(0, 3))
        | st.tuples(st.just("list"), st.sets(st.sampled_from([*SHARDS, 6, 50])))
    )
)
def test_sums_are_those_of_all_shards(steps: list[tuple[Any, ...]]) -> None:
    """After any marks, reports and listings each sum is what adding up anew gives."""
    ledger, there, failed = Ledger(cuts()), set[int](), dict[int, int]()

    for step in steps:
        if step[0] == "mark":
            assert ledger.mark(step[1]) == (step[1] not in there)
            there.add(step[1])
        elif step[0] == "unmark":
            ledger.unmark(step[1])
            if step[1] in there:
                there.remove(step[1])
                failed.pop(step[1], None)
        elif step[0] == "count":
            ledger.count_failed(step[1], step[2])
            failed[step[1]] = step[2]
        else:
            found = step[1] & ROWS.keys()
            new, gone, uncounted = ledger.compare(step[1])
            assert (set(new), set(gone)) == (found - there, there - found)
            assert {shard for shard in SHARDS if shard in uncounted} == found - failed.keys()
            there |= found

    assert (ledger.shards, ledger.rows, ledger.published) == (8, 75, len(there))
    assert ledger.rows_done == sum(ROWS[shard] for shard in there)
    assert ledger.failed == sum(rows for shard, rows in failed.items() if shard in there)
    of_manifest = [shard for shard in there if shard < 5]
    assert ledger.of_manifest == (sum(failed.get(s, 0) for s in of_manifest), sum(ROWS[s] for s in of_manifest))
    left = [TASKS.get(shard, "text") for shard in SHARDS if shard not in there]
    assert ledger.left() == {"text": left.count("text"), "image": left.count("image")}
    assert [shard for shard in range(60) if shard in ledger] == SHARDS


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(["pop", "append", "appendleft", "extendleft", "clear"]), max_size=30),
    st.lists(st.integers(0, 4), max_size=3),
)
def test_shards_wait_in_the_order_of_a_deque(steps: list[str], fills: list[int]) -> None:
    """Whatever is put in front or behind, and taken."""
    waiting, expected = Waiting(), deque[int]()
    for size in fills:
        shards = np.arange(len(expected), len(expected) + size)
        waiting.fill(shards)
        expected.extend(shards.tolist())

    for number, step in enumerate(steps, start=100):
        if step == "pop":
            assert bool(waiting) == bool(expected)
            if expected:
                assert waiting.popleft() == expected.popleft()
        elif step == "extendleft":
            waiting.extendleft([number, number + 50])
            expected.extendleft([number, number + 50])
        else:
            words = () if step == "clear" else (number,)
            getattr(waiting, step)(*words)
            getattr(expected, step)(*words)

    assert [waiting.popleft() for _ in range(len(expected))] == list(expected)
    assert not waiting
