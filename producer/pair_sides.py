"""The sides of pairs: the queries and the items that a rerank job's ids are resolved to."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from producer.manifest import Manifest, open_manifest
from producer.parsing import RowParser, require_columns
from schemas.failures import FailureCode, Reject
from schemas.rows import ManifestRow, Modality
from storage.jobs import Job, find_job
from storage.store import canonical_location, open_store

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


class Side(Protocol):
    """The rows that one id of each pair names; relative uris are made absolute, for each side has its own folder."""

    location: str

    @property
    def roots(self) -> tuple[str, ...]:
        """The places that its media lie in."""

    def digest(self) -> str:
        """The sha256 of what is read."""

    def rows(self) -> Iterator[ManifestRow]:
        """The rows; what is no row is passed over, for no pair can name it."""


def open_side(location: str, *, id_column: str, takes: tuple[Modality, ...]) -> Side:
    """The side at `location`, a manifest's or a job's; `takes` are the modalities that the model has an input for.

    Raises ManifestError where there is neither.
    """
    place = canonical_location(location)
    is_folder = "://" in place or Path(place).is_dir()
    job = find_job(open_store(place)) if is_folder else None
    if job is not None:
        return JobSide(job, takes)
    manifest = open_manifest(place)
    require_columns(manifest, [id_column], "--id-column")
    return ManifestSide(manifest, RowParser(id_column=id_column, supported=takes))


class ManifestSide:
    """The rows of a manifest."""

    def __init__(self, manifest: Manifest, parser: RowParser) -> None:
        self._manifest, self._parser = manifest, parser
        self.location = manifest.location

    @property
    def roots(self) -> tuple[str, ...]:
        return (self._manifest.base,)

    def digest(self) -> str:
        return self._manifest.digest()

    def rows(self) -> Iterator[ManifestRow]:
        parse, base = self._parser.parse, self._manifest.base
        for line, record in self._manifest.records(self._parser.columns):
            row = record if isinstance(record, Reject) else parse(line, record)
            if isinstance(row, ManifestRow):
                yield _absolute(row, base)


class JobSide:
    """The rows that an embed job planned."""

    def __init__(self, job: Job, takes: tuple[Modality, ...]) -> None:
        self._job, self._takes = job, takes
        self.location = job.store.url

    @property
    def roots(self) -> tuple[str, ...]:
        return self._job.record.spec.media_roots

    def digest(self) -> str:
        return hashlib.sha256(self._job.record.plan.digest.encode()).hexdigest()

    def rows(self) -> Iterator[ManifestRow]:
        reader, base = self._job.reader(self._job.record.plan), self._job.record.spec.media_base
        for shard in reader.shards():
            for row in reader.read_rows(shard):
                yield _absolute(_judged(row, self._takes), base)


def _judged(row: ManifestRow, takes: tuple[Modality, ...]) -> ManifestRow:
    """`row` as this model takes it: the job was planned for another."""
    if row.defect not in (None, FailureCode.MODALITY_UNSUPPORTED):
        return row
    fits = {row.modality, *(part.modality for part in row.parts)} <= set(takes)
    return replace(row, defect=None if fits else FailureCode.MODALITY_UNSUPPORTED)


def _absolute(row: ManifestRow, base: str) -> ManifestRow:
    if row.uri is None and not row.parts:
        return row
    parts = tuple(replace(part, uri=_absolute_uri(part.uri, base)) for part in row.parts)
    return replace(row, uri=_absolute_uri(row.uri, base), parts=parts)


def _absolute_uri(uri: str | None, base: str) -> str | None:
    if uri is None or uri.startswith("/") or _SCHEME.match(uri):
        return uri
    return f"{base.rstrip('/')}/{uri.removeprefix('./')}"
