"""Outcomes: what became of a job's rows, read from the published shards, or from the list that a finished job has."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from typing import Any

from schemas.errors import StoreError
from schemas.rows import Modality
from schemas.sealed import unsealed
from schemas.shard import Footer
from storage import layout
from storage.failures import open_failures
from storage.jobs import Job
from storage.shards import footer_of, published_shards

_READERS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedFile:
    """One published shard: where it is and what it says of itself."""

    key: str
    size: int  # bytes
    footer: Footer


@dataclass(slots=True, kw_only=True)
class Outcomes:
    """Rows by outcome, as far as shards are published."""

    shards: frozenset[int] = frozenset()  # published
    rows: int = 0  # of those shards; a row that a retry does again counts once
    vectors: int = 0  # of rows that are cut into segments, more than one each
    rows_ok: int = 0
    failures: Counter[str] = field(default_factory=Counter)  # by code
    vectors_by_modality: Counter[str] = field(default_factory=Counter)
    file_bytes: int = 0
    equal: int = 0  # of rows_ok: their vectors were computed for another row of the same content
    reused: int = 0  # of rows_ok: their vectors are an earlier job's

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    def to_dict(self) -> dict[str, Any]:
        """For the receipt of a finished job; how many shards, not which."""
        told = {field.name: getattr(self, field.name) for field in fields(self)}
        return told | {"shards": len(self.shards)}


def published_files(job: Job, *, known: Collection[str] = ()) -> Iterator[PublishedFile]:
    """Every published shard with its footer, by shard number, but for known keys; footers are read side by side."""
    found = sorted(item for item in published_shards(job.store) if item[1] not in known)
    with ThreadPoolExecutor(_READERS) as pool:
        footers = pool.map(lambda item: footer_of(job.store, item[1]), found)
        for (shard, key, size), footer in zip(found, footers, strict=True):
            named = layout.data_key(Modality(footer.modality), footer.shard)
            if footer.job != job.id or footer.shard != shard or named != key:
                raise StoreError(f"{key} holds shard {footer.shard} of job {footer.job}: it was moved here; remove it")
            yield PublishedFile(key=key, size=size, footer=footer)


def listed_outcomes(job: Job) -> Outcomes | None:
    """What the last list of a finished job says of its shards, without a look into them.

    None where the job is not finished, the list is damaged, or the store holds other files: then only these can tell.
    """
    rounds = job.rounds()
    if not all(job.is_finished(plan) for plan in rounds):
        return None
    try:
        return _listed(job, unsealed(job.store.get(layout.manifest_key(rounds[-1].round))))
    except (ValueError, LookupError, TypeError):
        return None


def _listed(job: Job, manifest: Mapping[str, Any]) -> Outcomes | None:
    sizes = {entry["key"]: entry["bytes"] for entry in manifest["files"]}
    found = list(published_shards(job.store))
    if {key: size for _, key, size in found} != sizes:
        return None
    outcomes = Outcomes(
        shards=frozenset(shard for shard, _, _ in found),
        vectors=manifest["vectors"],
        rows_ok=sum(entry["rows"] for entry in manifest["files"]),
        failures=Counter(manifest["failures"]),
        vectors_by_modality=Counter(manifest["vectors_by_modality"]),
        file_bytes=sum(sizes.values()),
        equal=manifest.get("equal", 0),
        reused=manifest.get("reused", 0),
    )
    outcomes.rows = outcomes.rows_ok + outcomes.failed
    return outcomes


def count_outcomes(job: Job, files: list[PublishedFile]) -> Outcomes:
    """Sum up `files`: vectors, and the failures that no later retry has settled."""
    outcomes = Outcomes(shards=frozenset(file.footer.shard for file in files))
    for file in files:
        outcomes.vectors += file.footer.vectors
        outcomes.rows_ok += file.footer.rows_ok
        outcomes.vectors_by_modality[file.footer.modality] += file.footer.vectors
        outcomes.file_bytes += file.size
        outcomes.equal += file.footer.equal
        outcomes.reused += file.footer.reused
        outcomes.failures.update(file.footer.failures)
    if len(job.rounds()) > 1:
        outcomes.failures = Counter(open_failures(job, [file.footer for file in files])["code"].to_pylist())
    outcomes.rows = outcomes.rows_ok + outcomes.failed
    return outcomes
