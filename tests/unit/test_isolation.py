"""What a process for rows that are tried alone says, and what is heard of it."""

import io

import numpy as np
import pytest

from workers.embedding import Embedded
from workers.isolation import heard, said_of

SAID = said_of(7, Embedded(np.ones((2, 3), np.float32), [{"tokens_in": 4}, {"tokens_in": 5}]))


def test_an_outcome_is_heard_whole_or_not_at_all() -> None:
    """A process that dies while it says its vectors has said nothing of that row."""
    for cut in range(len(SAID)):
        assert heard(io.BytesIO(SAID[:cut])) is None

    whole = heard(io.BytesIO(SAID))

    assert whole is not None
    assert (whole[0]["row"], len(whole[1])) == (7, 24)


@pytest.mark.parametrize("garbage", [b"Loading weights...\n", b"3\n", b"[1]\n", b"\xff\n", b"\n"])
def test_garbage_ends_the_talk(garbage: bytes) -> None:
    """What a library prints into the pipe is no answer, and is never waited on."""
    assert heard(io.BytesIO(garbage)) is None
