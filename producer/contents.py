"""Content: which modality a record is of, and the parts that the content of a mixed one is written in."""

from dataclasses import dataclass
from typing import Any

import orjson

from producer.records import Record
from schemas.failures import Reject, RejectCode, one_line
from schemas.rows import MODALITY_BY_EXTENSION, Modality, modality_of_uri

#: The columns that content is read from.
CONTENT_COLUMNS = frozenset({"modality", "text", "uri", "uri_modality", "parts"})

_MOST_PARTS = 8
_MODALITIES = {str(modality): modality for modality in Modality}


class Refusal(Exception):  # never leaves producer/parsing.py: RowParser.parse makes it a Reject
    """A record is no row."""

    def __init__(self, code: RejectCode, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message

    def reject(self, line: int, id_: str | None) -> Reject:
        return Reject(line=line, id=id_, code=self.code, message=one_line(self.message))


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenPart:
    """One part as the manifest has it; `content` is of any type still."""

    label: str  # what messages call it
    modality: Modality  # never MIXED
    content: object  # the text of a text, the uri of a medium


def content_of(record: Record) -> tuple[Modality, Any]:  # Any: whatever the record holds; of MIXED, WrittenParts
    """The modality that a record says or implies, and its text, its uri, or the parts of a mixed one.

    A mixed record with a single part is what that part is. Raises Refusal where the modality cannot be told.
    """
    said = record.get("modality")
    modality = _implied_modality(record) if said is None or said == "" else _said_modality(said, "modality")
    if modality is Modality.TEXT:
        return modality, record.get("text")
    if modality is not Modality.MIXED:
        return modality, record.get("uri")
    parts = _written_parts(record)
    return (modality, parts) if len(parts) > 1 else (parts[0].modality, parts[0].content)


def _written_parts(record: Record) -> list[WrittenPart]:
    """The parts of a mixed record, in the manifest's order: those of its column `parts`, or its text and its uri."""
    items = _items(record.get("parts"))
    if not items:
        parts = [_text_beside_uri(record), _uri_beside_text(record)]
    elif _filled(record.get("text")) or _filled(record.get("uri")):
        raise Refusal(RejectCode.BAD_VALUE, "parts is filled, and so is text or uri; write all of it into parts")
    elif len(items) > _MOST_PARTS:
        raise Refusal(RejectCode.BAD_VALUE, f"parts has {len(items)} parts; it may have 1 to {_MOST_PARTS}")
    else:
        parts = [_part(item, f"part {number}") for number, item in enumerate(items, start=1)]
    _require_different(parts)
    return parts


def _said_modality(said: object, column: str) -> Modality:
    modality = _MODALITIES.get(said) if isinstance(said, str) else None
    if modality is None:
        accepted = ", ".join(_MODALITIES)
        raise Refusal(RejectCode.UNKNOWN_MODALITY, f"{column} is {_shown(said)}; it may be {accepted}")
    return modality


def _shown(value: object) -> str:
    """A value within a message, cut so that the rest of the message is kept."""
    text = value if isinstance(value, str) else type(value).__name__
    return repr(text if len(text) <= 80 else text[:79] + "…")


def _implied_modality(record: Record) -> Modality:
    """The modality of a row that does not name it; an empty cell beside one that is filled counts as absent."""
    get = record.get
    text, uri, parts = get("text"), get("uri"), get("parts")
    if parts is not None and _items(parts):
        return Modality.MIXED
    if uri is None and text is not None:
        return Modality.TEXT
    if uri is None or uri == "":
        if text is None or text == "":
            raise Refusal(RejectCode.NO_CONTENT, "neither text nor uri nor parts; every row needs one")
        return Modality.TEXT
    if text is not None and text != "":
        return Modality.MIXED
    return _uri_modality(uri, record.get("uri_modality"), "uri_modality")


def _uri_modality(uri: object, said: object, column: str) -> Modality:
    """The modality of a medium: said in `column`, else told by its ending."""
    if said is not None and said != "":
        modality = _said_modality(said, column)
        if modality is Modality.TEXT or modality is Modality.MIXED:
            raise Refusal(
                RejectCode.UNKNOWN_MODALITY, f"{column} is {modality}; that of a uri is image, audio or video"
            )
        return modality
    modality_told = modality_of_uri(uri) if isinstance(uri, str) else None
    if modality_told is None:
        endings = ", ".join(MODALITY_BY_EXTENSION)
        raise Refusal(
            RejectCode.UNKNOWN_MODALITY,
            f"the ending of the uri does not tell the modality; add a column modality, or use {endings}",
        )
    return modality_told


def _items(parts: object) -> list[object]:
    """What the column `parts` lists; nothing where it is empty."""
    if isinstance(parts, str) and parts:
        try:
            parts = orjson.loads(parts)
        except orjson.JSONDecodeError as err:
            raise Refusal(RejectCode.BAD_VALUE, f"parts is not JSON: {err.msg}, column {err.colno}") from err
    if parts is None or parts == "":
        return []
    if not isinstance(parts, list):
        message = f'parts is a {type(parts).__name__}; write a list such as [{{"text": ...}}, {{"uri": ...}}]'
        raise Refusal(RejectCode.BAD_VALUE, message)
    return parts


def _text_beside_uri(record: Record) -> WrittenPart:
    return WrittenPart(label="text", modality=Modality.TEXT, content=record.get("text"))


def _uri_beside_text(record: Record) -> WrittenPart:
    uri = record.get("uri")
    if not _filled(uri):  # of no modality that matters: the row is a defect
        return WrittenPart(label="uri", modality=Modality.IMAGE, content=None)
    modality = _uri_modality(uri, record.get("uri_modality"), "uri_modality")
    return WrittenPart(label="uri", modality=modality, content=uri)


def _part(item: object, label: str) -> WrittenPart:
    """One entry of the column `parts`; a key that is there and empty is content where no other is."""
    if not isinstance(item, dict):
        message = f'{label} is a {type(item).__name__}; write {{"text": ...}} or {{"uri": ...}}'
        raise Refusal(RejectCode.BAD_VALUE, message)
    text, uri, said = item.get("text"), item.get("uri"), item.get("modality")
    try:
        return _text_or_uri(text, uri, said, label)
    except Refusal as refusal:
        raise Refusal(refusal.code, f"{label}: {refusal.message}") from refusal


def _text_or_uri(text: object, uri: object, said: object, label: str) -> WrittenPart:
    if _filled(text) and _filled(uri):
        raise Refusal(RejectCode.BAD_VALUE, "both text and uri; make two parts of it")
    modality = _said_modality(said, "modality") if _filled(said) else None
    if _filled(uri) or (uri == "" and modality not in (None, Modality.TEXT)):
        return WrittenPart(label=label, modality=_uri_modality(uri, said, "modality"), content=uri)
    if text is None:
        raise Refusal(RejectCode.NO_CONTENT, "neither text nor uri; every part needs one")
    if modality not in (None, Modality.TEXT):
        raise Refusal(RejectCode.UNKNOWN_MODALITY, f"modality is {modality}, and its content is a text")
    return WrittenPart(label=label, modality=Modality.TEXT, content=text)


def _filled(value: object) -> bool:
    return value is not None and value != ""


def _require_different(parts: list[WrittenPart]) -> None:
    seen: dict[Modality, str] = {}
    for part in parts:
        first = seen.setdefault(part.modality, part.label)
        if first != part.label:
            message = f"{part.label} and {first} are both {part.modality}; a row has one part of each modality"
            raise Refusal(RejectCode.BAD_VALUE, message)
