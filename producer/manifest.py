"""The manifest: a user's list of rows, read from a folder or S3 as raw records with their line numbers.

JSONL, CSV, TSV and Parquet, each also gzip'd. What is wrong with one line is a Reject; what is wrong with
the whole is a ManifestError. TSV knows the quotes of CSV, as spreadsheets and data frames write it.
"""

import contextlib
import gzip
import hashlib
import io
import json
import os
import posixpath
import re
import tempfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from enum import IntEnum, StrEnum
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import ManifestError
from schemas.failures import Reject, RejectCode, one_line
from schemas.redaction import redact

#: One record: the value of each column.
Record = dict[str, Any]  # Any: whatever JSON or Parquet holds; producer/parsing.py gives it types
Line = tuple[int, Record | Reject]

#: Bytes of a line (JSONL) or record (CSV); a longer one is rejected without being held in memory.
LINE_LIMIT = 2**20

_CHUNK = 2**20
_BATCH_ROWS = 4096
_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


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


class Manifest:
    """A list of rows at a location; it may be read more than once and must not change meanwhile."""

    def __init__(self, location: str, form: Format) -> None:
        self.location, self.format = location, form
        self.name = redact(location)  # what messages call it
        self.sha256: str | None = None  # of the raw bytes; known once records() came to its end

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
        with self._opened() as source:
            if self.format is Format.PARQUET:
                yield from self._parquet_records(source, columns)
            elif self.format is Format.JSONL:
                yield from _json_records(_pieces(source.text_chunks()))
            else:
                yield from self._csv_records(source)
            digest = source.sha256()
        if self.sha256 not in (None, digest):
            raise _changed(self.name)
        self.sha256 = digest

    @contextlib.contextmanager
    def _opened(self) -> Iterator["_Source"]:
        with _manifest_errors(self.name), _open(self.location) as file, contextlib.ExitStack() as copies:
            yield _Source(file, self.name, copies)

    def _csv_records(self, source: "_Source") -> Iterator[Line]:
        records = self._text_records(source)
        _, header = next(records)
        assert isinstance(header, list)
        columns = self._header(header)
        for number, fields in records:
            if isinstance(fields, Reject):
                yield number, fields
            elif len(fields) != len(columns):
                yield number, _broken(number, f"the line has {len(fields)} fields, the header {len(columns)}")
            else:
                yield number, dict(zip(columns, fields, strict=True))

    def _text_records(self, source: "_Source") -> Iterator[tuple[int, list[str] | Reject]]:
        """The fields of each CSV record, the header first; raises ManifestError when there is none."""
        delimiter = "\t" if self.format is Format.TSV else ","
        records = _CsvReader(delimiter).records(_pieces(source.text_chunks()))
        first = next(records, None)
        if first is None or isinstance(first[1], Reject):
            reason = "it is empty" if first is None or not isinstance(first[1], Reject) else first[1].message
            raise ManifestError(f"{self.name}: no header in line 1: {reason}; name the columns there")
        yield first
        yield from records

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

    def _parquet_records(self, source: "_Source", columns: Collection[str] | None) -> Iterator[Line]:
        unpacked = source.unpacked(hashed=True)
        file = pq.ParquetFile(unpacked, pre_buffer=False, buffer_size=_CHUNK)
        names = [name for name in self._header(file.schema_arrow.names) if columns is None or name in columns]
        number = 0
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=names):
            values = [_values(column, name, self.name) for column, name in zip(batch.columns, names, strict=True)]
            for row in zip(*values, strict=True):
                number += 1
                if _NOT_UTF8 in row:
                    yield number, _broken(number, f"column {names[row.index(_NOT_UTF8)]} is not UTF-8")
                else:
                    yield number, dict(zip(names, row, strict=True))


def open_manifest(location: str) -> Manifest:
    """The manifest at a path or `s3://bucket/key`; raises ManifestError where there is none that can be read."""
    name = redact(location)
    ending = posixpath.splitext(location.lower().removesuffix(".gz"))[1]
    if ending not in _ENDINGS:
        raise ManifestError(
            f"{name}: its name does not say what it is; a manifest ends in {', '.join(_ENDINGS)}, also with .gz"
        )
    with _manifest_errors(name), _open(location) as file:
        if not file.read(1):
            raise ManifestError(f"{name} is empty; a manifest has at least one row")
    return Manifest(location, _ENDINGS[ending])


def manifest_sha256(location: str) -> str:
    """The sha256 of a manifest's raw bytes, without parsing them; raises ManifestError when it cannot be read."""
    name = redact(location)
    with _manifest_errors(name), _open(location) as file, contextlib.ExitStack() as copies:
        return _Source(file, name, copies).sha256()


class _Source:
    """The raw bytes of a manifest, hashed as they pass."""

    def __init__(self, file: IO[bytes], name: str, copies: contextlib.ExitStack) -> None:
        self._file, self._name, self._copies = file, name, copies
        self._hash = hashlib.sha256()
        self._ahead = b""  # read, but not yet given out
        self._read_whole = False

    def read(self, size: int) -> bytes:
        """The next bytes, as many as `size` unless the file ends."""
        data, self._ahead = self._ahead[:size], self._ahead[size:]
        data += self._file.read(size - len(data))
        self._hash.update(data)
        return data

    def sha256(self) -> str:
        """The digest of all bytes, the unread ones too."""
        while not self._read_whole:
            self._read_whole = not self.read(_CHUNK)
        return self._hash.hexdigest()

    def text_chunks(self) -> Iterator[bytes]:
        """The content, unpacked, without byte order mark."""
        stream = self._stream()
        first = stream.read(_CHUNK)
        if first.startswith(_UTF16):
            raise ManifestError(f"{self._name} is UTF-16; save it as UTF-8")
        yield first.removeprefix(_BOM)
        while chunk := stream.read(_CHUNK):
            yield chunk

    def unpacked(self, *, hashed: bool = False) -> IO[bytes]:
        """A seekable file of the content: the manifest itself, or, of a gzip'd one, an unpacked copy."""
        stream = self._stream()
        if stream is not self:
            copy = tempfile.TemporaryFile(prefix="embedmill-manifest-")  # noqa: SIM115  # the next line closes it
            self._copies.enter_context(copy)
            while chunk := stream.read(_CHUNK):
                copy.write(chunk)
            self.sha256()
            copy.seek(0)
            return copy
        if hashed:
            self.sha256()
        self._file.seek(0)
        return self._file

    def _stream(self) -> "_Source | gzip.GzipFile":
        """What to read the content from; gzip is told by its first bytes, whatever the name says."""
        self._ahead = self._file.read(len(_GZIP))
        return gzip.GzipFile(fileobj=self) if self._ahead == _GZIP else self  # type: ignore[call-overload]  # reads only


def _open(location: str) -> contextlib.AbstractContextManager[IO[bytes]]:
    if location.startswith("s3://"):
        return _open_s3(location)
    if "://" in location:
        raise ManifestError(f"{redact(location)}: no such kind of place; give a path or s3://bucket/key")
    return _open_local(Path(location).expanduser())


@contextlib.contextmanager
def _open_local(path: Path) -> Iterator[IO[bytes]]:
    """The file; raises ManifestError at the end when it is another one than at the start."""
    if not path.exists():
        raise ManifestError(f"{path} does not exist; give the path of a manifest")
    if not path.is_file():  # a pipe can be read only once, and a plan may need two readings
        raise ManifestError(f"{path} is not a file; give the path of a manifest")
    with path.open("rb") as file:
        before = os.fstat(file.fileno())
        yield file
    if _identity(before) != _identity(path.stat() if path.exists() else None):
        raise _changed(str(path))


def _identity(stat: os.stat_result | None) -> tuple[int, ...]:
    return () if stat is None else (stat.st_ino, stat.st_size, stat.st_mtime_ns)


@contextlib.contextmanager
def _open_s3(location: str) -> Iterator[IO[bytes]]:
    from obstore.store import S3Store

    bucket, _, key = location.removeprefix("s3://").partition("/")
    with io.BufferedReader(_S3File(S3Store.from_url(f"s3://{bucket}"), key), _CHUNK) as file:
        yield file


class _S3File(io.RawIOBase):
    """One version of an object, read range by range; a new version in its place fails the next read."""

    def __init__(self, store: Any, key: str) -> None:  # Any: obstore is imported only where it is used
        import obstore

        super().__init__()
        meta = obstore.head(store, key)
        self._get, self._store, self._key = obstore.get, store, key
        self._etag, self._size, self._at = meta["e_tag"], meta["size"], 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:  # Any: typeshed's WriteableBuffer exists for type checkers only
        end = min(self._at + len(buffer), self._size)
        if end <= self._at:
            return 0
        data = self._get(self._store, self._key, options={"range": (self._at, end), "if_match": self._etag}).bytes()
        buffer[: len(data)] = memoryview(data)
        self._at += len(data)
        return len(data)


@contextlib.contextmanager
def _manifest_errors(name: str) -> Iterator[None]:
    """Map what files, S3, gzip and Parquet raise to ManifestError, once, at this seam."""
    from obstore.exceptions import BaseError, PreconditionError

    try:
        yield
    except PreconditionError as err:
        raise _changed(name) from err
    except FileNotFoundError as err:
        raise ManifestError(f"{name} does not exist; give the path of a manifest") from err
    except (gzip.BadGzipFile, EOFError, zlib.error) as err:
        raise ManifestError(f"{name}: its gzip is cut off or corrupt ({err}); make it again") from err
    except pa.ArrowException as err:
        raise ManifestError(f"{name} cannot be read as Parquet: {_first_line(err)}; make it again") from err
    except (OSError, BaseError) as err:
        raise ManifestError(f"{name} cannot be read: {_first_line(err)}") from err


def _first_line(err: Exception) -> str:
    return one_line(redact((str(err).splitlines() or [type(err).__name__])[0]))


def _changed(name: str) -> ManifestError:
    return ManifestError(f"{name} changed while it was read; try again when it is complete")


def _pieces(chunks: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Lines without their newline, as (line, True); a very long one as (part, False)... and then (rest, True)."""
    rest, cut = b"", False
    for chunk in chunks:
        lines = chunk.split(b"\n")
        lines[0] = rest + lines[0]
        rest, cut = lines.pop(), cut and not lines
        for line in lines:
            yield line, True
        if len(rest) > LINE_LIMIT:
            yield rest, False
            rest, cut = b"", True
    if rest or cut:
        yield rest, True


def _json_records(pieces: Iterable[tuple[bytes, bool]]) -> Iterator[Line]:
    number, size = 1, 0
    loads, error = orjson.loads, orjson.JSONDecodeError
    for piece, ends in pieces:
        size += len(piece)
        if not ends:
            continue
        if size > LINE_LIMIT:
            yield number, _too_long(number, size)
        else:
            try:
                record = loads(piece)
            except error as err:
                if piece.strip():
                    yield number, _surrogate_record(piece, number, err)
            else:
                yield number, record if type(record) is dict else _broken(number, "the JSON is not an object")
        number, size = number + 1, 0


def _surrogate_record(line: bytes, number: int, err: orjson.JSONDecodeError) -> Record | Reject:
    """The record of a line that orjson refuses for nothing but an escaped lone surrogate, or the Reject."""
    reject = _broken(number, f"not JSON: {err.msg}, column {err.colno}")
    if b"\\ud" not in line.lower():
        return reject
    try:
        record = json.loads(line.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return reject
    return record if isinstance(record, dict) else reject


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


class _Quoting(IntEnum):
    """Where in a CSV record a byte stands."""

    START = 0  # at the start of a field
    PLAIN = 1  # in a field without quotes, or behind the closing quote
    OPEN = 2  # between quotes: newlines belong to the field
    QUOTE = 3  # behind a quote within quotes: the closing one, or the first of a doubled one


#: What may stand between quotes; it matches everywhere, be it nothing.
_QUOTED: Callable[[bytes, int], re.Match[bytes]] = re.compile(rb'(?:[^"]++|"")*+').match  # type: ignore[assignment]


class _CsvReader:
    """RFC 4180: the csv module limits a field by a global, and would hold a record of any length."""

    def __init__(self, delimiter: str) -> None:
        self._delimiter, self._byte = delimiter, delimiter.encode()
        self._field: Callable[[str, int], re.Match[str] | None] = re.compile(
            rf'(?:"((?:[^"]++|"")*+)"|([^"{delimiter}][^{delimiter}]*+|))({delimiter}|\Z)'
        ).match
        # Whole unquoted fields with their delimiters; it matches everywhere, be it nothing.
        fields = re.compile(rf'(?:(?:[^"{delimiter}][^{delimiter}]*+)?+{delimiter})*+'.encode())
        self._unquoted: Callable[[bytes, int], re.Match[bytes]] = fields.match  # type: ignore[assignment]

    def records(self, pieces: Iterable[tuple[bytes, bool]]) -> Iterator[tuple[int, list[str] | Reject]]:
        """The fields of each record, or its Reject, with the line that it begins on; blank lines are left out."""
        number = first = 1  # the line at hand, and that on which the record begins
        held: list[bytes] = []
        size, state = 0, _Quoting.START
        for piece, ends in pieces:
            size += len(piece) + ends
            if size <= LINE_LIMIT + 1:
                held.append(piece)
            elif held:
                held = []
            if state is not _Quoting.START or b'"' in piece or not ends:
                state = self._advance(state, piece)
            if not ends:
                continue
            number += 1
            if state is _Quoting.OPEN:
                continue
            if size > LINE_LIMIT + 1:
                yield first, _too_long(first, size)
            elif size > 1 and held != [b"\r"]:
                yield first, self._fields(held, first)
            held, size, state, first = [], 0, _Quoting.START, number
        if size:
            yield (
                first,
                _broken(first, f"a quote is opened and not closed up to the end of line {number - 1}, the last"),
            )

    def _advance(self, state: _Quoting, data: bytes) -> _Quoting:
        """The state behind `data`."""
        at = 0
        while at < len(data):
            if state is _Quoting.OPEN:
                at = _QUOTED(data, at).end()
                state = _Quoting.QUOTE if at < len(data) else _Quoting.OPEN
            elif state is _Quoting.START:
                at = self._unquoted(data, at).end()
                if at < len(data):
                    state = _Quoting.OPEN if data.startswith(b'"', at) else _Quoting.PLAIN
            elif state is _Quoting.PLAIN:
                at = data.find(self._byte, at)
                if at < 0:
                    return state
                state = _Quoting.START
            else:
                state = {b'"': _Quoting.OPEN, self._byte: _Quoting.START}.get(data[at : at + 1], _Quoting.PLAIN)
            at += 1
        return state

    def _fields(self, lines: list[bytes], number: int) -> list[str] | Reject:
        try:
            record = b"\n".join(lines).removesuffix(b"\r").decode()
        except UnicodeDecodeError as err:
            return _broken(number, f"not UTF-8: {err.reason} at byte {err.start + 1} of the line")
        if '"' not in record:
            return record.split(self._delimiter)
        return self._quoted_fields(record) or _broken(number, "a closing quote is not followed by the next field")

    def _quoted_fields(self, record: str) -> list[str] | None:
        fields, at = [], 0
        while match := self._field(record, at):
            quoted, plain, delimiter = match.groups()
            fields.append(plain if quoted is None else quoted.replace('""', '"'))
            at = match.end()
            if not delimiter:
                return fields
        return None


#: What stands for a Parquet string that is not UTF-8.
_NOT_UTF8 = object()


def _values(column: pa.Array, name: str, manifest: str) -> list[object]:
    """The values of a Parquet column as Python's own types; those of odd types as text."""
    try:
        values: list[object] = _plain(column).to_pylist()
    except UnicodeDecodeError:
        return [_value(scalar) for scalar in column]
    except (pa.ArrowException, ValueError, TypeError, ImportError, OverflowError) as err:
        raise ManifestError(
            f"{manifest}: column {one_line(name)} of type {column.type} cannot be read; write it as a string"
        ) from err
    return values


def _plain(column: pa.Array) -> pa.Array:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_float16(kind):
        return column.cast(pa.float32())
    if pa.types.is_temporal(kind) or pa.types.is_decimal(kind):
        return column.cast(pa.string())  # Python's datetime has no nanoseconds
    return column


def _value(scalar: pa.Scalar) -> object:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return _NOT_UTF8


def _broken(number: int, message: str) -> Reject:
    return Reject(line=number, id=None, code=RejectCode.BROKEN_LINE, message=one_line(message))


def _too_long(number: int, size: int) -> Reject:
    message = f"{size:,} bytes long, the limit is {LINE_LIMIT:,}; shorten the text or split it into rows"
    return Reject(line=number, id=None, code=RejectCode.LINE_TOO_LONG, message=message)
