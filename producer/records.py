"""Raw records: what a line of a manifest is before it is a row, and the lines themselves."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from schemas.failures import Reject, RejectCode, one_line

#: One record: the value of each column.
Record = dict[str, Any]  # Any: whatever JSON or Parquet holds; producer/parsing.py gives it types

Line = tuple[int, Record | Reject]

#: Characters that no id and no uri may have: control characters and lone surrogates.
UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")

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


def name_reject(number: int, name: str) -> Reject | None:
    """Why a file's name can be no id and no uri; None where it can."""
    if not UNSAFE.search(name):
        return None
    fault = "holds control characters" if name.isascii() or _is_utf8(name) else "is not UTF-8"
    return Reject(line=number, id=None, code=RejectCode.BAD_ID, message=one_line(f"{name!a} {fault}; rename the file"))


def relative_uri(path: str) -> str:
    """The path of a file as a uri: a name with a colon must not look like a scheme."""
    return f"./{path}" if _SCHEME.match(path) else path


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
