"""The proof of one shard: its published file and its failures, compared with its plan and with what they say."""

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from producer.content_proof import content_claims
from producer.verdict import FileDigest
from schemas.columns import CONTENT, usage_columns
from schemas.errors import EmbedmillError, StoreError
from schemas.model_cards import Kind
from schemas.recipe import QUANTISED, OutputType, vector_column
from schemas.shard import Footer, ShardEntry
from storage import layout
from storage.jobs import Job
from storage.parquet import ID
from storage.parquet_seal import check_seal
from storage.scores import ITEM, QUERY, RANK, SCORE, Band, ids_in, in_band, is_scores, joined_in, ranks, scores_in
from storage.shards import FAILURES_SCHEMA, content_sha256, unpack

#: What reading a file that is not what it should be raises, here or in Arrow.
DAMAGE = (EmbedmillError, OSError, ValueError, LookupError, AttributeError, TypeError, pa.ArrowException)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTask:
    """A published shard that is to be proved."""

    plan: str  # digest
    entry: ShardEntry
    planned: pa.Table | None  # its rows; None where the plan cannot be read

    @property
    def key(self) -> str:
        return layout.data_key(self.entry.modality, self.entry.shard)


@dataclass(slots=True, kw_only=True)
class ShardProof:
    """What was found of one shard."""

    task: ShardTask
    footer: Footer | None = None  # None: the file cannot be read
    files: list[FileDigest] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    rows_ok: int = 0
    vectors: int = 0
    failed: list[str] = field(default_factory=list)  # ids
    codes: list[str] = field(default_factory=list)  # of `failed`


def first_line(err: Exception) -> str:
    """What an error says, in one line."""
    return (str(err).splitlines() or [type(err).__name__])[0]


def prove_shard(job: Job, ranges_sha256: str, task: ShardTask) -> ShardProof:
    """Read the shard's files once, and say all that is wrong with them."""
    proof = ShardProof(task=task)
    try:
        footer, vectors, table = _read(job, task.key, proof)
        proof.footer = footer
        claims = _claims_of_footer(job, ranges_sha256, task, footer)
        failures = _failures(job, proof, footer) if footer.rows_failed else FAILURES_SCHEMA.empty_table()
        claims |= _claims_of_rows(job, task, footer, vectors, table, failures)
        claims |= content_claims(job.record, footer, task.planned, vectors, table)
    except DAMAGE as err:
        proof.problems.append(first_line(err))
        return proof
    once = _once(ids_in(table))
    proof.rows_ok, proof.vectors = len(once), table.num_rows
    proof.failed, proof.codes = failures[ID].to_pylist(), failures["code"].to_pylist()
    proof.problems += [f"{task.key}: {problem}" for problem, found in claims.items() if found]
    return proof


def _read(job: Job, key: str, proof: ShardProof) -> tuple[Footer, dict[str, np.ndarray], pa.Table]:
    """Footer, vectors and table of a file whose seal is whole: damaged bytes do not reach the parser."""
    data = job.store.get(key)
    digest, problem = check_seal(data, key)
    proof.files.append(FileDigest(key, len(data), digest))
    if problem:
        raise StoreError(problem)
    return unpack(data, key)


def _failures(job: Job, proof: ShardProof, footer: Footer) -> pa.Table:
    key = layout.failures_key(footer.shard, footer.attempt)
    told, _, table = _read(job, key, proof)
    if told != footer:
        proof.problems.append(f"{key}: it is of another attempt than {proof.task.key}")
    counted = Counter(table["code"].to_pylist())
    where = set(zip(table["shard"].to_pylist(), table["attempt"].to_pylist(), strict=True))
    if counted != footer.failures or where != {(footer.shard, footer.attempt)}:
        proof.problems.append(f"{key}: its failures are not those that {proof.task.key} counts")
    return table


def _claims_of_footer(job: Job, ranges_sha256: str, task: ShardTask, footer: Footer) -> dict[str, bool]:
    """What may be wrong with what the file says of itself, and whether it is."""
    record = job.record
    return {
        "it belongs to another plan": footer.plan != task.plan,
        "it is of another job": footer.job != job.id,
        f"it holds shard {footer.shard} of {footer.modality}: it was moved here": (footer.shard, footer.modality)
        != (task.entry.shard, task.entry.modality),
        "it is of another space": footer.space != record.space.digest or footer.space_fields != record.space.fields(),
        "it is of another model": footer.model != record.spec.model,
        "its int8 ranges are not those of the job": footer.int8_ranges != ranges_sha256,
    }


def _claims_of_rows(
    job: Job, task: ShardTask, footer: Footer, vectors: dict[str, np.ndarray], table: pa.Table, failures: pa.Table
) -> dict[str, bool]:
    """What may be wrong with the rows, and whether it is."""
    ids, wide = ids_in(table), next(iter(vectors.values()))
    found, once = ids.to_pylist(), _once(ids)
    floats = wide.dtype.kind == "f"
    return {
        "its columns are not those of the job": tuple(table.column_names) != _columns_of(job),
        "its vectors have another dimension": any(c.shape[1] != _width(job, name) for name, c in vectors.items()),
        "its ids and vectors are not those that were written": content_sha256(found, vectors) != footer.content_sha256,
        "its rows are not those that were planned": not _as_planned(task, once, failures),
        "its kept columns are not those of the manifest": not _kept_as_planned(task.planned, ids, table),
        "an id has more than one vector": not job.record.space.recipe.segment_s and len(once) != len(found),
        "its ids are not sorted": not _sorted(ids),
        "its segments are not in order": not _in_order(found, table),
        "its ranks are not those of its scores": is_scores(table) and not _ranked(job, task, found, table),
        "a vector is not finite": floats and not _finite(job, table, wide),
        "a vector is zero": _floats(job) and not wide.any(axis=1).all(),
        "its footer counts other rows": (footer.rows_planned, footer.rows_ok, footer.vectors, footer.rows_failed)
        != (task.entry.rows, len(once), len(found), failures.num_rows),
    }


def _once(ids: pa.ChunkedArray) -> pa.Array:
    """The ids of the rows that have vectors: a row that is cut into segments counts once."""
    return pc.unique(ids)


def _as_planned(task: ShardTask, once: pa.Array, failures: pa.Table) -> bool:
    if task.planned is None:
        return True  # that the plan cannot be read is said elsewhere
    both = pa.concat_arrays([once, *failures[ID].cast(once.type).chunks])
    planned = task.planned[ID].combine_chunks()
    return bool(both.take(pc.sort_indices(both)).equals(planned.take(pc.sort_indices(planned))))


def _sorted(ids: pa.ChunkedArray) -> bool:
    flat = ids.combine_chunks()
    return bool(pc.all(pc.less_equal(flat[:-1], flat[1:]), min_count=0).as_py())


def _columns_of(job: Job) -> tuple[str, ...]:
    """The columns of every data file of the job, in their order."""
    recipe, spec = job.record.space.recipe, job.record.spec
    if spec.kind is Kind.RERANK:
        return QUERY, ITEM, SCORE, RANK, *(column.name for column in spec.keep)
    vectors = (vector_column(recipe.outputs, output) for output in recipe.outputs)
    contents = (CONTENT,) if spec.content_hashes else ()
    return ID, *vectors, *usage_columns(spec.takes, recipe), *contents, *(column.name for column in spec.keep)


def _width(job: Job, column: str) -> int:
    """The elements that a vector of this column has: dimensions, or bytes of bits."""
    recipe, dim = job.record.space.recipe, job.record.space.dim
    binary = any(vector_column(recipe.outputs, o) == column for o in recipe.outputs if o is OutputType.BINARY)
    return math.ceil(dim / 8) if binary else dim


def _floats(job: Job) -> bool:
    """Whether a vector of zeros is none: levels and bits may well be zero, and so may a score."""
    if job.record.spec.kind is Kind.RERANK:
        return False
    return job.record.space.recipe.outputs[0] not in QUANTISED


def _ranked(job: Job, task: ShardTask, found: list[str], table: pa.Table) -> bool:
    """Whether the ranks follow from the scores; in a retry there are none."""
    first = job.record.plan.digest == task.plan
    band, joined = _band(job), joined_in(table)
    wanted = ranks(found, scores_in(table), joined, band) if first else [None] * len(found)
    return bool(table[RANK].to_pylist() == wanted)


def _band(job: Job) -> Band:
    return job.record.spec.rerank.band if job.record.spec.rerank else None


def _finite(job: Job, table: pa.Table, wide: np.ndarray) -> bool:
    """Whether all numbers are finite, but for pairs that were not to be scored, whose scores are none."""
    joined, band = joined_in(table), _band(job)
    if band is None or joined is None:
        return bool(np.isfinite(wide).all())
    return bool((np.isfinite(wide[:, 0]) == in_band(joined, band)).all())


def _in_order(found: list[str], table: pa.Table) -> bool:
    """Whether each row's segments follow each other in time, none twice."""
    if "start_s" not in table.column_names:
        return True
    starts = [-1.0 if start is None else start for start in table["start_s"].to_pylist()]
    return all(
        a != b or start < after for a, b, start, after in zip(found, found[1:], starts, starts[1:], strict=False)
    )


def _kept_as_planned(planned: pa.Table | None, ids: pa.ChunkedArray, table: pa.Table) -> bool:
    if planned is None:
        return True
    names = [name.removeprefix("keep.") for name in planned.column_names if name.startswith("keep.")]
    at = pc.index_in(ids, planned[ID]) if names else None
    return all(_bits(planned[f"keep.{name}"].take(at)).equals(_bits(table[name])) for name in names)


def _bits(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array, floats as their bits: NaN is as good as any other value, and equal to itself."""
    flat = column.combine_chunks()
    return flat.view(pa.int64()) if pa.types.is_float64(flat.type) else flat
