"""Distributing: a join or dedup computed by workers, panel by panel, round by round."""

import contextlib

from producer.board import Board
from producer.driving import drive_work
from producer.interrupts import Interrupted
from producer.panel_work import PanelWork
from producer.screen import Screen
from producer.task_queue import TaskQueue
from schemas.errors import BrokerError
from storage.pair_limit import set_pair_limit
from storage.phases import Comparison


def distribute(
    comparison: Comparison, *, board: Board, queue: TaskQueue, screen: Screen, size: str, max_pairs: int
) -> None:
    """Have workers publish every panel that is missing; what stands at the end is the caller's to write.

    Raises Stopped where it cannot go on, or has more than `max_pairs`.
    """
    set_pair_limit(comparison.store, max_pairs)
    first = 0
    try:
        while board.reports(comparison.record.id):  # of an earlier run, with another limit
            pass
        for phases in comparison.rounds():
            work = PanelWork(comparison, phases, first=first, size=size, max_pairs=max_pairs)
            drive_work(work, board=board, queue=queue, screen=screen)
            first += sum(map(len, phases))
    except Interrupted:
        with contextlib.suppress(BrokerError):  # what waits on the queue is left by itself in a day
            board.withdraw(comparison.record.id)
        raise
