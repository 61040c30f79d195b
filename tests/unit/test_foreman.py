"""The foreman: many jobs, and what one of them has must cost no other."""

import time
from collections.abc import Iterable
from pathlib import Path

from producer.board import MemoryBoard
from producer.error_limit import ErrorLimit
from producer.foreman import Foreman
from producer.prepare import resume
from producer.spending import SpendLimit
from producer.status import JobState, job_status
from schemas.message import ShardMessage
from storage import layout
from storage.jobs import Job
from storage.store import LocalStore
from tests.inline import InlineMill
from tests.jobs import planned_job, text_rows


class Outbox:
    """A task queue that only remembers."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def send(self, task: str, size: str, messages: Iterable[ShardMessage]) -> None:
        self.sent += [message.plan for message in messages]


def submitted(folder: Path, rows: int) -> Job:
    job = planned_job(LocalStore(folder), [text_rows(rows)])
    job.store.create(layout.SUBMITTED, b"{}")
    return job


def test_a_damaged_job_does_not_keep_others_from_being_driven(tmp_path: Path) -> None:
    """A broken plan, a broken record, a job that is nowhere: the sound one is driven, the rest is said once."""
    sound, damaged = submitted(tmp_path / "sound", 5), submitted(tmp_path / "damaged", 6)
    damaged.store.replace(damaged.record.plan.index, b"junk")
    LocalStore(tmp_path / "broken").create(layout.SUBMITTED, b"{}")
    LocalStore(tmp_path / "broken").create(layout.JOB, b'{"v": 1}')
    board, outbox, said = MemoryBoard(), Outbox(), list[str]()
    board.submit("job-nowhere1", str(tmp_path / "nowhere"))
    board.submit("job-nul12345", "/a\0b")
    board.submit("job-outside1", "/somewhere/else")
    foreman = Foreman((str(tmp_path), str(tmp_path / "missing")), board=board, queue=outbox, say=said.append)

    for _ in range(3):
        foreman.tick()

    assert outbox.sent == [sound.record.plan.digest]
    assert len([line for line in said if "not what the job was planned with" in line]) == 1
    assert any("outside the allowed roots" in line for line in said)


def test_a_job_is_taken_up_again_when_its_store_is_back(tmp_path: Path) -> None:
    """A hiccup of the store puts a job aside, not away."""
    job = submitted(tmp_path / "job", 5)
    index = job.store.get(job.record.plan.index)
    board, outbox = MemoryBoard(), Outbox()
    board.submit(job.id, job.store.url)
    foreman = Foreman((str(tmp_path),), board=board, queue=outbox, say=lambda line: None)
    job.store.delete(job.record.plan.index)
    foreman.tick()

    job.store.create(job.record.plan.index, index)
    foreman.tick()

    assert outbox.sent == [job.record.plan.digest]


def test_a_job_whose_time_is_over_stops_and_goes_on_with_more(tmp_path: Path) -> None:
    """Nothing is sent beyond its deadline, the store says why it stopped; submitted again with a later one it is."""
    job = planned_job(LocalStore(tmp_path / "job"), [text_rows(5)])
    board, outbox, said = MemoryBoard(), Outbox(), list[str]()
    foreman = Foreman((str(tmp_path),), board=board, queue=outbox, say=said.append)

    def submit(deadline: float) -> None:
        resume(job)
        limit = SpendLimit(deadline=deadline)
        job.store.replace(layout.SUBMITTED, ErrorLimit().to_json(spend_limit=limit.to_dict()))
        board.submit(job.id, job.store.url)

    submit(time.time() - 60)
    foreman.tick()
    sent, stopped, asked = list(outbox.sent), job_status(job), job.store.size(layout.SUBMITTED)
    submit(time.time() + 3600)
    foreman.tick()

    assert (sent, asked, board.withdrawn) == ([], None, {job.id})
    assert stopped.state is JobState.STOPPED
    assert "the --deadline" in stopped.notes[0]
    assert any("the --deadline" in line for line in said)
    assert outbox.sent == [job.record.plan.digest]


def test_whoever_wants_to_know_is_told_of_jobs_that_ended_or_stopped(tmp_path: Path) -> None:
    """A job that ended and one whose time is over are told of, once each; one that is under way is not."""
    ended, over, going = (
        planned_job(LocalStore(tmp_path / name), [text_rows(5)], job_id=f"job-{name}1234")
        for name in ("ended", "over", "going")
    )
    mill, told = InlineMill(ended), list[str]()
    mill.work(mill.message(0))
    for job, deadline in ((ended, 0.0), (over, time.time() - 60), (going, 0.0)):
        limit = SpendLimit(deadline=deadline)
        job.store.replace(layout.SUBMITTED, ErrorLimit().to_json(spend_limit=limit.to_dict()))
    foreman = Foreman(
        (str(tmp_path),),
        board=MemoryBoard(),
        queue=Outbox(),
        say=lambda line: None,
        ended=lambda job: told.append(job.id),
    )

    for _ in range(3):
        foreman.tick()

    assert sorted(told) == ["job-ended1234", "job-over1234"]
