"""The ledger: which shards are published, and what of their rows; 14 bytes a shard, and every sum at hand."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from producer.work import Cut


class Ledger:
    """The shards of some cuts."""

    def __init__(self, cuts: Sequence[Cut]) -> None:
        self._books = [_Book(cut) for cut in cuts]
        self.shards = sum(len(cut) for cut in cuts)
        self.rows = sum(int(cut.rows.sum()) for cut in cuts)

    def __contains__(self, shard: int) -> bool:
        return any(shard in book.numbers for book in self._books)

    @property
    def published(self) -> int:
        """Shards."""
        return sum(book.published for book in self._books)

    @property
    def rows_done(self) -> int:
        """Of published shards, failures too."""
        return sum(book.rows_done for book in self._books)

    @property
    def failed(self) -> int:
        """Rows of published shards."""
        return sum(book.rows_failed for book in self._books)

    @property
    def of_manifest(self) -> tuple[int, int]:
        """Failed rows and rows of published shards, those of retries left out."""
        first = next((book for book in self._books if not book.cut.is_retry), None)
        return (first.rows_failed, first.rows_done) if first else (0, 0)

    def cut_of(self, shard: int) -> Cut:
        return self._book(shard).cut

    def is_published(self, shard: int) -> bool:
        book = self._book(shard)
        return bool(book.is_there[shard - book.cut.first])

    def mark(self, shard: int) -> bool:
        """The shard is published; False where that was known."""
        return self._book(shard).mark(shard)

    def unmark(self, shard: int) -> None:
        """The shard is not published after all."""
        self._book(shard).unmark(shard)

    def count_failed(self, shard: int, rows: int) -> None:
        """So many rows of the shard failed."""
        self._book(shard).count_failed(shard, rows)

    def compare(self, found: Iterable[int]) -> tuple[list[int], list[int], "ShardSet"]:
        """Mark what a listing `found`.

        Gives the shards that are new, those that were marked and are not there, and those that are there, and whose
        failures are not counted.
        """
        numbers = np.fromiter(found, np.int64)
        new, gone, uncounted = [], [], []
        for book in self._books:
            is_found = book.flags(numbers)
            fresh, lost = book.compare(is_found)
            new += fresh
            gone += lost
            uncounted.append((book, is_found & ~book.is_counted))
        return new, gone, ShardSet(uncounted)

    def left(self) -> Counter[str]:
        """Shards that are not published, by their task."""
        left = Counter[str]()
        for book in self._books:
            for task, which in book.cut.by_task():
                left[task] += int(np.count_nonzero(~book.is_there[which - book.cut.first]))
        return left

    def _book(self, shard: int) -> "_Book":
        return next(book for book in self._books if shard in book.numbers)


class ShardSet:
    """Some shards, a byte for each that there is."""

    def __init__(self, flags: Sequence[tuple["_Book", np.ndarray]]) -> None:
        self._flags = flags

    def __contains__(self, shard: object) -> bool:
        return isinstance(shard, int) and any(
            shard in book.numbers and bool(flags[shard - book.cut.first]) for book, flags in self._flags
        )

    def __bool__(self) -> bool:
        return any(bool(flags.any()) for _, flags in self._flags)

    def count(self) -> None:
        """Their failures are counted now."""
        for book, flags in self._flags:
            book.is_counted |= flags


class _Book:
    """The shards of one cut."""

    def __init__(self, cut: Cut) -> None:
        self.cut, self.numbers = cut, cut.shards()
        self.is_there = np.zeros(len(cut), bool)
        self.is_counted = np.zeros(len(cut), bool)  # whether `failed` says what it is to say
        self._failed = np.zeros(len(cut), np.int32)  # rows
        self.published = self.rows_done = self.rows_failed = 0

    def mark(self, shard: int) -> bool:
        at = shard - self.cut.first
        if self.is_there[at]:
            return False
        self.is_there[at] = True
        self._add(1, at)
        return True

    def unmark(self, shard: int) -> None:
        at = shard - self.cut.first
        if self.is_there[at]:
            self.is_there[at] = self.is_counted[at] = False
            self._add(-1, at)
            self._failed[at] = 0

    def count_failed(self, shard: int, rows: int) -> None:
        at = shard - self.cut.first
        if self.is_there[at]:
            self.rows_failed += rows - int(self._failed[at])
        self._failed[at], self.is_counted[at] = rows, True

    def flags(self, numbers: np.ndarray) -> np.ndarray:
        """Which shards are among `numbers`, bool (shards,)."""
        at = numbers - self.cut.first
        flags = np.zeros(len(self.cut), bool)
        flags[at[(at >= 0) & (at < len(flags))]] = True
        return flags

    def compare(self, is_found: np.ndarray) -> tuple[list[int], list[int]]:
        """Mark the shards that were found; those that are new, and those that were marked before and are not there."""
        new, gone = is_found & ~self.is_there, self.is_there & ~is_found
        self.is_there |= new
        self.published += int(np.count_nonzero(new))
        self.rows_done += int(self.cut.rows[new].sum())
        self.rows_failed += int(self._failed[new].sum())
        return self._shards(new), self._shards(gone)

    def _shards(self, flags: np.ndarray) -> list[int]:
        return [int(at) + self.cut.first for at in np.flatnonzero(flags)]

    def _add(self, sign: int, at: int) -> None:
        self.published += sign
        self.rows_done += sign * int(self.cut.rows[at])
        self.rows_failed += sign * int(self._failed[at])
