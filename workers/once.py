"""Once: rows of a shard whose vectors another row brings, or an earlier job has, are not embedded again."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from schemas.failures import Failure
from schemas.rows import ManifestRow
from schemas.settings import Settings
from storage.reuse import EarlierVectors
from workers.embedding import Embedded, Origin, TrailOf, as_equal, embed_rows, no_trail

if TYPE_CHECKING:
    from workers.runtime import OpenJob

Outcome = Embedded | Failure


def embed_once(
    job: "OpenJob",
    rows: list[ManifestRow],
    settings: Settings,
    should_stop: Callable[[], bool],
    trail_of: TrailOf = no_trail,
) -> list[Outcome]:
    """The outcome of each row, in order, each content embedded once, and none that an earlier job has.

    What an earlier job turns out not to have after all is embedded. Raises Cancelled like `embed_rows`.
    """
    known = _Known(job.earlier())
    outcomes = list(embed_rows(job, rows, settings, should_stop, trail_of, known.is_known))
    known.settle(rows, outcomes)
    left = [at for at, outcome in enumerate(outcomes) if isinstance(outcome, Embedded) and outcome.is_elsewhere]
    if left:
        some, again = [rows[at] for at in left], _Known(None)
        found = list(
            embed_rows(
                job, some, settings, should_stop, lambda owners: trail_of([left[at] for at in owners]), again.is_known
            )
        )
        again.settle(some, found)
        for at, outcome in zip(left, found, strict=True):
            outcomes[at] = outcome
    return outcomes


class _Known:
    """The contents of a shard that are known before they are decoded, from its other rows or an earlier job."""

    def __init__(self, earlier: EarlierVectors | None) -> None:
        self._earlier = earlier
        self._ids: dict[bytes, str] = {}  # the row that brings the vectors of a content
        self._lock = threading.Lock()

    def is_known(self, id_: str, content: bytes) -> bool:
        """Whether the vectors of `content` come from elsewhere; else it is the row `id_` that brings them."""
        if self._earlier is not None and content in self._earlier:
            return True
        with self._lock:
            return self._ids.setdefault(content, id_) != id_

    def settle(self, rows: list[ManifestRow], outcomes: list[Outcome]) -> None:
        """Give rows whose vectors are elsewhere what is found there."""
        elsewhere = {at: o.content for at, o in enumerate(outcomes) if isinstance(o, Embedded) and o.is_elsewhere}
        if not elsewhere:
            return
        earlier = self._earlier.vectors(set(elsewhere.values())) if self._earlier is not None else {}
        at_of = {row.id: at for at, row in enumerate(rows)}
        for at, content in elsewhere.items():
            if content in earlier:
                outcomes[at] = Embedded(*earlier[content], content, Origin.REUSED)
            elif content in self._ids:
                outcomes[at] = as_equal(outcomes[at_of[self._ids[content]]])
