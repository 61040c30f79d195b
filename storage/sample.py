"""The sample: rows that a job's int8 ranges are taken from, the same however the manifest is ordered or cut."""

import hashlib
import heapq

import pyarrow as pa

from schemas.job import PlanRecord
from schemas.rows import ManifestRow, Modality
from storage import layout
from storage.parquet import plain_file, read_parquet
from storage.plans import rows_of, rows_table
from storage.store import Store

#: Rows of a sample.
SAMPLE_ROWS = 256


class RowSample:
    """The rows whose ids have the smallest digests, of all that were offered; in flat memory."""

    def __init__(self, size: int = SAMPLE_ROWS) -> None:
        self._size = size
        self._rows: list[tuple[int, int, ManifestRow]] = []  # a heap, the largest digest first

    def offer(self, row: ManifestRow) -> None:
        """Take `row` into account, unless it is known to have no vector."""
        if row.defect is not None:
            return
        rank = -int.from_bytes(hashlib.blake2b(row.id.encode(), digest_size=8).digest(), "big")
        if len(self._rows) < self._size:
            heapq.heappush(self._rows, (rank, row.line, row))
        elif rank > self._rows[0][0]:
            heapq.heapreplace(self._rows, (rank, row.line, row))

    def publish(self, store: Store, plan: str) -> str:
        """Write the rows for the plan with that digest; returns the object's key."""
        rows = sorted((row for _, _, row in self._rows), key=lambda row: row.id)
        table = rows_table(rows, ())
        modalities = pa.array([str(row.modality) for row in rows], pa.string())
        data = plain_file(table.append_column("modality", modalities))
        key = layout.sample_key(hashlib.sha256(plan.encode() + data).hexdigest())
        store.create(key, data)
        return key


def read_sample(*, store: Store, plan: PlanRecord) -> list[ManifestRow]:
    """The sample's rows, by id; none where the plan has no sample."""
    if plan.sample is None:
        return []
    table = read_parquet(store, plan.sample)
    return [
        rows_of(table.slice(at, 1).drop_columns(["modality"]), Modality(modality))[0]
        for at, modality in enumerate(table["modality"].to_pylist())
    ]
