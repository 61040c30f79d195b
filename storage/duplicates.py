"""Duplicate ids, found in flat memory: only 16-byte hashes are kept, in a file without a name."""

import hashlib
import os
import tempfile
import weakref
from array import array
from collections.abc import Iterable
from typing import IO

import numpy as np

#: Hashes in memory before they are written; the file has one block of so many.
_BLOCK = 1 << 17
#: Ids are compared bucket by bucket; of 10^8 ids, a bucket takes 10 MB.
_BUCKETS = 256
_ENTRY = np.dtype([("hash", "V16"), ("line", "<i8")])


class DuplicateFinder:
    """Takes ids with their lines, in order, and tells the lines whose id was used before.

    Two ids count as one when their 128-bit BLAKE2b hashes agree, which does not happen by chance.
    """

    def __init__(self) -> None:
        self._hashes = bytearray()
        self._lines = array("q")
        self._file: IO[bytes] | None = None
        self._starts: list[np.ndarray] = []  # for each block: where each bucket begins in it, int64 (_BUCKETS + 1,)
        self._first: dict[int, int] = {}

    def add(self, id: str, line: int) -> None:  # noqa: A002  # the word of the field
        """Take the next id; `line` is what duplicates() will call it by."""
        self._hashes += hashlib.blake2b(id.encode(), digest_size=16).digest()
        self._lines.append(line)
        if len(self._lines) >= _BLOCK:
            self._write_block()

    def add_hash(self, hash_: bytes, line: int) -> None:
        """Take the next thing, whose 16-byte hash is at hand."""
        self._hashes += hash_
        self._lines.append(line)
        if len(self._lines) >= _BLOCK:
            self._write_block()

    def add_all(self, ids: list[str], line: int) -> None:
        """Take many ids that go by one line."""
        self._take(ids, [line] * len(ids))

    def add_run(self, ids: list[str], first: int) -> None:
        """Take many ids, whose lines are `first` and those after it."""
        self._take(ids, range(first, first + len(ids)))

    def duplicates(self) -> np.ndarray:
        """The lines, int64 and sorted, whose id was used on an earlier line; see duplicate_pairs()."""
        return self.duplicate_pairs()[:, 0]

    def duplicate_pairs(self) -> np.ndarray:
        """An int64 (n, 2) array, sorted: each line whose id was used before, and the line that used it first."""
        self._write_block()
        found = [_pairs(self._bucket(number)) for number in range(_BUCKETS)] if self._file else []
        pairs = np.concatenate([np.empty((0, 2), np.int64), *found])
        return pairs[np.argsort(pairs[:, 0], kind="stable")]

    def _take(self, ids: list[str], lines: Iterable[int]) -> None:
        self._hashes += b"".join([hashlib.blake2b(item.encode(), digest_size=16).digest() for item in ids])
        self._lines.extend(lines)
        if len(self._lines) >= _BLOCK:
            self._write_block()

    def _write_block(self) -> None:
        """Append the hashes in memory to the file, sorted by bucket."""
        if not self._lines:
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="embedmill-ids-", buffering=0)  # noqa: SIM115  # see next line
            weakref.finalize(self, self._file.close)
        entries = np.empty(len(self._lines), _ENTRY)
        entries["hash"] = np.frombuffer(self._hashes, "V16")
        entries["line"] = np.frombuffer(self._lines, np.int64)
        buckets = np.frombuffer(self._hashes, np.uint8)[::16]
        counts = np.bincount(buckets, minlength=_BUCKETS)
        self._starts.append(np.concatenate([[0], np.cumsum(counts)]) * _ENTRY.itemsize + self._file.tell())
        self._file.write(entries[np.argsort(buckets, kind="stable")].tobytes())
        self._hashes, self._lines = bytearray(), array("q")

    def _bucket(self, number: int) -> np.ndarray:
        """The entries of a bucket, in the order in which they were added."""
        assert self._file is not None
        handle = self._file.fileno()
        spans = ((int(starts[number]), int(starts[number + 1])) for starts in self._starts)
        return np.frombuffer(b"".join(os.pread(handle, end - start, start) for start, end in spans), _ENTRY)


def _pairs(entries: np.ndarray) -> np.ndarray:
    """Line and first line, int64 (n, 2), of the entries whose hash was there before."""
    halves = np.ascontiguousarray(entries["hash"]).view(np.uint64).reshape(-1, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0]))  # stable: equal hashes stay in the order of their lines
    halves, lines = halves[order], entries["line"][order]
    again = np.zeros(len(lines), bool)
    again[1:] = (halves[1:] == halves[:-1]).all(axis=1)
    first = lines[np.maximum.accumulate(np.where(again, 0, np.arange(len(lines))))]
    return np.stack([lines[again], first[again]], axis=1)
