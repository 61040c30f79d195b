"""A snapshot of a job: its rounds and the names of its files, all of one moment, though the job may be under way."""

from dataclasses import dataclass, field

from schemas.errors import EmbedmillError
from schemas.job import PlanRecord, plan_from_json
from storage import layout
from storage.jobs import Job


@dataclass(slots=True, kw_only=True)
class Snapshot:
    """What there was when a look at the job began."""

    rounds: list[PlanRecord] = field(default_factory=list)
    ended: frozenset[int] = frozenset()  # numbers of rounds that have a manifest
    data: set[str] = field(default_factory=set)  # keys below data/
    failures: set[str] = field(default_factory=set)  # keys below failures/
    problems: list[str] = field(default_factory=list)


def take_snapshot(job: Job) -> Snapshot:
    """Look until nothing has begun or ended meanwhile: a round that ended has all its shards, and a shard its round."""
    while True:
        before = _milestones(job)
        data = {item.key for item in job.store.walk(layout.DATA)}
        failures = {item.key for item in job.store.walk(layout.FAILURES)}
        if _milestones(job) == before:
            numbers, ended = before
            snapshot = Snapshot(ended=frozenset(ended), data=data, failures=failures)
            _read_rounds(job, numbers, snapshot)
            return snapshot


def _milestones(job: Job) -> tuple[list[int], list[int]]:
    """The numbers of the retries that were planned, and of the rounds that ended."""
    numbers = sorted(n for item in job.store.walk(layout.PLAN) if (n := layout.round_of(item.key)) is not None)
    possible = [0, *numbers, max([0, *numbers]) + 1]
    return numbers, [n for n in possible if job.store.size(layout.manifest_key(n)) is not None]


def _read_rounds(job: Job, numbers: list[int], snapshot: Snapshot) -> None:
    snapshot.rounds.append(job.record.plan)
    for number in numbers:
        key = layout.retry_key(number)
        try:
            plan = plan_from_json(job.store.get(key))
        except EmbedmillError as err:
            snapshot.problems.append(f"{key}: {err}")
            continue
        last = snapshot.rounds[-1]
        if (plan.round, plan.first_shard) != (last.round + 1, last.last_shard + 1) or plan.round != number:
            snapshot.problems.append(f"{key} is not the retry after round {last.round}; another was put there, or lost")
        snapshot.rounds.append(plan)
    for number in sorted(snapshot.ended - {0, *numbers}):
        snapshot.problems.append(f"{layout.manifest_key(number)} is there and {layout.retry_key(number)} is not")
