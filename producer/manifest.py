"""The manifest: a user's list of rows, read from a folder or S3 as raw records with their line numbers.

JSONL, CSV, TSV and Parquet, each also gzip'd; a folder of media; webdataset tars. What is wrong with one line is a
Reject; what is wrong with the whole is a ManifestError. TSV knows the quotes of CSV, as spreadsheets write it.
"""

import contextlib
import posixpath
from collections.abc import Collection, Iterable, Iterator
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from producer.blocks import WINDOW, Block, csv_blocks, json_blocks
from producer.csv_records import CsvReader
from producer.folder_records import FolderManifest, files_below, is_medium
from producer.json_records import json_records
from producer.manifest_source import Source, changed, manifest_errors, open_source
from producer.parquet_records import NOT_UTF8, column_values
from producer.records import Line, Record, broken_line, line_pieces
from producer.tar_records import compressed, is_tar, open_folder_of_tars, open_tars
from schemas.counted import counted
from schemas.errors import ManifestError
from schemas.failures import Reject, one_line
from schemas.redaction import redact
from schemas.rows import MODALITY_BY_EXTENSION
from storage.store import canonical_location

_BATCH_ROWS = 4096
_BUFFER = 2**20


class Format(StrEnum):
    """How the rows are written."""

    JSONL = "jsonl"  # one JSON object a line
    CSV = "csv"  # RFC 4180 with a header
    TSV = "tsv"  # CSV with tabs
    PARQUET = "parquet"


_ENDINGS = {
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".csv": Format.CSV,
    ".tsv": Format.TSV,
    ".parquet": Format.PARQUET,
}


#: What the name of a manifest ends in, but for .gz.
ENDINGS = tuple(_ENDINGS)

#: Endings of tars that cannot be read at random.
_COMPRESSED = (".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2")


class Manifest(Protocol):
    """A list of rows at a location; it may be read more than once and must not change meanwhile."""

    location: str
    name: str  # what messages call it
    sha256: str | None  # of what is read; known once records() came to its end
    left_out: int  # files or members whose ending is none of ours; known then, too

    @property
    def base(self) -> str:
        """The folder or prefix that relative uris are relative to."""

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The names of the columns; None where each row has its own."""

    def natural_type(self, column: str) -> str:
        """The type of a kept column when the user named none."""

    def records(self, columns: Collection[str] | None = None) -> Iterator[Line]:
        """Each line's number and record, or Reject; `columns` are those that are needed (default: all).

        Raises ManifestError when the manifest cannot be read, or changed since it was first read.
        """

    def digest(self) -> str:
        """The sha256 that reading the records will give, without parsing them."""


class FileManifest:
    """A manifest in one file."""

    def __init__(self, location: str, form: Format) -> None:
        self.location, self.format = location, form
        self.name = redact(location)  # what messages call it
        self.sha256: str | None = None  # of the raw bytes; known once records() came to its end
        self.left_out = 0

    @cached_property
    def base(self) -> str:
        """The folder that the manifest lies in."""
        return posixpath.dirname(self.location if "://" in self.location else canonical_location(self.location))

    @cached_property
    def columns(self) -> tuple[str, ...] | None:
        """The names in the header; None for JSONL, where each line has its own."""
        if self.format is Format.JSONL:
            return None
        if self.format is Format.PARQUET:
            return tuple(self._arrow_schema.names)
        with self._opened() as source:
            _, header = next(self._text_records(source))
        assert isinstance(header, list)
        return self._header(header)

    def natural_type(self, column: str) -> str:
        """The type of a kept column when the user named none: that of a Parquet column, else string."""
        if self.format is not Format.PARQUET or column not in self._arrow_schema.names:
            return "string"
        kind = self._arrow_schema.field(column).type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        tests = {"int64": pa.types.is_integer, "float64": pa.types.is_floating, "bool": pa.types.is_boolean}
        return next((name for name, test in tests.items() if test(kind)), "string")

    def records(self, columns: Collection[str] | None = None) -> Iterator[Line]:
        """Each line's number and record, or Reject; of a Parquet file only `columns` are read (default: all).

        Raises ManifestError when the manifest cannot be read, or changed since it was first read.
        """
        with self._hashed() as source:
            if self.format is Format.PARQUET:
                yield from self._parquet_records(source, columns)
            elif self.format is Format.JSONL:
                yield from json_records(line_pieces(source.text_chunks()))
            else:
                yield from self._csv_records(source)

    def blocks(self, columns: Collection[str] | None = None, window: int = WINDOW) -> Iterator[Block | Line]:
        """The same lines as `records`, in blocks where nothing is odd; `window` bytes are tried as one."""
        with self._hashed() as source:
            if self.format is Format.PARQUET:
                yield from self._parquet_blocks(source, columns)
            elif self.format is Format.JSONL:
                yield from json_blocks(source.text_chunks(), columns, window)
            else:
                yield from self._csv_blocks(source, window)

    def digest(self) -> str:
        """The sha256 of the raw bytes."""
        with self._opened() as source:
            return source.sha256()

    @contextlib.contextmanager
    def _hashed(self) -> Iterator[Source]:
        """The manifest's bytes, and their digest once all is read; raises ManifestError where they changed."""
        with self._opened() as source:
            yield source
            digest = source.sha256()
        if self.sha256 not in (None, digest):
            raise changed(self.name)
        self.sha256 = digest

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Source]:
        with manifest_errors(self.name), open_source(self.location) as file, contextlib.ExitStack() as copies:
            yield Source(file, self.name, copies)

    def _csv_records(self, source: Source) -> Iterator[Line]:
        records = self._text_records(source)
        _, header = next(records)
        assert isinstance(header, list)
        columns = self._header(header)
        for number, fields in records:
            yield _csv_line(number, fields, columns)

    def _csv_blocks(self, source: Source, window: int) -> Iterator[Block | Line]:
        columns, is_first = self.columns, True
        assert columns is not None  # it has a header
        for item in csv_blocks(source.text_chunks(), columns, self._delimiter, window):
            if isinstance(item, Block):
                yield item[1:] if is_first else item
            elif not is_first:
                yield _csv_line(*item, columns)
            is_first = False

    def _text_records(self, source: Source) -> Iterator[tuple[int, list[str] | Reject]]:
        """The fields of each CSV record, the header first; raises ManifestError when there is none."""
        records = CsvReader(self._delimiter).records(line_pieces(source.text_chunks()))
        first = next(records, None)
        if first is None or isinstance(first[1], Reject):
            reason = "it is empty" if first is None or not isinstance(first[1], Reject) else first[1].message
            raise ManifestError(f"{self.name}: no header in line 1: {reason}; name the columns there")
        yield first
        yield from records

    @property
    def _delimiter(self) -> str:
        return "\t" if self.format is Format.TSV else ","

    def _header(self, names: Iterable[str]) -> tuple[str, ...]:
        columns = tuple(names)
        twice = {name for name in columns if name and columns.count(name) > 1}
        if twice:
            raise ManifestError(f"{self.name}: column {one_line(min(twice))} is there twice; rename one of them")
        return columns

    @cached_property
    def _arrow_schema(self) -> pa.Schema:
        with self._opened() as source:
            schema = pq.ParquetFile(source.unpacked(), pre_buffer=False).schema_arrow
        self._header(schema.names)
        return schema

    def _parquet_records(self, source: Source, columns: Collection[str] | None) -> Iterator[Line]:
        for block in self._parquet_blocks(source, columns):
            yield from block.records() if isinstance(block, Block) else [block]

    def _parquet_blocks(self, source: Source, columns: Collection[str] | None) -> Iterator[Block | Line]:
        unpacked = source.unpacked(hashed=True)
        file = pq.ParquetFile(unpacked, pre_buffer=False, buffer_size=_BUFFER)
        names = [name for name in self._header(file.schema_arrow.names) if columns is None or name in columns]
        number = 1
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=names, use_threads=False):
            values = [column_values(column, name, self.name) for column, name in zip(batch.columns, names, strict=True)]
            block = Block(range(number, number + batch.num_rows), dict(zip(names, values, strict=True)))
            number += batch.num_rows
            if any(NOT_UTF8 in column for column in values):
                yield from (_parquet_line(line, record) for line, record in block.records())
            else:
                yield block


def _csv_line(number: int, fields: list[str] | Reject, columns: tuple[str, ...]) -> Line:
    if isinstance(fields, Reject):
        return number, fields
    if len(fields) != len(columns):
        return number, broken_line(number, f"the line has {counted(len(fields), 'field')}, the header {len(columns)}")
    return number, dict(zip(columns, fields, strict=True))


def _parquet_line(number: int, record: Record | Reject) -> Line:
    broken = [name for name, value in record.items() if value is NOT_UTF8] if isinstance(record, dict) else []
    return (number, broken_line(number, f"column {broken[0]} is not UTF-8")) if broken else (number, record)


def open_manifest(location: str) -> Manifest:
    """The manifest at a path or `s3://` location; raises ManifestError where there is none that can be read."""
    name = redact(location)
    ending = posixpath.splitext(location.lower().removesuffix(".gz"))[1]
    if location.lower().endswith(_COMPRESSED):
        raise compressed(name)
    if _is_folder(location, known=ending in _ENDINGS or is_tar(location)):
        return _open_folder(location)
    if is_tar(location):
        return open_tars(location)
    with manifest_errors(name), open_source(location) as file:
        begun = file.read(1)
    if ending not in _ENDINGS:
        endings = ", ".join(_ENDINGS)
        raise ManifestError(
            f"{name}: its name does not say what it is; a manifest ends in {endings}, also with .gz, or in .tar; "
            "or it is a folder of media"
        )
    if not begun:
        raise ManifestError(f"{name} is empty; a manifest has at least one row")
    return FileManifest(location, _ENDINGS[ending])


def manifest_sha256(location: str) -> str:
    """The sha256 that reading a manifest will give, without parsing it; raises ManifestError when it cannot be read."""
    return open_manifest(location).digest()


def _is_folder(location: str, *, known: bool) -> bool:
    """Whether a location is a folder or prefix; on S3, what is `known` by its ending is an object."""
    if location.startswith("s3://"):
        return location.endswith("/") or not known
    return "://" not in location and Path(location).expanduser().is_dir()


def _open_folder(location: str) -> Manifest:
    """The media below a folder; where there are none, its tars."""
    others = 0
    for _, version in files_below(location, is_medium):
        if version is not None:
            return FolderManifest(location)
        others += 1
    if any(version is not None for _, version in files_below(location, is_tar)):
        return open_folder_of_tars(location)
    found = f"none of the {counted(others, 'file')} below it is a medium" if others else "there is no file below it"
    endings = ", ".join(MODALITY_BY_EXTENSION)
    raise ManifestError(f"{redact(location)} is no manifest: {found}; media end in {endings}, webdatasets in tar")
