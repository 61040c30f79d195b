"""Blocks: many records of a manifest at once, column by column; what is odd in any way is left to be read by line."""

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import orjson

from producer.csv_records import CsvReader
from producer.json_records import JsonReader
from producer.records import LINE_LIMIT, Line, Record, line_pieces

#: Bytes that are tried as one block; where one record is odd, so many are read line by line.
WINDOW = 2**17


@dataclass(frozen=True, slots=True)
class Block:
    """Records that were read without a fault."""

    lines: Sequence[int]  # the number of each
    columns: Mapping[str, Sequence[Any]]  # Any: whatever JSON or Parquet holds; None where a record has no such key

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, part: slice) -> "Block":
        return Block(self.lines[part], {name: values[part] for name, values in self.columns.items()})

    def record(self, at: int) -> Record:
        return {name: values[at] for name, values in self.columns.items()}

    def records(self) -> Iterator[Line]:
        """What reading them one by one gives, but that a key which is not there is None."""
        return ((line, self.record(at)) for at, line in enumerate(self.lines))


def json_blocks(chunks: Iterable[bytes], columns: Iterable[str] | None, window: int = WINDOW) -> Iterator[Block | Line]:
    """The records of JSON lines, in blocks where each line of a window is an object, else line by line."""
    reader, held = JsonReader(), b""
    for chunk in _windows(chunks, window):
        data = held + chunk
        cut = data.rfind(b"\n") + 1
        data, held = data[:cut], data[cut:]
        if data:
            yield from _json_window(reader, data, columns)
        if len(held) > LINE_LIMIT:
            yield from reader.records([(held, False)])
            held = b""
    if held or reader.size:
        yield from _json_window(reader, held, columns)


def _json_window(reader: JsonReader, data: bytes, columns: Iterable[str] | None) -> Iterator[Block | Line]:
    block = None if reader.size else _json_block(data, reader.number, columns)
    if block is not None:
        reader.number += len(block)
        yield block
    else:
        yield from reader.records(line_pieces([data]) if data else [(b"", True)])


def _json_block(data: bytes, first: int, columns: Iterable[str] | None) -> Block | None:
    """The lines of `data`, the first of them number `first`, where each is a JSON object; else None."""
    lines = data.removesuffix(b"\n").split(b"\n")
    if len(data) > LINE_LIMIT and max(map(len, lines)) > LINE_LIMIT:
        return None
    try:
        records = list(map(orjson.loads, lines))
    except orjson.JSONDecodeError:
        return None
    if set(map(type, records)) != {dict}:
        return None
    names = set[str]().union(*records)
    wanted = names if columns is None else names.intersection(columns)
    return Block(
        range(first, first + len(records)), {name: [record.get(name) for record in records] for name in wanted}
    )


def csv_blocks(
    chunks: Iterable[bytes], columns: tuple[str, ...], delimiter: str, window: int = WINDOW
) -> Iterator[Block | tuple[int, Any]]:
    """The records of a CSV file, its header too: in blocks, or, as CsvReader gives them, line by line."""
    reader, blocks, data = CsvReader(delimiter), _CsvBlocks(delimiter, columns), b""
    is_cut = False  # a part of a line was given to the reader, and its end not yet
    for chunk in _windows(chunks, window):
        data += chunk
        if reader.is_between_records and (end := blocks.split(data)):
            yield from _csv_window(reader, blocks, data[:end])
            data = data[end:]
        if not reader.is_between_records or len(data) > 2 * window:  # begun before, odd, or very long
            cut = data.rfind(b"\n") + 1
            yield from reader.some(line_pieces([data[:cut]]))
            data, is_cut = data[cut:], is_cut and not cut
            if len(data) > LINE_LIMIT:
                yield from reader.some([(data, False)])
                data, is_cut = b"", True
    if data or is_cut:
        yield from reader.some([*line_pieces([data])] or [(b"", True)])
    yield from reader.rest()


def _csv_window(reader: CsvReader, blocks: "_CsvBlocks", data: bytes) -> Iterator[Block | tuple[int, Any]]:
    made = blocks.block(data, reader.number)
    if made is None:
        yield from reader.some(line_pieces([data]))
    else:
        block, after = made
        reader.go_on_at(after)
        yield block


class _CsvBlocks:
    """Reads whole CSV records out of bytes, as CsvReader does."""

    def __init__(self, delimiter: str, columns: tuple[str, ...]) -> None:
        self._delimiter, self._columns = delimiter, columns
        plain = rf'[^"{delimiter}\r\n][^{delimiter}\r\n]*+|'  # a quote may be within it
        field = rf'(?:"(?:[^"]++|"")*+"|{plain})'
        records = rf"(?>(?:{field}{delimiter})*+{field}\r?\n)*+"
        # Whole records from the start on; it matches everywhere, be it nothing.
        self._records: Callable[[bytes], re.Match[bytes]] = re.compile(records.encode()).match  # type: ignore[assignment]

    def split(self, data: bytes) -> int:
        """Where the last of the whole records ends, from the start up to the first that is odd."""
        if b'"' not in data and b"\r" not in data:
            return data.rfind(b"\n") + 1
        return self._records(data).end()

    def block(self, data: bytes, first: int) -> tuple[Block, int] | None:
        """The records of `data`, which are whole, and the number of the line after them; None where one is odd."""
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return None
        return self._quoted(text, first) if '"' in text or "\r" in text else self._unquoted(text, first)

    def _unquoted(self, text: str, first: int) -> tuple[Block, int] | None:
        text, width = text.removesuffix("\n"), len(self._columns)
        lines = text.split("\n")
        if "" in lines or {line.count(self._delimiter) for line in lines} != {width - 1} or _too_long(lines, 1):
            return None
        values = text.replace("\n", self._delimiter).split(self._delimiter)
        numbers = range(first, first + len(lines))
        return self._made(numbers, [values[at::width] for at in range(width)]), numbers.stop

    def _quoted(self, text: str, first: int) -> tuple[Block, int] | None:
        """Python's reader, which is lenient and has a limit of its own, gives the same where `split` found no fault."""
        try:
            records = list(csv.reader(io.StringIO(text, newline=""), delimiter=self._delimiter))
        except csv.Error:
            return None
        width = len(self._columns)
        if set(map(len, records)) != {width} or (width == 1 and [""] in records):
            return None
        columns = list(zip(*records, strict=True))
        if _too_long([value for column in columns for value in column], width):
            return None
        numbers: Sequence[int] = range(first, first + len(records))
        if text.count("\n") > len(numbers):
            numbers = _numbers(records, first)
        return self._made(numbers, columns), first + text.count("\n")

    def _made(self, numbers: Sequence[int], columns: Sequence[Sequence[str]]) -> Block:
        return Block(numbers, dict(zip(self._columns, columns, strict=True)))


def _too_long(values: Sequence[str], of_a_record: int) -> bool:
    """Whether a record of so many such values may be over the limit; a character takes four bytes at most."""
    return 8 * of_a_record * max(map(len, values)) > LINE_LIMIT


def _numbers(records: Sequence[Sequence[str]], first: int) -> list[int]:
    """The line that each record begins on; fields in quotes may hold newlines."""
    lines = [1 + sum(value.count("\n") for value in record) for record in records]
    return list(accumulate(lines[:-1], initial=first))


def _windows(chunks: Iterable[bytes], window: int) -> Iterator[bytes]:
    for chunk in chunks:
        for at in range(0, len(chunk), window):
            yield chunk[at : at + window]
