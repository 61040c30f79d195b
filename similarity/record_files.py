"""Record files: Parquet, JSONL, CSV and TSV (the text ones also gzip'd), in a folder or under a URL, read in pieces."""

import contextlib
import csv
import gzip
import io
import math
import posixpath
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import Refused
from schemas.failures import one_line
from schemas.redaction import redact
from storage.answers import require_ended
from storage.parquet import open_parquet
from storage.store import LocalStore, Store, canonical_location, open_store

#: Any: a value may be whatever JSON or Parquet holds.
Values = Mapping[str, Any]

_ENDINGS = (".parquet", ".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".tsv", ".tsv.gz")
_BATCH_ROWS = 65_536
_DATA = "data/"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFile:
    """One file of records."""

    store: Store
    key: str

    @property
    def name(self) -> str:
        """What messages call it."""
        return one_line(redact(f"{self.store.url}/{self.key}"))

    @property
    def is_parquet(self) -> bool:
        return self.key.endswith(".parquet")

    def records(self) -> Iterator[tuple[int, Values]]:
        """Each record with its number: the line of a text file, the row of a Parquet file, from 1.

        Raises Refused where the file is not what its ending says, StoreError for a broken Parquet file.
        """
        if self.is_parquet:
            yield from self._parquet_records()
        else:
            yield from self._text_records()

    def column_names(self) -> list[str]:
        """The columns of a Parquet file."""
        with open_parquet(self.store, self.key) as file:
            return list(file.schema_arrow.names)

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """The rows of a Parquet file in pieces, of `columns` alone."""
        with open_parquet(self.store, self.key) as file:
            yield from file.iter_batches(_BATCH_ROWS, columns=columns, use_threads=False)

    def _parquet_records(self) -> Iterator[tuple[int, Values]]:
        number = 0
        for batch in self.batches(self.column_names()):
            for values in batch.to_pylist():
                number += 1
                yield number, values

    def _text_records(self) -> Iterator[tuple[int, Values]]:
        try:
            with self._opened() as text:
                yield from _json_lines(text, self.name) if ".jsonl" in self.key else self._rows(text)
        except (UnicodeDecodeError, csv.Error, EOFError, OSError, zlib.error) as err:  # a bad gzip is an OSError
            raise Refused(f"{self.name} cannot be read: {getattr(err, 'strerror', None) or err}") from err

    @contextlib.contextmanager
    def _opened(self) -> Iterator[TextIO]:
        store, key = self.store, self.key
        with (
            store.path(key).open("rb") if isinstance(store, LocalStore) else io.BytesIO(store.get(key)) as binary,
            gzip.open(binary) if key.endswith(".gz") else contextlib.nullcontext(binary) as plain,
        ):
            yield io.TextIOWrapper(plain, "utf-8-sig", newline="")

    def _rows(self, text: TextIO) -> Iterator[tuple[int, Values]]:
        reader = csv.DictReader(text, delimiter="\t" if ".tsv" in self.key else ",", strict=True)
        for values in reader:
            if None in values or None in values.values():
                raise Refused(f"{self.name} line {reader.line_num}: it has not as many fields as the first line")
            yield reader.line_num, values


def _json_lines(text: TextIO, name: str) -> Iterator[tuple[int, Values]]:
    for number, line in enumerate(text, start=1):
        if not line.strip():
            continue
        try:
            values = orjson.loads(line)
        except orjson.JSONDecodeError as err:
            raise Refused(f"{name} line {number}: not JSON: {err.msg}") from err
        if not isinstance(values, dict):
            raise Refused(f"{name} line {number}: a {type(values).__name__}; each line must be a JSON object")
        yield number, values


def find_files(location: str) -> list[RecordFile]:
    """The record files at `location`: one file, or those of a folder, sorted by name.

    Of a folder that has `data/`, as the output of a job has, the Parquet files there; else all Parquet files below it.
    Raises Refused where there is none, or where the join or job has not ended.
    """
    place = canonical_location(location)
    folder, name = posixpath.split(place)
    if name.endswith(_ENDINGS):
        file = RecordFile(store=open_store(folder), key=name)
        if file.store.size(name) is None:
            raise Refused(f"{file.name} does not exist")
        return [file]
    store = open_store(place)
    require_ended(store)
    keys = sorted(item.key for item in store.walk("") if item.key.endswith(".parquet") and _is_visible(item.key))
    published = [key for key in keys if key.startswith(_DATA)]
    if not keys:
        raise Refused(f"{redact(place)} holds no Parquet file, and is none of {', '.join(_ENDINGS)}")
    return [RecordFile(store=store, key=key) for key in published or keys]


def _is_visible(key: str) -> bool:
    return not any(part.startswith(("_", ".")) for part in key.split("/"))


def id_of(value: object, where: str) -> str:
    """An id as text: integers in decimal, as manifests have it; raises Refused for what is no id."""
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise Refused(f"{where} is {'empty' if value in (None, '') else f'a {type(value).__name__}'}; give an id")


def number_of(value: object, where: str) -> float:
    """A finite number, be it written as text; raises Refused for anything else."""
    number = math.nan
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):  # said below
            number = float(value)
    if math.isfinite(number):
        return number
    raise Refused(f"{where} is {one_line(repr(value))}; give a number")


def id_column(batch: pa.RecordBatch, name: str, file: RecordFile) -> pa.Array:
    """A column of a Parquet file as ids; raises Refused where it is of another type or has nulls."""
    column = batch[name]
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
        raise Refused(f"{file.name}: column {one_line(name)} is of type {kind}; ids are texts or integers")
    if column.null_count:
        raise Refused(f"{file.name}: column {one_line(name)} has nulls; every pair needs two ids")
    return column.cast(pa.string())


def number_column(batch: pa.RecordBatch, name: str, file: RecordFile) -> pa.Array:
    """A column of a Parquet file as float64; raises Refused where it holds anything but finite numbers."""
    column = batch[name]
    try:
        numbers = column.cast(pa.float64())
    except pa.ArrowException as err:
        raise Refused(f"{file.name}: column {one_line(name)} is of type {column.type}; give numbers") from err
    if numbers.null_count or not _all_finite(numbers):
        raise Refused(f"{file.name}: column {one_line(name)} holds nulls, NaN or infinity; give numbers")
    return numbers


def _all_finite(numbers: pa.Array) -> bool:
    return bool(pc.all(pc.is_finite(numbers), min_count=0).as_py())
