"""Metrics of a coordinator, in Prometheus form; no label comes from a row.

A job's label is `job_id`: `job` is what Prometheus calls the place that it scraped.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from producer.foreman import Foreman
from schemas.errors import BrokerError
from schemas.presence import WorkerPresence

#: Jobs that have series of their own; of further ones there are sums only.
_MOST_JOBS = 50


class ForemanCollector(Collector):
    """What a foreman saw at its last tick, and has counted of jobs that have left."""

    def __init__(self, foreman: Foreman, workers: Callable[[], list[WorkerPresence]]) -> None:
        self._foreman, self._workers = foreman, workers

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("embedmill_jobs", "Jobs that are driven.", value=len(self._foreman.progress))
        for name, help_, value in (
            ("embedmill_jobs_finished", "Jobs driven to their end.", self._foreman.finished),
            ("embedmill_jobs_stopped", "Jobs that could not go on.", self._foreman.stopped),
        ):
            yield CounterMetricFamily(name, help_, value=value)
        yield from self._of_jobs()
        yield from self._of_queues()

    def _of_jobs(self) -> Iterator[Metric]:
        jobs = dict(list(self._foreman.progress.items())[:_MOST_JOBS])
        tallies, now = self._foreman.tallies, time.monotonic()
        for name, help_, values in (
            ("rows", "Rows of the unfinished rounds.", {j: p.rows for j, p in jobs.items()}),
            ("rows_done", "Rows of published shards, failures too.", {j: p.rows_done for j, p in jobs.items()}),
            ("rows_failed", "Rows that failed, of published shards.", {j: p.failed for j, p in jobs.items()}),
            ("shards", "Shards of the unfinished rounds.", {j: p.shards for j, p in jobs.items()}),
            ("shards_published", "Shards that are published.", {j: p.published for j, p in jobs.items()}),
            ("shards_leased", "Shards in work.", {j: t.leased for j, t in tallies.items() if j in jobs}),
            (
                "silent_seconds",
                "Since a shard was last published.",
                {j: now - t.published_at for j, t in tallies.items() if j in jobs},
            ),
        ):
            family = GaugeMetricFamily(f"embedmill_job_{name}", help_, labels=["job_id"])
            for job, value in values.items():
                family.add_metric([job], value)
            yield family
        for name, help_ in (
            ("sent", "Messages sent."),
            ("resent", "Shards sent again: nobody held them, nobody had published them."),
            ("errors", "Attempts that failed for cause."),
            ("unfit", "Attempts of workers that could not do the job."),
        ):
            counted = CounterMetricFamily(f"embedmill_job_shards_{name}", help_, labels=["job_id"])
            for job, tally in tallies.items():
                if job in jobs:
                    counted.add_metric([job], getattr(tally, name))
            yield counted

    def _of_queues(self) -> Iterator[Metric]:
        depths: dict[str, int] = {}
        left: Counter[str] = Counter()
        ages: dict[str, float] = {}
        for tally in self._foreman.tallies.values():
            depths |= tally.depths
            left.update(tally.left)
            for queue, age in tally.ages_s.items():
                ages[queue] = max(age, ages.get(queue, 0.0))
        serving: Counter[str] = Counter()
        with contextlib.suppress(BrokerError):  # Redis is away: nobody can tell who lives
            serving.update(queue for worker in self._workers() for queue in worker.queues)
        for name, help_, values in (
            ("embedmill_queue_shards", "Shards that are not published: they wait, or are in work.", left),
            ("embedmill_queue_messages", "Messages that wait.", depths),
            ("embedmill_queue_oldest_seconds", "Age of the oldest message that nobody has taken.", ages),
            ("embedmill_queue_workers", "Live workers that serve the queue.", serving),
        ):
            family = GaugeMetricFamily(name, help_, labels=["queue"])
            for queue, value in values.items():
                family.add_metric([queue], value)
            yield family


def coordinator_registry(foreman: Foreman, workers: Callable[[], list[WorkerPresence]]) -> CollectorRegistry:
    """What `/metrics` of a coordinator shows; `workers` are those that live, as far as is known."""
    registry = CollectorRegistry()
    registry.register(ForemanCollector(foreman, workers))
    return registry
