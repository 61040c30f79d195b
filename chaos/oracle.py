"""The oracle: a second opinion on a job, from its files and the manifest's rows, without embedmill's own readers."""

import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from chaos.findings import Findings, Wrong
from chaos.published import Published
from chaos.truth import Truth
from workers.hash_encoder import expected_vector

_SHARD = re.compile(r"^data/modality=[a-z]+/part-(\d+)\.parquet$")
#: What reading a file that is not whole raises.
_DAMAGE = (OSError, ValueError, LookupError, TypeError, pa.ArrowException)
#: (canonical bytes, the model's digest, dimension) -> the vector; None where the model is none that can be foretold.
Expected = Callable[[bytes, str, int], np.ndarray] | None


@dataclass(slots=True, kw_only=True)
class Counts:
    """What the oracle looked at."""

    rows: int = 0
    rejects: int = 0
    shards: int = 0
    files: int = 0
    vectors: int = 0
    failures: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(**{name: getattr(self, name) + getattr(other, name) for name in self.__slots__})


@dataclass(slots=True)
class _Job:
    """A job as its files say it is."""

    files: Published
    digest: str  # of the model
    planned: dict[int, list[str]]  # shard -> ids
    outcomes: Counter[str] = field(default_factory=Counter)  # by id
    counts: Counts = field(default_factory=Counts)


def check_job(
    files: Published, truth: Truth, findings: Findings, *, expected: Expected = expected_vector
) -> tuple[str, Counts]:
    """Compare a finished job with what must have become of its manifest; its id, and what was looked at."""
    record = json.loads(files.read("job.json"))
    job = _Job(files, str(record["spec"]["model_digest"]), _planned(files, record, findings))
    for name in sorted(files.names("data")):
        match = _SHARD.match(name)
        if match is None or int(match[1]) not in job.planned:
            findings.add(Wrong.UNEXPECTED, f"{files.url}/{name} is no shard of the plan")
            continue
        try:
            _check_shard(job, int(match[1]), name, truth, findings, expected)
        except _DAMAGE as err:
            findings.add(Wrong.TORN, f"{files.url}/{name}: {type(err).__name__}: {err}")
    _check_rows(job, truth, findings)
    _check_rejects(files, record, truth, findings)
    _check_listed(files, findings)
    job.counts.rows, job.counts.rejects = truth.rows, truth.rejects.total()
    job.counts.shards = len(job.planned)
    return str(record["id"]), job.counts


def _planned(files: Published, record: dict[str, Any], findings: Findings) -> dict[int, list[str]]:
    """The ids of each shard, from the plan's own files."""
    plan, planned = record["plan"], {}
    try:
        index = _table(files, plan["index"])
        rows = [pq.ParquetFile(io.BytesIO(files.read(name))) for name in plan["files"]]
        for entry in index.to_pylist():
            table = rows[entry["file"]].read_row_group(entry["row_group"], columns=["id"])
            planned[int(entry["shard"])] = table["id"].to_pylist()
    except _DAMAGE as err:
        findings.add(Wrong.TORN, f"{files.url}: the plan cannot be read: {err}")
    return planned


def _check_shard(job: _Job, shard: int, name: str, truth: Truth, findings: Findings, expected: Expected) -> None:
    table = _table(job.files, name)
    footer = json.loads(table.schema.metadata[b"embedmill"])
    ids = table["id"].to_pylist()
    failed = _failures_of(job.files, shard, footer)
    job.counts.files += 1
    job.counts.vectors += len(ids)
    job.counts.failures += len(failed)
    job.outcomes.update(ids)
    job.outcomes.update(failed.keys())
    where = f"{job.files.url}/{name}"
    if (footer["shard"], footer["vectors"], sum(footer["failures"].values())) != (shard, len(ids), len(failed)):
        findings.add(Wrong.TORN, f"{where}: its footer tells of other rows than it has")
    for stranger in {*ids, *failed} - set(job.planned[shard]):
        findings.add(Wrong.UNEXPECTED, f"{where}: row {stranger} was not planned for this shard")
    for item, code in failed.items():
        if truth.failures.get(item) != code:
            findings.add(Wrong.MISCODED, f"{where}: row {item} failed with {code}, not {truth.failures.get(item)}")
    _check_vectors(job, where, table, truth, findings, expected)


def _check_vectors(
    job: _Job, where: str, table: pa.Table, truth: Truth, findings: Findings, expected: Expected
) -> None:
    """Each vector is its own row's, to the last bit, and so is what was kept beside it."""
    vectors = [np.asarray(vector, np.float32) for vector in table["embedding"].to_pylist()]
    labels = table["label"].to_pylist() if "label" in table.column_names else [None] * len(table)
    for item, vector, label in zip(table["id"].to_pylist(), vectors, labels, strict=True):
        if item in truth.failures:
            findings.add(Wrong.MISCODED, f"{where}: row {item} has a vector, and must fail: {truth.failures[item]}")
            continue
        if item not in truth.contents:
            continue  # unexpected, and said so
        right = expected is None or np.array_equal(vector, expected(truth.contents[item], job.digest, len(vector)))
        if not right:
            findings.add(Wrong.MISALIGNED, f"{where}: the vector of row {item} is not that row's")
        elif label is not None and label != truth.labels[item]:
            findings.add(Wrong.MISALIGNED, f"{where}: the kept column of row {item} is not that row's")


def _failures_of(files: Published, shard: int, footer: dict[str, Any]) -> dict[str, str]:
    """Code by id, of the attempt that was published."""
    if not footer["failures"]:
        return {}
    table = _table(files, f"failures/part-{shard:06d}-{footer['attempt']}.parquet")
    return dict(zip(table["id"].to_pylist(), table["code"].to_pylist(), strict=True))


def _check_rows(job: _Job, truth: Truth, findings: Findings) -> None:
    """Each row of the manifest has exactly one outcome, and nothing else has any."""
    wanted = truth.contents.keys() | truth.failures.keys()
    url = job.files.url
    findings.add_all(Wrong.LOST, (f"{url}: row {item} has no outcome" for item in sorted(wanted - set(job.outcomes))))
    for item, count in job.outcomes.items():
        if count > 1:
            findings.add(Wrong.DOUBLED, f"{url}: row {item} has {count} outcomes")
        if item not in wanted:
            findings.add(Wrong.UNEXPECTED, f"{url}: row {item} is not in the manifest")
    planned = Counter(item for ids in job.planned.values() for item in ids)
    findings.add_all(Wrong.LOST, (f"{url}: row {item} was never planned" for item in sorted(wanted - set(planned))))
    findings.add_all(Wrong.DOUBLED, (f"{url}: row {item} is planned twice" for item, n in planned.items() if n > 1))


def _check_rejects(files: Published, record: dict[str, Any], truth: Truth, findings: Findings) -> None:
    name = record["plan"]["rejects_file"]
    found: Counter[str] = Counter(_table(files, name)["code"].to_pylist() if name else ())
    if found != truth.rejects:
        findings.add(Wrong.MISCODED, f"{files.url}: rejects {dict(found)}, not {dict(truth.rejects)}")


def _check_listed(files: Published, findings: Findings) -> None:
    """The list that the job ends with is there, and each file of it has the bytes that it says."""
    try:
        listed = json.loads(files.read("manifest.json"))["files"]
    except Exception as err:  # noqa: BLE001  # missing or damaged: the job is not finished
        findings.add(Wrong.LOST, f"{files.url}: the job has no end: manifest.json: {type(err).__name__}")
        return
    there = set(files.names("data"))
    for entry in listed:
        if entry["key"] not in there:
            findings.add(Wrong.VANISHED, f"{files.url}/{entry['key']} is listed and gone")
        elif hashlib.sha256(files.read(entry["key"])).hexdigest() != entry["sha256"]:
            findings.add(Wrong.CHANGED, f"{files.url}/{entry['key']} has other bytes than were listed")
    for name in there - {entry["key"] for entry in listed}:
        findings.add(Wrong.UNEXPECTED, f"{files.url}/{name} is in no list")


def _table(files: Published, name: str) -> pa.Table:
    return pq.read_table(io.BytesIO(files.read(name)), use_threads=False)
