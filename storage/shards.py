"""Published shards: one object each, created only if absent; the object is the commit."""

import contextlib
import hashlib
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import pyarrow as pa

from schemas.columns import CONTENT, USAGE
from schemas.contents import CONTENT_BYTES
from schemas.errors import Conflict, NotFound, StoreError
from schemas.rows import Modality
from schemas.shard import FOOTER_KEY, Footer
from storage import layout
from storage.parquet import (
    ID,
    VECTOR,
    is_vector_column,
    open_parquet,
    parse_parquet,
    plain_file,
    read_parquet,
    vector_file,
    vectors_from_arrow,
    vectors_to_arrow,
)
from storage.scores import SCORE, ids_in, is_scores, scores_file, scores_in
from storage.store import Store, keys_below

CONTENT_TYPE = pa.binary(CONTENT_BYTES)
FAILURES_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("line", pa.int64(), nullable=False),
        pa.field("modality", pa.string(), nullable=False),
        pa.field("code", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("retryable", pa.bool_(), nullable=False),
        pa.field("uri", pa.string()),
        pa.field("shard", pa.int64(), nullable=False),
        pa.field("attempt", pa.string(), nullable=False),
    ]
)


class Published(StrEnum):
    """What became of an attempt to publish."""

    WON = "published"  # this attempt's rows are the shard
    LOST = "lost"  # another attempt of the same plan was first: just as good


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardOutput:
    """One attempt's result: vectors, or scores of pairs, in id order, their kept columns, and the failures."""

    footer: Footer
    ids: list[str]
    vectors: dict[str, np.ndarray]  # (vectors, dim) each, by column; the first is VECTOR; of pairs, SCORE (n, 1) alone
    usage: dict[str, list[float | None]]  # by column, same order
    contents: list[bytes] | None = None  # content hashes, same order; of pairs, and of jobs of old, none
    kept: pa.Table  # the kept columns, same order
    failures: pa.Table  # FAILURES_SCHEMA
    ranks: list[int | None] | None = None  # of pairs


def content_sha256(ids: list[str], vectors: Mapping[str, np.ndarray]) -> str:
    """The digest of ids and vectors in row order, column after column, whatever the file's encoding."""
    digest = hashlib.sha256(_with_lengths(pa.array(ids, pa.large_string())).data)
    for column in vectors.values():
        digest.update(
            np.ascontiguousarray(column, dtype=column.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data
        )
    return digest.hexdigest()


def _with_lengths(ids: pa.Array) -> np.ndarray:
    """The UTF-8 bytes of the ids, each after its length as 4 bytes, little-endian; without a loop over the ids."""
    _, offsets_buffer, data_buffer = ids.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int64)[: len(ids) + 1]
    flat = np.frombuffer(data_buffer or b"", np.uint8)[: offsets[-1]]
    heads = offsets[:-1, None] + 4 * np.arange(len(ids))[:, None] + np.arange(4)
    out = np.empty(len(flat) + heads.size, np.uint8)
    is_text = np.ones(len(out), np.bool_)
    is_text[heads] = False
    out[heads] = np.diff(offsets).astype("<u4")[:, None].view(np.uint8)
    out[is_text] = flat
    return out


def publish(store: Store, output: ShardOutput) -> tuple[Published, int]:
    """Write the failures, then create the shard; returns the outcome and the object's bytes.

    Raises Conflict when the published object belongs to another plan, StoreError when the store fails.
    """
    footer = output.footer
    shard, modality = footer.shard, Modality(footer.modality)
    data = _encoded(output)
    failures = layout.failures_key(shard, footer.attempt)
    if output.failures.num_rows:
        store.create(failures, plain_file(output.failures.replace_schema_metadata({FOOTER_KEY: footer.to_json()})))
    if store.create(layout.data_key(modality, shard), data):
        return Published.WON, len(data)
    winner = read_footer(store, modality, shard)
    if winner.attempt == footer.attempt:
        return Published.WON, len(data)  # our own PUT, whose reply was lost
    if output.failures.num_rows:
        with contextlib.suppress(StoreError):  # only untidy: the winner's footer names its own attempt
            store.delete(failures)
    if winner.plan != footer.plan:
        raise Conflict(f"shard {shard} was published by another plan ({winner.plan[:12]}); use another --out")
    return Published.LOST, len(data)


def _encoded(output: ShardOutput) -> bytes:
    if output.ranks is not None:
        metadata = {FOOTER_KEY: output.footer.to_json()}
        return scores_file(output.ids, output.vectors[SCORE], output.ranks, output.kept, metadata)
    columns = [pa.array(output.ids, pa.string())]
    fields = [pa.field(ID, pa.string(), nullable=False)]
    for name, vectors in output.vectors.items():
        columns.append(vectors_to_arrow(vectors))
        fields.append(pa.field(name, columns[-1].type, nullable=False))
    for name, values in output.usage.items():
        columns.append(pa.array(values, USAGE[name]))
        fields.append(pa.field(name, columns[-1].type))
    if output.contents is not None:
        columns.append(pa.array(output.contents, CONTENT_TYPE))
        fields.append(pa.field(CONTENT, CONTENT_TYPE, nullable=False))
    for field in output.kept.schema:
        columns.append(output.kept[field.name])
        fields.append(field)
    table = pa.table(columns, schema=pa.schema(fields))
    dim = output.vectors[VECTOR].shape[1]
    return vector_file(table, dim=dim, metadata={FOOTER_KEY: output.footer.to_json()})


def is_published(store: Store, modality: Modality, shard: int) -> bool:
    return store.size(layout.data_key(modality, shard)) is not None


def published_shards(store: Store) -> Iterator[tuple[int, str, int]]:
    """(shard, key, bytes) of every published shard, by one listing."""
    for item in store.walk(layout.DATA):
        shard = layout.shard_of(item.key)
        if shard is not None:
            yield shard, item.key, item.size


def published_numbers(store: Store) -> "array[int]":
    """The numbers of the published shards, 8 bytes each."""
    shards = map(layout.shard_of, keys_below(store, layout.DATA))
    return array("q", (shard for shard in shards if shard is not None))


def read_footer(store: Store, modality: Modality, shard: int) -> Footer:
    """What a published shard says of itself; raises NotFound before it is published."""
    return footer_of(store, layout.data_key(modality, shard))


def footer_of(store: Store, key: str) -> Footer:
    """The footer of the published file `key`; raises StoreError for a file that has none."""
    with open_parquet(store, key) as file:
        return _footer_in(file.schema_arrow, key)


def _footer_in(schema: pa.Schema, key: str) -> Footer:
    metadata = schema.metadata or {}
    if FOOTER_KEY not in metadata:
        raise StoreError(f"{key} was not written by embedmill: its footer names no shard")
    try:
        return Footer.from_json(metadata[FOOTER_KEY])
    except (ValueError, TypeError, LookupError) as err:
        raise StoreError(f"{key}: its footer is not what embedmill wrote; the file was changed") from err


def read_shard(store: Store, key: str) -> tuple[Footer, list[str], dict[str, np.ndarray], pa.Table]:
    """Footer, ids, the (n, dim) vectors of each vector column (of pairs: the scores), and the whole table of a file."""
    table = read_parquet(store, key)
    return _footer_in(table.schema, key), ids_in(table).to_pylist(), _vectors_in(table, key), table


def unpack(data: bytes, key: str) -> tuple[Footer, dict[str, np.ndarray], pa.Table]:
    """Footer, vectors and table of a published file, or of a failures file, whose bytes are `data`."""
    table = parse_parquet(data, key)
    vectors = _vectors_in(table, key) if layout.shard_of(key) is not None else {}
    return _footer_in(table.schema, key), vectors, table


def _vectors_in(table: pa.Table, key: str) -> dict[str, np.ndarray]:
    if is_scores(table):
        return {SCORE: scores_in(table)}
    vectors = {f.name: vectors_from_arrow(table[f.name]) for f in table.schema if is_vector_column(f.type)}
    if VECTOR not in vectors:
        raise StoreError(f"{key} has no column {VECTOR}; it is not what embedmill wrote")
    return vectors


def read_failures(store: Store, shard: int, attempt: str) -> pa.Table:
    """The failures of one attempt (FAILURES_SCHEMA); empty where it had none."""
    try:
        return read_parquet(store, layout.failures_key(shard, attempt))
    except NotFound:
        return FAILURES_SCHEMA.empty_table()
