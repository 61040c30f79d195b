"""The proof of the plans: each of their files, and the shards that are published of them."""

import hashlib
from collections.abc import Iterator

import pyarrow as pa

from producer.shard_proof import DAMAGE, ShardTask, first_line
from producer.snapshot import Snapshot
from producer.verdict import Verdict, digest_of
from schemas.counted import counted
from schemas.job import PlanRecord
from schemas.recipe import OutputType
from schemas.sealed import unsealed
from schemas.shard import ShardEntry
from storage import layout
from storage.duplicates import DuplicateFinder
from storage.jobs import Job
from storage.parquet import ID
from storage.parquet_seal import check_seal
from storage.plans import PlanReader


class PlanProof:
    """Reads the plans of a job, and tells the shards of them that are published."""

    def __init__(self, job: Job, snapshot: Snapshot, verdict: Verdict) -> None:
        self._job, self._snapshot, self._verdict = job, snapshot, verdict
        self.unreadable: list[range] = []  # shards of plans whose index cannot be read

    def shards(self, plan: PlanRecord) -> Iterator[ShardTask]:
        """Prove the files of `plan`; yields its published shards and counts the rows of the others as missing."""
        self._prove_others(plan)
        reader = self._reader(plan)
        if reader is None:
            self.unreadable.append(range(plan.first_shard, plan.last_shard + 1))
            return
        ids = DuplicateFinder()
        for number in range(len(plan.files)):
            for entry, planned in self._planned(reader, number):
                if planned is not None:
                    ids.add_all(planned[ID].to_pylist(), entry.shard)
                task = ShardTask(plan=plan.digest, entry=entry, planned=planned)
                if task.key in self._snapshot.data:
                    yield task
                elif plan.round == 0:
                    self._verdict.missing += entry.rows
        if twice := len(ids.duplicates()):
            self._verdict.blame(f"{plan.index}: {counted(twice, 'id is', 'ids are')} planned more than once")

    def ranges_sha256(self) -> str:
        """The digest of the ranges of int8 vectors; "" where there are none."""
        if OutputType.INT8 not in self._job.record.space.recipe.outputs:
            return ""
        if self._job.store.size(layout.RANGES) is None:
            return ""  # no worker has needed them yet: no file is there that names them
        data = self._get(layout.RANGES)
        try:
            unsealed(data or b"")
        except ValueError as err:
            self._verdict.blame(f"{layout.RANGES}: {first_line(err)}")
        return hashlib.sha256(data or b"").hexdigest()

    def _prove_others(self, plan: PlanRecord) -> None:
        """What is not the shards' own: the record, which snapshots read, rejects, and the sample."""
        self._get(layout.retry_key(plan.round) if plan.round else layout.JOB)
        others = (
            (plan.rejects_file, layout.rejects_key),
            (plan.sample, layout.sample_key),
            (plan.reuse, layout.reuse_key),
        )
        for key, named in others:
            data = self._get_sealed(key) if key else None
            if data is not None and key != named(hashlib.sha256(plan.digest.encode() + data).hexdigest()):
                self._verdict.blame(f"{key} is not the file that the job was planned with; restore it")

    def _reader(self, plan: PlanRecord) -> PlanReader | None:
        try:
            reader = PlanReader(self._job.store, plan)
            whole = reader.is_whole()
        except DAMAGE as err:
            self._verdict.blame(first_line(err))
            return None
        self._get(plan.index)
        if not whole:
            self._verdict.blame(f"{plan.index} is not the index of plan {plan.digest[:12]}")
        return reader if whole else None

    def _planned(self, reader: PlanReader, number: int) -> Iterator[tuple[ShardEntry, pa.Table | None]]:
        """The shards of one file of the plan; without their rows from where the file is not what it was."""
        left = reader.shards_of(number)
        data = self._get_sealed(reader.plan.files[number])
        if data is not None:
            try:
                for entry, table in reader.tables(number, data):
                    left.remove(entry.shard)
                    yield entry, table
            except DAMAGE as err:
                self._verdict.blame(first_line(err))
        for shard in left:
            yield reader.entry(shard), None

    def _get_sealed(self, key: str) -> bytes | None:
        data = self._get(key)
        problem = check_seal(data, key)[1] if data is not None else ""
        if problem:
            self._verdict.blame(problem)
        return None if problem else data

    def _get(self, key: str) -> bytes | None:
        """The bytes of `key`, noted; None, and a problem, where they cannot be read."""
        try:
            data = self._job.store.get(key)
        except DAMAGE as err:
            self._verdict.blame(first_line(err))
            return None
        self._verdict.note(digest_of(key, data))
        return data
