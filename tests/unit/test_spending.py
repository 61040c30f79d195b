"""Spending: a job stops when it has cost what it may, or its time is over, and not a moment before or in vain."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import typer

from producer.error_limit import ErrorLimit
from producer.spend_options import spend_words
from producer.spending import Spending, SpendLimit, spending_of, spent_before
from schemas.errors import LimitReached
from storage.model_files import resolve_model
from storage.store import LocalStore
from tests.inline import InlineMill
from tests.jobs import planned_job, text_rows
from tests.mill import embedmill, texts, write_jsonl

HOUR = 3600.0


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


def spending(clock: Callable[[], float], **limit: float) -> Spending:
    return Spending(SpendLimit(**limit), clock=clock, now=lambda: 1e9 + clock())


def test_what_workers_hold_shards_for_is_what_it_costs() -> None:
    """Three workers for an hour and one for half of one, at 2 an hour, cost 7: it stops at that, and not at 6.9."""
    clock = Clock()
    watch = spending(clock, max_cost=7.0, price=2.0)
    watch.note({1, 2, 3})
    clock.at += HOUR
    watch.note({3})
    clock.at += 0.45 * HOUR
    watch.stop_if_exceeded(left=100)
    clock.at += 0.05 * HOUR + 0.001

    with pytest.raises(
        LimitReached, match=r"7 is spent \(3 h 30 min of work at 2 an hour\), and --max-cost is 7, with 99"
    ):
        watch.stop_if_exceeded(left=99)


def test_a_report_says_better_what_a_shard_cost() -> None:
    """A shard that came and went between two looks counts; one that was seen counts once."""
    clock = Clock()
    watch = spending(clock)
    watch.note({1})
    clock.at += 10
    watch.report(1, 12.0)
    watch.report(2, 3.0)
    clock.at += 100

    watch.note(set())

    assert watch.spent_s == 15


def test_a_deadline_is_a_moment() -> None:
    """Before it nothing stops; from it on everything does, whoever works."""
    clock = Clock()
    watch = spending(clock, deadline=1e9 + 60)
    clock.at = 59.9
    watch.stop_if_exceeded(left=5)
    clock.at = 60.0

    with pytest.raises(LimitReached, match="the --deadline"):
        watch.stop_if_exceeded(left=5)


def test_a_job_whose_last_shards_are_in_work_is_let_finish() -> None:
    """There is nothing left to save: what is in work is paid for."""
    clock = Clock()
    watch = spending(clock, max_cost=1.0, price=1.0)
    watch.note({1, 2})
    clock.at += 10 * HOUR

    watch.stop_if_exceeded(left=2)

    with pytest.raises(LimitReached):
        watch.stop_if_exceeded(left=3)


def test_without_limits_nothing_stops() -> None:
    """No cost and no deadline is too much."""
    clock = Clock()
    watch = spending(clock)
    watch.note(range(1000))
    clock.at += 1e6 * HOUR

    watch.stop_if_exceeded(left=10**6)


def test_what_was_spent_before_counts(tmp_path: Path) -> None:
    """A job that is taken up again has cost already what its published shards say."""
    job = planned_job(LocalStore(tmp_path), [text_rows(5), text_rows(5, first=5)], model_digest=_digest())
    mill = InlineMill(job)
    before = spent_before(job)
    mill.work(mill.message(0))

    spent = spent_before(job)

    assert before == 0
    assert spent > 0
    limit = SpendLimit(max_cost=1.0, price=1.0 / spent * HOUR)
    with pytest.raises(LimitReached):
        spending_of(job, limit).stop_if_exceeded(left=1)


def test_limits_are_told_beside_each_other() -> None:
    """What a submitted job says is read back, each limit by itself; what says nothing limits nothing."""
    limit = SpendLimit(max_cost=2.5, price=0.8, deadline=1e9)
    told = ErrorLimit(rows=3, rate=0.1).to_json(spend_limit=limit.to_dict())

    assert SpendLimit.from_json(told) == limit
    assert ErrorLimit.from_json(told) == ErrorLimit(rows=3, rate=0.1)
    assert SpendLimit.from_json(ErrorLimit().to_json()) == SpendLimit.from_json(b"[]") == SpendLimit()


def test_words_are_parsed() -> None:
    """Prices by size; a deadline as a duration, or as a local time."""
    words = spend_words(["gpu24=0.8", "cpu=0.04"], 5.0, "2030-01-02T03:04")
    soon = spend_words(None, 0.0, "90m")

    assert words.limit_for("gpu24") == SpendLimit(
        max_cost=5.0, price=0.8, deadline=datetime(2030, 1, 2, 3, 4).astimezone().timestamp()
    )
    assert abs(soon.deadline - (datetime.now().astimezone() + timedelta(minutes=90)).timestamp()) < 60


@pytest.mark.parametrize("price", ["gpu24", "gpu24=", "gpu24=-1", "gpu24=nan", "gpu24=inf", "laptop=1", "=1"])
def test_a_word_that_is_no_price_is_named(price: str) -> None:
    """Anything but a size and an amount is refused."""
    with pytest.raises(typer.BadParameter, match="is no price"):
        spend_words([price])


def test_a_cost_without_a_price_is_refused() -> None:
    """What the job's own size costs must be known."""
    with pytest.raises(typer.BadParameter, match="--price cpu="):
        spend_words(["gpu24=1"], 5.0).limit_for("cpu")
    with pytest.raises(typer.BadParameter, match="needs --price"):
        spend_words(None, 5.0)
    with pytest.raises(typer.BadParameter, match="is no time"):
        spend_words(None, 0.0, "soon")


def test_a_run_stops_at_its_limit_and_goes_on_with_a_higher_one(tmp_path: Path) -> None:
    """Exit code 4, one clear line, whole shards, `status` says why; with a higher limit each row has one vector."""
    manifest, out = write_jsonl(tmp_path / "rows.jsonl", texts(1200, longest=60)), tmp_path / "out"
    words = ("run", manifest, "--model", "hash", "--out", out, "--shard-seconds", "0.01", "--workers", "1")
    env = {"EMBEDMILL_HASH_DELAY_MS": "5"}  # 6 s of work

    stopped = embedmill(*words, "--price", "cpu=3600", "--max-cost", "1.5", env=env)
    seen = json.loads(embedmill("status", out, "--json").stdout)
    proved = json.loads(embedmill("verify", out, "--json").stdout)
    done = embedmill(*words, "--price", "cpu=3600", "--max-cost", "1000")

    assert stopped.returncode == 4, stopped.stderr
    assert "and --max-cost is 1.5" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert (seen["state"], "--max-cost" in seen["notes"][0]) == ("stopped", True)
    assert 0 < seen["vectors"] < 1200
    assert proved["problems"] == []
    assert done.returncode == 0, done.stderr
    assert embedmill("verify", out).returncode == 0


def _digest() -> str:
    return resolve_model("hash").card.digest
