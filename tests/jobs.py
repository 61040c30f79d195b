"""Small jobs for tests: planned by hand, embedded by the hash encoder."""

from schemas.job import JobRecord, JobSpec, KeptColumn
from schemas.rows import ManifestRow, Modality
from schemas.space import Space
from storage.jobs import Job, create_job, now
from storage.plans import PlanWriter
from storage.store import Store

DIGEST = "0" * 64
DIM = 16


def text_rows(count: int, *, first: int = 0) -> list[ManifestRow]:
    """Rows with ids in order."""
    return [
        ManifestRow(id=f"r{n:06d}", line=n + 1, modality=Modality.TEXT, text=f"text number {n}", kept=(f"k{n}",))
        for n in range(first, first + count)
    ]


def planned_job(
    store: Store,
    shards: list[list[ManifestRow]],
    *,
    root: str = "",
    model_digest: str = DIGEST,
    job_id: str = "job-12345678",
    costs: list[float] | None = None,
) -> Job:
    """A job with these shards, for the model `hash`; a row costs a token where `costs` says nothing else."""
    keep = (KeptColumn(name="label"),)
    with PlanWriter(keep) as writer:
        for n, rows in enumerate(shards):
            writer.add_shard(rows[0].modality, rows, float(len(rows)) if costs is None else costs[n])
        plan = writer.publish(store)
    spec = JobSpec(
        manifest="/rows.jsonl",
        manifest_sha256=DIGEST,
        model="hash",
        model_digest=model_digest,
        keep=keep,
        media_base=root,
        media_roots=(root,) if root else (),
    )
    space = Space(model_digest=model_digest, dim=DIM)
    return create_job(store, JobRecord(id=job_id, created_at=now(), spec=spec, space=space, plan=plan, versions={}))
