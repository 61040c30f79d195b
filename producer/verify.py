"""Verify: the proof, from the store alone, that each row has exactly one outcome and that no bit has changed."""

from functools import partial
from typing import Any

from producer.end_proof import as_listed, prove_end
from producer.plan_proof import PlanProof
from producer.read_ahead import read_ahead
from producer.shard_proof import DAMAGE, ShardProof, first_line, prove_shard
from producer.snapshot import Snapshot, take_snapshot
from producer.unsettled import Unsettled
from producer.verdict import Verdict
from schemas.errors import EmbedmillError, NotFound, Refused
from schemas.job import PlanRecord
from schemas.model_cards import Kind
from schemas.redaction import redact
from storage import layout
from storage.jobs import Job, open_job
from storage.parquet_seal import check_seal
from storage.shards import unpack
from storage.store import Store


def verify_store(store: Store) -> tuple[Job | None, Verdict]:
    """The job in `store` and the verdict on it; no job where its record cannot be read.

    Raises Refused where there is no job to speak of.
    """
    if store.size(layout.JOB) is None:
        left = [layout.manifest_key(0)] if store.size(layout.manifest_key(0)) is not None else []
        left += [item.key for item in store.walk(layout.DATA) if layout.shard_of(item.key) is not None]
        if not left:
            raise Refused(
                f"{redact(store.url)} holds no job: there is no {layout.JOB}; give the folder that --out named"
            )
        return None, _wrong(f"there is no {layout.JOB}, and there is {left[0]}; restore it")
    try:
        job = open_job(store)
    except (EmbedmillError, ValueError) as err:
        return None, _wrong(first_line(err))
    return job, verify_job(job)


def _wrong(problem: str) -> Verdict:
    verdict = Verdict()
    verdict.blame(problem)
    return verdict


def verify_job(job: Job) -> Verdict:
    """Read every byte of the job, a file at a time, and compare it with the plan."""
    snapshot = take_snapshot(job)
    verdict = Verdict(plans=snapshot.rounds, made="vectors" if job.record.spec.kind is Kind.EMBED else "scores")
    for problem in snapshot.problems:
        verdict.blame(problem)
    plans, account = PlanProof(job, snapshot, verdict), _Account(verdict)
    prove = partial(prove_shard, job, plans.ranges_sha256())
    for plan in snapshot.rounds:
        account.begin(plan)
        for proof in read_ahead(prove, plans.shards(plan)):
            account.take(proof)
    verdict.unended = tuple(_round_name(plan) for plan in snapshot.rounds if plan.round not in snapshot.ended)
    _find_strangers(job, snapshot, account, plans.unreadable, verdict)
    account.close()
    prove_end(job, snapshot, account.listed, verdict)
    return verdict


def _round_name(plan: PlanRecord) -> str:
    return f"retry {plan.round}" if plan.round else "the job"


class _Account:
    """Adds up the shards: each planned row is a vector, a failure, or missing."""

    def __init__(self, verdict: Verdict) -> None:
        self._verdict, self._unsettled, self._round = verdict, Unsettled(), 0
        self.listed: dict[str, dict[str, Any]] = {}  # what manifests must say of each published shard
        self.failures: set[str] = set()  # keys of the failures that count
        self.seen: set[str] = set()  # keys of shards

    def begin(self, plan: PlanRecord) -> None:
        self._round = plan.round
        self._unsettled.begin_round()
        if plan.round == 0:
            self._verdict.rows = plan.rows

    def take(self, proof: ShardProof) -> None:
        verdict, footer = self._verdict, proof.footer
        self.seen.add(proof.task.key)
        verdict.files += 1
        verdict.note(*proof.files)
        for problem in proof.problems:
            verdict.blame(problem)
        if footer is None:
            return
        self.listed[proof.task.key] = as_listed(proof)
        if footer.rows_failed:
            self.failures.add(layout.failures_key(footer.shard, footer.attempt))
        verdict.rows_ok += proof.rows_ok
        verdict.vectors += proof.vectors
        for name, version in footer.versions.items():
            verdict.versions.setdefault(name, set()).add(version)
        if self._round and proof.task.planned is not None:
            unknown = self._unsettled.settle(proof.task.planned["id"].to_pylist())
            if unknown:
                verdict.blame(f"{proof.task.key}: {unknown} of its rows had no failure that could be done again")
        self._unsettled.add(proof.failed, proof.codes)

    def close(self) -> None:
        verdict = self._verdict
        verdict.failures_by_code = self._unsettled.by_code()
        if verdict.ok and verdict.rows_ok + verdict.failures + verdict.missing != verdict.rows:
            verdict.blame(
                f"{verdict.rows} rows were planned, and {verdict.rows_ok} with vectors, {verdict.failures} failures "
                f"and {verdict.missing} missing rows do not add up to them"
            )


def _find_strangers(job: Job, snapshot: Snapshot, account: _Account, unreadable: list[range], verdict: Verdict) -> None:
    """Whatever lies below data/ or failures/ is read by those who glob it: nothing but ours may."""
    for key in sorted(snapshot.data - account.seen):
        shard = layout.shard_of(key)
        if shard is None:
            verdict.blame(f"{key} is no shard of this job, and readers take it for one; remove it")
        elif not any(shard in shards for shards in unreadable):
            verdict.blame(f"{key}: this shard is in no plan of this job, and readers take it for one; remove it")
    for key in sorted(snapshot.failures - account.failures):
        if layout.attempt_of(key) is None:
            verdict.blame(f"{key} is no file of this job, and readers take it for failures; remove it")
        else:
            _check_attempt(job, key, verdict)


def _check_attempt(job: Job, key: str, verdict: Verdict) -> None:
    """Failures of an attempt that has not published: it may be at work, or have been second, and is no problem."""
    try:
        data = job.store.get(key)
        _, problem = check_seal(data, key)
        if problem:
            verdict.blame(problem)
            return
        footer, _, _ = unpack(data, key)
    except NotFound:
        return  # its attempt was second, and has tidied up
    except DAMAGE as err:
        verdict.blame(first_line(err))
        return
    if (footer.job, layout.failures_key(footer.shard, footer.attempt)) != (job.id, key):
        verdict.blame(f"{key} holds failures of shard {footer.shard} of job {footer.job}: it was moved here; remove it")
