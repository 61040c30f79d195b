"""The history: what every process of the mill logged, one JSON object a line, and the runner's own."""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos.findings import Findings, Wrong

#: Outcomes that end an attempt at a shard that nobody had published; see ShardReport.
_FRUITLESS = ("lost", "cancelled", "error", "store_failed")


class Journal:
    """The runner's own history; each event has seconds since the run began, by a clock that nothing steps."""

    def __init__(self, path: Path) -> None:
        self._path, self._begun = path, time.monotonic()

    def note(self, event: str, **fields: Any) -> None:  # Any: whatever JSON can say
        line = {"t": round(time.monotonic() - self._begun, 3), "event": event, **fields}
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")


@dataclass(slots=True)
class History:
    """What happened to shards, as the workers tell it; a killed worker tells nothing of its last attempt."""

    taken: Counter[tuple[str, int]] = field(default_factory=Counter)  # attempts, by job and shard
    outcomes: dict[tuple[str, int], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    errors: Counter[str] = field(default_factory=Counter)  # what they said
    lines: int = 0

    def total(self, outcome: str) -> int:
        """Attempts with this outcome."""
        return sum(counts[outcome] for counts in self.outcomes.values())

    @property
    def repeated(self) -> int:
        """Attempts that began and published nothing, though nobody had: work that was done in vain."""
        told = Counter({key: counts.total() for key, counts in self.outcomes.items()})
        died = sum((self.taken - told).values())  # began, and never said how it ended
        return died + sum(map(self.total, _FRUITLESS))

    @property
    def most_for_cause(self) -> int:
        """The attempts for cause of the shard that has most of them."""
        return max((counts["error"] for counts in self.outcomes.values()), default=0)

    def judge(self, findings: Findings, *, most: int) -> None:
        """Add shards that were published twice, or tried more than `most` times for cause."""
        for (job, shard), counts in self.outcomes.items():
            if counts["published"] > 1:
                findings.add(Wrong.DOUBLED, f"{job}: shard {shard} was published {counts['published']} times")
            if counts["error"] > most:
                findings.add(Wrong.OVER_RETRIED, f"{job}: shard {shard} failed {counts['error']} times")


def read_history(folder: Path) -> History:
    """Sum up every log below `folder`; a line that a kill cut short says nothing."""
    history = History()
    for path in sorted(folder.glob("*.log")):
        for event in _events(path):
            history.lines += 1
            if event.get("event") not in ("shard_taken", "shard_done"):
                continue
            key = (str(event["job"]), int(event["shard"]))
            if event["event"] == "shard_taken":
                history.taken[key] += 1
                continue
            history.outcomes[key][str(event["outcome"])] += 1
            if event["outcome"] in ("error", "unfit"):
                history.errors[str(event["message"])] += 1
    return history


def find_leaks(folder: Path, secrets: Iterable[str], findings: Findings) -> None:
    """Add the logs that hold one of `secrets`."""
    wanted = [secret.encode() for secret in secrets if secret]
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            found = sum(1 for secret in wanted if secret in data)
            if found:
                findings.add(Wrong.LEAKED, f"{path.name} holds a password or a row's content")


def _events(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for line in file:
            try:
                event = json.loads(line)
            except ValueError:
                continue  # Celery's banner, or cut short
            if isinstance(event, dict):
                yield event
