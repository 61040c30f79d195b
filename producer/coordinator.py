"""The coordinator: keeps each queue filled up to a window, and sends again what is neither published nor leased.

It holds no truth. Killed at any moment and started again, it looks into the store and goes on.
"""

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from producer.board import Board
from producer.error_limit import ErrorLimit
from producer.ledger import Ledger, ShardSet
from producer.spending import Spending, SpendLimit
from producer.tally import Tally
from producer.task_queue import TaskQueue
from producer.turns import Turns
from producer.waiting import Waiting
from producer.work import Work
from schemas.counted import counted
from schemas.errors import BrokerError, Stopped, StoreError
from schemas.message import ShardMessage
from schemas.presence import WorkerPresence
from schemas.queues import queue_of
from schemas.shard import ShardReport
from schemas.sizes import above

logger = logging.getLogger(__name__)

#: Messages that wait, at most, for each live worker of a queue.
WINDOW_PER_WORKER = 4
#: A shard whose attempts failed so often, for cause, stops the job,
MAX_ERRORS = 5
#: once so many workers, or all that there are, were among them,
ENOUGH_WORKERS = 3
#: or after so many in any case: one sick worker must not stop what others can do, nor a sick shard go on for ever.
MOST_ERRORS = 15
LONGEST_PAUSE_S = 60.0
#: A message that no worker took up within so many seconds, with its queue empty, is lost.
RESEND_AFTER_S = 10.0
#: After so long it is sent again whatever its queue holds: other jobs' messages may be all that is left there.
FORGET_AFTER_S = 600.0
#: Reports of workers that cannot do the job, with nothing published between them, that stop it.
MAX_UNFIT = 10
#: The longest pause of a shard whose worker could not reach the store.
STORE_PAUSE_S = 20.0
#: Seconds without a live worker after which that is said.
UNSERVED_S = 15.0
#: Seconds between two listings of the store, at least; a listing that takes long makes them rarer.
LISTING_EVERY_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a job stands, as far as the coordinator knows."""

    shards: int
    published: int
    rows: int
    rows_done: int  # rows of published shards, failures included
    failed: int
    sent: int  # shards on the queues or in work
    workers: int
    done: bool
    note: str = ""  # what holds the job up, in words


@dataclass(slots=True)
class _Lane:
    """One queue's shards: those that wait here, and the newest order a worker was seen to take."""

    queue: str
    task: str
    size: str
    waiting: Waiting = field(default_factory=Waiting)
    taken: int = -1


@dataclass(slots=True)
class _Sent:
    lane: _Lane
    order: int
    at: float


class Coordinator:
    """Drives one job, or one round of a join, to its end, one `tick` at a time."""

    def __init__(
        self,
        work: Work,
        *,
        board: Board,
        queue: TaskQueue,
        turns: Turns | None = None,
        limit: ErrorLimit | None = None,
        spending: Spending | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._work, self._board, self._queue, self._clock = work, board, queue, clock
        self._turns = turns or Turns(clock)
        self._limit = limit or ErrorLimit()
        self._spending = spending or Spending(SpendLimit(), clock=clock)
        self.tally = Tally(published_at=clock())
        self._size_of: dict[int, str] = {}  # of shards that were too large for the job's own size
        cuts = work.cuts()
        self._ledger = Ledger(cuts)
        self._lanes: dict[tuple[str, str], _Lane] = {}  # by task and size
        self._sent: dict[int, _Sent] = {}
        self._order = 0
        self._errors: dict[int, list[str]] = {}  # by shard: the worker of each
        self._later: dict[int, float] = {}
        self._store_failures: Counter[int] = Counter()
        self._unfit = 0
        self._unfit_workers: set[str] = set()
        self._last_error = ""
        self._served_at = clock()
        self._present: list[WorkerPresence] = []  # as of this tick
        self._listed_at = -1e9
        self._listing_pause = LISTING_EVERY_S
        self._recall_cancel = False  # the store says that the job is not cancelled; Redis may still say that it is
        self._unpublished = self._ledger.shards  # as of the last tick
        for cut in cuts:
            for task, shards in cut.by_task():
                self._lane(task, work.size).waiting.fill(shards)

    def tick(self) -> Progress:
        """Look around once and do what is due.

        An unreachable Redis or store is no error, but a note: the other is looked at all the same.
        Raises Stopped when a shard failed MAX_ERRORS times, more rows failed than are borne, or the job was cancelled;
        LimitReached when it has cost what it may, or its time is over.
        """
        workers, note, unlisted = 0, "", ""
        if self._clock() - self._listed_at >= self._listing_pause:
            unlisted = self._try_to_list()
        if not self._done:
            self._spending.stop_if_exceeded(self._unpublished)  # before anything more is sent
        try:
            note = self._work_the_board() or unlisted
            workers, unserved = self._look_for_workers()
            if not unserved:
                self._served_at = self._clock()
            elif not note and self._clock() - self._served_at > UNSERVED_S:
                note = f"no live worker serves {', '.join(unserved)}"
        except BrokerError as err:
            note = str(err)
        if self._done:  # reports are hints: only the store's word ends a job
            unlisted = self._try_to_list()
        self._stop_over_limit()
        progress = self._progress(workers, note or unlisted, done=self._done and not unlisted)
        self._unpublished = progress.shards - progress.published
        return progress

    def release(self) -> None:
        """Let another coordinator take over at once."""
        try:
            self._board.give_up(self._work.id)
        except BrokerError as err:
            logger.info("the claim expires by itself: %s", err)

    def left(self) -> dict[str, int]:
        """Shards that are not published, by queue."""
        left = Counter({queue_of(task, self._work.size): count for task, count in self._ledger.left().items()})
        for shard, size in self._size_of.items():
            if not self._ledger.is_published(shard):
                task = self._ledger.cut_of(shard).task_of(shard)
                left.update({queue_of(task, size): 1, queue_of(task, self._work.size): -1})
        return dict(left)

    @property
    def _done(self) -> bool:
        return self._ledger.published == self._ledger.shards

    def _lane(self, task: str, size: str) -> _Lane:
        key = (task, size)
        if key not in self._lanes:
            self._lanes[key] = _Lane(queue_of(task, size), task, size)
        return self._lanes[key]

    def _try_to_list(self) -> str:
        """Look into the store; what keeps us from it, in words, or ""."""
        try:
            self._list_store()
        except StoreError as err:
            self._listed_at = self._clock()
            return f"the store cannot be listed: {err}"
        return ""

    def _list_store(self) -> None:
        started = self._clock()
        if self._work.is_cancelled():
            with contextlib.suppress(BrokerError):  # the workers look into the store too, at their next shard
                self._board.cancel(self._work.id)
            raise Stopped(f"job {self._work.id} was cancelled; `embedmill run` or `submit` takes it up again")
        new, gone, uncounted = self._ledger.compare(self._work.published())
        if new:
            self.tally.published_at = self._clock()
        for shard in [shard for shard in self._sent if self._ledger.is_published(shard)]:
            self._take_off(shard)
        for shard in gone:  # a report was wrong
            self._ledger.unmark(shard)
            self._lane_of(shard).waiting.append(shard)
        self.tally.left = self.left()
        self._recall_cancel = True
        with contextlib.suppress(StoreError):  # the limit on failures then sees fewer; the listing stands
            self._count_failures(uncounted)
        self._listed_at = self._clock()
        self._listing_pause = max(LISTING_EVERY_S, 20 * (self._listed_at - started))

    def _count_failures(self, unreported: ShardSet) -> None:
        """Read what failed in shards that no worker told of: from before this coordinator, or a lost report."""
        if not unreported:
            return
        for shard, rows in self._work.failed_rows(unreported).items():
            self._ledger.count_failed(shard, rows)
        unreported.count()

    def _stop_over_limit(self) -> None:
        failed, done = self._ledger.of_manifest
        if not failed or self._done:
            return
        why = self._limit.exceeded(failed, done)
        if why:
            raise Stopped(f"stopped: {why}; `embedmill status` says of what; a higher limit goes on")

    def _work_the_board(self) -> str:
        if not self._board.claim(self._work.id, self._work.location):
            self._present = self._board.workers()
            return "another coordinator drives this job"
        if self._recall_cancel:
            self._board.uncancel(self._work.id)  # else workers would drop each shard, and each would be sent again
            self._recall_cancel = False
        for report in self._board.reports(self._work.id):
            self._heed(report)
        self._present = self._board.workers()
        for shard in [shard for shard, due in self._later.items() if due <= self._clock()]:
            del self._later[shard]
            self._lane_of(shard).waiting.append(shard)
        leased = self._board.leased(self._work.id, self._sent)
        self._spending.note(leased)
        self._resend_lost(leased)
        self._top_up()
        return ""

    def _heed(self, report: ShardReport) -> None:
        self._spending.report(report.shard, sum(report.seconds.values()))
        if report.shard not in self._ledger or report.plan != self._ledger.cut_of(report.shard).digest:
            return
        if report.outcome in ("published", "lost", "skipped"):
            self._unfit = 0
            if report.outcome == "published":  # the others do not say how many rows failed
                self._ledger.count_failed(report.shard, report.rows_failed)
            self._mark_published(report.shard)
        elif self._ledger.is_published(report.shard):
            return  # a late attempt at what is done
        elif report.outcome == "stopped":
            raise Stopped(report.error)
        elif report.outcome == "error":
            self._count_error(report)
        elif report.outcome == "store_failed":
            self._wait_for_the_store(report)
        elif report.outcome == "unfit":
            self._count_unfit(report)
        elif report.outcome == "too_large":
            self._move_up(report)
        elif report.outcome in ("cancelled", "passed") and report.shard in self._sent:
            self._send_again(report.shard)

    def _move_up(self, report: ShardReport) -> None:
        """A shard with a row that is too large for its device goes to the next larger size that is served."""
        task = self._ledger.cut_of(report.shard).task_of(report.shard)
        served = {queue for worker in self._board.workers() for queue in worker.queues}
        larger = above(report.size) if report.size else ()
        sizes = [size for size in larger if queue_of(task, size) in served]
        if sizes:  # else it comes back to its own size, whose worker then has no larger one to hand it to
            self._size_of[report.shard] = sizes[0]
            logger.info("shard %d goes to %s", report.shard, sizes[0], extra={"event": "shard_moved"})
        if self._sent.pop(report.shard, None):
            self._lane_of(report.shard).waiting.append(report.shard)

    def _count_error(self, report: ShardReport) -> None:
        self.tally.errors += 1
        workers = self._errors.setdefault(report.shard, [])
        workers.append(report.worker)
        self._say_once(report)
        if len(workers) >= MAX_ERRORS and (self._tried_by_others(workers) or len(workers) >= MOST_ERRORS):
            raise Stopped(
                f"stopped: shard {report.shard} failed {counted(len(workers), 'time')}, at last with {report.error}"
            )
        self._put_off(report.shard, min(2.0 ** len(workers), LONGEST_PAUSE_S))

    def _tried_by_others(self, workers: list[str]) -> bool:
        """Whether it was not always the same workers that failed, while there are others."""
        return len(set(workers)) >= ENOUGH_WORKERS or self._serving(self._board.workers()) <= set(workers)

    def _serving(self, workers: list[WorkerPresence]) -> set[str]:
        """The names of those that serve a queue of this job."""
        queues = {lane.queue for lane in self._lanes.values()}
        return {worker.name for worker in workers if queues & set(worker.queues)}

    def _wait_for_the_store(self, report: ShardReport) -> None:
        """A full or unreachable store is no fault of the shard: it is tried again until the store is back."""
        self._store_failures[report.shard] += 1
        self._say_once(report)
        self._put_off(report.shard, min(2.0 ** self._store_failures[report.shard], STORE_PAUSE_S))

    def _count_unfit(self, report: ShardReport) -> None:
        """A worker that cannot do this job: the shard goes to another, unless no worker can."""
        self._unfit += 1
        self.tally.unfit += 1
        self._unfit_workers.add(report.worker)
        self._say_once(report)
        if self._unfit >= MAX_UNFIT and self._serving(self._board.workers()) <= self._unfit_workers:
            raise Stopped(f"stopped: no worker is fit for this job: {report.error}")
        self._put_off(report.shard, 1.0)

    def _say_once(self, report: ShardReport) -> None:
        """Log an error, unless it is the last one again: from a sick worker every shard has the same."""
        if report.error != self._last_error:
            self._last_error = report.error
            logger.error("shard %d: %s", report.shard, report.error, extra={"event": "shard_error"})

    def _put_off(self, shard: int, seconds: float) -> None:
        """Send the shard again later: what ails it may pass meanwhile."""
        if self._sent.pop(shard, None):
            self._later[shard] = self._clock() + seconds

    def _mark_published(self, shard: int) -> None:
        if self._ledger.mark(shard):
            self.tally.published_at = self._clock()
        self._take_off(shard)

    def _take_off(self, shard: int) -> None:
        """It is published, so nobody needs its message."""
        sent = self._sent.pop(shard, None)
        if sent is not None:
            _note_taken(sent)

    def _resend_lost(self, leased: set[int]) -> None:
        now = self._clock()
        depths = {lane.queue: self._board.depth(lane.queue) for lane in self._lanes.values()}
        served = {queue for worker in self._present for queue in worker.queues} if self._size_of else set()
        ages_s: dict[str, float] = {}
        for shard in leased:
            _note_taken(self._sent[shard])
            self._sent[shard].at = now
        for shard, sent in [item for item in self._sent.items() if item[0] not in leased]:
            queue, silent_s = sent.lane.queue, now - sent.at
            overtaken = sent.order < sent.lane.taken  # queues are first in, first out
            ages_s[queue] = max(silent_s, ages_s.get(queue, 0.0))
            if shard in self._size_of and queue not in served and silent_s > UNSERVED_S:
                del self._size_of[shard]  # the larger device is gone: the job's own size says what becomes of the row
                self._send_again(shard)
                continue
            if silent_s > RESEND_AFTER_S and (depths[queue] == 0 or overtaken or silent_s > FORGET_AFTER_S):
                self._send_again(shard)
        # Whole at once: a scrape reads them from a thread of its own.
        self.tally.leased, self.tally.depths, self.tally.ages_s = len(leased), depths, ages_s

    def _send_again(self, shard: int) -> None:
        self.tally.resent += 1
        del self._sent[shard]
        self._lane_of(shard).waiting.appendleft(shard)

    def _top_up(self) -> None:
        workers = self._present
        serving = Counter(queue for worker in workers for queue in worker.queues)
        in_flight = Counter(sent.lane.queue for sent in self._sent.values())
        for lane in list(self._lanes.values()):
            if not lane.waiting or not self._turns.may_send(lane.queue, self._work.model_digest, workers):
                continue
            window = WINDOW_PER_WORKER * max(1, serving[lane.queue])
            self._send(lane, window - in_flight[lane.queue])

    def _send(self, lane: _Lane, room: int) -> None:
        batch: dict[int, None] = {}  # in order, and each once
        while lane.waiting and len(batch) < room:
            shard = lane.waiting.popleft()
            if self._is_wanted(shard):
                batch[shard] = None
        try:
            held = self._board.leased(self._work.id, batch)  # by workers that heard of them before: watched, not sent
            messages = [self._message(shard) for shard in batch if shard not in held]
            if messages:  # a send of nothing would still open a connection
                self._queue.send(lane.task, lane.size, messages)
        except BrokerError:
            lane.waiting.extendleft(reversed(batch))
            raise
        self.tally.sent += len(messages)
        for shard in batch:
            self._order += 1
            self._sent[shard] = _Sent(lane, self._order, self._clock())

    def _is_wanted(self, shard: int) -> bool:
        return not self._ledger.is_published(shard) and shard not in self._sent

    def _message(self, shard: int) -> ShardMessage:
        return ShardMessage(job=self._work.id, shard=shard, plan=self._ledger.cut_of(shard).digest)

    def _lane_of(self, shard: int) -> _Lane:
        return self._lane(self._ledger.cut_of(shard).task_of(shard), self._size_of.get(shard, self._work.size))

    def _look_for_workers(self) -> tuple[int, list[str]]:
        """How many workers serve the job, and the queues with work left that none serves."""
        served = {queue for worker in self._present for queue in worker.queues}
        with_work = {lane.queue for lane in self._lanes.values() if lane.waiting}
        with_work |= {sent.lane.queue for sent in self._sent.values()}
        return len(self._serving(self._present)), sorted(with_work - served)

    def _progress(self, workers: int, note: str, *, done: bool) -> Progress:
        ledger = self._ledger
        return Progress(
            shards=ledger.shards,
            published=ledger.published,
            rows=ledger.rows,
            rows_done=ledger.rows_done,
            failed=ledger.failed,
            sent=len(self._sent),
            workers=workers,
            done=done,
            note=note,
        )


def _note_taken(sent: _Sent) -> None:
    """A worker was seen to have taken this message."""
    sent.lane.taken = max(sent.lane.taken, sent.order)
