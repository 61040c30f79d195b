"""CSV records: RFC 4180, line by line, in flat memory, with the number of the line that each record begins on."""

import re
from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum

from producer.records import LINE_LIMIT, broken_line, too_long_line
from schemas.failures import Reject


class _Quoting(IntEnum):
    """Where in a CSV record a byte stands."""

    START = 0  # at the start of a field
    PLAIN = 1  # in a field without quotes, or behind the closing quote
    OPEN = 2  # between quotes: newlines belong to the field
    QUOTE = 3  # behind a quote within quotes: the closing one, or the first of a doubled one


#: What may stand between quotes; it matches everywhere, be it nothing.
_QUOTED: Callable[[bytes, int], re.Match[bytes]] = re.compile(rb'(?:[^"]++|"")*+').match  # type: ignore[assignment]


class CsvReader:
    """RFC 4180: the csv module limits a field by a global, and would hold a record of any length."""

    def __init__(self, delimiter: str) -> None:
        self._delimiter, self._byte = delimiter, delimiter.encode()
        self._field: Callable[[str, int], re.Match[str] | None] = re.compile(
            rf'(?:"((?:[^"]++|"")*+)"|([^"{delimiter}][^{delimiter}]*+|))({delimiter}|\Z)'
        ).match
        # Whole unquoted fields with their delimiters; it matches everywhere, be it nothing.
        fields = re.compile(rf'(?:(?:[^"{delimiter}][^{delimiter}]*+)?+{delimiter})*+'.encode())
        self._unquoted: Callable[[bytes, int], re.Match[bytes]] = fields.match  # type: ignore[assignment]
        self.number = self._first = 1  # the line at hand, and that on which the record begins
        self._held: list[bytes] = []
        self._size, self._state = 0, _Quoting.START

    def records(self, pieces: Iterable[tuple[bytes, bool]]) -> Iterator[tuple[int, list[str] | Reject]]:
        """The fields of each record, or its Reject, with the line that it begins on; blank lines are left out."""
        yield from self.some(pieces)
        yield from self.rest()

    @property
    def is_between_records(self) -> bool:
        """Whether what comes next begins a record."""
        return not self._size

    def go_on_at(self, number: int) -> None:
        """Somebody else has read what comes before this line."""
        self.number = self._first = number

    def some(self, pieces: Iterable[tuple[bytes, bool]]) -> Iterator[tuple[int, list[str] | Reject]]:
        """The records that end within `pieces`."""
        for piece, ends in pieces:
            self._size += len(piece) + ends
            if self._size <= LINE_LIMIT + 1:
                self._held.append(piece)
            elif self._held:
                self._held = []
            if self._state is not _Quoting.START or b'"' in piece or not ends:
                self._state = self._advance(self._state, piece)
            if not ends:
                continue
            self.number += 1
            if self._state is _Quoting.OPEN:
                continue
            held, size, first = self._held, self._size, self._first
            self._held, self._size, self._state, self._first = [], 0, _Quoting.START, self.number
            if size > LINE_LIMIT + 1:
                yield first, too_long_line(first, size)
            elif size > 1 and held != [b"\r"]:
                yield first, self._fields(held, first)

    def rest(self) -> Iterator[tuple[int, Reject]]:
        """What is said of a record that does not end."""
        if self._size:
            last = self.number - 1
            message = f"a quote is opened and not closed up to the end of line {last}, the last"
            yield self._first, broken_line(self._first, message)

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
            return broken_line(number, f"not UTF-8: {err.reason} at byte {err.start + 1} of the line")
        if '"' not in record:
            return record.split(self._delimiter)
        return self._quoted_fields(record) or broken_line(number, "a closing quote is not followed by the next field")

    def _quoted_fields(self, record: str) -> list[str] | None:
        fields, at = [], 0
        while match := self._field(record, at):
            quoted, plain, delimiter = match.groups()
            fields.append(plain if quoted is None else quoted.replace('""', '"'))
            at = match.end()
            if not delimiter:
                return fields
        return None
