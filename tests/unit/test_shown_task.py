"""What the monitor makes of Celery's events: only what has embedmill's own form."""

from types import SimpleNamespace

import pytest

from producer.shown_task import COLUMNS, ShownTask, shown_task


def task(**told: object) -> SimpleNamespace:
    """A task of Flower's, with what events said of it."""
    known = ("name", "state", "kwargs", "result", "received", "started", "runtime", "retries", "worker", "exception")
    return SimpleNamespace(**dict.fromkeys(known) | {"uuid": "job-12345678.7.1", "state": "SUCCESS"} | told)


def test_a_shard_is_read_from_its_id_and_its_counts() -> None:
    """Job and shard from the id, the modality from the name, the queue and the counts from what is meant to be seen."""
    seen = shown_task(
        task(
            name="rerank.mixed",
            kwargs="{'job': 'x', 'queue': 'rerank.mixed.gpu24'}",
            result="{'outcome': 'published', 'rows': 9, 'failures': 1, 'seconds': 0.5}",
        )
    )

    assert (seen.job, seen.shard, seen.modality, seen.queue) == ("job-12345678", 7, "mixed", "rerank.mixed.gpu24")
    assert (seen.outcome, seen.rows, seen.failures) == ("published", 9, 1)


@pytest.mark.parametrize(
    "words",
    [
        "canary",
        "{'queue': 'canary words', 'rows': 'canary', 'outcome': 'canary words', 'failures': True}",
        "{'queue': 'canary/../x', 'outcome': 'CANARY'}",
        "['canary']",
        "{" * 3000 + "canary",
        "(" * 1000 + "canary",
        "__import__('os').system('echo canary')",
        b"canary",
        None,
    ],
)
def test_what_is_not_ours_is_left_out(words: object) -> None:
    """Texts, paths and expressions in arguments, results and errors are shown nowhere, and break nothing."""
    error = f"WorkerLostError({words!r})"
    seen = shown_task(task(uuid="../canary" if words else "x", kwargs=words, result=words, exception=error))
    told = {name: value for name, value in seen.as_dict().items() if name != "uuid"}

    assert "canary" not in str(told).lower()
    assert seen.exception == "WorkerLostError"


def test_every_column_has_its_field() -> None:
    """A list without one of them would be empty."""
    assert set(COLUMNS) <= set(ShownTask._fields)
