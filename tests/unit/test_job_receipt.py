"""The job's receipt: what workers measure reaches it through the published files, adds up, and is put in words."""

import json
from pathlib import Path

import pytest

from producer.advice import advice_on
from producer.job_receipt import receipt_of, written_receipt
from producer.outcomes import published_files
from producer.receipt_words import receipt_lines
from producer.status import job_status
from producer.verify import verify_store
from schemas.spent import Spent, Step
from storage import layout
from storage.jobs import Job
from storage.model_files import resolve_model
from storage.store import LocalStore
from tests.inline import InlineMill
from tests.jobs import planned_job, text_rows
from workers.meter import Meter

DIGEST = resolve_model("hash").card.digest


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


def job_in(folder: Path) -> Job:
    shards = [text_rows(20, first=20 * n) for n in range(3)]
    return planned_job(LocalStore(folder), shards, model_digest=DIGEST)


def test_what_was_measured_is_taken_once() -> None:
    """A file gets what was measured since the file before: seconds by step, the wall's, and counts."""
    clock = Clock()
    meter = Meter(clock, now=lambda: 1e9 + clock.at)
    with meter.while_in(Step.DEVICE):
        clock.at += 3
    meter.count(items=2, tokens=10, padded=12)
    clock.at += 1

    first, second = meter.take(), meter.take()

    assert (first.of(Step.DEVICE), first.of(Step.WALL), first.began_at) == (3, 4, 1e9 + 100)
    assert (first.items, first.tokens, first.padded, first.batches) == (2, 10, 12, 1)
    assert (dict(second.seconds), second.items) == ({Step.WALL: 0}, 0)


def test_what_a_lost_file_took_goes_into_the_next() -> None:
    """An attempt that was second, or could not be written, was work all the same."""
    clock = Clock()
    meter = Meter(clock)
    meter.add(Step.DEVICE, 3)
    meter.count(items=2, tokens=10, padded=12)
    clock.at += 4
    meter.give_back(meter.take())
    meter.add(Step.DEVICE, 1)
    clock.at += 2

    spent = meter.take()

    assert (spent.of(Step.DEVICE), spent.of(Step.WALL), spent.items, spent.batches) == (4, 6, 2, 1)


@pytest.mark.parametrize(("pause", "waited", "counted"), [(5, True, 5), (5, False, 0), (3600, True, 0)])
def test_only_waiting_for_the_jobs_own_shards_counts(pause: float, waited: bool, counted: float) -> None:
    """A worker that did another job's shards meanwhile, or whose job was stopped for an hour, did not wait for it."""
    clock = Clock()
    meter = Meter(clock)
    meter.leave()
    clock.at += pause

    meter.enter(waited=waited)

    spent = meter.take()
    assert (spent.of(Step.QUEUE_WAIT), spent.of(Step.WALL)) == (counted, counted)


def test_the_receipt_adds_up(tmp_path: Path) -> None:
    """Queues and workers each add up to the job, which is what the footers hold; every step is named."""
    job = job_in(tmp_path)
    InlineMill(job).run()

    receipt = written_receipt(job)

    assert receipt is not None
    whole, footers = receipt["total"], [file.footer for file in published_files(job)]
    assert (whole["shards"], whole["rows"], whole["items"]) == (3, 60, 60)
    assert set(whole["seconds"]) == {str(step) for step in Step}
    for parts in (receipt["queues"], receipt["workers"]):
        assert sum(part["items"] for part in parts.values()) == 60
    assert whole["seconds"]["device"] == pytest.approx(sum(f.spent.of(Step.DEVICE) for f in footers), abs=0.01)
    assert whole["tokens"] == sum(footer.spent.tokens for footer in footers) > 0
    assert 0 < whole["device_busy_share"] < 1
    assert list(receipt["queues"]) == ["embed.text.cpu"]


def test_a_receipt_needs_nobody_who_measured(tmp_path: Path) -> None:
    """Workers and Redis that are gone take nothing along: the rest of a job adds to what is published."""
    job = job_in(tmp_path)
    first = InlineMill(job)
    first.work(first.message(1))
    before = receipt_of(job, (file.footer for file in published_files(job)))
    InlineMill(job).run()

    receipt = written_receipt(job)

    assert before is not None
    assert receipt is not None
    assert (before.whole.shards, before.whole.spent.items) == (1, 20)
    assert (receipt["total"]["shards"], receipt["total"]["items"]) == (3, 60)


def test_status_shows_the_receipt_of_what_is_published(tmp_path: Path) -> None:
    """Half-way it is that of the published shards, at the end the one that was written; both in words too."""
    job = job_in(tmp_path)
    mill = InlineMill(job)
    none = job_status(job)
    mill.work(mill.message(0))
    half = job_status(job)
    mill.run()

    done = job_status(job)

    assert none.receipt is None
    assert half.receipt is not None
    assert half.receipt["total"]["items"] == 20
    assert done.receipt == written_receipt(job)
    assert receipt_lines(done.receipt)[0].startswith("  time      device busy ")
    json.dumps(done.to_dict())


@pytest.mark.parametrize("damage", ["gone", "changed", "another"])
def test_verify_proves_the_receipt(tmp_path: Path, damage: str) -> None:
    """A receipt that was removed, changed, or put there from another job is a problem."""
    job = job_in(tmp_path / "job")
    InlineMill(job).run()
    whole = verify_store(job.store)[1].complete
    data = job.store.get(layout.RECEIPT)
    job.store.delete(layout.RECEIPT)
    if damage == "changed":
        job.store.create(layout.RECEIPT, data.replace(b'"items": 60', b'"items": 61'))
    if damage == "another":
        other = planned_job(
            LocalStore(tmp_path / "other"), [text_rows(2)], model_digest=DIGEST, job_id="other-12345678"
        )
        InlineMill(other).run()
        job.store.create(layout.RECEIPT, other.store.get(layout.RECEIPT))

    _, verdict = verify_store(job.store)

    assert whole
    assert [problem for problem in verdict.problems if layout.RECEIPT in problem]


@pytest.mark.parametrize(
    ("seconds", "device", "bound_by", "words"),
    [
        ({"device": 90}, "cpu", "device", "more cores would help, in proportion"),
        ({"device": 40, "input_wait": 35}, "cuda:0", "device", "40 % of the time; more GPUs would help"),
        ({"device": 20, "input_wait": 75, "decode": 100}, "cuda:0", "decode", "4 more CPUs per GPU would help"),
        ({"device": 10, "input_wait": 80, "fetch": 150, "decode": 20}, "cuda:0", "fetch", "EMBEDMILL_LOAD_THREADS"),
        ({"device": 30, "input_wait": 60, "preprocess": 90}, "cuda:0", "preprocess", "a faster CPU"),
        ({"device": 30, "input_wait": 60, "preprocess": 90}, "cpu", "preprocess", "of the time; more or faster cores"),
        ({"device": 30, "input_wait": 60}, "cpu", "read", "larger shards"),
        ({"device": 30, "queue_wait": 60}, "cpu", "queue_wait", "fewer workers"),
        ({"device": 1, "queue_wait": 95}, "cpu", "queue_wait", "larger shards"),
        ({"device": 30, "load_model": 60}, "cpu", "load_model", "more rows in one job"),
        ({"device": 30, "write": 60}, "cpu", "write", "a store nearer"),
        ({"wall": 30, "load_model": 21, "write": 8}, "cpu", "nothing", "less than 10 s all together"),
        ({}, "cpu", "device", "device-bound"),
    ],
)
def test_the_bottleneck_is_named_with_what_would_help(
    seconds: dict[str, float], device: str, bound_by: str, words: str
) -> None:
    """The device's own waiting says that something held it up; the threads' seconds say what, and how many help."""
    advice = advice_on(Spent(seconds={"wall": 100, **seconds}), device=device, shards=4)

    assert advice.bound_by == bound_by
    assert words in advice.words
    assert ("in proportion" in advice.words) == (seconds.get("device", 0) >= 85)


@pytest.mark.parametrize(("workers", "whose"), [(1, "50 % of 1 worker's time"), (2, "50 % of 2 workers' time")])
def test_what_is_done_beside_the_device_is_told_apart(workers: int, whose: str) -> None:
    """Threads that fetch and decode may come to more than the time, and are not among its parts."""
    seconds = {str(step): 0.0 for step in Step} | {"wall": 10.0, "device": 5.0, "input_wait": 4.0, "decode": 17.0}
    receipt = {
        "total": {"seconds": seconds, "device_busy_share": 0.5, "padding_share": 0.0},
        "workers": [{}] * workers,
        "bottleneck": {"words": "decode-bound"},
    }

    time, limit = receipt_lines(receipt)

    assert time == f"  time      device busy {whose}, waiting for input 40 %; in threads beside it: decoding 170 %"
    assert limit == "  limit     decode-bound"


def test_a_file_of_before_the_receipt_is_read(tmp_path: Path) -> None:
    """A footer without what was spent spent nothing, and makes no receipt."""
    job = job_in(tmp_path)
    mill = InlineMill(job)
    mill.work(mill.message(0))
    [file] = published_files(job)
    raw = json.loads(file.footer.to_json())
    del raw["spent"]

    footer = type(file.footer).from_json(json.dumps(raw).encode())

    assert receipt_of(job, [footer]) is None
    assert receipt_of(job, [footer, file.footer]) is not None
