"""Sides: the rows that a join or a dedup speaks of, looked up in the jobs that embedded them, where these are there."""

from collections.abc import Collection
from types import TracebackType

from report.asked import Asked
from report.cards import Cards
from report.pictures import Pictures
from report.row_book import RowBook
from schemas.errors import EmbedmillError
from schemas.rows import ManifestRow
from storage.jobs import Job, find_job
from storage.store import open_store


class Side:
    """One side; use it as a context manager."""

    def __init__(self, location: str, asked: Asked) -> None:
        self._asked, self._job = asked, _job_at(location)
        self._pictures = Pictures.asked(self._job.record.spec, asked, share=2) if self._job and asked.content else None
        self.cards = Cards(self._pictures)

    def __enter__(self) -> "Side":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pictures is not None:
            self._pictures.__exit__(kind, err, trace)

    def rows(self, ids: Collection[str]) -> dict[str, ManifestRow]:
        """What these rows are; {} where no job has them, or nothing of them may be shown."""
        if self._job is None or not self._asked.content:
            return {}
        try:
            return RowBook(self._job).look_for(ids)
        except EmbedmillError:  # moved, or damaged: the ids alone are shown
            return {}


def _job_at(location: str) -> Job | None:
    try:
        return find_job(open_store(location))
    except (EmbedmillError, OSError):  # a file of somebody else's, or gone
        return None
