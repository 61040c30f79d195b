"""The watch: jobs, queues and workers as they go, rates, stalls, and how they are shown."""

from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from producer.board import MemoryBoard
from producer.fleet_look import STALL_S, FleetLook, FleetWatch, submitted_jobs
from producer.live_view import rendered
from producer.screen import LineScreen, Words
from schemas.errors import BrokerError
from schemas.failures import FailureCode
from schemas.presence import WorkerPresence
from schemas.rows import ManifestRow, Modality
from similarity.standing import standing
from storage.jobs import Job, open_job, write_stopped
from storage.store import memory_store, open_store
from tests.inline import InlineMill
from tests.jobs import DIGEST, planned_job, text_rows
from tests.joins import join_of, random_file


class Clock:
    """A clock that is put forward by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def shown(look: FleetLook, *, colour: bool = False) -> str:
    """The live view as a terminal of 120 columns has it."""
    console = Console(width=120, force_terminal=colour, color_system="standard" if colour else None, record=True)
    with console.capture() as capture:
        console.print(rendered(look))
    return capture.get()


def job_of(shards: int = 4) -> Job:
    return planned_job(memory_store(), [text_rows(10, first=10 * n) for n in range(shards)])


def worker(name: str = "w1", *, queues: tuple[str, ...] = ("embed.text.cpu",), **more: str) -> WorkerPresence:
    told = {"host": "box", "device": "cuda:0 (NVIDIA H100)", "size": "gpu80"} | more
    return WorkerPresence(name=name, pid=7, queues=queues, models=(DIGEST,), **told)  # type: ignore[arg-type]


def test_a_look_tells_rate_and_time_left() -> None:
    """Rows that were done between two looks make the rate, and the rest takes its time."""
    clock, job = Clock(), job_of()
    mill = InlineMill(job)
    watch = FleetWatch([job], MemoryBoard(present=[worker()]), clock=clock)
    mill.work(mill.message(0))
    first = watch.look()
    mill.work(mill.message(1))
    clock.now += 5

    second = watch.look()

    assert first.jobs[0].rate is None
    assert second.jobs[0].rate == 2
    assert second.jobs[0].eta_s == 10
    assert "2.0 rows/s, ETA 10 s" in shown(second)


def test_a_published_shard_is_read_once() -> None:
    """A look reads the footers of what is new alone: what was published does not change."""
    job = job_of()
    mill = InlineMill(job)
    mill.work(mill.message(0))
    watch = FleetWatch([job])
    watch.look()
    [key] = [item.key for item in job.store.walk("data")]
    whole = job.store.get(key)
    job.store.replace(key, b"no Parquet any more")

    again = watch.look()

    assert again.jobs[0].done == 10
    job.store.replace(key, whole)


def test_what_stands_still_is_red() -> None:
    """Without a new outcome for two minutes a job is said to stand still, in red, with how many workers there are."""
    clock, job = Clock(), job_of()
    watch = FleetWatch([job], MemoryBoard(present=[worker()]), clock=clock)
    before = watch.look()
    clock.now += STALL_S

    after = watch.look()

    assert before.jobs[0].stall == ""
    assert after.jobs[0].stall == "nothing new for 120 s with 1 worker"
    assert "\x1b[1;31mnothing new for 120 s" in shown(after, colour=True)


def test_a_queue_that_no_worker_serves_is_red() -> None:
    """The line of a queue with shards and without workers stands out."""
    look = FleetWatch([job_of()], MemoryBoard()).look()

    [line] = [
        line for line in shown(look, colour=True).splitlines() if "embed.text.cpu" in line and "shards" not in line
    ]

    assert look.queues[0].is_unserved
    assert "\x1b[1;31m" in line


def test_workers_are_shown_with_device_and_model() -> None:
    """Each worker has a line: host, device, size, the model it used last by name, its queues."""
    look = FleetWatch([job_of()], MemoryBoard(present=[worker(), worker("w2", device="cpu", size="cpu")])).look()

    lines = [" ".join(line.split()) for line in shown(look).splitlines()]

    assert "w1 box cuda:0 (NVIDIA H100) gpu80 hash embed.text.cpu" in lines
    assert "w2 box cpu cpu hash embed.text.cpu" in lines


def test_failures_and_the_reason_of_a_stop_are_shown() -> None:
    """Failures are counted by code, and a job that was stopped says why."""
    bad = ManifestRow(id="bad", line=9, modality=Modality.TEXT, text=" ", defect=FailureCode.TEXT_EMPTY, kept=("k",))
    job = planned_job(memory_store(), [[*text_rows(3), bad], text_rows(2, first=5)])
    mill = InlineMill(job)
    mill.work(mill.message(0))
    write_stopped(job, "more than 0 rows failed")

    look = FleetWatch([job]).look()

    assert "1 failed: text_empty 1" in shown(look)
    assert "more than 0 rows failed" in shown(look)
    assert look.is_over


def test_a_join_is_followed_panel_by_panel(tmp_path: Path) -> None:
    """How many panels and pairs there are, in red that it stands still; its end is an end of the watch."""
    left, right = (random_file(tmp_path / f"{n}.parquet", n, 12, seed=s) for n, s in (("a", 1), ("b", 2)))
    out, clock = tmp_path / "join", Clock()
    assert not join_of(left, right, out, panel_rows=5, top_k=3, max_pairs=20)
    watch = FleetWatch([], answers=[partial(standing, open_store(str(out)), {})], clock=clock)

    first = watch.look()
    clock.now += STALL_S
    still = watch.look()
    assert join_of(left, right, out, panel_rows=5, top_k=3)
    clock.now += 1
    last = watch.look()

    assert [answer.words for answer in (*first.answers, *last.answers)] == [
        "1 of 3 panels, 15 pairs",
        "3 of 3 panels, 36 pairs",
    ]
    assert (first.is_over, last.is_over) == (False, True)
    assert "33.3 %  1 of 3 panels, 15 pairs" in shown(first)
    assert "\x1b[1;31mnothing new for 120 s; the command that began it" in shown(still, colour=True)
    assert last.answers[0].stall == ""


def test_a_line_that_is_not_new_is_not_said_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere than on a terminal a join has a line when there is something new."""
    monkeypatch.setattr("producer.screen._LINE_EVERY_S", 0.0)
    screen = LineScreen(Words())

    for done in (1, 1, 2):
        screen.note(f"join-1: {done} of 3 panels")

    assert capsys.readouterr().err == "join-1: 1 of 3 panels\njoin-1: 2 of 3 panels\n"


def test_without_redis_the_jobs_are_shown_all_the_same() -> None:
    """What Redis does not tell is a question mark, and why is said."""

    class Gone(MemoryBoard):
        def workers(self) -> list[WorkerPresence]:
            raise BrokerError("redis://h:1/0 cannot be reached: refused; is the server up?")

    look = FleetWatch([job_of()], Gone()).look()

    assert "cannot be reached" in shown(look)
    assert "0 of 40 rows" in shown(look)


def test_nothing_that_a_worker_or_a_note_says_acts_on_the_terminal() -> None:
    """Escapes, markup and marks that turn the direction, in names and notes, are shown and do nothing."""
    job = job_of()
    write_stopped(job, "\x1b]0;owned\x07[bold]\u202ereversed")
    board = MemoryBoard(present=[worker("\x1b[2J[red]", host="[link=http://evil.example]x[/link]", device="\u202ecpu")])

    told = shown(FleetWatch([job], board).look())

    assert not {c for c in told if not c.isprintable()} - {"\n"}
    assert "[bold]" in told
    assert "[link=http://evil.example]" in told


def test_jobs_that_were_submitted_are_found(tmp_path: Path) -> None:
    """Those on the board that are not known yet are taken in; one that cannot be read is passed over."""
    places = {name: str(tmp_path / name) for name in ("known", "new", "gone")}
    known = planned_job(open_store(places["known"]), [text_rows(2)])
    planned_job(open_store(places["new"]), [text_rows(2)], job_id="job-87654321")

    found = submitted_jobs(MemoryBoard(jobs=places), lambda place: open_job(open_store(place)), [known])

    assert [job.id for job in found] == ["job-87654321"]
