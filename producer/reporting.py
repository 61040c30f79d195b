"""Reporting: report.html is made beside a job that has ended, by a process of its own, which costs the job nothing."""

import queue
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Annotated

import typer

from schemas.redaction import redact

WithReport = Annotated[
    bool,
    typer.Option(
        "--report/--no-report", help="Write report.html at the end; it is for people alone.", envvar="EMBEDMILL_REPORT"
    ),
]

#: Seconds after which nobody waits for a report any longer.
_TIMEOUT_S = 120.0
_COMMAND = [sys.executable, "-P", "-c", "from producer.cli import main; main()", "report", "--no-umap"]


def report_on(
    location: str, say: Callable[[str], None], *, roots: tuple[str, ...] = (), timeout_s: float = _TIMEOUT_S
) -> bool:
    """Have the report of what lies at `location` made; False, and said why, where there is none. Raises nothing.

    With `roots` media are read below these alone, whatever the job says.
    """
    try:
        done = subprocess.run(
            [*_COMMAND, *(f"--root={root}" for root in roots), "--", location],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        why = f"not made within {timeout_s:.0f} s"
    except OSError as err:
        why = err.strerror or type(err).__name__
    else:
        if done.returncode == 0:
            return True
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        why = said[-1].removeprefix("embedmill: ")
    say(f"no report: {redact(why)}; `embedmill report {shlex.quote(redact(location))}` tries again")
    return False


class ReportDesk:
    """Makes reports one after the other, beside whoever asks for them; what is not made when they end is not made."""

    def __init__(self, say: Callable[[str], None], *, roots: tuple[str, ...] = ()) -> None:
        self._say, self._roots = say, roots
        self._asked: queue.Queue[str] = queue.Queue()
        self._thread: threading.Thread | None = None

    def ask(self, location: str) -> None:
        """Have a report made soon."""
        self._asked.put(location)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="reports", daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Until all that were asked for are made, or given up."""
        self._asked.join()

    def _work(self) -> None:
        while True:
            report_on(self._asked.get(), self._say, roots=self._roots)
            self._asked.task_done()
