"""The runtime of a worker process: everything that outlives a shard, built once, in the child."""

import contextlib
import logging
import os
import signal
import time
from dataclasses import dataclass, field

import redis

from schemas.errors import EmbedmillError, NotAllowed, WorkerUnfit
from schemas.message import ShardMessage
from schemas.queues import CLIENT_OPTIONS, KEY_TTL_S, client_url, job_key, reports_key
from schemas.settings import Settings
from schemas.shard import ShardReport
from schemas.space import Space
from storage.jobs import Job, open_job
from storage.model_files import resolve_model
from storage.plans import PlanReader
from storage.store import open_store, require_within
from workers.batching import Cancelled, TokenBudget
from workers.embed_shard import embed_shard
from workers.encoder import Encoder, load_encoder
from workers.fetch import Fetcher
from workers.lease import LeaseBoard, RedisLeases
from workers.loading import Loader, MediaLoader

logger = logging.getLogger(__name__)

#: Reports beyond these are dropped: the coordinator finds the shards in the store.
_REPORTS_KEPT = 100_000
#: Jobs that are held open at a time: each has its plan's index in memory.
_JOBS_KEPT = 16


def build_runtime(settings: Settings) -> "Runtime":
    """The one place where a worker's parts are put together."""
    client = redis.Redis.from_url(client_url(settings.broker_url), **CLIENT_OPTIONS)
    return Runtime(settings=settings, client=client, leases=RedisLeases(client))


def end_this_worker() -> None:
    """Ask the main process of this worker to end: it takes nothing else, and its supervisor starts a new one."""
    os.kill(os.getppid(), signal.SIGTERM)


@dataclass(slots=True)
class OpenJob:
    """A job that this process works on: what is read once and kept."""

    job: Job
    location: str  # as the coordinator says it
    loader: Loader
    encoder: Encoder
    budget: TokenBudget
    plans: dict[str, PlanReader] = field(default_factory=dict)

    def plan(self, digest: str) -> PlanReader:
        if digest not in self.plans:
            self.plans[digest] = self.job.plan(digest)
        return self.plans[digest]


@dataclass(slots=True)
class Runtime:
    """Connections, models and open jobs of one process; `work` is all that a task calls."""

    settings: Settings
    client: redis.Redis
    leases: LeaseBoard
    _jobs: dict[str, OpenJob] = field(default_factory=dict)
    _encoders: dict[str, Encoder] = field(default_factory=dict)

    def work(self, message: ShardMessage) -> dict[str, object]:
        """Embed the shard that `message` names, and report; what it returns is shown in Flower.

        Raises nothing but what ends a process: an error is an outcome, and the coordinator's to judge.
        """
        started = time.monotonic()
        try:
            report = self._embed(message)
        except (Cancelled, redis.RedisError) as err:  # nobody wants it, or Redis is away: it is sent again
            report = self._report(message, "cancelled")
            logger.info("shard left: %s", err, extra={"event": "shard_left", "shard": message.shard})
        except (NotAllowed, WorkerUnfit) as err:  # not the shard's fault: another worker may do it
            report = self._report(message, "unfit", error=f"{type(err).__name__}: {err}")
            if isinstance(err, WorkerUnfit):
                end_this_worker()
        except EmbedmillError as err:
            report = self._report(message, "error", error=f"{type(err).__name__}: {err}")
        except Exception as err:  # the process edge: recorded with its traceback, told to the coordinator
            logger.exception("shard failed", extra={"event": "shard_error", "shard": message.shard})
            report = self._report(message, "error", error=f"{type(err).__name__}: {err}")
        self._send(message.job, report)
        shown = {
            "outcome": report.outcome,
            "rows": report.rows_ok,
            "failures": report.rows_failed,
            "seconds": round(time.monotonic() - started, 3),
        }
        fields = {"event": "shard_done", "job": message.job, "shard": message.shard, **shown, "stages": report.seconds}
        logger.log(logging.ERROR if report.error else logging.INFO, report.error or "shard done", extra=fields)
        return shown

    def _embed(self, message: ShardMessage) -> ShardReport:
        location = self._location(message.job)
        job = self._jobs.get(message.job)
        if job is None or job.location != location:
            job = self._open(message.job, location)
        return embed_shard(job, message, leases=self.leases, settings=self.settings)

    def _open(self, job_id: str, location: str) -> "OpenJob":
        job = self._find(job_id, location)
        spec = job.record.spec
        for root in spec.media_roots:
            require_within(root, self.settings.roots, what="the job's media root")
        opened = OpenJob(
            job=job,
            location=location,
            loader=MediaLoader(
                Fetcher(spec.media_base, spec.media_roots, spec.max_file_bytes), max_pixels=spec.max_pixels
            ),
            encoder=self._encoder(job),
            budget=TokenBudget(self.settings.batch_tokens),
        )
        if len(self._jobs) >= _JOBS_KEPT:
            self._jobs.pop(next(iter(self._jobs)))  # the one opened first
        self._jobs[job_id] = opened
        return opened

    def _location(self, job_id: str) -> str:
        """Where the job lives now: read for each shard, for a job may be copied or moved."""
        location = self.client.hget(job_key(job_id), "location")
        if not isinstance(location, str):
            raise Cancelled(f"no coordinator drives job {job_id} any more")
        return location

    def _find(self, job_id: str, location: str) -> Job:
        require_within(location, self.settings.roots, what="the job's folder")
        job = open_job(open_store(location))
        if job.id != job_id:
            raise NotAllowed(f"{location} holds job {job.id}, not {job_id}; the message was dropped")
        return job

    def _encoder(self, job: Job) -> Encoder:
        """The job's model, loaded when first asked for; one model is held at a time."""
        digest = job.record.spec.model_digest
        if digest not in self._encoders:
            model = resolve_model(job.record.spec.model, cache=self.settings.model_cache)
            if model.card.digest != digest:
                raise WorkerUnfit(
                    f"the files of {job.record.spec.model} here are not those that the job was planned with"
                )
            differing = Space.of(model.card).differences(job.record.space)
            if differing:
                raise WorkerUnfit(
                    f"this embedmill embeds in another space ({', '.join(differing)}); use the job's version"
                )
            self._encoders.clear()
            self._jobs.clear()
            self._encoders[digest] = load_encoder(
                model,
                device=self.settings.device,
                cache=self.settings.model_cache,
                delay_ms=self.settings.hash_delay_ms,
            )
        return self._encoders[digest]

    def _report(self, message: ShardMessage, outcome: str, *, error: str = "") -> ShardReport:
        return ShardReport(
            shard=message.shard, plan=message.plan, outcome=outcome, worker=self.settings.worker_name, error=error
        )

    def _send(self, job: str, report: ShardReport) -> None:
        key = reports_key(job)
        with contextlib.suppress(redis.RedisError):  # a hint: without it the coordinator looks into the store
            pipe = self.client.pipeline(transaction=False)
            pipe.rpush(key, report.to_json())
            pipe.ltrim(key, -_REPORTS_KEPT, -1)
            pipe.expire(key, KEY_TTL_S)
            pipe.execute()
