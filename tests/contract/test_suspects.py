"""What every board of suspects promises: Redis and the memory twin."""

from collections.abc import Iterator

import pytest
import redis

from schemas.failures import Failure, FailureCode, Stage
from schemas.queues import CLIENT_OPTIONS, client_url
from tests.servers import redis_server
from workers.suspects import MemorySuspects, RedisSuspects, SuspectBoard

JOB = "job-12345678"


@pytest.fixture(params=["redis", "memory"])
def board(request: pytest.FixtureRequest) -> Iterator[SuspectBoard]:
    if request.param == "memory":
        yield MemorySuspects()
        return
    with redis_server() as server, redis.Redis.from_url(client_url(server.url), **CLIENT_OPTIONS) as client:
        yield RedisSuspects(client)


def test_suspects_add_up_over_deaths(board: SuspectBoard) -> None:
    """Each death adds its rows; another shard's, and those of the sample of int8 ranges, are others."""
    board.suspect(JOB, 7, [3, 1])
    board.suspect(JOB, 7, [3, 5])
    board.suspect(JOB, 7, [])
    board.suspect(JOB, -1, [9])

    assert board.suspects(JOB, 7) == {1, 3, 5}
    assert board.suspects(JOB, -1) == {9}
    assert board.suspects(JOB, 8) == set()


def test_what_came_of_a_row_is_remembered_whole(board: SuspectBoard) -> None:
    """Code, stage and message come back as they were, whatever the message holds."""
    failure = Failure(code=FailureCode.PROCESS_TIMEOUT, stage=Stage.FORWARD, message='alone: "no answer" within 5 s é')

    board.condemn(JOB, 7, 3, failure)

    assert board.condemned(JOB, 7) == {3: failure}
    assert board.condemned(JOB, 8) == {}
