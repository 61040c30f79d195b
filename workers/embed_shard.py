"""One shard, from its message to its published file."""

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from schemas.columns import usage_columns
from schemas.failures import Failure, FailureCode, one_line
from schemas.message import ShardMessage
from schemas.model_cards import Kind
from schemas.recipe import OutputType, vector_column
from schemas.rows import Modality, PairRow
from schemas.settings import Settings
from schemas.shard import Footer, ShardEntry, ShardReport
from schemas.spent import Spent, Step
from storage.plans import kept_schema
from storage.scores import SCORE, joined_in, ranks
from storage.shards import FAILURES_SCHEMA, Published, ShardOutput, content_sha256, is_published, publish
from workers.batching import Cancelled
from workers.embedding import Embedded, Origin
from workers.fetch_failure import shown_uri
from workers.isolation import AloneTask
from workers.lease import HeldLease, LeaseBoard, lease
from workers.planned_work import Row, planned_rows
from workers.quantising import quantised

if TYPE_CHECKING:
    from workers.runtime import OpenJob

#: Failures that a sick device makes too: before they are believed, the canary is looked at.
_OF_THE_MODEL = frozenset(
    {
        FailureCode.PREPROCESS_FAILED,
        FailureCode.FORWARD_FAILED,
        FailureCode.VECTOR_NOT_FINITE,
        FailureCode.VECTOR_ZERO,
        FailureCode.VECTOR_SHAPE,
        FailureCode.SCORE_NOT_FINITE,
    }
)

_VERSIONED = (
    "embedmill",
    "sentence-transformers",
    "transformers",
    "torch",
    "numpy",
    "pillow",
    "soundfile",
    "soxr",
    "av",
)

Outcome = Embedded | Failure

#: Whether the shard, which holds a row too large for this device, was handed to a larger one.
Hand = Callable[[ShardEntry, str], bool]


class Stopwatch:
    """Seconds by stage; what `while_in` measures adds up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def while_in(self, stage: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.monotonic() - started, 4)


def embed_shard(
    job: "OpenJob",
    message: ShardMessage,
    *,
    leases: LeaseBoard,
    settings: Settings,
    hand_over: Hand = lambda entry, reason: False,
    moved: str = "",
) -> ShardReport:
    """Work on one shard unless it is published, cancelled or another worker's; publish it; say what happened.

    `moved` is why the shard came to a device of this size.
    """
    entry = job.plan(message.plan).entry(message.shard)
    store, clock = job.job.store, Stopwatch()

    def report(outcome: str, footer: Footer | None = None, size: int = 0) -> ShardReport:
        return ShardReport(
            shard=entry.shard,
            plan=message.plan,
            outcome=outcome,
            worker=settings.worker_name,
            size=settings.size,
            rows_ok=footer.rows_ok if footer else 0,
            rows_failed=footer.rows_failed if footer else 0,
            file_bytes=size,
            seconds=clock.seconds,
        )

    if is_published(store, entry.modality, entry.shard):
        return report("skipped")
    with lease(leases, message.job, entry.shard, settings.worker_name, settings.lease_s) as held:
        if held is None:
            return report("busy")
        if job.job.is_cancelled():
            raise Cancelled
        with clock.while_in("read"), job.meter.while_in(Step.READ):
            table = job.plan(message.plan).read_table(entry.shard)
        rows = planned_rows(job.job.record.spec, table, entry.modality)
        with clock.while_in("load"), job.meter.while_in(Step.LOAD_MODEL):
            job.make_ready()
        with clock.while_in("encode"):
            task = AloneTask(location=job.location, job=message.job, plan=message.plan, shard=entry.shard, rows=())
            outcomes = job.care.embed(
                job, task, rows, deaths=held.deaths, settings=settings, should_stop=partial(_should_stop, held, job)
            )
            with job.meter.while_in(Step.CHECK):
                _look_at_canary(job, outcomes, settings.canary_s)
        too_large = sum(1 for o in outcomes if isinstance(o, Failure) and o.code is FailureCode.TOO_LARGE)
        if too_large and hand_over(entry, f"rows too large for {settings.size}, even alone: {too_large}"):
            return report("too_large")
        with clock.while_in("write"), job.meter.while_in(Step.WRITE), _measured(job) as spent:
            output = _output(job, entry, message, table, rows, outcomes, settings, moved, spent)
            outcome, size = publish(store, output)
            if outcome is Published.LOST:
                job.meter.give_back(spent)
        return report(outcome, output.footer, size)


@contextlib.contextmanager
def _measured(job: "OpenJob") -> Iterator[Spent]:
    """What was measured for a shard that is published now; where that fails it is not forgotten."""
    spent = job.meter.take()
    try:
        yield spent
    except BaseException:
        job.meter.give_back(spent)
        raise


def _should_stop(held: HeldLease, job: "OpenJob") -> bool:
    crumb = job.care.crumb
    return held.stop.is_set() or (crumb is not None and crumb.must_leave)


def _look_at_canary(job: "OpenJob", outcomes: list[Outcome], every_s: float) -> None:
    """Raise WorkerUnfit where the model does not give what it gave when it was loaded."""
    suspicious = any(isinstance(outcome, Failure) and outcome.code in _OF_THE_MODEL for outcome in outcomes)
    canary = job.canary()
    if canary is not None and (suspicious or canary.is_due(every_s)):
        canary.check()


def _output(
    job: "OpenJob",
    entry: ShardEntry,
    message: ShardMessage,
    table: pa.Table,
    rows: Sequence[Row],
    outcomes: list[Outcome],
    settings: Settings,
    moved: str,
    spent: Spent,
) -> ShardOutput:
    record, attempt = job.job.record, uuid.uuid4().hex[:16]
    good = [(i, outcome) for i, outcome in enumerate(outcomes) if isinstance(outcome, Embedded)]
    at = [i for i, embedded in good for _ in embedded.vectors]  # the row of each vector
    failures = [(row, f) for row, f in zip(rows, outcomes, strict=True) if isinstance(f, Failure)]
    codes = [str(f.code) for _, f in failures]
    ids = [rows[i].id for i in at]
    vectors = _vector_columns(job, [embedded.vectors for _, embedded in good])
    kept = _kept(job, table, at)
    usage = _usage_columns(job, [usage for _, embedded in good for usage in embedded.usage])
    footer = Footer(
        job=record.id,
        plan=message.plan,
        shard=entry.shard,
        attempt=attempt,
        space=record.space.digest,
        modality=str(entry.modality),
        model=record.spec.model,
        rows_planned=len(rows),
        rows_ok=len(good),
        vectors=len(at),
        failures={code: codes.count(code) for code in sorted(set(codes))},
        content_sha256=content_sha256(ids, vectors),
        worker=settings.worker_name,
        versions=library_versions(),
        space_fields=record.space.fields(),
        device=settings.device,
        moved=moved,
        int8_ranges=job.ranges_sha256,
        notes=_notes(job, entry.modality),
        equal=sum(1 for _, embedded in good if embedded.origin is Origin.EQUAL),
        reused=sum(1 for _, embedded in good if embedded.origin is Origin.REUSED),
        spent=spent,
    )
    contents = [embedded.content for _, embedded in good for _ in embedded.vectors]
    return ShardOutput(
        ranks=_ranks(job, message, ids, vectors, kept),
        footer=footer,
        ids=ids,
        vectors=vectors,
        usage=usage,
        contents=contents if record.spec.content_hashes else None,
        kept=kept,
        failures=_failures_table(failures, entry.modality, entry.shard, attempt),
    )


def _vector_columns(job: "OpenJob", vectors: list[np.ndarray]) -> dict[str, np.ndarray]:
    """The vectors in each type that was asked for, by the name of their column."""
    recipe, dim = job.job.record.space.recipe, job.job.record.space.dim
    all_of_them = np.concatenate(vectors) if vectors else np.empty((0, dim), np.float32)
    if job.job.record.spec.kind is Kind.RERANK:
        return {SCORE: all_of_them}
    return {
        vector_column(recipe.outputs, output): quantised(all_of_them, output, job.ranges) for output in recipe.outputs
    }


def _ranks(
    job: "OpenJob", message: ShardMessage, ids: list[str], vectors: dict[str, np.ndarray], kept: pa.Table
) -> list[int | None] | None:
    """Ranks of pairs: null in a retry, for the other items of its queries are published with theirs already."""
    rerank = job.job.record.spec.rerank
    if rerank is None:
        return None
    if job.plan(message.plan).plan.round:
        return [None] * len(ids)
    return list(ranks(ids, vectors[SCORE], joined_in(kept), rerank.band))


def _usage_columns(job: "OpenJob", usage: list[dict[str, float]]) -> dict[str, list[float | None]]:
    if job.job.record.spec.kind is Kind.RERANK:
        return {}
    names = usage_columns(job.job.record.spec.takes, job.job.record.space.recipe)
    return {name: [told.get(name) for told in usage] for name in names}


def _notes(job: "OpenJob", modality: Modality) -> tuple[str, ...]:
    """What a reader of the file should know of how its vectors came about."""
    recipe, notes = job.job.record.space.recipe, []
    rerank = job.job.record.spec.rerank
    if rerank is not None:
        notes.append(f"scores are the model's, through {job.scorer().activation}")
    if rerank is not None and rerank.band is not None:
        low, high = rerank.band
        notes.append(f"only pairs with a join score from {low:g} to {high:g} are scored, the others keep their places")
    if modality is Modality.VIDEO and recipe.films_as_frames:
        notes.append("the model takes no film: each vector is the mean of the vectors of its frames")
    if modality in (Modality.AUDIO, Modality.MIXED) and recipe.audio_window_s:
        notes.append(f"sounds over {recipe.audio_window_s:g} s are the mean of the vectors of equal windows")
    if OutputType.INT8 in recipe.outputs:
        notes.append("int8: value = low + (level + 128) / 255 * (high - low), ranges in plan/int8-ranges.json")
    return tuple(notes)


def _kept(job: "OpenJob", table: pa.Table, at: list[int]) -> pa.Table:
    schema = kept_schema(job.job.record.spec.keep)
    return pa.table([table[f"keep.{name}"].take(pa.array(at, pa.int64())) for name in schema.names], schema=schema)


def _failures_table(failures: list[tuple[Row, Failure]], modality: Modality, shard: int, attempt: str) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "id": row.id,
                "line": row.line,
                "modality": str(modality),
                "code": str(failure.code),
                "stage": str(failure.stage),
                "message": failure.message,
                "retryable": failure.retryable,
                "uri": _uri(row),
                "shard": shard,
                "attempt": attempt,
            }
            for row, failure in failures
        ],
        FAILURES_SCHEMA,
    )


def _uri(row: Row) -> str | None:
    sides = (row.query, row.item) if isinstance(row, PairRow) else (row,)
    uris = [uri for side in sides for uri in (side.uri, *(part.uri for part in side.parts)) if uri is not None]
    return one_line(" ".join(map(shown_uri, uris))) if uris else None


@cache
def library_versions() -> dict[str, str]:
    """The versions of what can change a vector's last bits: read once, for it takes longer than a small shard."""
    return {name: version(name) for name in _VERSIONED}
