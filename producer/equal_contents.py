"""Equal contents: rows of a manifest that are made of the same, found in one reading and kept together in the next."""

from collections.abc import Iterable, Iterator

import numpy as np

from producer.costs import row_size
from schemas.failures import Reject
from schemas.rows import ManifestRow, Modality
from schemas.text_run import TextRun
from storage.duplicates import DuplicateFinder

#: Rows that wait for others of their content are held in memory: at most so many, and bytes of text.
MAX_HELD, MAX_HELD_BYTES = 262_144, 256 * 2**20
#: The same of one content; several such groups go into a shard.
MAX_GROUP, MAX_GROUP_BYTES = 4_096, 8 * 2**20
#: Rows a second that a manifest is read with, for weighing a second reading against what it saves.
READ_PER_S = 100_000.0

Together = tuple[ManifestRow, ...]
#: What a record became, or several of equal content; None: its modality is not asked for.
Outcome = ManifestRow | TextRun | Together | Reject | None


class EqualContents:
    """Takes the rows of a manifest, and tells which lines are of the content of an earlier one."""

    def __init__(self) -> None:
        self._finder = DuplicateFinder()

    def add(self, row: ManifestRow) -> None:
        if row.defect is None:
            self._finder.add_number(_content_number(row), row.line)

    def add_run(self, run: TextRun) -> None:
        """Take many rows."""
        self._finder.add_numbers(list(map(hash, run.texts)), run.lines)

    def lines(self, rows: int, seconds: float) -> np.ndarray:
        """An int64 (n, 2) array, sorted: each line whose content was there before, and the line that had it first.

        Empty where to compute them again, as a share of the `seconds` that `rows` take, costs less than to read the
        manifest once more.
        """
        pairs = self._finder.duplicate_pairs()
        worth_it = len(pairs) * seconds > rows * (rows / READ_PER_S)
        return pairs if worth_it else pairs[:0]


def _content_number(row: ManifestRow) -> int:
    """A number of 64 bits for what the row is made of, the same for the same within this process."""
    return hash(row.text) if row.modality is Modality.TEXT else hash((row.text, row.uri, row.parts))


def together(outcomes: Iterable[Outcome], lines: np.ndarray) -> Iterator[Outcome]:
    """The outcomes, with rows of equal content held back and given as one tuple, when the last of them has come.

    Where too many are held, those that wait longest are given as they are: their content is embedded again for the
    rest. `lines` are those of `EqualContents.lines`.
    """
    groups = _Groups(lines)
    for outcome in runs_parted(outcomes, groups.lines):
        if type(outcome) is not ManifestRow or not groups.next_line or outcome.line < groups.next_line:
            yield outcome
        else:
            yield from groups.take(outcome)
    yield from groups.rest()


def runs_parted(outcomes: Iterable[Outcome], lines: np.ndarray) -> Iterator[Outcome]:
    """The outcomes, with the rows on `lines`, which are sorted, one by one, as long as these are there."""
    for outcome in outcomes:
        if type(outcome) is not TextRun:
            yield outcome
            continue
        begin, end = np.searchsorted(lines, (outcome.lines[0], outcome.lines[-1] + 1)).tolist()
        if begin == end:
            yield outcome
        else:
            alone = np.flatnonzero(np.isin(outcome.lines, lines[begin:end]))
            yield from outcome.parted(alone.tolist())


class _Groups:
    """Rows that wait for others of their content."""

    def __init__(self, lines: np.ndarray) -> None:
        first, counts = np.unique(lines[:, 1], return_counts=True)
        members = np.concatenate([lines[:, 0], first])
        order = np.argsort(members, kind="stable")
        self.lines, self._first = members[order], np.concatenate([lines[:, 1], first])[order]
        self._firsts, self._counts = first, counts + 1  # rows that each group still waits for
        self._held: dict[int, list[ManifestRow]] = {}  # by the first line
        self._sizes: dict[int, int] = {}  # bytes of each of these
        self._rows = self._bytes = self._at = 0
        self.next_line = int(self.lines[0])  # the next line that has equals; 0: none has

    def take(self, row: ManifestRow) -> Iterator[ManifestRow | Together]:
        while self.next_line and self.next_line < row.line:  # lines that are no rows after all
            self._advance()
        if row.line != self.next_line:
            yield row
            return
        first = int(self._first[self._at])
        self._advance()
        group = self._held.setdefault(first, [])
        if group and not _same(group[0], row):  # a hash that two contents share
            yield row
            return
        group.append(row)
        self._rows += 1
        self._bytes += (size := row_size(row))
        self._sizes[first] = self._sizes.get(first, 0) + size
        place = int(np.searchsorted(self._firsts, first))
        self._counts[place] -= 1
        if not self._counts[place] or len(group) >= MAX_GROUP or self._sizes[first] >= MAX_GROUP_BYTES:
            yield self._release(first)
        elif self._rows > MAX_HELD or self._bytes > MAX_HELD_BYTES:
            yield self._release(next(iter(self._held)))

    def rest(self) -> Iterator[Together]:
        for first in list(self._held):
            yield self._release(first)

    def _advance(self) -> None:
        self._at += 1
        self.next_line = int(self.lines[self._at]) if self._at < len(self.lines) else 0

    def _release(self, first: int) -> Together:
        group = tuple(self._held.pop(first))
        self._rows -= len(group)
        self._bytes -= self._sizes.pop(first)
        return group


def _same(one: ManifestRow, other: ManifestRow) -> bool:
    return (one.modality, one.text, one.uri, one.parts) == (other.modality, other.text, other.uri, other.parts)
