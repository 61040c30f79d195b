"""Retry: a new round of shards with only the rows that failed."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from producer.outcomes import published_files
from schemas.errors import Refused
from schemas.failures import FailureCode
from schemas.job import PlanRecord, retried
from schemas.rows import Modality
from storage.failures import open_failures
from storage.jobs import Job, add_round
from storage.planned_pairs import planned_schema
from storage.plans import PlanReader, PlanWriter

_ROWS_A_SHARD, _MEDIA_A_SHARD = 1024, 64


def plan_retry(job: Job, codes: tuple[str, ...] = ()) -> PlanRecord | None:
    """Pin a round that does the failed rows again (those with `codes`, or all); None where there are none.

    A retry that was interrupted is taken up as it was.
    Raises Refused for an unknown code, or while the job itself is unfinished.
    """
    _check_codes(codes)
    rounds = job.rounds()
    if not job.is_finished(rounds[0]):
        raise Refused(f"job {job.id} is not finished; `embedmill run` or `submit` it again first")
    unfinished = [plan for plan in rounds if not job.is_finished(plan)]
    if unfinished:
        return _same_codes(job, unfinished[-1], codes)
    failures = open_failures(job, [file.footer for file in published_files(job)])
    if codes:
        failures = failures.filter(pc.is_in(failures["code"], pa.array(codes)))
    if not failures.num_rows:
        return None
    spec = job.record.spec
    with PlanWriter(spec.keep, first_shard=rounds[-1].last_shard + 1, schema=planned_schema(spec)) as writer:
        for modality, table in _rows_again(job, rounds, failures):
            writer.add_table(modality, table, float(table.num_rows))
        plan = retried(writer.publish(job.store), codes=codes, round_=len(rounds))
        add_round(job, plan)
        writer.publish(job.store)  # again: until they were pinned, `gc` may have taken files that an earlier try left
    return plan


def _rows_again(job: Job, rounds: list[PlanRecord], failures: pa.Table) -> Iterator[tuple[Modality, pa.Table]]:
    """The planned rows of the failures, in shards of one modality."""
    readers = [PlanReader(job.store, plan) for plan in rounds]
    found: dict[Modality, list[pa.Table]] = {}
    for shard in sorted(set(failures["shard"].to_pylist())):
        reader = next(r for r in readers if shard in r.shards())
        ids = failures.filter(pc.equal(failures["shard"], shard))["id"]
        table = reader.read_table(shard)
        found.setdefault(reader.modality(shard), []).append(table.filter(pc.is_in(table["id"], ids)))
    for modality, tables in found.items():
        table = pa.concat_tables(tables)
        rows = _ROWS_A_SHARD if modality is Modality.TEXT else _MEDIA_A_SHARD
        for at in range(0, table.num_rows, rows):
            yield modality, table.slice(at, rows).sort_by("id")


def _same_codes(job: Job, plan: PlanRecord, codes: tuple[str, ...]) -> PlanRecord:
    if plan.retry_codes != codes:
        asked = " ".join(f"--code {code}" for code in plan.retry_codes) or "no --code"
        raise Refused(f"job {job.id} has an unfinished retry with {asked}; call it so to end it first")
    return plan


def _check_codes(codes: tuple[str, ...]) -> None:
    known = {str(code) for code in FailureCode}
    for code in codes:
        if code not in known:
            raise Refused(f"--code {code}: no such failure code; the codes are {', '.join(sorted(known))}")
