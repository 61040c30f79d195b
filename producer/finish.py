"""The end of a job: manifest.json, stats.npz, views.sql and receipt.json, and what died on the way is swept."""

import hashlib
import io
import math
import re
import zipfile
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from producer.estimate import compared, read_estimate
from producer.job_receipt import JobReceipt, receipt_of, sealed_receipt
from producer.outcomes import Outcomes, PublishedFile, count_outcomes, published_files
from producer.read_ahead import read_ahead
from schemas.errors import StoreError
from schemas.job import PlanRecord
from schemas.model_cards import Kind
from schemas.recipe import OutputType, vector_column
from schemas.rerank import JOIN_SCORE
from schemas.sealed import seal_note, sealed, sealed_at_end
from storage import layout
from storage.jobs import Job, now
from storage.shards import unpack
from storage.store import LocalStore

FORMAT = 1


def finish_job(job: Job) -> None:
    """Write what stands at the end of a job, once every shard of every round is published; safe to repeat.

    Raises StoreError where a shard is missing.
    """
    rounds = [plan for plan in job.rounds() if not job.is_finished(plan)]
    if not rounds:
        return
    files = list(published_files(job))
    expected = {shard for plan in job.rounds() for shard in range(plan.first_shard, plan.last_shard + 1)}
    if {file.footer.shard for file in files} != expected or len(files) != len(expected):
        raise StoreError(f"{len(files)} of {len(expected)} shards are published; the job goes on when it is run again")
    _drop_losers(job, files)
    moments = Moments()
    described = list(_described(job, files, moments))
    job.store.replace(layout.STATS, sealed_at_end(_with_comment(moments.to_npz(), seal_note(job.id))))
    job.store.replace(layout.VIEWS, sealed_at_end(f"{views_sql(job)}-- {seal_note(job.id)}".encode()))
    receipt = receipt_of(job, (file.footer for file in files))
    outcomes = count_outcomes(job, files)
    if receipt is not None:
        told = outcomes.to_dict() | {"rounds": len(job.rounds())}
        job.store.replace(layout.RECEIPT, sealed_receipt(job, receipt, _beside_estimate(job, receipt, files), told))
    for plan in rounds:
        job.store.create(
            layout.manifest_key(plan.round),
            _manifest(job, plan, files, described, outcomes, with_receipt=receipt is not None),
        )
    if isinstance(job.store, LocalStore):
        job.store.sweep()


def _beside_estimate(job: Job, receipt: JobReceipt, files: list[PublishedFile]) -> dict[str, Any] | None:
    estimate = read_estimate(job)
    if estimate is None:
        return None
    return compared(estimate, receipt.whole.spent.seconds, sum(file.size for file in files))


class Moments:
    """Count, sum and norms of the vectors of each modality."""

    def __init__(self) -> None:
        self._sums: dict[str, np.ndarray] = {}
        self._norms: dict[str, list[np.ndarray]] = {}

    def add(self, modality: str, vectors: np.ndarray) -> None:
        if not len(vectors):
            return
        total = vectors.sum(axis=0, dtype=np.float64)
        self._sums[modality] = self._sums.get(modality, 0.0) + total
        norms = np.linalg.norm(vectors, axis=1)
        row = np.array([[len(norms), norms.sum(dtype=np.float64), norms.min(), norms.max()]])
        self._norms.setdefault(modality, []).append(row)

    def to_npz(self) -> bytes:
        """Arrays `<modality>_count`, `_mean` (dim,), `_norm_mean`, `_norm_min`, `_norm_max`."""
        arrays: dict[str, np.ndarray] = {}
        for modality, total in self._sums.items():
            parts = np.concatenate(self._norms[modality])
            count = parts[:, 0].sum()
            arrays[f"{modality}_count"] = np.array(count, np.int64)
            arrays[f"{modality}_mean"] = total / count
            arrays[f"{modality}_norm_mean"] = parts[:, 1].sum() / count
            arrays[f"{modality}_norm_min"] = parts[:, 2].min()
            arrays[f"{modality}_norm_max"] = parts[:, 3].max()
        sink = io.BytesIO()
        np.savez(sink, allow_pickle=False, **arrays)
        return sink.getvalue()


def _with_comment(archive: bytes, comment: str) -> bytes:
    """A zip file with a comment at its end, which its readers pass over."""
    sink = io.BytesIO(archive)
    with zipfile.ZipFile(sink, "a") as file:
        file.comment = comment.encode()
    return sink.getvalue()


def _described(job: Job, files: list[PublishedFile], moments: Moments) -> Iterator[dict[str, object]]:
    """Each file with the sha256 of its bytes; one pass over the data, a few files at a time."""
    for file, (digest, vectors) in zip(files, read_ahead(partial(_read, job), files), strict=True):
        moments.add(file.footer.modality, vectors)
        yield {
            "key": file.key,
            "rows": file.footer.rows_ok,
            "failures": file.footer.rows_failed,
            "bytes": file.size,
            "sha256": digest,
            "attempt": file.footer.attempt,
        }


def _read(job: Job, file: PublishedFile) -> tuple[str, np.ndarray]:
    data = job.store.get(file.key)
    _, vectors, _ = unpack(data, file.key)
    first = next(iter(vectors.values()))  # the column `embedding`, or the scores
    return hashlib.sha256(data).hexdigest(), first.astype(np.float32, copy=False)


def _manifest(
    job: Job,
    plan: PlanRecord,
    files: list[PublishedFile],
    described: list[dict[str, object]],
    outcomes: Outcomes,
    *,
    with_receipt: bool,
) -> bytes:
    return sealed(
        {
            "v": FORMAT,
            "job": job.id,
            "round": plan.round,
            "finished_at": now(),
            "space": job.record.space.digest,
            "vectors": outcomes.vectors,
            "vectors_by_modality": dict(sorted(outcomes.vectors_by_modality.items())),
            "failures": dict(sorted(outcomes.failures.items())),
            "equal": outcomes.equal,
            "reused": outcomes.reused,
            "rejects": job.record.plan.rejects,
            "files": described,
            "others": _others(job, plan, files),
            "receipt": layout.RECEIPT if with_receipt else None,
        }
    )


def _others(job: Job, last: PlanRecord, files: list[PublishedFile]) -> list[dict[str, object]]:
    """What is not data but must not change either; statistics and views prove themselves: a retry writes them anew."""
    keys = [layout.JOB, *(layout.manifest_key(n) for n in range(last.round))]
    for plan in job.rounds():
        keys += [*plan.files, plan.index, *filter(None, [plan.rejects_file, plan.sample, plan.reuse])]
        keys += [layout.retry_key(plan.round)] if plan.round else []
    keys += [layout.RANGES] if job.store.size(layout.RANGES) is not None else []
    keys += [layout.failures_key(f.footer.shard, f.footer.attempt) for f in files if f.footer.rows_failed]
    return [_listed(key, job.store.get(key)) for key in sorted(set(keys))]


def _listed(key: str, data: bytes) -> dict[str, object]:
    return {"key": key, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _drop_losers(job: Job, files: list[PublishedFile]) -> None:
    """Delete the failures of attempts that were not the first to publish: no footer names them."""
    winners = {(file.footer.shard, file.footer.attempt) for file in files}
    for item in list(job.store.walk(layout.FAILURES)):
        attempt = layout.attempt_of(item.key)
        if attempt is not None and attempt not in winners:
            job.store.delete(item.key)


def glob_escaped(path: str) -> str:
    """`path` so that a reader's glob takes it literally."""
    return re.sub(r"([\[*?])", r"[\1]", path)


#: DuckDB's type for an element of each output, and how many of them hold a dimension.
_SQL_TYPES = {
    OutputType.FLOAT32: ("FLOAT", 1),
    OutputType.FLOAT16: ("FLOAT", 1),  # DuckDB has no half precision: it reads one as the other
    OutputType.INT8: ("TINYINT", 1),
    OutputType.BINARY: ("UTINYINT", 8),
}


def _casts(job: Job) -> str:
    space = job.record.space
    casts = []
    for output in space.recipe.outputs:
        column, (kind, per_element) = vector_column(space.recipe.outputs, output), _SQL_TYPES[output]
        casts.append(f"{column}::{kind}[{math.ceil(space.dim / per_element)}] AS {column}")
    return ", ".join(casts)


def views_sql(job: Job) -> str:
    """DuckDB views over the job; the cast makes the vector an ARRAY, which the array functions ask for."""
    if job.record.spec.kind is Kind.RERANK:
        return _views_of_scores(job)
    dim, url = job.record.space.dim, glob_escaped(job.store.url).replace("'", "''")
    # Text for a person to run: nothing here runs it, and the quotes in the location are doubled.
    rows = f"read_parquet('{url}/data/**/*.parquet', hive_partitioning = true)"
    lines = [
        f"-- {job.record.spec.model}, {dim} dimensions, space {job.record.space.digest}",
        f"CREATE OR REPLACE VIEW embeddings AS SELECT * REPLACE ({_casts(job)}) FROM {rows};",  # noqa: S608
    ]
    return "\n".join([*lines, *_failures_view(job, url, "embeddings", "id")]) + "\n"


def _views_of_scores(job: Job) -> str:
    """DuckDB views over a job of pairs; the ranks there count the items that a retry added, whose own are null."""
    url = glob_escaped(job.store.url).replace("'", "''")
    ranked = f"row_number() OVER (PARTITION BY query_id ORDER BY {_order_of(job)}, item_id) AS rank"
    rows = f"read_parquet('{url}/data/**/*.parquet', hive_partitioning = true)"
    lines = [
        f"-- {job.record.spec.model}, scores of pairs, space {job.record.space.digest}",
        f"CREATE OR REPLACE VIEW scores AS SELECT * REPLACE ({ranked}) FROM {rows};",  # noqa: S608
    ]
    return "\n".join([*lines, *_failures_view(job, url, "scores", "query_id || chr(9) || item_id")]) + "\n"


def _order_of(job: Job) -> str:
    """Best pair first: by score; with a band, what is above it and below it by the join's."""
    band = job.record.spec.rerank.band if job.record.spec.rerank else None
    if band is None:
        return "score DESC"
    low, high = band
    tier = f"CASE WHEN {JOIN_SCORE} > {high!r} THEN 0 WHEN {JOIN_SCORE} >= {low!r} THEN 1 ELSE 2 END"
    return f"{tier}, coalesce(score, {JOIN_SCORE}) DESC"


def _failures_view(job: Job, url: str, view: str, its_id: str) -> list[str]:
    """A row that a retry did again has the retry's outcome: the last failure, unless it has succeeded now."""
    if not any(True for _ in job.store.walk(layout.FAILURES)):
        return []
    return [
        f"CREATE OR REPLACE VIEW failures AS SELECT * FROM read_parquet('{url}/failures/*.parquet')",  # noqa: S608
        f"WHERE id NOT IN (SELECT {its_id} FROM {view})",  # noqa: S608
        "QUALIFY row_number() OVER (PARTITION BY id ORDER BY shard DESC) = 1;",
    ]
