"""Metrics of workers, in Prometheus form: counted in the processes that work, read by the one that looks after them.

prometheus_client keeps them in files that are mapped into memory, one for each process; the reader adds them up. So a
process that dies takes no count with it. No label comes from a row.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from schemas.shard import ShardReport
from workers.memory import resident_bytes

if TYPE_CHECKING:
    from prometheus_client.registry import CollectorRegistry

    from workers.model_shelf import ModelShelf

#: Where prometheus_client looks for the files; it decides when it is imported.
FOLDER = "PROMETHEUS_MULTIPROC_DIR"


class WorkerMetrics:
    """The counts of one process; none are kept before it has begun."""

    def __init__(self) -> None:
        self._counts: _Counts | None = None

    def begin(self) -> None:
        """Count from now on, if anybody reads it."""
        if os.environ.get(FOLDER):
            self._counts = _Counts()

    def count(self, report: ShardReport, seconds: float) -> None:
        """Take in what became of one shard, and how long it was in hand."""
        if self._counts is not None:
            self._counts.count(report, seconds)

    def look(self, shelf: "ModelShelf") -> None:
        """Note what the process holds now."""
        if self._counts is not None:
            self._counts.look(shelf)


class _Counts:
    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge

        registry = CollectorRegistry()
        self._shards = Counter("embedmill_shards", "Shards, by what became of them.", ["outcome"], registry=registry)
        self._rows = Counter("embedmill_rows", "Rows of published shards.", ["outcome"], registry=registry)
        self._bytes = Counter("embedmill_published_bytes", "Bytes of published files.", registry=registry)
        self._busy = Counter("embedmill_busy_seconds", "Seconds with a shard in hand.", registry=registry)
        self._stages = Counter("embedmill_stage_seconds", "Seconds, by stage.", ["stage"], registry=registry)
        live: Literal["livesum"] = "livesum"
        self._models = Gauge("embedmill_models", "Models in memory.", registry=registry, multiprocess_mode=live)
        self._loads = Gauge("embedmill_model_loads", "Models loaded so far.", registry=registry, multiprocess_mode=live)
        self._memory = Gauge(
            "embedmill_resident_bytes", "Memory of the process.", registry=registry, multiprocess_mode=live
        )
        self._processes = Gauge(
            "embedmill_workers", "Processes that can take work.", registry=registry, multiprocess_mode=live
        )

    def count(self, report: ShardReport, seconds: float) -> None:
        self._shards.labels(report.outcome).inc()
        self._busy.inc(seconds)
        if report.outcome == "published":
            self._rows.labels("ok").inc(report.rows_ok)
            self._rows.labels("failed").inc(report.rows_failed)
            self._bytes.inc(report.file_bytes)
        for stage, spent in report.seconds.items():
            self._stages.labels(stage).inc(spent)

    def look(self, shelf: "ModelShelf") -> None:
        self._models.set(len(shelf.held))
        self._loads.set(shelf.loads)
        self._memory.set(resident_bytes(os.getpid()))
        self._processes.set(1)


def fleet_registry(folder: Path) -> "CollectorRegistry":
    """All that the processes of a fleet counted in `folder`."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric
    from prometheus_client.multiprocess import MultiProcessCollector

    class Living(MultiProcessCollector):
        def collect(self) -> Iterable[Metric]:
            _forget_dead(folder)
            return super().collect()  # type: ignore[no-untyped-call, no-any-return]

    registry = CollectorRegistry()
    Living(registry, path=str(folder))  # type: ignore[no-untyped-call]  # missing in prometheus_client
    return registry


def _forget_dead(folder: Path) -> None:
    """Drop what processes that have ended held; what they counted stays."""
    from prometheus_client.multiprocess import mark_process_dead

    for path in folder.glob("gauge_live*_*.db"):
        pid = path.stem.rpartition("_")[2]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists():
            mark_process_dead(int(pid), path=str(folder))  # type: ignore[no-untyped-call]
