"""Unsettled failures: the failed rows that no later round has done again, in flat memory."""

import hashlib
from collections import Counter

import numpy as np


class Unsettled:
    """Takes failures and the rows that retries do again, round after round; 9 bytes a failed row.

    Two ids count as one when their 64-bit BLAKE2b hashes agree: one chance in 10^7 among a million failures.
    """

    def __init__(self) -> None:
        self._codes: list[str] = []
        self._older = np.empty(0, np.uint64)  # hashes of ids that failed in earlier rounds, sorted
        self._older_codes = np.empty(0, np.uint8)
        self._open = np.empty(0, np.bool_)
        self._fresh: list[tuple[np.ndarray, np.ndarray]] = []  # of this round

    def begin_round(self) -> None:
        """What failed so far may be done again from here on."""
        left = (self._older[self._open], self._older_codes[self._open])
        hashes, codes = (np.concatenate(arrays) for arrays in zip(left, *self._fresh, strict=True))
        order = np.argsort(hashes, kind="stable")
        self._older, self._older_codes = hashes[order], codes[order]
        self._open = np.ones(len(hashes), np.bool_)
        self._fresh = []

    def settle(self, ids: list[str]) -> int:
        """Take rows that were done again; returns how many of them were no open failure."""
        wanted = _hashes(ids)
        at = np.minimum(np.searchsorted(self._older, wanted), max(0, len(self._older) - 1))
        known = self._older[at] == wanted if len(self._older) else np.zeros(len(wanted), np.bool_)
        known[known] = self._open[at[known]]
        self._open[at[known]] = False
        return int((~known).sum())

    def add(self, ids: list[str], codes: list[str]) -> None:
        """Take rows that failed in this round."""
        self._codes += sorted(set(codes) - set(self._codes))
        numbers = {code: number for number, code in enumerate(self._codes)}
        self._fresh.append((_hashes(ids), np.array([numbers[code] for code in codes], np.uint8)))

    def by_code(self) -> Counter[str]:
        """The open failures, counted by code."""
        counted: Counter[str] = Counter()
        for codes in (self._older_codes[self._open], *(codes for _, codes in self._fresh)):
            found = np.bincount(codes, minlength=len(self._codes))
            counted.update({code: int(found[n]) for n, code in enumerate(self._codes) if found[n]})
        return counted


def _hashes(ids: list[str]) -> np.ndarray:
    digests = b"".join(hashlib.blake2b(item.encode(), digest_size=8).digest() for item in ids)
    return np.frombuffer(digests, np.uint64)
