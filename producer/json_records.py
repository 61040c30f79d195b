"""JSON records: one object a line, told apart from what only looks like one."""

import json
from collections.abc import Iterable, Iterator

import orjson

from producer.records import LINE_LIMIT, Line, Record, broken_line, too_long_line
from schemas.failures import Reject


def json_records(pieces: Iterable[tuple[bytes, bool]]) -> Iterator[Line]:
    number, size = 1, 0
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
