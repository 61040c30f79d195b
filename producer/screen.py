"""The screen: progress for people, on stderr; a bar on a terminal, plain lines elsewhere."""

import contextlib
import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from producer.coordinator import Progress
from producer.duration import duration
from schemas.counted import counted
from schemas.failures import one_line
from schemas.model_cards import Kind
from schemas.visible import visible_lines

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

#: Seconds between two plain lines.
_LINE_EVERY_S = 5.0


class Screen(Protocol):
    """Where a command says what goes on; use it as a context manager."""

    def say(self, line: str) -> None: ...

    def planning(self, rows: int) -> None: ...

    def show(self, progress: Progress) -> None: ...

    def __enter__(self) -> "Screen": ...

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Words:
    """What a job counts, and what is done with it."""

    rows: str = "rows"
    doing: str = "embedding"

    @classmethod
    def of(cls, kind: str) -> "Words":
        """Those of a job of that kind."""
        return cls("pairs", "scoring") if kind == Kind.RERANK else cls()


def open_screen(*, quiet: bool = False, words: Words = Words()) -> Screen:
    """The screen that fits stderr."""
    if quiet:
        return QuietScreen()
    return TerminalScreen(words) if sys.stderr.isatty() else LineScreen(words)


class QuietScreen:
    """Says nothing."""

    def say(self, line: str) -> None: ...

    def planning(self, rows: int) -> None: ...

    def show(self, progress: Progress) -> None: ...

    def __enter__(self) -> "QuietScreen":
        return self

    def __exit__(self, *exc: object) -> None: ...


class Rate:
    """Rows a second since workers were first seen, and how long the rest takes."""

    def __init__(self, words: Words) -> None:
        self._rows = words.rows
        self._since: tuple[float, int] | None = None

    def words(self, progress: Progress) -> str:
        now = time.monotonic()
        if self._since is None and progress.workers:
            self._since = (now, progress.rows_done)
        done = progress.rows_done - self._since[1] if self._since else 0
        if self._since is None or done <= 0:
            return "warming up"
        rate = done / max(now - self._since[0], 1e-3)
        if progress.done:
            return f"{rate:,.0f} {self._rows}/s"
        return f"{rate:,.0f} {self._rows}/s, ETA {duration((progress.rows - progress.rows_done) / rate)}"


class LineScreen:
    """A plain line now and then."""

    def __init__(self, words: Words, *, prefix: str = "") -> None:
        self._prefix = prefix
        self._last = 0.0
        self._shown: tuple[int, str] | str | None = None
        self._words, self._rate = words, Rate(words)

    def say(self, line: str) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more: the work goes on
            print(visible_lines(line), file=sys.stderr, flush=True)  # noqa: T201  # talk goes to stderr

    def planning(self, rows: int) -> None:
        if self._due():
            self.say(f"planning: {rows:,} {self._words.rows} read")

    def show(self, progress: Progress) -> None:
        rate = self._rate.words(progress)
        state = (progress.published, progress.note)
        if state == self._shown or not (progress.done or self._due()):
            return
        self._shown = state
        done = f"{progress.rows_done:,}/{progress.rows:,} {self._words.rows}"
        line = (
            f"{done}, {progress.published}/{progress.shards} shards, "
            f"{progress.failed} failed, {counted(progress.workers, 'worker')}, {rate}"
        )
        self.say(self._prefix + (f"{line} ({one_line(progress.note)})" if progress.note else line))

    def note(self, line: str) -> None:
        """Say what has become of something without rows, where it is new, now and then."""
        if line != self._shown and self._due():
            self._shown = line
            self.say(line)

    def __enter__(self) -> "LineScreen":
        return self

    def __exit__(self, *exc: object) -> None: ...

    def _due(self) -> bool:
        now = time.monotonic()
        if now - self._last < _LINE_EVERY_S:
            return False
        self._last = now
        return True


class TerminalScreen:
    """One bar with rows, rate, ETA and failures."""

    def __init__(self, words: Words) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

        self._console = Console(stderr=True, highlight=False)
        self._words, self._rate = words, Rate(words)
        self._bar: Bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            transient=True,
        )
        self._task: TaskID = self._bar.add_task("planning", total=None, note=words.rows)

    def say(self, line: str) -> None:
        self._console.print(visible_lines(line), markup=False)

    def planning(self, rows: int) -> None:
        self._bar.update(self._task, completed=rows)

    def show(self, progress: Progress) -> None:
        words = [self._rate.words(progress), counted(progress.workers, "worker")]
        if progress.failed:
            words.append(f"{progress.failed} failed")
        if progress.note:
            words.append(progress.note)
        self._bar.update(
            self._task,
            description=self._words.doing,
            total=progress.rows,
            completed=progress.rows_done,
            note=" · ".join(words),
        )

    def __enter__(self) -> "TerminalScreen":
        self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.stop()
