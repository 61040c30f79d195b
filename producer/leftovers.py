"""Leftovers: what killed processes and lost races left in a job's folder, known to be its own by name and content."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from schemas.errors import EmbedmillError, NotFound
from schemas.shard import Footer
from storage import layout
from storage.jobs import Job
from storage.parquet import parse_parquet
from storage.parquet_seal import check_seal
from storage.planned_pairs import pairs_schema
from storage.plans import INDEX_SCHEMA, REJECTS_SCHEMA, rows_schema
from storage.private_files import is_private, writer_is_gone
from storage.shards import footer_of, published_shards, unpack
from storage.store import TMP, LocalStore, Store, StoredObject

_PLAN_FILE = re.compile(r"^plan/(?P<kind>rows|shards|rejects|sample|reuse)-[0-9a-f]{12}(-[0-9]{5})?\.parquet$")
_PROBE = re.compile(rf"^{TMP}/[0-9a-f]{{32}}\.probe$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """A file that nobody needs, and why."""

    key: str
    size: int  # bytes
    why: str


def find_leftovers(store: Store, job: Job | None, *, older_than_s: float, now: float) -> Iterator[Leftover]:
    """What may go: files as old as that at `now`, or of processes that have provably ended; without a job, _tmp/ alone.

    Raises EmbedmillError where the job's records cannot be read: then nothing is known to be needless.
    """
    pinned = _pinned(job) if job else frozenset()

    def old(item: StoredObject) -> bool:
        return now - item.modified > older_than_s

    yield from _private(store, old)
    if job is not None:
        yield from _failures(job, old)
        yield from _plan_files(job, pinned, old)


def remove(leftover: Leftover, store: Store, job: Job | None) -> bool:
    """Remove one leftover; False where it turned out to be needed, or somebody else removed it."""
    if leftover.key == TMP:
        return isinstance(store, LocalStore) and store.drop_folder(TMP)
    try:
        data = store.get(leftover.key)
    except NotFound:
        return False
    store.delete(leftover.key)
    if job is None or not _needed_after_all(leftover.key, job):
        return True
    store.create(leftover.key, data)
    return False


def _needed_after_all(key: str, job: Job) -> bool:
    """Whether a retry that began this very moment names the file that an earlier try of it had left."""
    try:
        return key in _pinned(job)
    except EmbedmillError:
        return True  # not known: so it stays


def _pinned(job: Job) -> frozenset[str]:
    """The plan files that the job's record or a retry names."""
    named = {layout.RANGES}
    for plan in job.rounds():
        named |= {*plan.files, plan.index, *filter(None, (plan.rejects_file, plan.sample, plan.reuse))}
    return frozenset(named)


def _private(store: Store, old: Callable[[StoredObject], bool]) -> Iterator[Leftover]:
    """Files that never got their name, and probes of stores."""
    empty = True
    for item in store.walk(TMP):
        empty = False
        name = item.key.removeprefix(f"{TMP}/")
        if _PROBE.match(item.key) and old(item) and _content(store, item.key) == b"1":
            yield Leftover(key=item.key, size=item.size, why="a probe of the store, by a process that was killed")
        elif is_private(name):
            gone = writer_is_gone(name)
            if gone:
                yield Leftover(key=item.key, size=item.size, why="it was being written by a process that has ended")
            elif gone is None and old(item):
                yield Leftover(key=item.key, size=item.size, why="it was being written on another machine, long ago")
    touched = store.folder_touched(TMP) if empty and isinstance(store, LocalStore) else None
    if touched is not None and old(StoredObject(TMP, 0, touched)):
        yield Leftover(key=TMP, size=0, why="an empty folder")


def _failures(job: Job, old: Callable[[StoredObject], bool]) -> Iterator[Leftover]:
    """Failures of attempts that were not the first to publish their shard.

    Those of a shard that is not published stay, however old: a process that was stopped for days may yet publish it.
    """
    published = {shard: key for shard, key, _ in published_shards(job.store)}
    for item in job.store.walk(layout.FAILURES):
        named = layout.attempt_of(item.key)
        if named is None or named[0] not in published or not old(item):
            continue
        winner, found = _winner(job, published[named[0]]), _attempt(job.store, item.key)
        if winner is None or found is None or winner.attempt == named[1]:
            continue
        if (found.job, found.shard, found.attempt) == (job.id, *named):
            why = f"attempt {named[1]} was second: shard {named[0]} was published by attempt {winner.attempt}"
            yield Leftover(key=item.key, size=item.size, why=why)


def _winner(job: Job, key: str) -> Footer | None:
    """What the published shard says of itself; None where it cannot be read, or is not this job's."""
    try:
        footer = footer_of(job.store, key)
    except EmbedmillError:
        return None
    return footer if footer.job == job.id else None


def _attempt(store: Store, key: str) -> Footer | None:
    """What a failures file says of its attempt; None for a file that is not what embedmill wrote."""
    data = _content(store, key)
    if data is None or check_seal(data, key)[1]:
        return None
    try:
        return unpack(data, key)[0]
    except EmbedmillError:
        return None


def _plan_files(job: Job, pinned: frozenset[str], old: Callable[[StoredObject], bool]) -> Iterator[Leftover]:
    """Files of plans that were never pinned: a planner was killed, or another one was first."""
    for item in job.store.walk(layout.PLAN):
        match = _PLAN_FILE.match(item.key)
        if match is None or item.key in pinned or not old(item):
            continue
        if _is_plan_file(job.store, item.key, match["kind"]):
            yield Leftover(key=item.key, size=item.size, why="it is of a plan that no job was made of")


def _is_plan_file(store: Store, key: str, kind: str) -> bool:
    """Whether the file is what its name says: sealed by embedmill, with the columns of its kind."""
    data = _content(store, key)
    if data is None or check_seal(data, key)[1]:
        return False
    schemas = {"shards": [INDEX_SCHEMA], "rejects": [REJECTS_SCHEMA]}.get(kind, [rows_schema(()), pairs_schema(())])
    try:
        found: list[str] = parse_parquet(data, key).column_names
        return any(found[: len(schema)] == schema.names for schema in schemas)
    except EmbedmillError:
        return False


def _content(store: Store, key: str) -> bytes | None:
    """The bytes of `key`; None where somebody else has removed it meanwhile."""
    try:
        return store.get(key)
    except NotFound:
        return None
