"""One shard, from its message to its published file."""

import contextlib
import time
import uuid
from collections.abc import Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from schemas.errors import Refused
from schemas.failures import Failure, one_line
from schemas.message import ShardMessage
from schemas.redaction import redact
from schemas.rows import ManifestRow, Modality
from schemas.settings import Settings
from schemas.shard import Footer, ShardEntry, ShardReport
from storage.plans import kept_schema, rows_of
from storage.shards import FAILURES_SCHEMA, ShardOutput, content_sha256, is_published, publish
from workers.batching import Cancelled, encode_batches
from workers.lease import LeaseBoard, lease
from workers.loading import Loaded, load_all

if TYPE_CHECKING:
    from workers.runtime import OpenJob

#: Pixels that are held decoded, in front of the device, at a time (192 MB of RGB).
_CHUNK_PIXELS = 64_000_000
_CHUNK_ITEMS = 16_384
#: A shard in whose middle so many processes died is not tried again.
MAX_DEATHS = 10

Outcome = np.ndarray | Failure


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


def embed_shard(job: "OpenJob", message: ShardMessage, *, leases: LeaseBoard, settings: Settings) -> ShardReport:
    """Work on one shard unless it is published, cancelled or another worker's; publish it; say what happened."""
    entry = job.plan(message.plan).entry(message.shard)
    store, clock = job.job.store, Stopwatch()

    def report(outcome: str, footer: Footer | None = None, size: int = 0) -> ShardReport:
        return ShardReport(
            shard=entry.shard,
            plan=message.plan,
            outcome=outcome,
            worker=settings.worker_name,
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
        if held.deaths >= MAX_DEATHS:
            raise Refused(f"the worker's process died {held.deaths} times in the middle of this shard: a row kills it")
        with clock.while_in("read"):
            table = job.plan(message.plan).read_table(entry.shard)
        rows = rows_of(table, entry.modality)
        with clock.while_in("encode"):
            outcomes = list(_outcomes(job, rows, settings, held.stop.is_set))
        with clock.while_in("write"):
            output = _output(job, entry, message, table, rows, outcomes, settings.worker_name)
            outcome, size = publish(store, output)
        return report(outcome, output.footer, size)


def _outcomes(job: "OpenJob", rows: list[ManifestRow], settings: Settings, should_stop: object) -> Iterator[Outcome]:
    """A vector or a failure for each row, in order; decoded media are held a chunk at a time."""
    assert callable(should_stop)
    loaded = (outcome for _, outcome in load_all(job.loader, rows, settings.load_threads))
    for chunk in _chunks(loaded):
        items = [item for item in chunk if isinstance(item, Loaded)]
        vectors = iter(
            encode_batches(
                job.encoder, items, budget=job.budget, max_items=settings.batch_items, should_stop=should_stop
            )
        )
        for item in chunk:
            yield item if isinstance(item, Failure) else next(vectors)


def _chunks(loaded: Iterator[Loaded | Failure]) -> Iterator[list[Loaded | Failure]]:
    chunk: list[Loaded | Failure] = []
    pixels = 0
    for item in loaded:
        chunk.append(item)
        if isinstance(item, Loaded) and item.image is not None:
            pixels += item.image.width * item.image.height
        if pixels >= _CHUNK_PIXELS or len(chunk) >= _CHUNK_ITEMS:
            yield chunk
            chunk, pixels = [], 0
    if chunk:
        yield chunk


def _output(
    job: "OpenJob",
    entry: ShardEntry,
    message: ShardMessage,
    table: pa.Table,
    rows: list[ManifestRow],
    outcomes: list[Outcome],
    worker: str,
) -> ShardOutput:
    record, attempt = job.job.record, uuid.uuid4().hex[:16]
    good = [i for i, outcome in enumerate(outcomes) if not isinstance(outcome, Failure)]
    rows_ok = [outcome for outcome in outcomes if not isinstance(outcome, Failure)]
    vectors = np.stack(rows_ok) if rows_ok else np.empty((0, record.space.dim), np.float32)
    ids = [rows[i].id for i in good]
    failures = [(row, f) for row, f in zip(rows, outcomes, strict=True) if isinstance(f, Failure)]
    codes = [str(f.code) for _, f in failures]
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
        failures={code: codes.count(code) for code in sorted(set(codes))},
        content_sha256=content_sha256(ids, vectors),
        worker=worker,
        versions=library_versions(),
        space_fields=record.space.fields(),
    )
    return ShardOutput(
        footer=footer,
        ids=ids,
        vectors=vectors,
        kept=_kept(job, table, good),
        failures=_failures_table(failures, entry.modality, entry.shard, attempt),
    )


def _kept(job: "OpenJob", table: pa.Table, good: list[int]) -> pa.Table:
    schema = kept_schema(job.job.record.spec.keep)
    return pa.table([table[f"keep.{name}"].take(pa.array(good, pa.int64())) for name in schema.names], schema=schema)


def _failures_table(
    failures: list[tuple[ManifestRow, Failure]], modality: Modality, shard: int, attempt: str
) -> pa.Table:
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
                "uri": None if row.uri is None else one_line(redact(row.uri)),
                "shard": shard,
                "attempt": attempt,
            }
            for row, failure in failures
        ],
        FAILURES_SCHEMA,
    )


def library_versions() -> dict[str, str]:
    """The versions of what can change a vector's last bits."""
    return {name: version(name) for name in ("embedmill", "sentence-transformers", "transformers", "torch", "pillow")}
