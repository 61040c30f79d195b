"""The row book: what the rows of a job are, as its plan has them: text, uri, parts and kept columns."""

import time
from collections.abc import Collection, Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.job import PlanRecord
from schemas.model_cards import Kind
from schemas.rows import ManifestRow, Modality, PairRow
from storage.jobs import Job
from storage.parquet import open_parquet
from storage.planned_pairs import pairs_of
from storage.plans import PlanReader, rows_of

#: Seconds that rows are looked for whose shards are not known.
_SEARCH_S = 10.0


class RowBook:
    """The planned rows of one job, read a shard at a time."""

    def __init__(self, job: Job) -> None:
        self._job, self._readers = job, dict[int, PlanReader]()
        self._rounds = job.rounds()

    def rows(self, places: Iterable[tuple[int, str]]) -> dict[str, ManifestRow]:
        """The rows at these places, by id; a place is a shard and an id."""
        found: dict[str, ManifestRow] = {}
        for table, modality in self._tables(places):
            found |= {row.id: row for row in rows_of(table, modality)}
        return found

    def pairs(self, places: Iterable[tuple[int, str]]) -> dict[str, PairRow]:
        """The same of a job that scores pairs."""
        found: dict[str, PairRow] = {}
        for table, _ in self._tables(places):
            found |= {pair.id: pair for pair in pairs_of(table)}
        return found

    def look_for(self, ids: Collection[str]) -> dict[str, ManifestRow]:
        """Those of the rows with these ids that are found in time, wherever they lie."""
        found, left, until = dict[str, ManifestRow](), set(ids), time.monotonic() + _SEARCH_S
        if self._job.record.spec.kind is not Kind.EMBED:
            return found
        for plan in self._rounds[:1]:  # a retry has no rows of its own
            reader = self._reader(plan)
            for number, key in enumerate(plan.files):
                if not left or time.monotonic() > until:
                    return found
                with open_parquet(self._job.store, key) as file:
                    for shard in reader.shards_of(number):
                        here = _ids_in(file, reader.entry(shard).row_group, left)
                        if here:
                            found |= self.rows((shard, id_) for id_ in here)
                            left -= here
        return found

    def _tables(self, places: Iterable[tuple[int, str]]) -> Iterator[tuple[pa.Table, Modality]]:
        """Each shard is read once."""
        wanted: dict[int, set[str]] = {}
        for shard, id_ in places:
            wanted.setdefault(shard, set()).add(id_)
        return (self._table(shard, ids) for shard, ids in wanted.items())

    def _table(self, shard: int, ids: Collection[str]) -> tuple[pa.Table, Modality]:
        plan = next(plan for plan in self._rounds if plan.first_shard <= shard <= plan.last_shard)
        reader = self._reader(plan)
        entry = reader.entry(shard)
        with open_parquet(self._job.store, plan.files[entry.file]) as file:
            table = file.read_row_group(entry.row_group, use_threads=False)
        return table.filter(pc.is_in(table["id"], pa.array(list(ids), pa.string()))), reader.modality(shard)

    def _reader(self, plan: PlanRecord) -> PlanReader:
        if plan.round not in self._readers:
            self._readers[plan.round] = self._job.reader(plan)
        return self._readers[plan.round]


def _ids_in(file: pq.ParquetFile, group: int, wanted: Collection[str]) -> set[str]:
    """Which of these ids a row group holds; most groups are told by their least and greatest id."""
    told = file.metadata.row_group(group).column(0).statistics
    if told is not None and told.has_min_max and not any(told.min <= id_ <= told.max for id_ in wanted):
        return set()
    ids = file.read_row_group(group, columns=["id"], use_threads=False)["id"]
    return set(ids.filter(pc.is_in(ids, pa.array(list(wanted), pa.string()))).to_pylist())
