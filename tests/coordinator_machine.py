"""The machine: plan, lease, publish and resend in virtual time, under faults that its actions bring about.

Real are `Coordinator`, `Turns`, the boards' and stores' protocols, `cancel_job` and `resume`; with `real_attempt` also
`embed_shard`, `publish` and Parquet. After each action `check` holds the promises up against what is stored and sent.
`settle` ends all faults and demands that every job ends, within SETTLE_S and MAX_SENDS messages a shard.
"""

import contextlib
import json
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from producer.cancelling import cancel_job
from producer.coordinator import MAX_ERRORS, MAX_UNFIT, WINDOW_PER_WORKER, Coordinator
from producer.prepare import resume
from producer.turns import Turns
from producer.work import JobWork
from schemas.errors import BrokerError, EmbedmillError, Refused, Stopped, StoreError
from schemas.failures import FailureCode
from schemas.job import JobRecord, PlanRecord, retried
from schemas.message import ShardMessage
from schemas.queues import queue_name
from schemas.rows import ManifestRow, Modality
from schemas.shard import ShardReport
from storage import layout
from storage.jobs import Job, add_round
from storage.model_files import resolve_model
from storage.plans import PlanReader, PlanWriter
from storage.store import memory_store
from tests.jobs import planned_job, text_rows
from tests.virtual_redis import VirtualBoard, VirtualQueue, VirtualRedis
from tests.virtual_store import Bucket, Faults, VirtualStore, bucket_of
from tests.virtual_worker import TWIN, Floor, Start, VirtualWorker, twin_attempt
from workers.encoder import Encoder, load_encoder
from workers.hash_encoder import HashEncoder

#: Seconds of virtual time within which all jobs end once nothing goes wrong any more.
SETTLE_S = 300.0
#: Messages for each shard, at most, that this may take.
MAX_SENDS = 12
#: Seconds that a shard takes while the machine settles: longer than a heartbeat.
_WORK_S = 8.0
_TICK_S = 2.0
_STEPS_A_TICK = 12
FAULTS = (
    "put_refused",
    "put_late",
    "put_reply_lost",
    "put_doubled",
    "get_fails",
    "list_fails",
    "listing_lags",
    "redis_fails",
    "report_lost",
    "reports_reply_lost",
    "send_refused",
    "send_lost",
    "send_cut",
    "send_doubled",
)
#: What happens in the middle of a coordinator's tick.
INTERRUPTS = ("kill", "wipe", "stall", "cut")

#: Actions before all faults end.
STEPS = 40

#: Chooses a number below the one given.
Pick = Callable[[int], int]


class Broken(AssertionError):
    """A promise was not kept."""


class _Killed(BaseException):
    """A coordinator's process ends here."""


@dataclass(frozen=True, slots=True)
class KnownJob(Job):
    """A job whose plans were read before: reading them is what takes longest of a coordinator's start."""

    readers: Mapping[str, PlanReader]

    def reader(self, plan: PlanRecord) -> PlanReader:
        return self.readers[plan.digest]


@dataclass(frozen=True)
class Blueprint:
    """What all runs begin with: two jobs of two models, planned once; the second has a retry beside its plan."""

    records: dict[str, JobRecord]
    objects: dict[str, dict[str, bytes]]
    readers: dict[str, PlanReader]
    plans: dict[str, dict[int, str]]  # the digest of each shard's plan
    encoders: dict[str, Encoder]


def draw_blueprint() -> Blueprint:
    """Plan the jobs: six shards, and two with two more that try again."""
    digest = resolve_model("hash").card.digest
    first = planned_job(memory_store(), [_rows(n) for n in range(6)], model_digest=digest)
    second = planned_job(memory_store(), [_rows(n) for n in range(2)], model_digest="f" * 64)
    second = replace(second, record=replace(second.record, id="job-87654321"))
    with PlanWriter(second.record.spec.keep, first_shard=2) as writer:
        for n in (2, 3):
            writer.add_shard(Modality.TEXT, _rows(n), 2.0)
        add_round(second, retried(writer.publish(second.store), codes=(), round_=1))
    jobs = (first, second)
    small = HashEncoder(resolve_model("hash").card, memory_tokens=200)
    return Blueprint(
        records={job.id: job.record for job in jobs},
        objects={job.id: {o.key: job.store.get(o.key) for o in job.store.walk(layout.PLAN)} for job in jobs},
        readers={plan.digest: job.reader(plan) for job in jobs for plan in job.rounds()},
        plans={job.id: {n: plan.digest for plan in job.rounds() for n in job.reader(plan).shards()} for job in jobs},
        encoders={"cpu": small, "gpu8": load_encoder(resolve_model("hash"))},
    )


def _rows(shard: int) -> list[ManifestRow]:
    """Two rows: in odd shards one is a failure, in each fourth one is too large for the processor."""
    good, other = text_rows(2, first=10 * shard)
    if shard % 4 == 3:
        good = replace(good, text="x" * 2000)
    return [good, replace(other, text="", defect=FailureCode.TEXT_EMPTY) if shard % 2 else other]


class World:
    """Everything there is, and the promises."""

    def __init__(
        self,
        blueprint: Blueprint,
        *,
        coordinator: type[Coordinator] = Coordinator,
        attempt: Start = twin_attempt,
    ) -> None:
        self.now, self.sends = 0.0, Counter[tuple[str, int]]()
        self.blueprint, self.coordinator = blueprint, coordinator
        self.faults = Faults()
        self.server = VirtualRedis(self.clock, self.faults)
        self.buckets = {job: bucket_of(objects, self.clock, self.faults) for job, objects in blueprint.objects.items()}
        stores = {job: self.store(job) for job in self.buckets}
        self.jobs: dict[str, Job] = {job: Job(stores[job], record) for job, record in blueprint.records.items()}
        self.floor = Floor(self.server, self.jobs, stores, self.clock, blueprint.encoders)
        self.workers = [
            VirtualWorker(self.floor, name, size, attempt) for name, size in (("a", "cpu"), ("b", "cpu"), ("g", "gpu8"))
        ]
        self.drivers: list[Driver] = []
        self.interrupt = ""
        self.peak = 1  # workers that a queue had at most
        self.held_back: list[tuple[str, ShardReport]] = []

    def clock(self) -> float:
        return self.now

    def store(self, job: str) -> VirtualStore:
        """A new client's view of a job's store."""
        return VirtualStore(self.buckets[job], f"virtual://{job}")

    def shards(self, job: str) -> list[int]:
        return list(self.blueprint.plans[job])

    def plan_of(self, job: str, shard: int) -> str:
        """The digest of the plan that a shard is in."""
        return self.blueprint.plans[job][shard]

    def ended(self, job: str) -> bool:
        return layout.manifest_key(0) in self.buckets[job].objects

    def beat(self) -> None:
        """What the workers' threads do all the time."""
        for worker in self.workers:
            worker.heartbeat()
        self.peak = max(self.peak, len(self.server.workers()))

    def pass_time(self, seconds: float) -> None:
        """Let time pass; heartbeats kept up with it, since nothing else happened meanwhile."""
        self.now += seconds
        self.beat()

    def mid_tick(self) -> None:
        """Called in the middle of a coordinator's tick: what was armed for it happens."""
        interrupt, self.interrupt = self.interrupt, ""
        if interrupt == "kill":
            raise _Killed
        if interrupt == "wipe":
            self.server.wipe()
        elif interrupt == "stall":  # longer than its claim lasts, while another goes on
            self.pass_time(16.0)
            for driver in list(self.drivers):
                driver.tick()
        elif interrupt == "cut":
            self.faults.armed.append("redis_fails")

    def check(self) -> None:
        """What must hold at any moment: published shards stay as they are, and each was published once."""
        for job, bucket in self.buckets.items():
            for key, data in bucket.published.items():
                if bucket.objects.get(key) is not data:
                    raise Broken(f"{job}: {key} changed or vanished")
                if bucket.creations[key] != 1:
                    raise Broken(f"{job}: {key} was written {bucket.creations[key]} times")
                _check_failures(job, key, bucket)
        for (job, shard), wins in self.floor.won.items():
            if wins > 1:
                raise Broken(f"{job}: {wins} attempts at shard {shard} say that they published it")

    def close(self) -> None:
        """End what is left on threads."""
        for worker in self.workers:
            if worker.attempt is not None:
                worker.attempt.close()


def _check_failures(job: str, key: str, bucket: Bucket) -> None:
    """A published shard with failures has its own attempt's beside it: they were there first, and stay."""
    shard, data = layout.shard_of(key), bucket.published[key]
    if shard is None or shard % 2 == 0 or not data.startswith(TWIN):
        return  # of real files, test_coordinator_machine.py looks at the failures in the end
    if layout.failures_key(shard, f"{json.loads(data)['attempt']:x}") not in bucket.objects:
        raise Broken(f"{job}: {key} is published, and its failures are gone")


class Driver:
    """One coordinator process: a coordinator for each job, as the foreman has them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._turns = Turns(world.clock)
        self._seats: dict[str, Seat] = {}
        self._ticking = False
        world.drivers.append(self)

    def tick(self) -> None:
        """Take up what is to be driven, and do one tick of each job; nothing where it is stalled in the middle."""
        if not self._ticking:
            self._ticking = True
            self._tick_all()
            self._ticking = False

    def _tick_all(self) -> None:
        for job in self._world.jobs:
            self._take_up(job)
        for job, seat in list(self._seats.items()):
            try:
                if seat.tick():
                    self._finish(job)
            except Stopped as err:
                seat.require_cause(str(err))
                self._leave(job)
            except EmbedmillError:
                self._leave(job)
            except _Killed:
                self.die()
                return

    def die(self) -> None:
        """Killed: it releases nothing."""
        self._seats.clear()
        if self in self._world.drivers:
            self._world.drivers.remove(self)

    def release(self) -> None:
        """Ended properly."""
        for seat in self._seats.values():
            seat.coordinator.release()
        self.die()

    def _take_up(self, job: str) -> None:
        if job in self._seats or self._world.ended(job):
            return
        with contextlib.suppress(StoreError):  # looked for again at the next tick
            seat = Seat(self._world, job, self._turns)
            if not seat.job.is_cancelled():
                self._seats[job] = seat

    def _finish(self, job: str) -> None:
        with contextlib.suppress(StoreError):  # done again at the next tick
            for plan in self._seats[job].job.rounds():
                self._world.store(job).create(layout.manifest_key(plan.round), b"{}")
            self._leave(job)

    def _leave(self, job: str) -> None:
        seat = self._seats.pop(job)
        seat.coordinator.release()


class Seat:
    """A coordinator at one job, and all that passes between it and the world: what it knows, and what it may do."""

    def __init__(self, world: World, job: str, turns: Turns) -> None:
        self._world, self._id = world, job
        self._store = world.store(job)
        self.job = KnownJob(self._store, world.blueprint.records[job], world.blueprint.readers)
        self._errors: Counter[int] = Counter()
        self._unfit = 0
        board, queue = _WatchedBoard(world.server, self), _WatchedQueue(world.server, self)
        work = JobWork(self.job)
        self.coordinator = world.coordinator(work, board=board, queue=queue, turns=turns, clock=world.clock)

    def tick(self) -> bool:
        """One tick; True when the coordinator says that all is done."""
        progress = self.coordinator.tick()
        queues = 2  # of the processor's size, and of the larger one
        if progress.sent > queues * WINDOW_PER_WORKER * self._world.peak:
            raise Broken(f"{self._id}: {progress.sent} shards are sent, more than a window")
        if progress.done:
            self._require_all()
        return progress.done

    def heard(self, reports: Iterable[ShardReport]) -> None:
        """The coordinator read these reports."""
        self._world.mid_tick()
        for report in reports:
            if report.plan != self._world.blueprint.plans[self._id].get(report.shard):
                continue
            self._errors[report.shard] += report.outcome == "error"
            self._unfit += report.outcome == "unfit"

    def sends(self, size: str, messages: list[ShardMessage]) -> None:
        """The coordinator is about to send these messages."""
        shards = [message.shard for message in messages]
        queue = queue_name(Modality.TEXT, size)
        serving = sum(1 for worker in self._world.server.workers() if queue in worker.queues)
        if not shards:
            raise Broken(f"{self._id}: a send of no message costs a connection")
        if len(shards) != len(set(shards)):
            raise Broken(f"{self._id}: {shards} are sent in one go")
        if len(shards) > WINDOW_PER_WORKER * max(1, serving):
            raise Broken(f"{self._id}: {len(shards)} messages at once, for {serving} workers")
        for message in messages:
            self._may_send(message)
        self._world.sends.update((self._id, shard) for shard in shards)

    def _may_send(self, message: ShardMessage) -> None:
        shard = message.shard
        if message.job != self._id or message.plan != self._world.plan_of(self._id, shard):
            raise Broken(f"{message} names another plan than the shard's")
        if shard in self._store.shown:
            raise Broken(f"{self._id}: shard {shard} is sent, though a listing showed it")
        if self._world.server.holder(self._id, shard):
            raise Broken(f"{self._id}: shard {shard} is sent, though a worker holds it")

    def require_cause(self, why: str) -> None:
        """A job may only be stopped for what was reported, or said by its user."""
        fails = any(count >= MAX_ERRORS for count in self._errors.values())
        cancelled = layout.CANCELLED in self._world.buckets[self._id].objects
        if not (fails or cancelled or self._unfit >= MAX_UNFIT):
            raise Broken(f"{self._id} was stopped without cause: {why}")

    def _require_all(self) -> None:
        objects = self._world.buckets[self._id].objects
        missing = [n for n in self._world.shards(self._id) if layout.data_key(Modality.TEXT, n) not in objects]
        if missing:
            raise Broken(f"{self._id} is said to be done, and shards {missing} are not published")


class _WatchedBoard(VirtualBoard):
    """The board of one coordinator."""

    def __init__(self, server: VirtualRedis, seat: Seat) -> None:
        super().__init__(server)
        self._seat = seat

    def reports(self, job: str) -> list[ShardReport]:
        said = super().reports(job)
        self._seat.heard(said)
        return said


class _WatchedQueue(VirtualQueue):
    """The queue of one coordinator."""

    def __init__(self, server: VirtualRedis, seat: Seat) -> None:
        super().__init__(server)
        self._seat = seat

    def send(self, task: str, size: str, messages: Iterable[ShardMessage]) -> None:
        batch = list(messages)
        self._seat.sends(size, batch)
        super().send(task, size, batch)


# Actions: what may happen next. Each takes the world, and `pick` to choose with.


def tick(world: World, pick: Pick) -> None:
    """A coordinator looks around."""
    if not world.drivers:
        Driver(world)
    world.drivers[pick(len(world.drivers))].tick()


def take(world: World, pick: Pick) -> None:
    """A worker takes a message."""
    world.workers[pick(len(world.workers))].take()


def step(world: World, pick: Pick) -> None:
    """A worker goes on, by one step or by some."""
    worker = world.workers[pick(len(world.workers))]
    for _ in range(1 + pick(6)):
        worker.step()


def work(world: World, pick: Pick) -> None:
    """A worker takes a message and goes on to its end."""
    worker = world.workers[pick(len(world.workers))]
    worker.take()
    for _ in range(_STEPS_A_TICK):
        worker.step()


def wait(world: World, pick: Pick) -> None:
    """Time passes."""
    world.pass_time((0.5, 2.0, 5.5, 11.0, 16.0, 25.0, 130.0, 610.0)[pick(8)])


def arm(world: World, pick: Pick) -> None:
    """Something will go wrong, once."""
    world.faults.armed.append(FAULTS[pick(len(FAULTS))])


def interrupt(world: World, pick: Pick) -> None:
    """Something will happen in the middle of a tick."""
    world.interrupt = INTERRUPTS[pick(len(INTERRUPTS))]


def kill_worker(world: World, pick: Pick) -> None:
    """A worker dies where it is, and is started again: its child alone, or the whole of it."""
    world.workers[pick(len(world.workers))].die(returned=bool(pick(2)))


def pause(world: World, pick: Pick) -> None:
    """A worker freezes, or goes on where it was."""
    worker = world.workers[pick(len(world.workers))]
    worker.paused = not worker.paused


def sicken(world: World, pick: Pick) -> None:
    """A worker becomes unfit for the jobs, or fit again."""
    worker = world.workers[pick(len(world.workers))]
    worker.fit = not worker.fit


def start_coordinator(world: World, pick: Pick) -> None:
    """One more coordinator, up to two."""
    if len(world.drivers) < 2:
        Driver(world)


def end_coordinator(world: World, pick: Pick) -> None:
    """A coordinator is killed, or ends."""
    if world.drivers:
        driver = world.drivers[pick(len(world.drivers))]
        driver.die() if pick(2) else driver.release()


def wipe(world: World, pick: Pick) -> None:
    """Redis forgets everything."""
    world.server.wipe()


def cut_redis(world: World, pick: Pick) -> None:
    """Redis goes away, or comes back."""
    world.server.away = not world.server.away


def cut_store(world: World, pick: Pick) -> None:
    """A job's store goes away, or comes back."""
    bucket = world.buckets[_job(world, pick)]
    bucket.away = not bucket.away


def land(world: World, pick: Pick) -> None:
    """What was on its way to the store arrives."""
    for bucket in world.buckets.values():
        bucket.land()


def stir_queue(world: World, pick: Pick) -> None:
    """A queue loses a message, doubles one, or changes their order."""
    queues = [queue for queue in world.server.queues.values() if queue]
    if not queues:
        return
    queue = queues[pick(len(queues))]
    message = queue.pop(pick(len(queue)))
    queue += [message] * pick(3)


def stir_reports(world: World, pick: Pick) -> None:
    """Reports are lost, doubled, held back, or come late."""
    for job, report in world.held_back:
        world.server.reports.setdefault(job, []).append(report)
    world.held_back.clear()
    job = _job(world, pick)
    said = world.server.reports.get(job, [])
    if not said:
        return
    report = said.pop(pick(len(said)))
    fate = pick(3)
    if fate == 1:
        said += [report, report]
    elif fate == 2:
        world.held_back.append((job, report))


def lie(world: World, pick: Pick) -> None:
    """Reports that are not true, or of another plan; or of a store that has lost what was in it since."""
    job = _job(world, pick)
    shards = world.shards(job)
    outcome = ("published", "error", "too_large", "passed", "cancelled", "busy", "strange")[pick(7)]
    plan = "0" * 64 if pick(3) == 2 else ""
    for shard in shards if outcome == "published" else [shards[pick(len(shards))]]:
        digest = plan or world.plan_of(job, shard)
        lied = ShardReport(shard=shard, plan=digest, outcome=outcome, worker="liar", size="cpu", error="a lie")
        world.server.report(job, lied)


def cancel(world: World, pick: Pick) -> None:
    """The user cancels a job."""
    with contextlib.suppress(Refused, StoreError, BrokerError):  # said to the user
        cancel_job(world.jobs[_job(world, pick)], VirtualBoard(world.server), timeout_s=0)


def take_up(world: World, pick: Pick) -> None:
    """The user submits a job again; Redis may fail just then."""
    if pick(2):
        world.faults.armed.append("redis_fails")
    _submit(world, _job(world, pick))


Action = Callable[[World, Pick], None]

#: What goes on when nothing goes wrong.
USUAL: tuple[Action, ...] = (tick, work, step, take, wait)
ACTIONS: dict[Action, int] = {  # with how often each is drawn
    tick: 30,
    take: 10,
    step: 20,
    work: 12,
    wait: 14,
    arm: 14,
    interrupt: 3,
    kill_worker: 4,
    pause: 4,
    sicken: 1,
    start_coordinator: 2,
    end_coordinator: 2,
    wipe: 2,
    cut_redis: 2,
    cut_store: 2,
    land: 2,
    stir_queue: 3,
    stir_reports: 3,
    lie: 3,
    cancel: 2,
    take_up: 2,
}


def _job(world: World, pick: Pick) -> str:
    jobs = list(world.jobs)
    return jobs[pick(len(jobs))]


def _submit(world: World, job: str) -> None:
    """What `embedmill submit` does to a job that exists."""
    board = VirtualBoard(world.server)
    with contextlib.suppress(StoreError, BrokerError):  # said to the user; the coordinator looks into the store
        resume(world.jobs[job])
        world.jobs[job].store.create(layout.SUBMITTED, b"{}\n")
        board.uncancel(job)
        board.submit(job, world.jobs[job].store.url)


@dataclass(frozen=True)
class Settled:
    """What it took to end all jobs once nothing went wrong any more."""

    seconds: float  # of virtual time
    sends: int  # messages for the shard that was sent most often


def settle(world: World) -> Settled:
    """End all faults; raises Broken unless every job ends, in bounded time and with a bounded number of messages."""
    _end_faults(world)
    began, before = world.now, Counter(world.sends)
    while not all(world.ended(job) for job in world.jobs):
        if world.now - began > SETTLE_S:
            raise Broken(f"not all jobs ended within {SETTLE_S:.0f} s: {_left(world)}")
        if not world.drivers:
            Driver(world)
        for driver in list(world.drivers):
            driver.tick()
        for worker in world.workers:
            _work_on(worker)
        world.pass_time(_TICK_S)
        world.check()
    world.pass_time(700.0)
    for driver in world.drivers:
        driver.tick()
    world.check()
    most = max((world.sends - before).values(), default=0)
    if most > MAX_SENDS:
        raise Broken(f"a shard was sent {most} times though nothing went wrong")
    return Settled(world.now - began - 700.0, most)


def _end_faults(world: World) -> None:
    world.faults.armed.clear()
    world.interrupt, world.server.away, world.floor.work_s = "", False, _WORK_S
    for bucket in world.buckets.values():
        bucket.away = False
        bucket.land()
    for worker in world.workers:
        worker.paused, worker.fit = False, True
    for job in world.jobs:
        if layout.CANCELLED in world.buckets[job].objects:
            _submit(world, job)


def _work_on(worker: VirtualWorker) -> None:
    for _ in range(_STEPS_A_TICK):
        if worker.attempt is None and not worker.take():
            return
        worker.step()


def _left(world: World) -> dict[str, list[int]]:
    """The shards that are not published."""
    return {
        job: [n for n in world.shards(job) if layout.data_key(Modality.TEXT, n) not in bucket.objects]
        for job, bucket in world.buckets.items()
    }


def quiet() -> None:
    """Keep what the coordinator logs about faults out of the way: they are meant."""
    logging.getLogger("producer.coordinator").setLevel(logging.CRITICAL)


class Machine(RuleBasedStateMachine):
    """The same world and actions under Hypothesis, which shrinks what breaks a promise to its shortest form."""

    blueprint: Blueprint
    coordinator: type[Coordinator] = Coordinator

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.blueprint, coordinator=self.coordinator)

    def do(self, action: Action, data: st.DataObject) -> None:
        picked: list[int] = []

        def pick(below: int) -> int:
            picked.append(data.draw(st.integers(0, below - 1)) if below > 1 else 0)
            return picked[-1]

        action(self.world, pick)
        self.world.check()

    @rule(data=st.data(), at=st.lists(st.sampled_from(USUAL), min_size=1, max_size=4))
    def go_on(self, data: st.DataObject, at: list[Action]) -> None:
        for action in at:
            self.do(action, data)

    def teardown(self) -> None:
        try:
            settle(self.world)
        finally:
            self.world.close()


def machine(blueprint: Blueprint, coordinator: type[Coordinator] = Coordinator) -> type[Machine]:
    """A machine with a rule for each action."""
    rules = {action.__name__: _rule_of(action) for action in ACTIONS}
    return type("CoordinatorMachine", (Machine,), rules | {"blueprint": blueprint, "coordinator": coordinator})


def _rule_of(action: Action) -> object:
    def act(self: Machine, data: st.DataObject) -> None:
        self.do(action, data)

    act.__name__ = action.__name__
    return rule(data=st.data())(act)


@dataclass(frozen=True)
class Run:
    """One run: what happened, and what was broken."""

    seed: int
    steps: list[str]
    broken: str = ""
    settled: Settled | None = None


def run(
    blueprint: Blueprint,
    seed: int,
    steps: int = STEPS,
    *,
    coordinator: type[Coordinator] = Coordinator,
    attempt: Start = twin_attempt,
    afterwards: Callable[[World], None] = lambda world: None,
) -> Run:
    """So many random actions, then the end of all faults, then `afterwards`."""
    rng, history = random.Random(seed), list[str]()
    actions, weights = list(ACTIONS), list(ACTIONS.values())
    world = World(blueprint, coordinator=coordinator, attempt=attempt)
    picked: list[int] = []

    def pick(below: int) -> int:
        picked.append(rng.randrange(below))
        return picked[-1]

    try:
        for action in rng.choices(actions, weights, k=steps):
            picked.clear()
            try:
                action(world, pick)
            finally:
                history.append(f"{action.__name__} {' '.join(map(str, picked))}".strip())
            world.check()
        settled = settle(world)
        afterwards(world)
        return Run(seed, history, settled=settled)
    except Exception as err:  # a broken promise, or an error that nobody meant
        return Run(seed, history, broken=str(err) if isinstance(err, Broken) else repr(err))
    finally:
        world.close()
