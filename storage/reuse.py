"""Reuse: the contents that earlier jobs of the same space have vectors of, and these vectors."""

import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from schemas.columns import CONTENT, USAGE
from schemas.contents import CONTENT_BYTES
from schemas.errors import EmbedmillError, StoreError
from schemas.parsed_json import parsed_json
from schemas.recipe import OutputType, Recipe, vector_column
from schemas.space import Space
from storage import layout
from storage.jobs import Job
from storage.parquet import ID, open_parquet, plain_file, read_parquet, vectors_from_arrow
from storage.parquet_seal import check_seal
from storage.shards import published_shards, unpack
from storage.store import Store

logger = logging.getLogger(__name__)

_SCHEMA = pa.schema(
    [
        pa.field("content", pa.binary(CONTENT_BYTES), nullable=False),
        pa.field("file", pa.int32(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),  # of the file, the first of those that the content has
        pa.field("count", pa.int32(), nullable=False),  # more than one where rows are cut into segments
    ]
)
_ENTRY = np.dtype([("content", "V16"), ("file", "<i4"), ("row", "<i4"), ("count", "<i4")])
_FILES = b"files"
#: Files of earlier jobs that are held in memory; rows of one order meet those of the next file soon.
_FILES_KEPT = 2
_DAMAGE = (EmbedmillError, OSError, ValueError, LookupError, TypeError, AttributeError, pa.ArrowException)

#: The float32 (segments, dim) vectors of a content, and of each how much of the row the model saw.
Taken = tuple[np.ndarray, list[dict[str, float]]]


@dataclass(frozen=True, slots=True)
class EarlierFile:
    """A published file of an earlier job."""

    location: str  # of the job
    key: str


class EarlierContents:
    """Which contents there are vectors of, and where; 36 bytes of memory for each."""

    def __init__(self, files: Iterable[EarlierFile], entries: np.ndarray) -> None:
        """`entries` are _ENTRY; of those of one content the first counts."""
        self.files = tuple(files)
        # Half a hash tells contents apart; where it does not, by one chance in 10^19, one of them is embedded again.
        heads = _heads(entries["content"])
        heads, at = np.unique(heads, return_index=True)
        self._heads, self._entries = heads, entries[at]
        self._wanted = np.zeros(len(heads), bool)

    def __len__(self) -> int:
        return len(self._heads)

    def __contains__(self, content: bytes) -> bool:
        return bool(self.find(content)[0] >= 0)

    def find(self, contents: bytes) -> np.ndarray:
        """The place of each of `contents`, hash after hash, int64; -1 for those that are not there."""
        asked = np.frombuffer(contents, "V16")
        heads = _heads(asked)
        at = np.minimum(np.searchsorted(self._heads, heads), max(len(self) - 1, 0))
        if not len(self):
            return np.full(len(asked), -1)
        return np.where(self._entries["content"][at] == asked, at, -1)

    def entry(self, place: int) -> tuple[int, int, int]:
        """File, row and count of the content at `place`."""
        found = self._entries[place]
        return int(found["file"]), int(found["row"]), int(found["count"])

    def want(self, places: np.ndarray) -> None:
        """Note that the contents at `places` are a job's."""
        self._wanted[places] = True

    def publish(self, store: Store, plan: str, *, wanted_only: bool) -> str:
        """Write them for the plan with that digest; returns the object's key."""
        entries = self._entries[self._wanted] if wanted_only else self._entries
        columns = [_hashes_to_arrow(entries["content"])]
        columns += [pa.array(np.ascontiguousarray(entries[name])) for name in ("file", "row", "count")]
        files = json.dumps([[file.location, file.key] for file in self.files]).encode()
        data = plain_file(pa.table(columns, schema=_SCHEMA.with_metadata({_FILES: files})))
        key = layout.reuse_key(hashlib.sha256(plan.encode() + data).hexdigest())
        store.create(key, data)
        return key


def _hashes_to_arrow(contents: np.ndarray) -> pa.Array:
    return pa.Array.from_buffers(pa.binary(CONTENT_BYTES), len(contents), [None, pa.py_buffer(contents.tobytes())])


def _heads(contents: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(contents).view(np.uint64).reshape(-1, 2)[:, 0]


def read_earlier(store: Store, key: str) -> EarlierContents:
    """What `publish` wrote; raises StoreError for anything else."""
    table = read_parquet(store, key)
    try:
        files = [EarlierFile(*item) for item in parsed_json((table.schema.metadata or {})[_FILES])]
        entries = np.empty(table.num_rows, _ENTRY)
        entries["content"] = np.frombuffer(b"".join(table["content"].to_pylist()), "V16")
        for name in ("file", "row", "count"):
            entries[name] = np.asarray(table[name])
    except (ValueError, LookupError, TypeError) as err:
        raise StoreError(f"{key} is not what embedmill wrote ({err}); restore it") from err
    return EarlierContents(files, entries)


def contents_of(jobs: Iterable[Job]) -> EarlierContents:
    """The contents that `jobs` have published vectors of, those of the first job first."""
    files: list[EarlierFile] = []
    parts = [np.empty(0, _ENTRY)]
    for job in jobs:
        for _, key, _ in sorted(published_shards(job.store)):
            parts.append(_entries_of(job.store, key, len(files)))
            files.append(EarlierFile(job.store.url, key))
    return EarlierContents(files, np.concatenate(parts))


def _entries_of(store: Store, key: str, number: int) -> np.ndarray:
    """An entry for each id in the file; the rows of one id are its segments."""
    with open_parquet(store, key) as file:
        table = file.read([ID, CONTENT], use_threads=False)
    ids = table[ID].combine_chunks()
    begins = np.flatnonzero(np.concatenate([[True], np.asarray(ids[1:]) != np.asarray(ids[:-1])]))[: len(ids)]
    entries = np.empty(len(begins), _ENTRY)
    contents = b"".join(table[CONTENT].to_pylist())
    entries["content"] = np.frombuffer(contents, "V16")[begins]
    entries["file"], entries["row"] = number, begins
    entries["count"] = np.diff(np.append(begins, len(ids)))
    return entries


def reused_column(recipe: Recipe) -> str | None:
    """The column that vectors are taken from; None where none of them holds all that the model gave."""
    outputs = recipe.outputs
    if OutputType.FLOAT32 in outputs:
        return vector_column(outputs, OutputType.FLOAT32)
    return vector_column(outputs, OutputType.FLOAT16) if set(outputs) == {OutputType.FLOAT16} else None


class EarlierVectors:
    """Vectors of earlier jobs by content; what is not whole, or not of the space, is not there."""

    def __init__(self, contents: EarlierContents, space: Space, open_at: Callable[[str], Store]) -> None:
        column = reused_column(space.recipe)
        assert column is not None  # else the job had not been planned so
        self._contents, self._space, self._column, self._open_at = contents, space.digest, column, open_at
        self._tables: OrderedDict[EarlierFile, pa.Table] = OrderedDict()

    def __contains__(self, content: bytes) -> bool:
        return content in self._contents

    def vectors(self, contents: Collection[bytes]) -> dict[bytes, Taken]:
        """The vectors of those of `contents` that are there; files that cannot be read are passed over."""
        by_file: dict[int, list[tuple[bytes, int, int]]] = {}
        asked = sorted(contents)
        for content, place in zip(asked, self._contents.find(b"".join(asked)).tolist(), strict=True):
            if place >= 0:
                number, row, count = self._contents.entry(place)
                by_file.setdefault(number, []).append((content, row, count))
        found: dict[bytes, Taken] = {}
        for number, wanted in sorted(by_file.items()):
            file = self._contents.files[number]
            try:
                found |= self._taken(self._table(file), wanted)
            except _DAMAGE as err:
                fields = {"event": "reuse_failed", "location": file.location, "key": file.key}
                logger.warning("vectors of an earlier job cannot be had, and are computed: %s", err, extra=fields)
        return found

    def _table(self, file: EarlierFile) -> pa.Table:
        if file not in self._tables:
            data = self._open_at(file.location).get(file.key)
            _, problem = check_seal(data, file.key)
            if problem:
                raise StoreError(problem)
            footer, _, table = unpack(data, file.key)
            if footer.space != self._space:
                raise StoreError(f"{file.key} is of another space now")
            while len(self._tables) >= _FILES_KEPT:
                self._tables.popitem(last=False)
            self._tables[file] = table.combine_chunks()
        return self._tables[file]

    def _taken(self, table: pa.Table, wanted: list[tuple[bytes, int, int]]) -> dict[bytes, Taken]:
        vectors = _floats(table[self._column])
        names = [name for name in USAGE if name in table.column_names]
        found: dict[bytes, Taken] = {}
        for content, row, count in wanted:
            some, held = vectors[row : row + count], table[CONTENT].slice(row, count).to_pylist()
            if held != [content] * count or not np.isfinite(some).all() or not some.any(axis=1).all():
                continue
            told = table.select(names).slice(row, count).to_pylist()
            found[content] = some.copy(), [{k: v for k, v in usage.items() if v is not None} for usage in told]
        return found


def _floats(column: pa.ChunkedArray) -> np.ndarray:
    return vectors_from_arrow(column).astype(np.float32, copy=False)
