"""Jobs in a store: created once, opened by anyone."""

import datetime
import json
from dataclasses import dataclass

from schemas.errors import Conflict, NotFound, SpecMismatch
from schemas.job import JobRecord, PlanRecord, plan_from_json, plan_to_json
from storage import layout
from storage.plans import PlanReader
from storage.store import Store


@dataclass(frozen=True, slots=True)
class Job:
    """A job's record and the store it lives in."""

    store: Store
    record: JobRecord

    @property
    def id(self) -> str:
        return self.record.id

    def rounds(self) -> list[PlanRecord]:
        """The first plan and those of the retries, in order."""
        numbers = sorted(n for item in self.store.walk(layout.PLAN) if (n := layout.round_of(item.key)) is not None)
        return [self.record.plan, *(plan_from_json(self.store.get(layout.retry_key(n))) for n in numbers)]

    def plan(self, digest: str) -> PlanReader:
        """The plan with that digest; raises Conflict where the job has none."""
        for plan in [self.record.plan] if digest == self.record.plan.digest else self.rounds():
            if plan.digest == digest:
                return self.reader(plan)
        raise Conflict(f"job {self.id} has no plan {digest[:12]}; the message is of another job at the same place")

    def reader(self, plan: PlanRecord) -> PlanReader:
        """The shards of one of its plans."""
        return PlanReader(self.store, plan)

    def is_finished(self, plan: PlanRecord) -> bool:
        return self.store.size(layout.manifest_key(plan.round)) is not None

    def has_ended(self) -> bool:
        """Whether the first plan and every retry's is finished."""
        return all(map(self.is_finished, self.rounds()))

    def is_cancelled(self) -> bool:
        return self.store.size(layout.CANCELLED) is not None


def open_job(store: Store) -> Job:
    """The job in `store`; raises SpecMismatch where there is none."""
    try:
        return Job(store, JobRecord.from_json(store.get(layout.JOB)))
    except NotFound as err:
        how = "`embedmill run MANIFEST --model MODEL --out OUT` makes one"
        raise SpecMismatch(f"{store.url} holds no job: there is no {layout.JOB}; {how}") from err


def find_job(store: Store) -> Job | None:
    """The job in `store`, or None."""
    return open_job(store) if store.size(layout.JOB) is not None else None


def create_job(store: Store, record: JobRecord) -> Job:
    """Pin `record`; where someone was first with the same spec and plan, theirs is the job.

    Raises SpecMismatch when theirs differs.
    """
    if store.create(layout.JOB, record.to_json()):
        return Job(store, record)
    winner = open_job(store)
    if winner.record.plan.digest != record.plan.digest or winner.record.spec != record.spec:
        raise SpecMismatch(f"{store.url} holds another job: {'; '.join(winner.record.spec.differences(record.spec))}")
    return winner


def add_round(job: Job, plan: PlanRecord) -> None:
    """Pin the plan of a retry; raises Conflict when another retry took its number first."""
    key, data = layout.retry_key(plan.round), plan_to_json(plan)
    if not job.store.create(key, data) and job.store.get(key) != data:  # else ours, whose reply was lost
        raise Conflict(f"another retry of {job.id} began at the same moment; look at `embedmill status`")


def write_stopped(job: Job, why: str) -> None:
    """Say in the store why the job stopped, for `status` and `watch`."""
    if not job.is_cancelled():
        job.store.replace(layout.STOPPED, json.dumps({"why": why}).encode() + b"\n")


def now() -> str:
    """The time, UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
