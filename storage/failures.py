"""Failures: of a job's failed rows those that no later round has done again."""

from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc

from schemas.shard import Footer
from storage.jobs import Job
from storage.plans import PlanReader
from storage.shards import FAILURES_SCHEMA, read_failures


def open_failures(job: Job, footers: Collection[Footer]) -> pa.Table:
    """The failures (FAILURES_SCHEMA) that are still a row's outcome: no later retry of the row is published.

    `footers` are those of the published shards that are looked at.
    """
    tables = [read_failures(job.store, footer.shard, footer.attempt) for footer in footers if footer.rows_failed]
    failures = pa.concat_tables([FAILURES_SCHEMA.empty_table(), *tables])
    published = {footer.shard for footer in footers}
    for plan in job.rounds()[1:]:
        failures = _without_retried(failures, PlanReader(job.store, plan), published)
    return failures


def _without_retried(failures: pa.Table, retry: PlanReader, published: set[int]) -> pa.Table:
    for shard in retry.shards():
        if shard in published:
            again = pc.is_in(failures["id"], retry.read_table(shard)["id"])
            older = pc.less(failures["shard"], retry.plan.first_shard)
            failures = failures.filter(pc.invert(pc.and_(again, older)))
    return failures
