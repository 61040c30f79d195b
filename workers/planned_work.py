"""Planned work: what a shard's rows are, and what becomes of them, by the kind of their job."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, cast

import pyarrow as pa

from schemas.failures import Failure
from schemas.job import JobSpec
from schemas.model_cards import Kind
from schemas.rows import ManifestRow, Modality, PairRow
from schemas.settings import Settings
from storage.planned_pairs import pairs_of
from storage.plans import rows_of
from workers.embedding import Embedded, TrailOf, no_trail
from workers.once import embed_once
from workers.scoring import score_pairs

if TYPE_CHECKING:
    from workers.runtime import OpenJob

Row = ManifestRow | PairRow


def planned_rows(spec: JobSpec, table: pa.Table, modality: Modality) -> Sequence[Row]:
    """The rows of a shard, whose planned table this is."""
    return rows_of(table, modality) if spec.kind is Kind.EMBED else pairs_of(table)


def work_on(
    job: "OpenJob",
    rows: Sequence[Row],
    settings: Settings,
    should_stop: Callable[[], bool],
    trail_of: TrailOf = no_trail,
) -> Iterable[Embedded | Failure]:
    """The outcome of each row, in order; raises Cancelled like `embed_rows` and `score_pairs`."""
    if job.job.record.spec.kind is Kind.RERANK:
        return score_pairs(job, cast("list[PairRow]", list(rows)), settings, should_stop, trail_of)
    return embed_once(job, cast("list[ManifestRow]", list(rows)), settings, should_stop, trail_of)
