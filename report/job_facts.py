"""The facts of a job: what its files say of its rows, counted as far as they can be counted in seconds."""

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from producer.status import JobStatus, job_status
from report.published import spread
from schemas.errors import EmbedmillError
from schemas.parsed_json import parsed_json
from schemas.rows import Modality
from schemas.shard import Footer
from storage import layout
from storage.failures import open_failures
from storage.jobs import Job
from storage.parquet import open_parquet
from storage.shards import footer_of, published_shards

#: Files whose footers are read, whose failures are looked at, and whose usage is added up, at most.
_FOOTERS, _FAILED_FILES, _USAGE_FILES = 3000, 200, 1500
_READERS = 16
#: Columns of how much there was of a row, and how much the model saw.
USAGE = {"tokens": ("tokens_in", "tokens_used"), "seconds": ("seconds_in", "seconds_used")}


@dataclass(slots=True, kw_only=True)
class ModalityRows:
    """The rows of one modality by outcome."""

    planned: int = 0
    ok: int = 0
    failed: int = 0

    @property
    def left(self) -> int:
        return max(0, self.planned - self.ok - self.failed)


@dataclass(slots=True, kw_only=True)
class Cut:
    """How much of the rows of one modality the model saw, in one unit."""

    modality: str
    unit: str  # tokens | seconds
    rows: int = 0
    cut: int = 0  # rows of which it saw a part
    given: float = 0.0
    used: float = 0.0
    kept_of_cut: Counter[int] = field(default_factory=Counter)  # of the rows that were cut: tenths that were seen

    def add(self, given: pa.ChunkedArray, used: pa.ChunkedArray) -> None:
        """Take in what rows had, and what was seen of them; null where that does not apply."""
        there = pc.is_valid(given)
        had, saw = (np.asarray(column.filter(there).cast(pa.float64())) for column in (given, used))
        less = saw < had - 1e-3
        self.rows += len(had)
        self.cut += int(less.sum())
        self.given += float(had.sum())
        self.used += float(np.minimum(saw, had).sum())
        tenths = np.clip((10 * saw[less] / had[less]).astype(int), 0, 9)
        self.kept_of_cut.update(int(tenth) for tenth in tenths)


class JobFacts:
    """Read from the store; each fact once, and only when it is asked for."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.rounds = job.rounds()
        self.shards = sorted(published_shards(job.store))  # (shard, key, bytes)

    @cached_property
    def status(self) -> JobStatus:
        return job_status(self.job)

    @cached_property
    def footers(self) -> list[Footer]:
        """Those of all published shards, or of some that are spread evenly."""
        keys = [key for _, key, _ in spread(self.shards)[:_FOOTERS]]
        with ThreadPoolExecutor(_READERS) as pool:
            return list(pool.map(lambda key: footer_of(self.job.store, key), keys))

    @property
    def footers_scale(self) -> float:
        return len(self.shards) / max(1, len(self.footers))

    def keys_of(self, modality: Modality) -> list[str]:
        """The published files of a modality, in order."""
        return [key for shard, key, _ in self.shards if key == layout.data_key(modality, shard)]

    @cached_property
    def rows(self) -> dict[Modality, ModalityRows]:
        """By modality: what was planned, and what became of it."""
        rows: dict[Modality, ModalityRows] = {}
        reader, first_round = self.job.reader(self.rounds[0]), self.rounds[0].last_shard
        for shard in reader.shards():
            told = rows.setdefault(reader.modality(shard), ModalityRows())
            told.planned += int(reader.rows[shard - self.rounds[0].first_shard])
        for shard, modality, ok, failed in self._outcomes():
            told = rows.setdefault(modality, ModalityRows())
            told.ok += ok
            told.failed += failed if shard <= first_round else -ok
        return dict(sorted(rows.items()))

    def _outcomes(self) -> Iterable[tuple[int, Modality, int, int]]:
        """Shard, modality, rows with an outcome and failures of each published file."""
        listed = self._listed()
        if listed is not None:
            for key, ok, failed in listed:
                shard = layout.shard_of(key)
                if shard is not None:
                    yield shard, Modality(layout.modality_of(key)), ok, failed
            return
        with ThreadPoolExecutor(_READERS) as pool:
            for footer in pool.map(lambda item: footer_of(self.job.store, item[1]), self.shards):
                yield footer.shard, Modality(footer.modality), footer.rows_ok, footer.rows_failed

    def _listed(self) -> list[tuple[str, int, int]] | None:
        """Key, rows and failures of each file, as the last manifest has them; None where none lists all files."""
        key = layout.manifest_key(self.rounds[-1].round)
        if self.job.store.size(key) is None:
            return None
        try:
            files: list[dict[str, Any]] = parsed_json(self.job.store.get(key))["files"]
            found = [(str(file["key"]), int(file["rows"]), int(file["failures"])) for file in files]
        except (EmbedmillError, ValueError, LookupError, TypeError):  # a damaged list lists nothing
            return None
        return found if {key for key, _, _ in found} == {key for _, key, _ in self.shards} else None

    @cached_property
    def failures(self) -> pa.Table:
        """Failures that are still a row's outcome; of some files, where very many have some."""
        retried = self.rounds[0].last_shard
        footers = [f for f in self.footers if f.rows_failed and f.shard <= retried][:_FAILED_FILES]
        later = [f for f in self.footers if f.shard > retried]
        return open_failures(self.job, [*footers, *later])

    @cached_property
    def rejects(self) -> pa.Table | None:
        """The first lines of the manifest that are no rows."""
        key = self.rounds[0].rejects_file
        if key is None:
            return None
        with open_parquet(self.job.store, key) as file:
            batch = next(file.iter_batches(200, use_threads=False), None)
        return None if batch is None else pa.Table.from_batches([batch])

    @cached_property
    def cuts(self) -> list[Cut]:
        """Truncation by modality, over all published rows or some files of them."""
        found: dict[tuple[str, str], Cut] = {}
        for _, key, _ in spread(self.shards)[:_USAGE_FILES]:
            modality = layout.modality_of(key)
            with open_parquet(self.job.store, key) as file:
                names = [n for pair in USAGE.values() for n in pair if n in file.schema_arrow.names]
                if not names:
                    continue
                table = file.read(columns=names, use_threads=False)
            for unit, (given, used) in USAGE.items():
                if given in names and used in names:
                    found.setdefault((modality, unit), Cut(modality=modality, unit=unit)).add(table[given], table[used])
        return [cut for _, cut in sorted(found.items()) if cut.rows]

    @property
    def cuts_of_all(self) -> bool:
        return len(self.shards) <= _USAGE_FILES
