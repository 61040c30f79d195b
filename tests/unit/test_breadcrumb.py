"""The breadcrumb: what it says while a step runs, after it, and after the death of who wrote it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.servers import wait_for
from workers.breadcrumb import Breadcrumb, Place, ShardTrail, crumb_of

WRITER = """
import os, signal, sys
from pathlib import Path
from workers.breadcrumb import Breadcrumb, Place
crumb = Breadcrumb(Path(sys.argv[1]))
crumb.announce()
with crumb.at(Place.MAIN, job="job-12345678", shard=7, rows=range(256)):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_step_outlives_the_process_that_was_at_it(tmp_path: Path) -> None:
    """Killed without a chance to say anything, it has said what it was at."""
    path = tmp_path / "w.crumb"

    done = subprocess.run([sys.executable, "-c", WRITER, path], check=False)

    crumb = Breadcrumb(path)
    [step] = crumb.steps()
    assert done.returncode == -signal.SIGKILL
    assert (step.job, step.shard, step.rows, step.pid) == ("job-12345678", 7, tuple(range(256)), crumb.pid)
    assert 0 < step.started < time.monotonic()


def test_a_step_that_ended_is_nobodys(tmp_path: Path) -> None:
    """Also when it ended with an error; the other place is left alone."""
    crumb = Breadcrumb(tmp_path / "w.crumb")

    with crumb.at(Place.AHEAD, job="job-12345678", shard=7, rows=[1]):
        with pytest.raises(ZeroDivisionError), crumb.at(Place.MAIN, job="job-12345678", shard=7, rows=[2]):
            print(1 // 0)
        inside = crumb.steps()

    assert [step.rows for step in inside] == [(1,)]
    assert crumb.steps() == []


def test_inputs_are_told_as_their_rows(tmp_path: Path) -> None:
    """A row that is cut into several inputs is one suspect, by its index in the shard."""
    crumb = Breadcrumb(tmp_path / "w.crumb")
    trail = ShardTrail(crumb, "job-12345678", 7, [10, 10, 12], lambda rows: None)

    with trail.at(Place.MAIN, [0, 1, 2]):
        [step] = crumb.steps()

    assert step.rows == (10, 12)


def test_the_two_processes_hear_of_each_other(tmp_path: Path) -> None:
    """Who computes, that it is to leave, and with which code: through the file alone; a new start forgets it."""
    main = crumb_of(str(tmp_path), "w0@host")
    child = crumb_of(str(tmp_path), "w0@host")
    assert main is not None
    assert child is not None

    child.announce()
    child.say_unfit(70)
    main.ask_to_leave(time.monotonic())
    child.wait_to_leave(60)

    assert (main.pid, main.unfit, child.must_leave) == (os.getpid(), 70, True)
    main.reset()
    assert (child.pid, child.unfit, child.must_leave) == (0, 0, False)
    assert crumb_of("", "w0@host") is None


def test_the_two_processes_do_not_undo_what_the_other_says(tmp_path: Path) -> None:
    """One asks to leave while the other says that it is unfit: both are heard, whoever writes last."""
    path = tmp_path / "w.crumb"
    child = Breadcrumb(path)
    asks = f"import pathlib, workers.breadcrumb as b; crumb = b.Breadcrumb(pathlib.Path({str(path)!r}))"
    with subprocess.Popen([sys.executable, "-c", f"{asks}\nwhile True: crumb.ask_to_leave(1.0)"]) as main:
        wait_for(lambda: child.must_leave, timeout_s=60, what="the other process")

        undone = []
        for code in range(1, 50_000):
            child.say_unfit(code)
            if child.unfit != code:
                undone.append(code)

        main.kill()
    assert undone == []
