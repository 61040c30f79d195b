"""How fast a finished job is verified, and in how much memory: `python -m bench.verify_rows ROWS DIM [FOLDER]`."""

import resource
import sys
import tempfile
import time
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa

from producer.finish import finish_job
from producer.verify import verify_job
from schemas.job import JobRecord, JobSpec, KeptColumn
from schemas.rows import ManifestRow, Modality
from schemas.shard import Footer
from schemas.space import Space
from storage.jobs import Job, create_job, now
from storage.plans import PlanReader, PlanWriter
from storage.shards import FAILURES_SCHEMA, ShardOutput, content_sha256, publish
from storage.store import LocalStore

_ROWS_A_SHARD = 2048
_KEEP = (KeptColumn(name="label"),)
_DIGEST = "0" * 64


def row(number: int) -> ManifestRow:
    text = f"row {number} of a manifest whose texts are a sentence or two, as texts are, long enough to matter"
    return ManifestRow(
        id=f"r{number:08d}", line=number + 1, modality=Modality.TEXT, text=text, kept=(f"l{number % 9}",)
    )


def planned_job(folder: Path, rows: int, dim: int) -> Job:
    store = LocalStore(folder)
    with PlanWriter(_KEEP) as writer:
        for first in range(0, rows, _ROWS_A_SHARD):
            numbers = range(first, min(rows, first + _ROWS_A_SHARD))
            writer.add_shard(Modality.TEXT, [row(n) for n in numbers], float(len(numbers)))
        plan = writer.publish(store)
    spec = JobSpec(manifest="/rows", manifest_sha256=_DIGEST, model="hash", model_digest=_DIGEST, keep=_KEEP)
    space = Space(model_digest=_DIGEST, dim=dim)
    return create_job(
        store, JobRecord(id="bench-12345678", created_at=now(), spec=spec, space=space, plan=plan, versions={})
    )


def publish_all(job: Job) -> None:
    """Publish every shard with made-up vectors."""
    record, reader, rng = job.record, PlanReader(job.store, job.record.plan), np.random.default_rng(1)
    for shard in reader.shards():
        table = reader.read_table(shard)
        ids = table["id"].to_pylist()
        vectors = {"embedding": rng.standard_normal((len(ids), record.space.dim), np.float32)}
        footer = Footer(
            job=job.id,
            plan=record.plan.digest,
            shard=shard,
            attempt=uuid.uuid4().hex[:16],
            space=record.space.digest,
            modality="text",
            model="hash",
            rows_planned=len(ids),
            rows_ok=len(ids),
            vectors=len(ids),
            failures={},
            content_sha256=content_sha256(ids, vectors),
            worker="bench",
            versions={},
            space_fields=record.space.fields(),
        )
        usage: dict[str, list[float | None]] = {name: [9] * len(ids) for name in ("tokens_in", "tokens_used")}
        kept = pa.table({"label": table["keep.label"]})
        failures = FAILURES_SCHEMA.empty_table()
        publish(
            job.store,
            ShardOutput(footer=footer, ids=ids, vectors=vectors, usage=usage, kept=kept, failures=failures),
        )


def main() -> None:
    rows, dim = int(sys.argv[1]), int(sys.argv[2])
    with tempfile.TemporaryDirectory(dir=sys.argv[3] if len(sys.argv) > 3 else None) as folder:
        job = planned_job(Path(folder) / "out", rows, dim)
        publish_all(job)
        finish_job(job)
        started, cpu = time.monotonic(), time.process_time()
        verdict = verify_job(job)
        seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    size = sum(file.size for file in verdict.digests.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(verdict.lines(job.id)[0])
    print(f"{seconds:.1f} s, {cpu:.1f} s of CPU: {rows / seconds:,.0f} rows/s, {size / seconds / 1e6:,.0f} MB/s")
    print(f"{peak:.0f} MiB at most, making the job included")


if __name__ == "__main__":
    main()
