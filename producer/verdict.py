"""The verdict on a job: what was looked at, what each file is, and what is wrong."""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from schemas.counted import counted
from schemas.job import PlanRecord

#: Findings beyond these are counted and not listed.
_LISTED = 100


@dataclass(frozen=True, slots=True)
class FileDigest:
    """A file of the job, as its bytes were when it was read."""

    key: str
    size: int  # bytes
    sha256: str


def digest_of(key: str, data: bytes) -> FileDigest:
    """The digest of a file whose bytes are `data`."""
    return FileDigest(key, len(data), hashlib.sha256(data).hexdigest())


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What was looked at, and what is wrong."""

    rows: int = 0  # planned
    rows_ok: int = 0  # with a vector, or several of a row that is cut into segments
    vectors: int = 0
    made: str = "vectors"  # what the rows become, in a word
    failures_by_code: Counter[str] = field(default_factory=Counter)  # rows whose outcome is one
    missing: int = 0  # rows of shards that are not published
    files: int = 0  # published shards
    unended: tuple[str, ...] = ()  # rounds that have no manifest yet, in words
    digests: dict[str, FileDigest] = field(default_factory=dict)  # of every file that was read, by key
    plans: list[PlanRecord] = field(default_factory=list)  # of the rounds that were looked at
    versions: dict[str, set[str]] = field(default_factory=dict)  # of the libraries that wrote the shards
    problems: list[str] = field(default_factory=list)
    problem_count: int = 0

    @property
    def ok(self) -> bool:
        return self.problem_count == 0

    @property
    def complete(self) -> bool:
        return self.ok and self.missing == 0 and not self.unended

    @property
    def word(self) -> str:
        """The verdict in a word: wrong, unfinished or complete."""
        return "complete" if self.complete else "unfinished" if self.ok else "wrong"

    @property
    def failures(self) -> int:
        return self.failures_by_code.total()

    def blame(self, problem: str) -> None:
        self.problem_count += 1
        if len(self.problems) < _LISTED:
            self.problems.append(problem)

    def note(self, *files: FileDigest) -> None:
        """Remember what the bytes of `files` were."""
        self.digests |= {file.key: file for file in files}

    def lines(self, job: str) -> list[str]:
        """What `embedmill verify` prints: the verdict in one line, then the problems."""
        made = self.made.removesuffix("s") if self.vectors == 1 else self.made
        counts = (
            f"{counted(self.rows, 'row')}, {self.vectors:,} {made}, {counted(self.failures, 'failure')}, "
            f"{counted(self.files, 'file')}"
        )
        more = self.problem_count - len(self.problems)
        unlisted = [f"  and {more:,} more"] if more else []
        return [f"{job}: {counts}: {self._words()}", *(f"  {problem}" for problem in self.problems), *unlisted]

    def _words(self) -> str:
        if not self.ok:
            return counted(self.problem_count, "problem")
        if self.missing:
            return f"{counted(self.missing, 'row has', 'rows have')} no outcome yet"
        if self.unended:
            return f"each row has exactly one outcome, and {' and '.join(self.unended)} has not ended; run it again"
        return "each row has exactly one outcome"

    def to_dict(self) -> dict[str, Any]:
        names = ("rows", "rows_ok", "vectors", "failures", "missing", "files", "problems", "problem_count")
        return {name: getattr(self, name) for name in names} | {"ok": self.ok, "complete": self.complete}
