"""Zombies: workers that were given up for dead while they held a shard, and come back."""

import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from chaos.proxy import Proxy
from schemas.rows import Modality
from tests.floor import Floor, check_published, hash_job, said_in, through_port, worker
from tests.mill import kill
from tests.servers import redis_server, wait_for

#: A shard that takes the slow worker six seconds, and one that takes it less than one.
SIZES = [10, 1]
#: What the quick worker listens to: what is sent here reaches no other.
QUICK = Modality.IMAGE
LEASES = 3


@dataclass(frozen=True)
class Pair:
    """A slow worker behind a proxy, whose shard a quick one can be given."""

    url: str  # of the Redis
    root: Path  # that both may touch
    proxy: Proxy
    log: Path  # of the slow one


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Started once for all tests here; each test has a job of its own."""
    root = tmp_path_factory.mktemp("zombies")
    log = root / "slow.log"
    with (
        redis_server() as broker,
        Proxy(broker.folder / "broker.sock") as proxy,
        worker(through_port(broker.url, proxy.port), root, delay_ms=600, log=log),
        worker(broker.url, root, queue=f"embed.{QUICK}.cpu"),
    ):
        Floor(hash_job(root / "none", SIZES), broker.url).wait_for_workers(2)
        yield Pair(broker.url, root, proxy, log)


@pytest.fixture
def floor(pair: Pair) -> Floor:
    """A job of the test's own."""
    return Floor(hash_job(Path(tempfile.mkdtemp(dir=pair.root)), SIZES), pair.url)


def test_a_stopped_worker_that_wakes_up_has_lost(pair: Pair, floor: Floor) -> None:
    """SIGSTOP for three leases: another does its shard; woken up it publishes nothing, and takes the next."""
    floor.send(0)
    zombie = floor.wait_for_lease(0)

    with stopped(floor.pids(zombie)):
        _another_does(floor)

    _check_lost(pair, floor, zombie)


@pytest.mark.parametrize("both_ways", [True, False])
def test_a_worker_cut_off_from_redis_has_lost(pair: Pair, floor: Floor, both_ways: bool) -> None:
    """Three leases without Redis, or without its replies, and the store in reach: as if it had been stopped."""
    floor.send(0)
    zombie = floor.wait_for_lease(0)

    pair.proxy.silence(up=both_ways)
    _another_does(floor)
    pair.proxy.heal()

    _check_lost(pair, floor, zombie)


@contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    """These processes stand still for the length of a `with`."""
    for pid in pids:
        kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            kill(pid, signal.SIGCONT)


def _another_does(floor: Floor) -> None:
    """The lease runs out, the shard is sent again and published, and three leases have passed."""
    floor.wait_for_no_lease(0)
    floor.send(0, queue=QUICK)
    floor.wait_for(0)
    floor.leases_pass(LEASES - 1)


def _check_lost(pair: Pair, floor: Floor, zombie: str) -> None:
    """The zombie says that it lost, what is published is the other's, and it works on."""
    first = floor.author(0)
    wait_for(lambda: said_in(pair.log, floor.job, 0), timeout_s=60, what="the zombie's end")
    floor.send(1)
    floor.wait_for(1)
    assert said_in(pair.log, floor.job, 0) == ["lost"]
    assert (floor.author(0), first != zombie) == (first, True)
    assert floor.author(1) == zombie
    check_published(floor.job, SIZES)
    assert not list(floor.job.store.walk("_tmp"))
