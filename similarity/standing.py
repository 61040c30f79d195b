"""Standing: how far a join or a dedup is, from its files alone."""

import json
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from typing import Any

from schemas.counted import counted
from schemas.dedup import DedupRecord
from schemas.join import JoinRecord, PanelFooter
from schemas.redaction import redact
from schemas.shard import FOOTER_KEY
from storage import layout
from storage.answers import answer_in
from storage.parquet import open_parquet
from storage.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What `embedmill status` says of a join or a dedup."""

    id: str
    kind: str  # join | dedup
    location: str
    finished: bool
    panels: int | None  # None: a dedup that does not know yet how many distinct vectors there are
    panels_done: int
    prepared: int  # objects of what must be known before the panels
    pairs: int  # in the panels that are done

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """The same for people."""
        of = "" if self.panels is None else f" of {self.panels:,}"
        before = f", {counted(self.prepared, 'object')} of what comes before them" if self.prepared else ""
        return [
            f"{self.id}: {'finished' if self.finished else 'unfinished; the command that began it goes on with it'}",
            f"  panels    {self.panels_done:,}{of} done{before}",
            f"  pairs     {self.pairs:,}" + ("" if self.finished else " so far"),
            f"  output    {self.location}",
        ]


def standing(store: Store, known: dict[str, int] | None = None) -> Standing:
    """Look into the folder of a join or a dedup; raises SpecMismatch for a record that is none.

    `known` is filled with the pairs of each panel, by key: who looks again with it reads the new ones alone.
    """
    known = {} if known is None else known
    return _of_join(store, known) if answer_in(store) == "join" else _of_dedup(store, known)


def _of_join(store: Store, known: dict[str, int]) -> Standing:
    record = JoinRecord.from_json(store.get(layout.JOIN))
    keys = [item.key for item in store.walk(layout.DATA) if layout.panel_of(item.key) is not None]
    return Standing(
        id=record.id,
        kind="join",
        location=f"{redact(store.url)}/{layout.DATA}",
        finished=store.size(layout.manifest_key(0)) is not None,
        panels=record.spec.panels,
        panels_done=len(keys),
        prepared=sum(1 for _ in store.walk(layout.STAGE)),
        pairs=_pairs(keys, known, lambda key: PanelFooter.from_json(_footer(store, key)).pairs),
    )


def _of_dedup(store: Store, known: dict[str, int]) -> Standing:
    record = DedupRecord.from_json(store.get(layout.DEDUP))
    keys = [item.key for item in store.walk(layout.STAGE)]
    near = [key for key in keys if key.startswith(f"{layout.STAGE}/{layout.NEAR}-")]
    finished = all(store.size(key) is not None for key in (layout.CLUSTERS, layout.KEEP))
    return Standing(
        id=record.id,
        kind="dedup",
        location=redact(store.url),
        finished=finished,
        panels=len(near) if finished else None,
        panels_done=len(near),
        prepared=len(keys) - len(near),
        pairs=_pairs(near, known, lambda key: int(json.loads(_footer(store, key))["pairs"])),
    )


def _pairs(keys: Collection[str], known: dict[str, int], read: Callable[[str], int]) -> int:
    """The pairs of these panels; what was published never changes."""
    known |= {key: read(key) for key in keys if key not in known}
    return sum(known[key] for key in keys)


def _footer(store: Store, key: str) -> bytes:
    with open_parquet(store, key) as file:
        return bytes((file.schema_arrow.metadata or {})[FOOTER_KEY])
