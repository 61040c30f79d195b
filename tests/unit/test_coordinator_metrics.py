"""What a coordinator's `/metrics` shows, whatever befalls it."""

from collections.abc import Iterable

from prometheus_client import generate_latest

from producer.board import MemoryBoard
from producer.coordinator_metrics import coordinator_registry
from producer.foreman import Foreman
from schemas.errors import BrokerError
from schemas.message import ShardMessage
from schemas.presence import WorkerPresence


class Nowhere:
    """A queue that nobody reads."""

    def send(self, task: str, size: str, messages: Iterable[ShardMessage]) -> None: ...


def away() -> list[WorkerPresence]:
    raise BrokerError("redis://nowhere cannot be reached")


def test_a_scrape_while_redis_is_away_shows_what_is_known() -> None:
    """All but the workers, of whom nobody can tell: an alert must not fire for a number that is none."""
    foreman = Foreman((), board=MemoryBoard(), queue=Nowhere(), say=print)

    shown = generate_latest(coordinator_registry(foreman, away)).decode()

    assert "embedmill_jobs 0.0" in shown
    assert "embedmill_queue_workers{" not in shown
