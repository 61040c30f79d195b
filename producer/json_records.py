"""JSON records: one object a line, told apart from what only looks like one."""

import json
from collections.abc import Iterable, Iterator

import orjson

from producer.records import LINE_LIMIT, Line, Record, broken_line, too_long_line
from schemas.failures import Reject


def json_records(pieces: Iterable[tuple[bytes, bool]]) -> Iterator[Line]:
    """The records of `line_pieces`, one a line."""
    return JsonReader().records(pieces)


class JsonReader:
    """Reads JSON lines one by one, some at a time."""

    def __init__(self) -> None:
        self.number = 1  # of the line at hand
        self.size = 0  # bytes of it that were read

    def records(self, pieces: Iterable[tuple[bytes, bool]]) -> Iterator[Line]:
        """The record of each line that ends within `pieces`, or its Reject; blank lines are left out."""
        number, size = self.number, self.size
        loads, error = orjson.loads, orjson.JSONDecodeError
        for piece, ends in pieces:
            size += len(piece)
            if not ends:
                continue
            if size > LINE_LIMIT:
                yield number, too_long_line(number, size)
            else:
                try:
                    record = loads(piece)
                except error as err:
                    if piece.strip():
                        yield number, _surrogate_record(piece, number, err)
                else:
                    yield number, record if type(record) is dict else broken_line(number, "the JSON is not an object")
            number, size = number + 1, 0
        self.number, self.size = number, size


def _surrogate_record(line: bytes, number: int, err: orjson.JSONDecodeError) -> Record | Reject:
    """The record of a line that orjson refuses for nothing but an escaped lone surrogate, or the Reject."""
    reject = broken_line(number, f"not JSON: {err.msg}, column {err.colno}")
    if b"\\ud" not in line.lower():
        return reject
    try:
        record = json.loads(line.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return reject
    return record if isinstance(record, dict) else reject


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")
