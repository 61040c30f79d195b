"""Findings: what is wrong, by class; the classes are Jepsen's set-full, and what vectors add to it."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from enum import StrEnum

#: Findings of a class beyond these are counted and not listed.
_LISTED = 20


class Wrong(StrEnum):
    """Ways in which a promise can be broken."""

    LOST = "lost"  # a row of the manifest without any outcome
    DOUBLED = "doubled"  # a row with more than one outcome, or a shard that was published twice
    UNEXPECTED = "unexpected"  # a row, shard or file that nobody asked for
    VANISHED = "vanished"  # a file that was seen and is gone
    CHANGED = "changed"  # a file that was seen and is another
    TORN = "torn"  # a file that is not whole
    MISALIGNED = "misaligned"  # a vector or kept value that is not its row's
    MISCODED = "miscoded"  # a bad row that does not fail with its code, or a good one that fails
    OVER_RETRIED = "over_retried"  # a shard that was tried too often for cause
    LEAKED = "leaked"  # a secret or a row's content in a log
    LINGERED = "lingered"  # a worker that was told to end and did not
    STUCK = "stuck"  # the mill stood still
    REFUTED = "refuted"  # embedmill verify says otherwise


class Findings:
    """What was found wrong so far."""

    def __init__(self) -> None:
        self.counts: Counter[Wrong] = Counter()
        self._listed: dict[Wrong, list[str]] = defaultdict(list)

    def add(self, wrong: Wrong, what: str) -> None:
        self.counts[wrong] += 1
        if len(self._listed[wrong]) < _LISTED:
            self._listed[wrong].append(what)

    def add_all(self, wrong: Wrong, whats: Iterable[str]) -> None:
        for what in whats:
            self.add(wrong, what)

    def merge(self, other: "Findings") -> None:
        """Add what another has found."""
        self.counts += other.counts
        for wrong, listed in other._listed.items():
            self._listed[wrong] = [*self._listed[wrong], *listed][:_LISTED]

    def of(self, wrong: Wrong) -> list[str]:
        """The first findings of a class, in words."""
        return list(self._listed[wrong])

    def count(self, *wrongs: Wrong) -> int:
        return sum(self.counts[wrong] for wrong in wrongs)

    @property
    def total(self) -> int:
        return self.counts.total()

    def to_dict(self) -> dict[str, object]:
        return {str(wrong): {"count": self.counts[wrong], "first": self.of(wrong)} for wrong in Wrong}
