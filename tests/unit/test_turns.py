"""Turns: which job's shards go to a queue that several share."""

from producer.turns import TURN_S, Turns
from schemas.presence import WorkerPresence

QUEUE = "embed.text.cpu"


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def worker(*models: str) -> WorkerPresence:
    return WorkerPresence(name="w", host="h", pid=1, device="cpu", queues=(QUEUE,), models=models)


def test_a_queue_is_one_models_at_a_time() -> None:
    """Else two jobs would make each worker load two models in turns."""
    turns = Turns(Clock())

    first, second, again = (turns.may_send(QUEUE, model, [worker("a")]) for model in ("a", "b", "a"))

    assert (first, second, again) == (True, False, True)


def test_a_model_that_all_workers_hold_never_waits() -> None:
    """Then the other job costs no load."""
    turns = Turns(Clock())
    turns.may_send(QUEUE, "a", [])

    assert turns.may_send(QUEUE, "b", [worker("a", "b"), worker("b")])
    assert not turns.may_send(QUEUE, "b", [worker("a", "b"), worker("a")])


def test_a_turn_ends_when_its_job_has_sent_everything() -> None:
    """A job that asks no more has given its turn away."""
    clock = Clock()
    turns = Turns(clock)
    turns.may_send(QUEUE, "a", [])
    clock.now = 10.0

    assert turns.may_send(QUEUE, "b", [])


def test_each_of_several_models_gets_its_turn() -> None:
    """Whoever waited longest is next, however the jobs are looked at."""
    clock = Clock()
    turns = Turns(clock)
    served = {"a": 0, "b": 0, "c": 0}
    for _ in range(3 * int(TURN_S) + 30):
        clock.now += 1.0
        for model in served:
            served[model] += turns.may_send(QUEUE, model, [])

    assert min(served.values()) > TURN_S / 2


def test_no_job_starves() -> None:
    """After its time a busy job lets another model in."""
    clock = Clock()
    turns = Turns(clock)
    asked: list[bool] = []
    while not asked or not asked[-1]:
        clock.now += 1.0
        turns.may_send(QUEUE, "a", [])
        asked.append(turns.may_send(QUEUE, "b", []))

    assert len(asked) == TURN_S + 2
    assert not turns.may_send(QUEUE, "a", [])
