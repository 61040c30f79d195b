"""What every board promises: Redis and the memory twin."""

from collections.abc import Callable, Iterator

import pytest
import redis

from producer.board import Board, MemoryBoard, RedisBoard
from producer.broker import require_safe
from schemas import queues
from schemas.errors import BrokerError
from schemas.message import ShardMessage
from schemas.presence import WorkerPresence
from schemas.queues import task_name
from schemas.rows import Modality
from schemas.shard import ShardReport
from tests.servers import redis_server
from tests.virtual_redis import VirtualBoard, VirtualQueue, VirtualRedis
from tests.virtual_store import Faults

JOB = "job-12345678"
REPORT = ShardReport(shard=3, plan="p", outcome="published", worker="w", rows_ok=5)
WORKER = WorkerPresence(name="w0", host="here", pid=1, device="cpu", queues=("embed.text.cpu",))


class Side:
    """A board, and what workers do to it."""

    def __init__(self, board: Board, work: dict[str, Callable[[], object]]) -> None:
        self.board, self.work = board, work


@pytest.fixture(params=["redis", "memory", "virtual"])
def side(request: pytest.FixtureRequest) -> Iterator[Side]:
    if request.param == "memory":
        memory = MemoryBoard()
        yield Side(
            memory,
            {
                "report": lambda: memory.said.append(REPORT),
                "lease": lambda: memory.held.add((JOB, 3)),
                "wait": lambda: memory.waiting.update({"embed.text.cpu": 2}),
                "live": lambda: memory.present.append(WORKER),
            },
        )
        return
    if request.param == "virtual":
        virtual = VirtualRedis(lambda: 0.0, Faults())
        message = ShardMessage(job=JOB, shard=3, plan="p")
        yield Side(
            VirtualBoard(virtual),
            {
                "report": lambda: virtual.report(JOB, REPORT),
                "lease": lambda: virtual.acquire(JOB, 3, "w", 20.0),
                "wait": lambda: VirtualQueue(virtual).send(task_name(Modality.TEXT), "cpu", [message, message]),
                "live": lambda: virtual.announce(WORKER),
            },
        )
        return
    with redis_server() as server:
        client = redis.Redis.from_url(queues.client_url(server.url), **queues.CLIENT_OPTIONS)
        yield Side(
            RedisBoard(server.url),
            {
                "report": lambda: client.rpush(queues.reports_key(JOB), REPORT.to_json()),
                "lease": lambda: client.set(queues.lease_key(JOB, 3), "w"),
                "wait": lambda: client.rpush(queues.depth_key("embed.text.cpu"), "a", "b"),
                "live": lambda: client.set(queues.worker_key("w0"), WORKER.to_json()),
            },
        )


def test_reports_are_read_once(side: Side) -> None:
    """A report is returned by one call and gone for the next."""
    side.work["report"]()

    assert side.board.reports(JOB) == [REPORT]
    assert side.board.reports(JOB) == []


def test_leased_shards_are_seen(side: Side) -> None:
    """Only shards that a worker holds are leased."""
    side.work["lease"]()

    assert side.board.leased(JOB, [2, 3, 4]) == {3}
    assert side.board.leased(JOB, []) == set()


def test_waiting_messages_are_counted(side: Side) -> None:
    """An unknown queue is empty."""
    side.work["wait"]()

    assert side.board.depth("embed.text.cpu") == 2
    assert side.board.depth("embed.image.cpu") == 0


def test_live_workers_are_seen(side: Side) -> None:
    """A worker's presence names its queues."""
    assert side.board.workers() == []

    side.work["live"]()

    assert side.board.workers() == [WORKER]


def test_a_claim_is_renewed(side: Side) -> None:
    """The coordinator that drives a job may say so again and again."""
    assert side.board.claim(JOB, "/somewhere")
    assert side.board.claim(JOB, "/somewhere")


def test_submitted_jobs_are_remembered_until_struck_off(side: Side) -> None:
    """A submitted job is found with its location."""
    side.board.submit(JOB, "/somewhere")

    assert side.board.submitted() == {JOB: "/somewhere"}

    side.board.strike_off(JOB)

    assert side.board.submitted() == {}


def test_what_is_none_of_ours_is_passed_over() -> None:
    """Junk on our keys, and a newer worker's fields, cost no coordinator its life."""
    newer = WORKER.to_json()[:-1] + ',"shoe_size":46}'
    with redis_server() as server:
        client = redis.Redis.from_url(queues.client_url(server.url), **queues.CLIENT_OPTIONS)
        board = RedisBoard(server.url)
        for n, junk in enumerate(["junk", "[]", "{}", '{"queues": 5}', newer]):
            client.set(queues.worker_key(f"j{n}"), junk)
        for junk in ["junk", "[1]", "{}", '{"shard": [1], "plan": "p", "outcome": "published", "worker": "w"}']:
            client.rpush(queues.reports_key(JOB), junk)
        client.rpush(queues.reports_key(JOB), REPORT.to_json())

        assert board.workers() == [WORKER]
        assert board.reports(JOB) == [REPORT]


def test_a_url_that_is_none_is_refused_without_its_password() -> None:
    """Whatever the password holds, no part of it is in the message."""
    for url in ("redis://:pa/ss@host:1/0", "redis://:p@ss@host:x/0", "amqp://:pass@host"):
        with pytest.raises(BrokerError) as caught:
            RedisBoard(require_safe(url, insecure=True)).workers()

        assert "ss@" not in str(caught.value)
        assert "pa/" not in str(caught.value)


def test_two_coordinators_do_not_drive_one_job() -> None:
    """The second to claim a job is told so, until the first gives up."""
    with redis_server() as server:
        first, second = RedisBoard(server.url), RedisBoard(server.url)

        assert first.claim(JOB, "/somewhere")
        assert not second.claim(JOB, "/somewhere")

        first.give_up(JOB)

        assert second.claim(JOB, "/somewhere")


def test_an_unreachable_redis_is_one_clear_error() -> None:
    """The error names the address, without its password."""
    board = RedisBoard("redis://:secret@127.0.0.1:1/0")

    with pytest.raises(BrokerError, match=r"127\.0\.0\.1:1.*cannot be reached") as caught:
        board.workers()

    assert "secret" not in str(caught.value)
