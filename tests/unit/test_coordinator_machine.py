"""The coordinator in virtual time, under faults: no promise breaks, and coordinators that are broken are found."""

import os
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from producer.board import Board
from producer.coordinator import Coordinator, _Lane
from producer.work import Work
from schemas.errors import BrokerError, Stopped
from schemas.rows import Modality
from schemas.shard import ShardReport
from storage import layout
from storage.shards import read_failures, read_shard
from tests.coordinator_machine import Blueprint, World, draw_blueprint, machine, quiet, run
from tests.virtual_worker import real_attempt

RUNS = 500
REAL_RUNS = 12
#: Runs within which a broken coordinator must be found.
PATIENCE = 1500


@pytest.fixture(scope="module")
def blueprint() -> Blueprint:
    quiet()
    return draw_blueprint()


@pytest.fixture(scope="module")
def seed() -> int:
    return int(os.environ.get("EMBEDMILL_TEST_SEED", random.randrange(10**6)))


def test_no_sequence_of_faults_breaks_a_promise(blueprint: Blueprint) -> None:
    """Hypothesis finds none: nothing published changes, nothing is sent in vain, every job ends."""
    profile = settings(
        max_examples=200,
        stateful_step_count=40,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )

    run_state_machine_as_test(machine(blueprint), settings=profile)


def test_random_runs_break_no_promise(blueprint: Blueprint, seed: int) -> None:
    """Other faults at each call: `python -m bench.coordinator_model --runs 1 --seed SEED` shows one that breaks any."""
    print(f"seed {seed}")

    for n in range(RUNS):
        done = run(blueprint, seed + n)

        assert not done.broken, (done.seed, done.broken, done.steps)


def test_the_real_shards_are_whole(blueprint: Blueprint, seed: int) -> None:
    """The real `embed_shard`, left or killed between any two calls: each row has one outcome in the end."""
    print(f"seed {seed}")

    for n in range(REAL_RUNS):
        done = run(blueprint, seed + n, attempt=real_attempt, afterwards=_require_every_row)

        assert not done.broken, (done.seed, done.broken, done.steps)


def _require_every_row(world: World) -> None:
    """Every planned row is in its shard's file, or among the failures that the file names; none is in both."""
    for job in world.jobs.values():
        for digest in set(world.blueprint.plans[job.id].values()):
            for shard in (plan := world.blueprint.readers[digest]).shards():
                footer, ids, _, _ = read_shard(job.store, layout.data_key(Modality.TEXT, shard))
                failed = read_failures(job.store, shard, footer.attempt)["id"].to_pylist()
                assert sorted(ids + failed) == [row.id for row in plan.read_rows(shard)]
                assert footer.plan == digest


# Coordinators that are broken on purpose.


class NeverResends(Coordinator):
    """What is lost stays lost."""

    def _resend_lost(self, leased: set[int]) -> None: ...


class BelievesReports(Coordinator):
    """All reported is all done."""

    def _try_to_list(self) -> str:
        return "" if self._done else super()._try_to_list()


class ForgetsLeases(Coordinator):
    """What a worker works on is sent again."""

    def __init__(self, work: Work, *, board: Board, **others: Any) -> None:
        board.leased = lambda job, shards: set()  # type: ignore[method-assign]
        super().__init__(work, board=board, **others)


class LosesWhatItCouldNotSend(Coordinator):
    """When Redis refuses a batch, the batch is forgotten."""

    def _send(self, lane: _Lane, room: int) -> None:
        try:
            super()._send(lane, room)
        except BrokerError:
            lane.waiting.clear()
            raise


class SendsWhatIsPublished(Coordinator):
    """It does not look whether a shard is there before it sends it."""

    def _is_wanted(self, shard: int) -> bool:
        return shard not in self._sent


class HasNoWindow(Coordinator):
    """All goes on the queue at once."""

    def _send(self, lane: _Lane, room: int) -> None:
        super()._send(lane, 1_000_000)


class LosesWhatMoves(Coordinator):
    """A shard that is too large for its device is taken off its queue, and put on none."""

    def _move_up(self, report: ShardReport) -> None:
        self._sent.pop(report.shard, None)


class KeepsStaleCancellations(Coordinator):
    """A job that was taken up again stays cancelled for the workers."""

    def _list_store(self) -> None:
        super()._list_store()
        self._recall_cancel = False


class StopsAtTheFirstError(Coordinator):
    """It gives up where trying again would do."""

    def _count_error(self, report: ShardReport) -> None:
        raise Stopped(f"stopped: shard {report.shard} failed")


@pytest.mark.parametrize(
    ("coordinator", "promise"),
    [
        (NeverResends, "not all jobs ended"),
        (BelievesReports, "said to be done"),
        (ForgetsLeases, "though a worker holds it"),
        (LosesWhatItCouldNotSend, "not all jobs ended"),
        (SendsWhatIsPublished, "though a listing showed it"),
        (HasNoWindow, "messages at once"),
        (LosesWhatMoves, "not all jobs ended"),
        (KeepsStaleCancellations, "not all jobs ended"),
        (StopsAtTheFirstError, "without cause"),
    ],
)
def test_a_broken_coordinator_is_found(
    blueprint: Blueprint, seed: int, coordinator: type[Coordinator], promise: str
) -> None:
    """Each of these breaks a promise within some hundred runs, and the machine names it."""
    print(f"seed {seed}")

    runs = (run(blueprint, seed + n, coordinator=coordinator) for n in range(PATIENCE))
    broken = next((done.broken for done in runs if done.broken), "")

    assert promise in broken
