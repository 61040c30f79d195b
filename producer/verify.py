"""Verify: the proof, from the store alone, that each row has exactly one outcome."""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from producer.duplicates import DuplicateFinder
from producer.outcomes import PublishedFile, open_failures, published_files
from schemas.columns import usage_columns
from schemas.errors import EmbedmillError
from schemas.job import PlanRecord
from schemas.recipe import QUANTISED, OutputType, vector_column
from storage import layout
from storage.jobs import Job
from storage.parquet import ID, VECTOR
from storage.plans import PlanReader, rows_schema
from storage.shards import content_sha256, read_failures, read_shard

#: Findings beyond these are counted and not listed.
_LISTED = 100
#: What reading a damaged file raises, here or in Arrow.
_DAMAGE = (EmbedmillError, OSError, ValueError, LookupError, AttributeError, TypeError, pa.ArrowException)


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What was looked at, and what is wrong."""

    rows: int = 0  # planned
    rows_ok: int = 0  # with a vector, or several of a row that is cut into segments
    vectors: int = 0
    failures: int = 0
    missing: int = 0  # rows of shards that are not published
    files: int = 0
    problems: list[str] = field(default_factory=list)
    problem_count: int = 0

    @property
    def ok(self) -> bool:
        return self.problem_count == 0

    @property
    def complete(self) -> bool:
        return self.ok and self.missing == 0

    def blame(self, problem: str) -> None:
        self.problem_count += 1
        if len(self.problems) < _LISTED:
            self.problems.append(problem)

    def lines(self, job: str) -> list[str]:
        """What `embedmill verify` prints: the verdict in one line, then the problems."""
        word = f"{self.problem_count} problems"
        if self.ok:
            word = f"{self.missing:,} rows have no outcome yet" if self.missing else "each row has exactly one outcome"
        counts = f"{self.rows:,} rows, {self.vectors:,} vectors, {self.failures:,} failures, {self.files:,} files"
        return [f"{job}: {counts}: {word}", *(f"  {problem}" for problem in self.problems)]

    def to_dict(self) -> dict[str, Any]:
        names = ("rows", "rows_ok", "vectors", "failures", "missing", "files", "problems", "problem_count")
        return {name: getattr(self, name) for name in names} | {"ok": self.ok, "complete": self.complete}


def verify_job(job: Job) -> Verdict:
    """Read every byte of the job and compare it with the plan."""
    verdict = Verdict()
    files = _readable_files(job, verdict)
    by_shard = {file.footer.shard: file for file in files}
    ids = DuplicateFinder()
    for plan in job.rounds():
        reader = _reader(job, plan, verdict)
        if reader is None:
            continue
        for shard in reader.shards():
            planned = _planned(reader, shard, verdict)
            if plan.round == 0:
                verdict.rows += planned.num_rows
            file = by_shard.pop(shard, None)
            if file is None:
                verdict.missing += planned.num_rows if plan.round == 0 else 0
            else:
                _check_shard(job, plan.digest, file, planned, ids, verdict)
    for file in by_shard.values():
        verdict.blame(f"{file.key}: shard {file.footer.shard} is in no plan of this job")
    duplicates = len(ids.duplicates())
    if duplicates:
        verdict.blame(f"{duplicates} ids have more than one vector")
    _check_strangers(job, verdict)
    _check_manifests(job, files, verdict)
    _account(job, files, verdict)
    return verdict


def _readable_files(job: Job, verdict: Verdict) -> list[PublishedFile]:
    try:
        files = list(published_files(job))
    except EmbedmillError:
        files = list(_one_by_one(job, verdict))
    verdict.files = len(files)
    return files


def _one_by_one(job: Job, verdict: Verdict) -> Iterator[PublishedFile]:
    from storage.shards import footer_of, published_shards

    for _, key, size in sorted(published_shards(job.store)):
        try:
            yield PublishedFile(key=key, size=size, footer=footer_of(job.store, key))
        except _DAMAGE as err:
            verdict.blame(f"{key}: {_first_line(err)}")


def _reader(job: Job, plan: PlanRecord, verdict: Verdict) -> PlanReader | None:
    try:
        return PlanReader(job.store, plan)
    except EmbedmillError as err:
        verdict.blame(_first_line(err))
        return None


def _planned(reader: PlanReader, shard: int, verdict: Verdict) -> pa.Table:
    """The shard's rows as planned; none where the plan cannot be read."""
    try:
        return reader.read_table(shard)
    except _DAMAGE as err:
        verdict.blame(f"plan of shard {shard}: {_first_line(err)}")
        return rows_schema(()).empty_table()


def _check_shard(
    job: Job, plan: str, file: PublishedFile, planned: pa.Table, ids: DuplicateFinder, verdict: Verdict
) -> None:
    footer = file.footer
    try:
        _, found, vectors, table = read_shard(job.store, file.key)
        kept = _kept_as_planned(planned, table)
        failed = read_failures(job.store, footer.shard, footer.attempt)[ID].to_pylist()
    except _DAMAGE as err:
        verdict.blame(f"{file.key}: {_first_line(err)}")
        return
    once = sorted(set(found)) if job.record.space.recipe.segment_s else found
    verdict.vectors += len(found)
    verdict.rows_ok += len(once)
    for number, item in enumerate(once):
        ids.add(item, number)
    wide = vectors[VECTOR].astype(np.float32)
    claims = {
        "it belongs to another plan": footer.plan != plan,
        "it is of another job": footer.job != job.id,
        "it is of another space": footer.space != job.record.space.digest,
        "its columns are not those of the job": tuple(table.column_names) != _columns_of(job),
        "its vectors have another dimension": any(
            column.shape[1] != _width(job, name) for name, column in vectors.items()
        ),
        "its ids and vectors are not those that were written": content_sha256(found, vectors) != footer.content_sha256,
        "its rows are not those that were planned": sorted([*once, *failed]) != sorted(planned[ID].to_pylist()),
        "its kept columns are not those of the manifest": not kept,
        "its ids are not sorted": found != sorted(found),
        "its segments are not in order": not _in_order(found, table),
        "a vector is not finite": not np.isfinite(wide).all(),
        "a vector is zero": _floats(job) and bool(len(wide)) and not np.abs(wide).sum(axis=1).all(),
        "its footer counts other rows": (footer.rows_ok, footer.vectors, footer.rows_failed)
        != (len(once), len(found), len(failed)),
    }
    for problem, found_it in claims.items():
        if found_it:
            verdict.blame(f"{file.key}: {problem}")


def _columns_of(job: Job) -> tuple[str, ...]:
    """The columns of every data file of the job, in their order."""
    recipe, spec = job.record.space.recipe, job.record.spec
    vectors = (vector_column(recipe.outputs, output) for output in recipe.outputs)
    return ID, *vectors, *usage_columns(spec.takes, recipe), *(column.name for column in spec.keep)


def _width(job: Job, column: str) -> int:
    """The elements that a vector of this column has: dimensions, or bytes of bits."""
    recipe, dim = job.record.space.recipe, job.record.space.dim
    binary = any(vector_column(recipe.outputs, o) == column for o in recipe.outputs if o is OutputType.BINARY)
    return math.ceil(dim / 8) if binary else dim


def _floats(job: Job) -> bool:
    return job.record.space.recipe.outputs[0] not in QUANTISED


def _in_order(found: list[str], table: pa.Table) -> bool:
    """Whether each row's segments follow each other in time, none twice."""
    if "start_s" not in table.column_names:
        return True
    starts = [-1.0 if start is None else start for start in table["start_s"].to_pylist()]
    return all(
        a != b or start < after for a, b, start, after in zip(found, found[1:], starts, starts[1:], strict=False)
    )


def _kept_as_planned(planned: pa.Table, table: pa.Table) -> bool:
    at = pc.index_in(table[ID], planned[ID])
    names = [name.removeprefix("keep.") for name in planned.column_names if name.startswith("keep.")]
    return all(planned[f"keep.{name}"].take(at).to_pylist() == table[name].to_pylist() for name in names)


def _check_strangers(job: Job, verdict: Verdict) -> None:
    """Whatever lies below data/ is read by those who glob it: nothing but shards may."""
    for item in job.store.walk(layout.DATA):
        if layout.shard_of(item.key) is None:
            verdict.blame(f"{item.key} is no shard of this job, and readers take it for one; remove it")


def _check_manifests(job: Job, files: list[PublishedFile], verdict: Verdict) -> None:
    """Compare each manifest with the files, and each file that it lists with its bytes."""
    for plan in job.rounds():
        if not job.is_finished(plan):
            continue
        key = layout.manifest_key(plan.round)
        try:
            manifest = json.loads(job.store.get(key))
            listed = {str(entry["key"]): entry for entry in manifest["files"]}
            others = list(manifest["others"])
        except _DAMAGE as err:
            verdict.blame(f"{key}: {_first_line(err)}")
            continue
        wanted = {file.key for file in files if file.footer.shard <= plan.last_shard}
        if set(listed) != wanted:
            verdict.blame(f"{key} lists other files than there are")
        for entry in [*listed.values(), *others]:
            _check_listed(job, entry, verdict)


def _check_listed(job: Job, listed: dict[str, Any], verdict: Verdict) -> None:
    try:
        digest, wanted = hashlib.sha256(job.store.get(listed["key"])).hexdigest(), listed["sha256"]
    except _DAMAGE as err:
        verdict.blame(f"a file that the manifest lists: {_first_line(err)}")
        return
    if digest != wanted:
        verdict.blame(f"{listed['key']}: its bytes are not those that the manifest lists")


def _account(job: Job, files: list[PublishedFile], verdict: Verdict) -> None:
    """Each planned row: one vector, one failure, or its shard is missing."""
    try:
        failures = open_failures(job, files)
    except _DAMAGE as err:
        verdict.blame(f"failures: {_first_line(err)}")
        return
    verdict.failures = failures.num_rows
    if failures.num_rows and pc.count_distinct(failures[ID]).as_py() != failures.num_rows:
        verdict.blame("an id has more than one failure")
    if verdict.rows_ok + verdict.failures + verdict.missing != verdict.rows:
        verdict.blame(
            f"{verdict.rows} rows were planned, and {verdict.rows_ok} with vectors, {verdict.failures} failures "
            f"and {verdict.missing} missing rows do not add up to them"
        )


def _first_line(err: Exception) -> str:
    return (str(err).splitlines() or [type(err).__name__])[0]
