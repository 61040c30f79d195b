"""A run: jobs, faults by the schedule, and a verdict."""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import redis

from chaos.findings import Findings, Wrong
from chaos.history import History, Journal, find_leaks, read_history
from chaos.mill import Mill, MillJob, MillOptions
from chaos.nemeses import Harm, strike
from chaos.oracle import Counts, check_job
from chaos.reader import Reader
from chaos.schedule import Group, Kind, Strike, make_schedule
from chaos.server import GivenServer, OwnServer, Server, password_of
from producer.coordinator import MAX_ERRORS
from producer.verify import verify_job
from schemas.errors import EmbedmillError, Refused
from schemas.redaction import redact
from storage.jobs import open_job
from storage.store import canonical_location, open_store, require_create_only
from workers.hash_encoder import expected_vector

_TICK_S = 0.05
#: So long the runner waits for the mill to publish after a fault before it goes on with the next.
_PATIENCE_S = 60.0
#: A mill that publishes nothing for so long, though there is work, stands still.
_STUCK_S = 180.0
#: A worker that was told to end has ended after so many seconds: its grace of 20, and what a busy machine adds.
_END_S = 30.0
#: The next job is handed in when so little of the last one is left.
_FEW_LEFT = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosOptions:
    """What a run is asked for."""

    counts: dict[Group, int]  # faults
    seed: int
    out: str = ""  # a store; "": a private folder
    broker_url: str = ""  # the user's Redis; "": one of our own
    wipe: bool = False  # the user's Redis may lose our own keys
    mill: MillOptions = field(default_factory=lambda: MillOptions(location=""))


@dataclass(slots=True, kw_only=True)
class Struck:
    """One fault that was done, and how long the mill took to recover from it.

    Recovered is a mill when it has published more shards than could be in work at the fault's end: one at least was
    sent, taken and published since.
    """

    kind: Kind
    victim: str
    began_s: float  # since the run began
    ended: float = 0.0  # monotonic; 0: it lasts
    then_published: int = 0  # shards that were published when it ended
    recovered_s: float | None = None  # since its end; None: not seen, for nothing was left to publish


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a run found."""

    seed: int
    seconds: float = 0.0
    workers: int = 0
    jobs: int = 0
    struck: list[Struck] = field(default_factory=list)
    left: int = 0  # faults that were not done
    findings: Findings = field(default_factory=Findings)
    counts: Counts = field(default_factory=Counts)
    history: History = field(default_factory=History)
    verified: int = 0  # rows of jobs that `embedmill verify` calls complete
    looks: int = 0  # of the reader
    longest_silence_s: float = 0.0  # between two publications
    exits: list[float] = field(default_factory=list)  # seconds from SIGTERM to the end of a worker
    kept: str = ""  # where everything is that was found wrong

    @property
    def ok(self) -> bool:
        return self.findings.total == 0


Say = Callable[[str], None]


def run_chaos(options: ChaosOptions, *, say: Say = lambda line: None) -> Outcome:
    """Do what `options` ask for, and end with everything stopped, whatever happens."""
    _require_possible(options)
    options = replace(options, out=canonical_location(options.out) if options.out else "")
    private = Path(tempfile.mkdtemp(prefix="embedmill-chaos-"))
    location = _location(options, private)
    begun, keep = time.monotonic(), True
    outcome = Outcome(seed=options.seed, workers=options.mill.workers)
    say(f"jobs in {redact(location)}, logs in {private}")
    try:
        require_create_only(open_store(location))
        with _server(options) as server:
            mill = Mill(replace(options.mill, location=location, seed=options.seed), server=server, private=private)
            _Run(mill, make_schedule(options.counts, options.seed), outcome, say).run()
            secrets = [password_of(server.url), *(job.truth.canary for job in mill.jobs)]
            find_leaks(mill.logs, secrets, outcome.findings)
        outcome.seconds = time.monotonic() - begun
        keep = not outcome.ok
    except (KeyboardInterrupt, EmbedmillError):  # half a run proves nothing, and one that was refused left nothing
        keep = False
        raise
    finally:
        if keep:
            outcome.kept = str(private) if location.startswith(str(private)) else f"{location} and {private}"
        else:
            _remove(location, private)
    return outcome


def _require_possible(options: ChaosOptions) -> None:
    if options.broker_url and options.counts.get(Group.RESTARTS):
        raise Refused("--restarts: a Redis that is not ours is not killed; leave --broker-url or --restarts out")
    if options.broker_url and options.counts.get(Group.WIPES) and not options.wipe:
        raise Refused("--wipes: say --wipe, and embedmill's own keys on that Redis are wiped, nothing else")


def _server(options: ChaosOptions) -> Server:
    return GivenServer(options.broker_url) if options.broker_url else OwnServer()


def _location(options: ChaosOptions, private: Path) -> str:
    """Where the jobs go: a new folder below --out, or the private one."""
    if not options.out:
        return str(private / "jobs")
    return f"{options.out}/{private.name}"


def _remove(location: str, private: Path) -> None:
    """Remove what the run has made, and only that."""
    if "://" in location:
        with contextlib.suppress(EmbedmillError):  # it is away: the folder's name was said
            store = open_store(location)
            for item in list(store.walk("")):
                store.delete(item.key)
    elif location:
        shutil.rmtree(location, ignore_errors=True)
    shutil.rmtree(private, ignore_errors=True)


class _Run:
    """The loop, and what it has to remember."""

    def __init__(self, mill: Mill, schedule: list[Strike], outcome: Outcome, say: Say) -> None:
        self._mill, self._schedule, self._outcome, self._say = mill, list(schedule), outcome, say
        self._reader = Reader()
        self._begun = time.monotonic()
        self._lasting: list[tuple[Harm, Struck]] = []
        self._last_struck_at = self._begun
        self._felt_at = 0.0  # when the mill was first seen to publish after the last fault
        self._published, self._published_at = 0, 0.0
        self._total = len(schedule)

    def run(self) -> None:
        with self._mill:
            self._journal = Journal(self._mill.logs / "chaos.log")
            self._journal.note("begun", seed=self._outcome.seed, strikes=[str(s.kind) for s in self._schedule])
            self._submit()
            self._reader.start()
            while not self._finished():
                self._tick()
                time.sleep(_TICK_S)
            self._end_lasting(all_of_them=True)
            self._mill.stop()
        self._judge()

    def _tick(self) -> None:
        self._mill.tend()
        self._end_lasting()
        self._note_publications()
        for job in self._mill.jobs:
            if job.done:
                self._reader.set_done(job.url)
        if self._schedule and self._left() < _FEW_LEFT * max(1, self._mill.jobs[-1].shards):
            self._submit()
        if self._may_strike():
            self._strike()

    def _submit(self) -> None:
        if all(job.job is not None for job in self._mill.jobs):
            self._reader.watch(self._mill.submit().files)

    def _left(self) -> int:
        """Shards that are neither published nor of a job that is not yet submitted."""
        return sum(self._left_of(job) for job in self._mill.jobs if not job.done)

    def _left_of(self, job: MillJob) -> int:
        return max(0, job.shards - len(self._reader.seen(job.url)))

    def _may_strike(self) -> bool:
        if not self._schedule or not self._left() or not self._published:
            return False
        now = time.monotonic()
        felt = self._felt_at > self._last_struck_at and now - self._felt_at >= self._schedule[0].pause_s
        return felt or now - self._last_struck_at > _PATIENCE_S

    def _strike(self) -> None:
        try:
            harm = strike(self._mill, self._schedule[0])
        except (redis.RedisError, EmbedmillError) as err:
            self._journal.note("failed", kind=str(self._schedule[0].kind), why=redact(str(err)))
            return  # Redis or the store is away: once more at the next tick
        if harm is None:
            return  # nobody to do it to yet; there will be
        now = self._last_struck_at = time.monotonic()
        kind = self._schedule.pop(0).kind
        struck = Struck(kind=kind, victim=harm.victim, began_s=round(now - self._begun, 2))
        if harm.lasts_s:
            self._lasting.append((harm, struck))
        else:
            self._mark_ended(struck)
        self._outcome.struck.append(struck)
        self._journal.note("struck", kind=str(kind), victim=harm.victim, lasts_s=harm.lasts_s)
        done = self._total - len(self._schedule)
        self._say(f"{struck.began_s:6.1f} s  {done}/{self._total}  {kind} {harm.victim}")

    def _end_lasting(self, *, all_of_them: bool = False) -> None:
        for harm, struck in list(self._lasting):
            if all_of_them or time.monotonic() - self._begun - struck.began_s >= harm.lasts_s:
                self._lasting.remove((harm, struck))
                harm.end()
                self._mark_ended(struck)
                self._journal.note("ended", kind=str(struck.kind), victim=struck.victim)

    def _mark_ended(self, struck: Struck) -> None:
        struck.ended, struck.then_published = time.monotonic(), self._reader.published

    def _note_publications(self) -> None:
        if self._reader.published == self._published:
            return
        before, self._published_at = self._published_at, self._reader.published_at
        self._published, at = self._reader.published, self._published_at
        if before:
            self._outcome.longest_silence_s = max(self._outcome.longest_silence_s, at - before)
        if self._felt_at <= self._last_struck_at < at:
            self._felt_at = at
        for struck in self._outcome.struck:
            since = self._published - struck.then_published
            if struck.recovered_s is None and struck.ended and since > len(self._mill.workers):
                struck.recovered_s = at - struck.ended

    def _finished(self) -> bool:
        jobs = self._mill.jobs
        if any(job.given_up for job in jobs):
            self._outcome.findings.add(Wrong.STUCK, "a job was given up: " + self._last_word())
            return True
        silent_s = time.monotonic() - max(self._reader.published_at, self._begun)
        if silent_s > _STUCK_S:
            self._outcome.findings.add(Wrong.STUCK, f"nothing was published for {silent_s:.0f} s, and work is left")
            return True
        return not self._schedule and not self._lasting and all(job.done for job in jobs)

    def _last_word(self) -> str:
        logs = [*sorted(self._mill.logs.glob("submit.log")), *sorted(self._mill.logs.glob("coordinator-*"))]
        lines = [line for log in logs for line in log.read_text().splitlines()]
        telling = (line for line in reversed(lines) if "stopped" in line or line.startswith("embedmill:"))
        return next(telling, "nobody said why")

    def _judge(self) -> None:
        outcome, mill = self._outcome, self._mill
        self._say("everything has ended; reading what there is")
        outcome.findings.merge(self._reader.stop())
        expected = expected_vector if mill.options.model == "hash" else None
        for job in mill.jobs:
            if job.job is None:
                outcome.findings.add(Wrong.STUCK, f"{job.url} was never submitted")
                continue
            _, counts = check_job(job.files, job.truth, outcome.findings, expected=expected)
            outcome.counts += counts
            outcome.verified += _verified(job, outcome.findings)
        outcome.history = read_history(mill.logs)
        outcome.history.judge(outcome.findings, most=MAX_ERRORS)
        outcome.exits = [seconds for post in mill.workers for seconds in post.exits]
        late = [seconds for seconds in outcome.exits if seconds > _END_S]
        outcome.findings.add_all(Wrong.LINGERED, (f"a worker took {seconds:.0f} s to end" for seconds in late))
        outcome.looks, outcome.jobs, outcome.left = self._reader.looks, len(mill.jobs), len(self._schedule)


def _verified(job: MillJob, findings: Findings) -> int:
    """Ask `embedmill verify` too; the rows that it calls complete."""
    verdict = verify_job(open_job(open_store(job.url)))
    if verdict.complete:
        return verdict.rows
    findings.add(Wrong.REFUTED, f"{job.url}: verify finds {verdict.problem_count} problems, {verdict.missing} missing")
    findings.add_all(Wrong.REFUTED, verdict.problems[:5])
    return 0
