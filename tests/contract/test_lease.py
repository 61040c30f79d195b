"""What every lease board promises: Redis and the memory twin."""

from collections.abc import Iterator
from typing import Protocol

import pytest
import redis

from schemas.queues import CLIENT_OPTIONS, cancel_key, client_url, lease_key
from tests.servers import redis_server, wait_for
from tests.virtual_redis import VirtualRedis
from tests.virtual_store import Faults
from workers.lease import LeaseBoard, MemoryLeases, RedisLeases, lease

JOB = "job-12345678"


class Side(Protocol):
    """A board and the ways to do to it what time and users do."""

    @property
    def board(self) -> LeaseBoard: ...

    def expire(self) -> None: ...

    def cancel(self) -> None: ...


class RedisSide:
    def __init__(self, url: str) -> None:
        self.client = redis.Redis.from_url(client_url(url), **CLIENT_OPTIONS)
        self.board = RedisLeases(self.client)

    def expire(self) -> None:
        self.client.delete(lease_key(JOB, 7))

    def cancel(self) -> None:
        self.client.set(cancel_key(JOB), "1")


class MemorySide:
    def __init__(self) -> None:
        self.board = MemoryLeases()

    def expire(self) -> None:
        self.board.expire(JOB, 7)

    def cancel(self) -> None:
        self.board.cancelled.add(JOB)


class VirtualSide:
    def __init__(self) -> None:
        self.board = VirtualRedis(lambda: 0.0, Faults())

    def expire(self) -> None:
        self.board.leases.clear()

    def cancel(self) -> None:
        self.board.cancelled.add(JOB)


@pytest.fixture(params=["redis", "memory", "virtual"])
def side(request: pytest.FixtureRequest) -> Iterator[Side]:
    if request.param != "redis":
        yield MemorySide() if request.param == "memory" else VirtualSide()
        return
    with redis_server() as server:
        yield RedisSide(server.url)


def test_a_held_shard_is_refused_to_others(side: Side) -> None:
    """While one worker holds the lease, another does not get it."""
    with lease(side.board, JOB, 7, "one", 30) as mine, lease(side.board, JOB, 7, "two", 30) as theirs:
        assert mine is not None
        assert theirs is None


def test_a_released_shard_is_free(side: Side) -> None:
    """After the first worker is done, another gets the lease."""
    with lease(side.board, JOB, 7, "one", 30):
        pass

    with lease(side.board, JOB, 7, "two", 30) as theirs:
        assert theirs is not None


def test_a_worker_takes_its_own_old_lease(side: Side) -> None:
    """A worker whose child died gets the shard again at once."""
    side.board.acquire(JOB, 7, "one", 30)

    assert side.board.acquire(JOB, 7, "one", 30)


def test_only_the_holder_releases(side: Side) -> None:
    """A worker that lost its lease does not give away another's."""
    side.board.acquire(JOB, 7, "one", 30)

    side.board.release(JOB, 7, "two")

    assert not side.board.acquire(JOB, 7, "two", 30)


def test_a_lease_that_expired_is_free(side: Side) -> None:
    """What the dead held, the living get."""
    side.board.acquire(JOB, 7, "one", 30)
    side.expire()

    assert side.board.acquire(JOB, 7, "two", 30)


def test_a_holder_hears_of_a_cancelled_job(side: Side) -> None:
    """The heartbeat tells the worker to stop."""
    with lease(side.board, JOB, 7, "one", 0.3) as held:
        assert held is not None
        side.cancel()

        wait_for(held.stop.is_set, timeout_s=10, what="the heartbeat to see the cancellation")


def test_a_holder_hears_that_another_took_over(side: Side) -> None:
    """A worker that was frozen past its lease stops when it finds another at work."""
    with lease(side.board, JOB, 7, "one", 0.3) as held:
        assert held is not None
        wait_for(lambda: taken_over(side), timeout_s=10, what="the take-over")

        wait_for(held.stop.is_set, timeout_s=10, what="the heartbeat to see the other worker")


def test_without_redis_work_goes_on() -> None:
    """An unreachable Redis costs at most double work: the lease is granted, and says so in the log."""
    nowhere = redis.Redis.from_url("redis://127.0.0.1:1/0", **CLIENT_OPTIONS)

    with lease(RedisLeases(nowhere), JOB, 7, "one", 30) as held:
        assert held is not None


def taken_over(side: Side) -> bool:
    """Let the lease run out and try to be the next to take it."""
    side.expire()
    return side.board.acquire(JOB, 7, "two", 30)
