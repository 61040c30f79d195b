"""A row of a manifest: one thing to embed; and a pair of them: one thing to score."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from schemas.failures import FailureCode


class Modality(StrEnum):
    """What a row is made of."""

    TEXT = "text"  # a string
    IMAGE = "image"  # one picture
    AUDIO = "audio"  # one sound
    VIDEO = "video"  # one film
    MIXED = "mixed"  # several parts in one row


#: File name endings that say a row's modality when the manifest does not.
MODALITY_BY_EXTENSION: dict[str, Modality] = {
    **dict.fromkeys(("png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff"), Modality.IMAGE),
    **dict.fromkeys(("wav", "flac", "mp3", "ogg", "opus", "m4a"), Modality.AUDIO),
    **dict.fromkeys(("mp4", "webm", "mkv", "mov", "avi"), Modality.VIDEO),
}


def modality_of_uri(uri: str) -> Modality | None:
    """The modality that the ending of `uri` tells, or None."""
    _, dot, extension = uri.rpartition(".")
    return MODALITY_BY_EXTENSION.get(extension.lower()) if dot else None


#: The one order of a mixed row's parts, however its manifest writes them.
PART_ORDER = (Modality.IMAGE, Modality.VIDEO, Modality.AUDIO, Modality.TEXT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a mixed row: a text, or a medium by its uri."""

    modality: Modality  # never MIXED
    text: str | None = None
    uri: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestRow:
    """One row, parsed once; `text` is set for texts, `uri` for media and `parts` for what is mixed."""

    id: str
    line: int  # 1-based line (JSONL, CSV, TSV), row (Parquet) or place in order (folder, tars) in the manifest
    modality: Modality
    text: str | None = None
    uri: str | None = None  # as written: relative to the manifest, absolute, or s3://
    defect: FailureCode | None = None  # why no vector can exist, when parsing already told
    kept: tuple[object, ...] = ()  # values of the kept columns, in the spec's order
    parts: tuple[Part, ...] = ()  # of a mixed row without defect, in PART_ORDER, one of a modality at most

    @property
    def media(self) -> frozenset[Modality]:
        """The modalities of what it is made of, texts left out."""
        made_of = {part.modality for part in self.parts} or {self.modality}
        return frozenset(made_of - {Modality.TEXT, Modality.MIXED})


#: Stands between the ids of a pair in its own; no id holds a control character.
PAIR_MARK = "\t"


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRow:
    """One pair to score; each side is a row of its manifest, one with a defect where the manifest has none."""

    line: int  # of the pair
    query: ManifestRow
    item: ManifestRow
    kept: tuple[object, ...] = ()  # values of the pairs' kept columns, in the spec's order

    @property
    def id(self) -> str:
        """Both ids; sorted by it, pairs are sorted by query, then item."""
        return f"{self.query.id}{PAIR_MARK}{self.item.id}"


def modality_of_pairs(pairs: Iterable[PairRow]) -> Modality:
    """What a worker must decode for them: texts, media of one modality beside texts, or several (MIXED)."""
    media = frozenset[Modality]().union(*(side.media for pair in pairs for side in (pair.query, pair.item)))
    if not media:
        return Modality.TEXT
    return next(iter(media)) if len(media) == 1 else Modality.MIXED
