"""Distinct vectors: rows whose vectors are the same, bit for bit, found by their hash; and the rest as a source."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from similarity.kernel import Block
from similarity.vectors import VectorSource

#: Bytes of a vector's hash: by chance two of 10^12 rows share one with a probability of 10^-15.
_HASH_BYTES = 16


def first_alike(source: VectorSource) -> np.ndarray:
    """int64 (rows,): of each row the first whose vector has the same bytes, as float32; 16 bytes a row, and a sort."""
    hashes = np.empty((source.rows, _HASH_BYTES // 8), np.uint64)
    for block in source.blocks():
        flat = b"".join(hashlib.blake2b(vector.tobytes(), digest_size=_HASH_BYTES).digest() for vector in block.vectors)
        hashes[block.first : block.first + len(block)] = np.frombuffer(flat, np.uint64).reshape(len(block), -1)
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))  # stable: alike ones stay in the order of their rows
    begins = np.ones(len(order), np.bool_)
    begins[1:] = (hashes[order[1:]] != hashes[order[:-1]]).any(axis=1)
    first = np.empty(len(order), np.int64)
    first[order] = order[np.flatnonzero(begins)][np.cumsum(begins) - 1]
    return first


@dataclass(frozen=True, slots=True)
class Distinct:
    """Some rows of a source, numbered anew from 0."""

    source: VectorSource
    rows: np.ndarray  # int64, ascending: their numbers in the source

    def __len__(self) -> int:
        return len(self.rows)

    def block(self, first: int, count: int) -> Block:
        """The vectors of some of them in a row."""
        return Block(first, self.source.take(self.rows[first : first + count]))

    def blocks(self, first: int, *, size: int) -> Iterator[Block]:
        """Those from `first` on, in blocks of at most `size`."""
        if first >= len(self.rows):
            return
        for block in self.source.blocks(int(self.rows[first]), size=size):
            begin, end = np.searchsorted(self.rows, [block.first, block.first + len(block)])
            if begin < end:
                yield Block(int(begin), block.vectors[self.rows[begin:end] - block.first])
