"""The runtime of a worker process: everything that outlives a shard, built once, in the child."""

import contextlib
import errno
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

import redis

from schemas.errors import EmbedmillError, NotAllowed, SpecMismatch, StoreUnavailable, WorkerUnfit
from schemas.failures import Failure
from schemas.message import ShardMessage
from schemas.model_cards import Kind
from schemas.presence import WorkerPresence
from schemas.queues import (
    CLIENT_OPTIONS,
    KEY_TTL_S,
    client_url,
    job_key,
    moved_key,
    passed_key,
    queue_name,
    reports_key,
    worker_key,
)
from schemas.recipe import OutputType
from schemas.redaction import redact
from schemas.settings import Settings
from schemas.shard import ShardEntry, ShardReport
from schemas.sizes import CPU, above
from schemas.space import Space
from storage.faulty_store import with_faults
from storage.jobs import Job, open_job
from storage.model_files import ResolvedModel, resolve_model
from storage.pair_limit import pair_limit
from storage.plans import PlanReader
from storage.ranges import Ranges
from storage.reuse import EarlierVectors, read_earlier
from storage.store import open_store, require_within
from workers.batching import Cancelled, TokenBudget
from workers.breadcrumb import LOADING, Breadcrumb, Place
from workers.budgets import budget_for, learn_once
from workers.calibration import frozen_ranges
from workers.canary import Canary
from workers.care import Care
from workers.compare_panel import OpenComparison, Told, compare_panel
from workers.decoders import DecodeLimits, Decoders
from workers.embed_shard import embed_shard
from workers.embedding import Embedded
from workers.encoder import Encoder, load_encoder
from workers.fetch import Fetcher, FetchRules
from workers.isolation import AloneTask, embed_alone
from workers.lease import LeaseBoard, RedisLeases
from workers.loading import Loader, MediaLoader
from workers.meter import Meter
from workers.metrics import WorkerMetrics
from workers.model_shelf import ModelShelf
from workers.pair_scorer import PairScorer, load_scorer
from workers.suspects import RedisSuspects

logger = logging.getLogger(__name__)

#: Reports beyond these are dropped: the coordinator finds the shards in the store.
_REPORTS_KEPT = 100_000
#: Jobs that are held open at a time: each has its plan's index in memory.
_JOBS_KEPT = 16
#: Joins and dedups that are held open at a time: each may have some numbers of every row in memory.
_COMPARISONS_KEPT = 2
#: What a process that has run out of files says of each file.
_OUT_OF_HANDLES = frozenset({errno.EMFILE, errno.ENFILE})
#: Seconds within which a worker's main process sees that the one that computes is unfit.
_TAKEN_OUT_S = 5.0
#: A shard that was passed on is not passed on again for so many seconds.
_PASSED_ON_S = 120


def build_runtime(
    settings: Settings,
    shelf: ModelShelf | None = None,
    crumb: Breadcrumb | None = None,
    metrics: WorkerMetrics | None = None,
) -> "Runtime":
    """The one place where a worker's parts are put together; `shelf` is the one that its presence tells of."""
    client = redis.Redis.from_url(client_url(settings.broker_url), **CLIENT_OPTIONS)
    shelf = build_shelf(settings) if shelf is None else shelf
    return Runtime(
        settings=settings,
        client=client,
        leases=RedisLeases(client),
        shelf=shelf,
        crumb=crumb,
        metrics=metrics or WorkerMetrics(),
    )


def build_shelf(settings: Settings) -> ModelShelf:
    """The shelf of a worker with these settings; nothing is loaded yet."""

    def load(model: ResolvedModel, dtype: str) -> Encoder | PairScorer:
        load_it = load_scorer if model.card.kind is Kind.RERANK else load_encoder
        return load_it(
            model,
            cache=settings.model_cache,
            device=settings.device,
            dtype=dtype,
            delay_ms=settings.hash_delay_ms,
            memory_tokens=settings.hash_memory_tokens,
            faults=settings.hash_faults,
        )

    def remember(key: tuple[str, str]) -> Path | None:
        digest, dtype = key
        return (
            Path(settings.crumb_dir) / f"{settings.worker_name}.{digest[:16]}-{dtype}" if settings.crumb_dir else None
        )

    return ModelShelf(load, capacity=settings.memory_mb * 2**20, remember=remember)


@dataclass(slots=True)
class OpenJob:
    """A job that this process works on: what is read once and kept."""

    job: Job
    location: str  # as the coordinator says it
    loader: Loader
    model: Callable[[], Encoder | PairScorer]  # the job's, loaded where it has left the memory meanwhile
    budget: TokenBudget
    settings: Settings
    canary: Callable[[], Canary | None] = lambda: None  # of the job's model
    learn: Callable[[], None] = lambda: None  # how large batches should be, where that is not known
    care: Care = field(default_factory=Care)
    meter: Meter = field(default_factory=Meter)
    plans: dict[str, PlanReader] = field(default_factory=dict)
    reused: EarlierVectors | None = None  # once it was asked for
    ranges: Ranges | None = None  # of int8 vectors
    ranges_sha256: str = ""

    def earlier(self) -> EarlierVectors | None:
        """The vectors of earlier jobs; None where the job takes none."""
        key, space = self.job.record.plan.reuse, self.job.record.space
        if key is not None and self.reused is None:
            self.reused = EarlierVectors(read_earlier(self.job.store, key), space, open_store)
        return self.reused

    def plan(self, digest: str) -> PlanReader:
        if digest not in self.plans:
            self.plans[digest] = self.job.plan(digest)
        return self.plans[digest]

    def encoder(self) -> Encoder:
        """The model of a job that embeds."""
        return cast("Encoder", self.model())

    def scorer(self) -> PairScorer:
        """The model of a job that scores pairs."""
        return cast("PairScorer", self.model())

    def load(self) -> None:
        """Load the model, where it is not at hand."""
        self.model()

    def make_ready(self) -> None:
        """Load the model, and the ranges of int8 vectors, where they are not at hand."""
        self.load()
        self.learn()
        self.learn = lambda: None
        if OutputType.INT8 in self.job.record.space.recipe.outputs and self.ranges is None:
            self.ranges, self.ranges_sha256 = frozen_ranges(self, self.settings)


@dataclass(slots=True)
class Runtime:
    """Connections, models and open jobs of one process; `work` is all that a task calls."""

    settings: Settings
    client: redis.Redis
    leases: LeaseBoard
    shelf: ModelShelf
    crumb: Breadcrumb | None = None
    metrics: WorkerMetrics = field(default_factory=WorkerMetrics)
    _unfit: str = ""  # why this process computes no more
    _last_job: str = ""  # that a shard was taken of
    _jobs: dict[str, OpenJob] = field(default_factory=dict)
    _comparisons: dict[str, OpenComparison] = field(default_factory=dict)
    _models: dict[str, ResolvedModel] = field(default_factory=dict)
    _decoders: dict[DecodeLimits, Decoders] = field(default_factory=dict)

    def work(self, message: ShardMessage) -> dict[str, object]:
        """Embed or score the shard that `message` names, and report; what it returns is shown in Flower.

        Raises nothing but what ends a process: an error is an outcome, and the coordinator's to judge.
        """
        return self._try(message, self._embed)

    def compare(self, message: ShardMessage) -> dict[str, object]:
        """Compute the panel of a join or dedup that `message` names, and report, like `work`."""
        return self._try(message, self._compare)

    def _try(self, message: ShardMessage, do: Callable[[ShardMessage], ShardReport]) -> dict[str, object]:
        started = time.monotonic()
        logger.info("shard taken", extra={"event": "shard_taken", "job": message.job, "shard": message.shard})
        try:
            report = self._report(message, "unfit", error=self._unfit) if self._unfit else do(message)
        except (Cancelled, redis.RedisError) as err:  # nobody wants it, or Redis is away: it is sent again
            report = self._report(message, "cancelled")
            logger.info("shard left: %s", err, extra={"event": "shard_left", "shard": message.shard})
        except (NotAllowed, SpecMismatch, WorkerUnfit) as err:  # not the shard's fault: another worker may do it
            report = self._report(message, "unfit", error=f"{type(err).__name__}: {err}")
            if isinstance(err, WorkerUnfit):
                self._end_this_worker(err)
        except StoreUnavailable as err:  # nobody's fault: the shard waits until the store is back
            report = self._report(message, "store_failed", error=f"{type(err).__name__}: {err}")
            if getattr(err.__cause__, "errno", None) in _OUT_OF_HANDLES:  # but for that: only a new process helps
                report = self._report(message, "unfit", error=report.error)
                self._end_this_worker(WorkerUnfit(report.error))
        except EmbedmillError as err:
            report = self._report(message, "error", error=f"{type(err).__name__}: {err}")
        except Exception as err:  # the process edge: recorded with its traceback, told to the coordinator
            logger.exception("shard failed", extra={"event": "shard_error", "shard": message.shard})
            report = self._judged(message, f"{type(err).__name__}: {err}")
        self._send(message.job, report)
        self.metrics.count(report, time.monotonic() - started)
        shown = {
            "outcome": report.outcome,
            "rows": report.rows_ok,
            "failures": report.rows_failed,
            "seconds": round(time.monotonic() - started, 3),
        }
        fields = {"event": "shard_done", "job": message.job, "shard": message.shard, **shown, "stages": report.seconds}
        logger.log(logging.ERROR if report.error else logging.INFO, report.error or "shard done", extra=fields)
        return shown

    def _judged(self, message: ShardMessage, error: str) -> ShardReport:
        """Whose fault an error is: the process', where its model fails on known items too, else the shard's."""
        job = self._jobs.get(message.job)
        canary = job.canary() if job is not None else None
        try:
            if canary is not None:
                canary.check()
        except WorkerUnfit as err:
            self._end_this_worker(err)
            return self._report(message, "unfit", error=f"{error}; {err}")
        return self._report(message, "error", error=error)

    def _end_this_worker(self, err: WorkerUnfit) -> None:
        """Compute nothing any more, and have the main process end, with the code that says whose fault it is."""
        self._unfit = str(err)
        if self.crumb is None:
            os.kill(os.getppid(), signal.SIGTERM)
        else:
            self.crumb.say_unfit(err.exit_code)
            self.crumb.wait_to_leave(_TAKEN_OUT_S)  # no other message is taken meanwhile

    def _embed(self, message: ShardMessage) -> ShardReport:
        location = self._location(message.job)
        job = self._jobs.get(message.job)
        if job is None or job.location != location:
            job = self.open(message.job, location)
        entry = job.plan(message.plan).entry(message.shard)
        if self._may_pass_on(job, entry):
            return self._report(message, "passed")
        with self._metered(job):
            return embed_shard(
                job,
                message,
                leases=self.leases,
                settings=self.settings,
                hand_over=partial(self._hand_over, message),
                moved=self._moved(message, job.job.record.spec.size),
            )

    @contextlib.contextmanager
    def _metered(self, job: OpenJob) -> Iterator[None]:
        job.meter.enter(waited=self._last_job == job.job.id)
        self._last_job = job.job.id
        try:
            yield
        finally:
            job.meter.leave()

    def _compare(self, message: ShardMessage) -> ShardReport:
        location = self._location(message.job)
        opened = self._comparisons.get(message.job)
        if opened is None or opened.location != location or opened.max_pairs != pair_limit(opened.comparison.store):
            opened = self._open_comparison(message.job, location)
        leave = (lambda: False) if self.crumb is None else (lambda crumb=self.crumb: crumb.must_leave)
        return compare_panel(opened, message, leases=self.leases, settings=self.settings, must_leave=leave)

    def _open_comparison(self, job_id: str, location: str) -> OpenComparison:
        """Raises NotAllowed where it, or what it compares, is no place for this worker."""
        from similarity.comparison import open_comparison  # here: it loads torch, which a main process must not

        require_within(location, self.settings.roots, what="the join's folder")
        store = with_faults(open_store(location), self.settings.store_faults)
        allow = partial(require_within, roots=self.settings.roots, what="what is joined")
        told, most = Told(), pair_limit(store)
        comparison = open_comparison(store, max_pairs=most, device=self.settings.device, allow=allow, check=told.check)
        opened = OpenComparison(location, comparison, told, most)
        if opened.comparison.record.id != job_id:
            raise NotAllowed(f"{location} holds {opened.comparison.record.id}, not {job_id}; the message was dropped")
        while len(self._comparisons) >= _COMPARISONS_KEPT:
            self._comparisons.pop(next(iter(self._comparisons)))
        self._comparisons[job_id] = opened
        return opened

    def open(self, job_id: str, location: str) -> "OpenJob":
        """The job at `location`, ready to be worked on; raises NotAllowed where that is no place for this worker."""
        job = self._find(job_id, location)
        spec = job.record.spec
        for root in spec.media_roots:
            if not root.startswith(("http://", "https://")):
                require_within(root, self.settings.roots, what="the job's media root")
        for place in spec.reuse:
            require_within(place, self.settings.roots, what="an earlier job whose vectors are taken")
        if spec.allow_private and not self.settings.allow_private:
            raise NotAllowed("the job reads media from private hosts; start the worker with --allow-private-hosts")
        model, meter = self._model(job), Meter()
        budget = budget_for(self.settings, model, job.record.space.recipe.dtype)
        opened = OpenJob(
            job=job,
            location=location,
            loader=self._loader(job, meter),
            model=partial(self._told, job, model),
            budget=budget,
            learn=partial(self._learn_budget, job, model, budget),
            settings=self.settings,
            canary=partial(self.shelf.canary, model, job.record.space.recipe.dtype),
            care=Care(RedisSuspects(self.client), self.crumb, self._alone),
            meter=meter,
        )
        while len(self._jobs) >= _JOBS_KEPT:
            self._jobs.pop(next(iter(self._jobs))).loader.close()  # the one opened first
        self._jobs[job_id] = opened
        return opened

    def _may_pass_on(self, job: OpenJob, entry: ShardEntry) -> bool:
        """Whether another worker has the shard's model in memory, and here it would drive out another's.

        A shard is passed on once; whoever gets it then loads the model.
        """
        record = job.job.record
        digest, dtype = record.spec.model_digest, record.space.recipe.dtype
        if self.shelf.holds(digest, dtype) or self.shelf.has_room_for(self._model(job.job), dtype):
            return False
        queue = queue_name(entry.modality, record.spec.size, record.spec.kind)
        if not any(queue in other.queues and digest in other.models for other in self._others()):
            return False
        return bool(self.client.set(passed_key(record.id, entry.shard), "1", ex=_PASSED_ON_S, nx=True))

    def _hand_over(self, message: ShardMessage, entry: ShardEntry, reason: str) -> bool:
        """Whether a live worker of a larger size takes the shard; the reason is left for it."""
        kind = self._jobs[message.job].job.record.spec.kind
        larger = {queue_name(entry.modality, size, kind) for size in above(self.settings.size)}
        if not any(larger & set(other.queues) for other in self._others()):
            return False
        self.client.set(moved_key(message.job, message.shard), reason, ex=KEY_TTL_S)
        return True

    def _moved(self, message: ShardMessage, planned: str) -> str:
        """Why the shard is here and not on a device of the size that it was planned for; "" where it is."""
        if self.settings.size not in above(planned):
            return ""
        return str(self.client.get(moved_key(message.job, message.shard)) or "")

    def _others(self) -> list[WorkerPresence]:
        """The other workers that live."""
        keys = list(self.client.scan_iter(worker_key("*"), count=1000))
        found = []
        for line in self.client.mget(keys) if keys else []:
            with contextlib.suppress(ValueError, TypeError, LookupError, AttributeError):  # none of ours
                found.append(WorkerPresence.from_json(str(line)))
        return [worker for worker in found if worker.name != self.settings.worker_name]

    def _location(self, job_id: str) -> str:
        """Where the job lives now: read for each shard, for a job may be copied or moved."""
        location = self.client.hget(job_key(job_id), "location")
        if not isinstance(location, str):
            raise Cancelled(f"no coordinator drives job {job_id} any more")
        return location

    def _find(self, job_id: str, location: str) -> Job:
        require_within(location, self.settings.roots, what="the job's folder")
        job = open_job(with_faults(open_store(location), self.settings.store_faults))
        if job.id != job_id:
            raise NotAllowed(f"{location} holds job {job.id}, not {job_id}; the message was dropped")
        return job

    def _model(self, job: Job) -> ResolvedModel:
        """The job's model as it is here; raises WorkerUnfit where that is not what the job was planned with."""
        name, digest = job.record.spec.model, job.record.spec.model_digest
        if digest not in self._models:
            model = resolve_model(name, cache=self.settings.model_cache)
            if model.card.digest != digest:
                raise WorkerUnfit(f"the files of {name} here are not those that the job was planned with")
            self._models[digest] = model
        model = self._models[digest]
        differing = Space.of(model.card, job.record.space.recipe, job.record.space.scoring).differences(
            job.record.space
        )
        if differing:
            raise WorkerUnfit(f"this embedmill embeds in another space ({', '.join(differing)}); use the job's version")
        return model

    def _told(self, job: Job, model: ResolvedModel) -> Encoder | PairScorer:
        space = job.record.space
        with self._loading(job, model):
            held = self.shelf.get(model, space.recipe.dtype)
        if space.scoring is None:
            return cast("Encoder", held).told(space.recipe)
        return cast("PairScorer", held).told(space.recipe, space.scoring)

    def _learn_budget(self, job: Job, model: ResolvedModel, budget: TokenBudget) -> None:
        if job.record.spec.kind is Kind.EMBED:
            dtype = job.record.space.recipe.dtype
            learn_once(self.settings, model, dtype, cast("Encoder", self.shelf.get(model, dtype)), budget)

    def _loading(self, job: Job, model: ResolvedModel) -> contextlib.AbstractContextManager[None]:
        """Noted, so that a process which the model itself is too much for is known from one that a row killed."""
        if self.crumb is None or self.shelf.holds(model.card.digest, job.record.space.recipe.dtype):
            return contextlib.nullcontext()
        return self.crumb.at(Place.MAIN, job=job.id, shard=LOADING, rows=())

    def _alone(self, task: AloneTask, should_stop: Callable[[], bool]) -> Iterator[tuple[int, Embedded | Failure]]:
        """Rows in a process of their own, which on a GPU needs the memory that the models here take up."""
        if self.settings.device != CPU:
            self.shelf.clear()
        return embed_alone(task, self.settings, should_stop)

    def _loader(self, job: Job, meter: Meter) -> MediaLoader:
        spec, settings = job.record.spec, self.settings
        limits = DecodeLimits(
            max_pixels=spec.max_pixels,
            max_seconds=spec.max_media_s,
            timeout_s=spec.decode_s,
            memory_bytes=settings.decode_memory_mb * 2**20,
        )
        if limits not in self._decoders:  # jobs with equal limits share their processes
            self._decoders[limits] = Decoders(count=settings.load_threads, limits=limits)
        rules = FetchRules(
            base=spec.media_base,
            roots=spec.media_roots,
            max_bytes=spec.max_file_bytes,
            max_seconds=spec.fetch_s,
            allow_http=spec.allow_http,
            allow_private=spec.allow_private,
        )
        return MediaLoader(Fetcher(rules), self._decoders[limits], job.record.space.recipe, meter)

    def _report(self, message: ShardMessage, outcome: str, *, error: str = "") -> ShardReport:
        return ShardReport(
            shard=message.shard,
            plan=message.plan,
            outcome=outcome,
            worker=self.settings.worker_name,
            size=self.settings.size,
            error=redact(error),
        )

    def _send(self, job: str, report: ShardReport) -> None:
        key = reports_key(job)
        with contextlib.suppress(redis.RedisError):  # a hint: without it the coordinator looks into the store
            pipe = self.client.pipeline(transaction=False)
            pipe.rpush(key, report.to_json())
            pipe.ltrim(key, -_REPORTS_KEPT, -1)
            pipe.expire(key, KEY_TTL_S)
            pipe.execute()
