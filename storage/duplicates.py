"""Duplicate ids, found in flat memory: only 16-byte hashes are kept, in a file without a name."""

import os
import secrets
import struct
import tempfile
import weakref
from array import array
from collections.abc import Iterable, Sequence
from typing import IO

import numpy as np

#: Hashes in memory before they are written; the file has one block of so many.
_BLOCK = 1 << 17
#: Ids are compared bucket by bucket; of 10^8 ids, a bucket takes 10 MB.
_BUCKETS = 256
_ENTRY = np.dtype([("hash", "V16"), ("line", "<i8")])
_TWO = struct.Struct("<qq")


class DuplicateFinder:
    """Takes ids with their lines, in order, and tells the lines whose id was used before.

    Two ids count as one when their 128-bit hashes agree, which does not happen by chance: both halves are Python's
    SipHash, of the id, and of the id behind a salt that nobody knows beforehand. BLAKE2b takes four times as long.
    """

    def __init__(self) -> None:
        self._hashes = bytearray()
        self._lines = array("q")
        self._file: IO[bytes] | None = None
        self._starts: list[np.ndarray] = []  # for each block: where each bucket begins in it, int64 (_BUCKETS + 1,)
        self._salt = secrets.token_hex(8)

    def add(self, id: str, line: int) -> None:  # noqa: A002  # the word of the field
        """Take the next id; `line` is what duplicates() will call it by."""
        if id.isascii():
            hashes = _TWO.pack(hash(id), hash(self._salt + id))
        else:
            encoded = id.encode()
            hashes = _TWO.pack(hash(encoded), hash(self._salt.encode() + encoded))
        self._take(hashes, (line,))

    def add_all(self, ids: list[str], line: int) -> None:
        """Take many ids that go by one line."""
        self.add_ids(ids, [line] * len(ids))

    def add_run(self, ids: list[str], first: int) -> None:
        """Take many ids, whose lines are `first` and those after it."""
        self.add_ids(ids, range(first, first + len(ids)))

    def add_ids(self, ids: list[str], lines: Iterable[int]) -> None:
        """Take many ids and the lines that they go by, one each."""
        self._take(_hashes_of(ids, self._salt).tobytes(), lines)

    def add_number(self, number: int, line: int) -> None:
        """Take the next thing by a 64-bit number, signed, that is the same for the same."""
        self._take(_TWO.pack(number, 0), (line,))

    def add_numbers(self, numbers: Sequence[int], lines: Iterable[int]) -> None:
        """The same of many."""
        hashes = np.zeros((len(numbers), 2), np.int64)
        hashes[:, 0] = numbers
        self._take(hashes.tobytes(), lines)

    def duplicates(self) -> np.ndarray:
        """The lines, int64 and sorted, whose id was used on an earlier line; see duplicate_pairs()."""
        return self.duplicate_pairs()[:, 0]

    def duplicate_pairs(self) -> np.ndarray:
        """An int64 (n, 2) array, sorted: each line whose id was used before, and the line that used it first."""
        self._write_block()
        found = [_pairs(self._bucket(number)) for number in range(_BUCKETS)] if self._file else []
        pairs = np.concatenate([np.empty((0, 2), np.int64), *found])
        return pairs[np.argsort(pairs[:, 0], kind="stable")]

    def _take(self, hashes: bytes, lines: Iterable[int]) -> None:
        self._hashes += hashes
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


def _hashes_of(ids: list[str], salt: str) -> np.ndarray:
    """Two int64 hashes of each id's UTF-8 bytes, (ids, 2); strings of ASCII hash as their bytes do."""
    if all(map(str.isascii, ids)):
        return _hashed(ids, [salt + item for item in ids])
    encoded = [item.encode() for item in ids]  # Python hashes what it has in memory, where 扡 looks like "ab"
    return _hashed(encoded, [salt.encode() + item for item in encoded])


def _hashed(items: Sequence[object], salted: Sequence[object]) -> np.ndarray:
    hashes = np.empty((len(items), 2), np.int64)
    hashes[:, 0] = np.fromiter(map(hash, items), np.int64, len(items))
    hashes[:, 1] = np.fromiter(map(hash, salted), np.int64, len(items))
    return hashes


def _pairs(entries: np.ndarray) -> np.ndarray:
    """Line and first line, int64 (n, 2), of the entries whose hash was there before."""
    entries = _recurring(entries)
    halves = np.ascontiguousarray(entries["hash"]).view(np.uint64).reshape(-1, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0]))  # stable: equal hashes stay in the order of their lines
    halves, lines = halves[order], entries["line"][order]
    again = np.zeros(len(lines), bool)
    again[1:] = (halves[1:] == halves[:-1]).all(axis=1)
    first = lines[np.maximum.accumulate(np.where(again, 0, np.arange(len(lines))))]
    return np.stack([lines[again], first[again]], axis=1)


def _recurring(entries: np.ndarray) -> np.ndarray:
    """Those whose first half is there twice, in their order: mostly none, and a plain sort tells it soonest."""
    heads = np.ascontiguousarray(entries["hash"]).view(np.uint64)[::2]
    ordered = np.sort(heads)
    twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(twice):
        return entries[:0]
    place = np.minimum(np.searchsorted(twice, heads), len(twice) - 1)
    found: np.ndarray = entries[twice[place] == heads]
    return found
