"""A whole mill in this process: memory store, memory leases, in-line queue, hash encoder. No server, no worker."""

from collections.abc import Mapping
from typing import cast

from producer.board import MemoryBoard
from producer.coordinator import Coordinator
from producer.finish import finish_job
from producer.task_queue import InlineQueue
from producer.work import JobWork
from schemas.failures import Failure
from schemas.message import ShardMessage
from schemas.settings import Settings
from schemas.space import Space
from storage.jobs import Job
from storage.model_files import resolve_model
from workers.batching import DEFAULT_TOKENS, TokenBudget
from workers.canary import Canary
from workers.care import Care
from workers.embed_shard import embed_shard
from workers.encoder import Encoder, load_encoder
from workers.lease import MemoryLeases
from workers.loading import Loaded, Loader, ScriptedLoader
from workers.meter import Meter
from workers.pair_scorer import PairScorer, load_scorer
from workers.runtime import OpenJob

SETTINGS = Settings(worker_name="inline")


class InlineMill:
    """Runs jobs, most of them of the models without weights; `media` scripts what images are, or a `loader` says it."""

    def __init__(
        self,
        job: Job,
        media: Mapping[str, Loaded | Failure] | None = None,
        *,
        loader: Loader | None = None,
        care: Care | None = None,
        faults: str = "",
        meter: Meter | None = None,
    ) -> None:
        self.job, self.board, self.leases = job, MemoryBoard(), MemoryLeases()
        space = job.record.space
        model = resolve_model(job.record.spec.model)
        held = load_encoder(model, faults=faults) if space.scoring is None else load_scorer(model, faults=faults)
        told = _told(held, space)
        canary = Canary(held, model.card, "float32")
        self._open = OpenJob(
            job=job,
            location=job.store.url,
            loader=loader or ScriptedLoader(media or {}),
            model=lambda: told,
            budget=TokenBudget(DEFAULT_TOKENS),
            settings=SETTINGS,
            canary=lambda: canary,
            care=care or Care(),
            meter=meter or Meter(),
        )

    @property
    def encoder(self) -> Encoder:
        return self._open.encoder()

    def use(self, encoder: object) -> None:
        """Embed with another encoder from now on: one of the protocol's shape, around the job's own."""
        self._open.model = lambda: cast("Encoder", encoder)

    @property
    def care(self) -> Care:
        return self._open.care

    def work(self, message: ShardMessage) -> str:
        """What a worker does with a message; returns the attempt's outcome."""
        report = embed_shard(self._open, message, leases=self.leases, settings=SETTINGS)
        self.board.said.append(report)
        return report.outcome

    def message(self, shard: int) -> ShardMessage:
        return ShardMessage(job=self.job.id, shard=shard, plan=self.job.record.plan.digest)

    def run(self) -> None:
        """Take every unfinished round to its end."""
        coordinator = Coordinator(JobWork(self.job), board=self.board, queue=InlineQueue(self.work))
        while not coordinator.tick().done:
            pass
        finish_job(self.job)


def _told(held: Encoder | PairScorer, space: Space) -> Encoder | PairScorer:
    if space.scoring is None:
        return cast("Encoder", held).told(space.recipe)
    return cast("PairScorer", held).told(space.recipe, space.scoring)
