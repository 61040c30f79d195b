"""Raw records: what a line of a manifest is before it is a row, and the lines themselves."""

from collections.abc import Iterable, Iterator
from typing import Any

from schemas.failures import Reject, RejectCode, one_line

#: One record: the value of each column.
Record = dict[str, Any]  # Any: whatever JSON or Parquet holds; producer/parsing.py gives it types

Line = tuple[int, Record | Reject]

#: Bytes of a line (JSONL) or record (CSV); a longer one is rejected without being held in memory.
LINE_LIMIT = 2**20


def line_pieces(chunks: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
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


def broken_line(number: int, message: str) -> Reject:
    return Reject(line=number, id=None, code=RejectCode.BROKEN_LINE, message=one_line(message))


def too_long_line(number: int, size: int) -> Reject:
    message = f"{size:,} bytes long, the limit is {LINE_LIMIT:,}; shorten the text or split it into rows"
    return Reject(line=number, id=None, code=RejectCode.LINE_TOO_LONG, message=message)
