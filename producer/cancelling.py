"""Cancelling: a mark in the store, a hint on Redis, and the wait until the workers are free."""

from producer.board import Board
from producer.driving import wait_until
from schemas.errors import BrokerError, Refused
from storage import layout
from storage.jobs import Job
from storage.plans import PlanReader


def cancel_job(job: Job, board: Board | None, *, timeout_s: float) -> int:
    """Cancel `job`; returns how many shards are still in work when the time is over.

    Without a board workers hear of it when they begin their next shard.
    Raises Refused for a finished job, BrokerError where the board cannot be reached.
    """
    unfinished = [plan for plan in job.rounds() if not job.is_finished(plan)]
    if not unfinished:
        raise Refused(f"job {job.id} is finished; there is nothing to cancel")
    job.store.create(layout.CANCELLED, b"{}\n")
    job.store.delete(layout.SUBMITTED)
    if board is None:
        return 0
    board.cancel(job.id)
    board.strike_off(job.id)
    return wait_for_workers(job, board, timeout_s=timeout_s)


def wait_for_workers(job: Job, board: Board, *, timeout_s: float) -> int:
    """Wait until no worker holds a shard of the job; returns how many are still in work when the time is over."""
    unfinished = [plan for plan in job.rounds() if not job.is_finished(plan)]
    readers = [PlanReader(job.store, plan) for plan in unfinished]
    shards = [n for reader in readers for n in reader.shards()]

    def in_work() -> int:
        try:
            return len(board.leased(job.id, shards))
        except BrokerError:
            return 1  # not known: look again

    wait_until(lambda: in_work() == 0, timeout_s=timeout_s)
    return in_work()
