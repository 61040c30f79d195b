"""The job's receipt: where its workers' time went, from what the published shards say of themselves."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from itertools import groupby
from typing import Any

from producer.advice import Advice, advice_on
from schemas.queues import queue_name
from schemas.redaction import redact
from schemas.rows import Modality
from schemas.sealed import sealed, unsealed
from schemas.shard import Footer
from schemas.spent import Spent, Step, total
from storage import layout
from storage.jobs import Job, now

FORMAT = 1
KIND = "embedmill job receipt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What a job, a queue or a worker did, and what it spent on that."""

    shards: int
    rows: int
    vectors: int
    equal: int  # rows whose vectors were computed for another one of the same content
    reused: int  # rows whose vectors are an earlier job's
    spent: Spent
    active_s: float  # during which at least one shard was in work; pauses of the whole job are not

    @property
    def padding_share(self) -> float:
        """Of the tokens that went through the model, those that were padding."""
        return 1 - self.spent.tokens / self.spent.padded if self.spent.padded else 0.0

    @property
    def device_busy_share(self) -> float:
        """Of the time that workers were there, that of the forward passes."""
        return self.spent.of(Step.DEVICE) / max(self.spent.of(Step.WALL), 1e-9)

    def to_dict(self) -> dict[str, Any]:
        active_s = max(self.active_s, 1e-9)
        return {
            "shards": self.shards,
            "rows": self.rows,
            "vectors": self.vectors,
            "equal": self.equal,
            "reused": self.reused,
            "items": self.spent.items,
            "tokens": self.spent.tokens,
            "batches": self.spent.batches,
            "seconds": {step: round(self.spent.of(step), 3) for step in Step},
            "active_s": round(self.active_s, 3),
            "items_per_s": round(self.spent.items / active_s, 2),
            "tokens_per_s": round(self.spent.tokens / active_s, 1),
            "padding_share": round(self.padding_share, 4),
            "device_busy_share": round(self.device_busy_share, 4),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class JobReceipt:
    """Shares of the whole job, of its queues and of its workers."""

    whole: Share
    queues: Mapping[str, Share]
    workers: Mapping[str, Share]
    advice: Advice

    def to_dict(self) -> dict[str, Any]:
        return {
            "total": self.whole.to_dict(),
            "bottleneck": self.advice.to_dict(),
            "queues": {name: share.to_dict() for name, share in self.queues.items()},
            "workers": {name: share.to_dict() for name, share in self.workers.items()},
        }


def receipt_of(job: Job, footers: Iterable[Footer]) -> JobReceipt | None:
    """What `footers` of published shards add up to; None where none of them holds what was measured."""
    measured = [footer for footer in footers if footer.spent.seconds]
    if not measured:
        return None
    spec = job.record.spec
    return JobReceipt(
        whole=(whole := _share(measured)),
        queues=_shares(measured, lambda f: queue_name(Modality(f.modality), spec.size, spec.kind)),
        workers=_shares(measured, lambda f: f.worker),
        advice=advice_on(whole.spent, device=measured[-1].device, shards=whole.shards),
    )


def sealed_receipt(
    job: Job, receipt: JobReceipt, estimate: Mapping[str, Any] | None, outcomes: Mapping[str, Any]
) -> bytes:
    """receipt.json: the receipt, what was estimated before, what became of the rows, and the seal."""
    content: dict[str, Any] = {
        "v": FORMAT,
        "kind": KIND,
        "job": job.id,
        "made_at": now(),
        "embedmill": version("embedmill"),
        "model": redact(job.record.spec.model),
        **receipt.to_dict(),
        "estimate": estimate,
        "outcomes": outcomes,
    }
    return sealed(content)


def written_receipt(job: Job) -> dict[str, Any] | None:
    """The receipt that a finished job has, without its seal; None where there is none, or it was changed."""
    if job.store.size(layout.RECEIPT) is None:
        return None
    try:
        return unsealed(job.store.get(layout.RECEIPT))
    except ValueError:
        return None


def _shares(footers: list[Footer], name_of: Callable[[Footer], str]) -> dict[str, Share]:
    groups = groupby(sorted(footers, key=name_of), key=name_of)
    return {name: _share(list(members)) for name, members in groups}


def _share(footers: list[Footer]) -> Share:
    return Share(
        shards=len(footers),
        rows=sum(footer.rows_planned for footer in footers),
        vectors=sum(footer.vectors for footer in footers),
        equal=sum(footer.equal for footer in footers),
        reused=sum(footer.reused for footer in footers),
        spent=total(footer.spent for footer in footers),
        active_s=_active_s([footer.spent for footer in footers]),
    )


def _active_s(parts: Iterable[Spent]) -> float:
    """Seconds that the intervals of `parts` cover together."""
    covered, until = 0.0, 0.0
    for part in sorted(parts, key=lambda part: part.began_at):
        end = part.began_at + part.of(Step.WALL)
        covered += max(0.0, end - max(part.began_at, until))
        until = max(until, end)
    return covered
