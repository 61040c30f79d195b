"""Parsing: one raw record becomes a ManifestRow, or a Reject that says why it is none."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import orjson

from producer.blocks import Block
from producer.contents import CONTENT_COLUMNS, Refusal, WrittenPart, content_of
from producer.manifest import Manifest
from producer.records import UNSAFE, Record
from schemas.errors import ManifestError, Refused
from schemas.failures import FailureCode, Reject, RejectCode, one_line
from schemas.job import KEEP_TYPES, KeptColumn
from schemas.rows import PART_ORDER, ManifestRow, Modality, Part
from schemas.text_run import TextRun

#: Characters of a text; a longer one is a failure.
MAX_CHARS = 1_000_000
#: UTF-8 bytes of an id.
MAX_ID_BYTES = 512

#: What may stand beside a text without making the row anything else.
_PLAIN_BESIDE_TEXT: dict[str, tuple[str, ...]] = {"modality": ("", "text"), "uri": ("",), "parts": ("",)}
#: A block with more than one odd row in so many is parsed row by row.
_MOST_ODD = 8

_RESERVED = ("id", "embedding", "modality")  # columns of the output that are embedmill's own
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|nan|[+-]?inf(inity)?", re.IGNORECASE)
_BOOLS = {"true": True, "false": False, "1": True, "0": False}


def kept_columns(names: Iterable[str], manifest: Manifest) -> tuple[KeptColumn, ...]:
    """The columns that `--keep` names, as `name` or `name:type`; a Parquet column has its own type by default.

    Raises Refused for an unknown type, a name used twice or one of ours, ManifestError for a column that is not there.
    """
    keep = tuple(_kept_column(name, manifest) for name in names)
    found = [column.name for column in keep]
    for name in found:
        if name in _RESERVED:
            raise Refused(f"--keep {name}: the output has a column of that name already; rename it in the manifest")
        if found.count(name) > 1:
            raise Refused(f"--keep {name} is given twice; give it once")
    require_columns(manifest, found, "--keep")
    return keep


def _kept_column(text: str, manifest: Manifest) -> KeptColumn:
    name, colon, kind = text.rpartition(":")
    if not colon:
        return KeptColumn(name=text, type=manifest.natural_type(text))
    if kind not in KEEP_TYPES or not name:
        raise Refused(f"--keep {text}: {kind or '(nothing)'} is no type; give name, or name:{'|'.join(KEEP_TYPES)}")
    return KeptColumn(name=name, type=kind)


def require_columns(manifest: Manifest, names: Iterable[str], option: str) -> None:
    """Raise ManifestError unless the manifest's header, if it has one, names all of `names`."""
    for name in names:
        if manifest.columns is not None and name not in manifest.columns:
            there = one_line(", ".join(manifest.columns))
            hint = one_for_each(name, option) or f"name another with {option}"
            raise ManifestError(f"{manifest.name} has no column {name}; it has {there}; {hint}")


def one_for_each(name: str, option: str) -> str:
    """What to say to `--keep a,b`, which looks like several columns in one word; "" for what does not."""
    names = [part for part in name.split(",") if part]
    if len(names) < 2:
        return ""
    return f"{option} is given once for each column: {' '.join(f'{option} {part}' for part in names)}"


class RowParser:
    """Parses the records of one manifest for one model."""

    def __init__(
        self,
        *,
        id_column: str = "id",
        keep: Iterable[KeptColumn] = (),
        modalities: Collection[Modality] = (),  # rows of others are skipped; empty: none are
        supported: Collection[Modality] = tuple(Modality),  # what the model has an input for
        max_chars: int = MAX_CHARS,
    ) -> None:
        self._id_column, self._max_chars = id_column, max_chars
        self._keep = tuple((column, _CONVERTERS[column.type]) for column in keep)
        self._taken = frozenset(modalities) or frozenset(Modality)
        self._supported = frozenset(supported)

    @property
    def columns(self) -> frozenset[str]:
        """The manifest's columns that parsing looks at."""
        return CONTENT_COLUMNS.union([self._id_column], (column.name for column, _ in self._keep))

    def parse(self, line: int, record: Record) -> ManifestRow | Reject | None:
        """The row, or why the record is none; None where its modality is not asked for."""
        try:
            id_ = parsed_id(record.get(self._id_column), self._id_column)
        except Refusal as refusal:
            return refusal.reject(line, None)
        text = uri = None
        parts: tuple[Part, ...] = ()
        try:
            modality, content = content_of(record)
            if modality not in self._taken:
                return None
            if modality is Modality.TEXT:
                text, defect = self._text(content)
            elif modality is Modality.MIXED:
                parts, defect = self._parts(content)
            else:
                uri, defect = _uri(content)
            if modality not in self._supported:
                defect = FailureCode.MODALITY_UNSUPPORTED
            kept = self._kept(record) if self._keep else ()
        except Refusal as refusal:
            return refusal.reject(line, id_)
        return ManifestRow(
            id=id_, line=line, modality=modality, text=text, uri=uri, parts=parts, defect=defect, kept=kept
        )

    def parse_block(self, block: Block) -> Iterator[TextRun | ManifestRow | Reject | None]:
        """What `parse` makes of the block's records, in their order; plain texts come in runs."""
        run, odd = self._plain(block)
        if run is None:
            yield from map(self.parse, block.lines, map(block.record, range(len(block))))
            return
        begin = 0
        for at in odd:
            if at > begin:
                yield run[begin:at]
            yield self.parse(block.lines[at], block.record(at))
            begin = at + 1
        if begin < len(block):
            yield run[begin:]

    def _plain(self, block: Block) -> tuple[TextRun | None, list[int]]:
        """The block as one run, where nearly all of it is plain texts, and the places of the rows that are not."""
        ids, texts = block.columns.get(self._id_column), block.columns.get("text")
        if ids is None or texts is None or Modality.TEXT not in self._taken & self._supported:
            return None, []
        if set(map(type, ids)) == {int}:
            ids = list(map(str, ids))
        odd = self._odd(block, ids, texts)
        kept = None if len(odd) * _MOST_ODD > len(block) else self._kept_columns(block, odd)
        if kept is None:
            return None, []
        return TextRun(list(ids), block.lines, list(texts), kept), sorted(odd)

    def _odd(self, block: Block, ids: Sequence[object], texts: Sequence[object]) -> set[int]:
        """The places of the rows that are more, or less, than an id and a text: looked for only where there are any."""
        odd = set[int]()
        if not _are_ids(ids):
            odd.update(at for at, value in enumerate(ids) if not _is_plain_id(value))
        if not self._are_texts(texts):
            odd.update(at for at, value in enumerate(texts) if not self._is_plain_text(value))
        for name, plain in _PLAIN_BESIDE_TEXT.items():
            values = block.columns.get(name)
            if values is not None and set(map(type, values)) != {type(None)}:
                odd.update(at for at, value in enumerate(values) if not (value is None or value in plain))
        return odd

    def _are_texts(self, values: Sequence[object]) -> bool:
        """Whether each is a text without a defect."""
        if set(map(type, values)) != {str}:
            return False
        texts: list[str] = values  # type: ignore[assignment]  # the line above says so
        whole, sizes = "".join(texts), list(map(len, texts))
        is_sound = "\0" not in whole and (whole.isascii() or _is_unicode(whole))
        return is_sound and min(sizes) > 0 and max(sizes) <= self._max_chars and not any(map(str.isspace, texts))

    def _is_plain_text(self, value: object) -> bool:
        return type(value) is str and self._text(value) == (value, None)

    def _kept_columns(self, block: Block, odd: Collection[int]) -> tuple[list[object], ...] | None:
        """The kept columns, without the values of `odd` rows; None where another value is not of its type."""
        columns = []
        for column, convert in self._keep:
            values: Sequence[object] = block.columns.get(column.name) or [None] * len(block)
            if odd:
                values = [None if at in odd else value for at, value in enumerate(values)]
            try:
                columns.append([_converted(value, column, convert) for value in values])
            except Refusal:
                return None
        return tuple(columns)

    def _parts(self, written: list[WrittenPart]) -> tuple[tuple[Part, ...], FailureCode | None]:
        """The parts in their order, none where one has a defect, and what is wrong with the row."""
        parts, defects = [], []
        for written_part in sorted(written, key=lambda part: PART_ORDER.index(part.modality)):
            part, defect = self._part(written_part)
            parts.append(part)
            defects += [] if defect is None else [defect]
        if defects:
            return (), defects[0]
        supported = self._supported.issuperset(part.modality for part in parts)
        return tuple(parts), None if supported else FailureCode.MODALITY_UNSUPPORTED

    def _part(self, written: WrittenPart) -> tuple[Part, FailureCode | None]:
        try:
            if written.modality is Modality.TEXT:
                text, defect = self._text(written.content)
                return Part(modality=written.modality, text=text), defect
            uri, defect = _uri(written.content)
            return Part(modality=written.modality, uri=uri), defect
        except Refusal as refusal:
            raise Refusal(refusal.code, f"{written.label}: {refusal.message}") from refusal

    def _text(self, text: object) -> tuple[str | None, FailureCode | None]:
        if text is None:
            return None, FailureCode.TEXT_EMPTY
        if not isinstance(text, str):
            raise Refusal(RejectCode.BAD_VALUE, f"text is a {type(text).__name__}; write it as a string")
        if len(text) > self._max_chars:
            return None, FailureCode.TEXT_TOO_LONG
        if not text.isascii() and not _is_unicode(text):
            return None, FailureCode.TEXT_SURROGATE
        if "\0" in text:
            return text, FailureCode.TEXT_NUL
        return text, FailureCode.TEXT_EMPTY if not text or text.isspace() else None

    def _kept(self, record: Record) -> tuple[object, ...]:
        return tuple([_converted(record.get(column.name), column, convert) for column, convert in self._keep])


def _are_ids(values: Sequence[object]) -> bool:
    """Whether each can be an id as it is."""
    if set(map(type, values)) != {str}:
        return False
    ids: list[str] = values  # type: ignore[assignment]  # the line above says so
    whole, sizes = "".join(ids), list(map(len, ids))
    if whole.isascii():
        return whole.isprintable() and min(sizes) > 0 and max(sizes) <= MAX_ID_BYTES
    return UNSAFE.search(whole) is None and min(sizes) > 0 and max(sizes) * 4 <= MAX_ID_BYTES


def _is_plain_id(value: object) -> bool:
    return type(value) is str and 0 < len(value) <= MAX_ID_BYTES // 4 and UNSAFE.search(value) is None


def parsed_id(value: object, column: str) -> str:
    """The id that a record has in `column`; raises Refusal for what can be none."""
    if type(value) is str and 0 < len(value) <= MAX_ID_BYTES and value.isascii() and value.isprintable():
        return value  # nearly all are such
    if type(value) is int:
        value = str(value)
    if value is None or value == "":
        raise Refusal(RejectCode.MISSING_ID, f"{column} is missing; every row needs one")
    if not isinstance(value, str):
        raise Refusal(RejectCode.BAD_ID, f"{column} is a {type(value).__name__}; write it as a string or an integer")
    if UNSAFE.search(value):
        raise Refusal(RejectCode.BAD_ID, f"{column} holds control characters or lone surrogates")
    if len(value.encode()) > MAX_ID_BYTES:
        raise Refusal(RejectCode.BAD_ID, f"{column} is over {MAX_ID_BYTES} bytes long")
    return value


def kept_values(record: Record, keep: Iterable[KeptColumn]) -> tuple[object, ...]:
    """The values of the kept columns; raises Refusal for one that is not of its type."""
    return tuple([_converted(record.get(column.name), column, _CONVERTERS[column.type]) for column in keep])


def _uri(uri: object) -> tuple[str | None, FailureCode | None]:
    if uri is None or uri == "":
        return None, FailureCode.URI_EMPTY
    if not isinstance(uri, str):
        raise Refusal(RejectCode.BAD_VALUE, f"uri is a {type(uri).__name__}; write it as a string")
    if UNSAFE.search(uri):
        return None, FailureCode.URI_INVALID
    return uri, FailureCode.URI_EMPTY if uri.isspace() else None


def _is_unicode(text: str) -> bool:
    """Whether UTF-8, and so Parquet, can hold `text`: it has no lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _converted(value: object, column: KeptColumn, convert: Callable[[Any], object]) -> object:
    if value is None or (value == "" and column.type != "string"):  # an empty CSV cell
        return None
    try:
        return convert(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as err:
        message = f"{column.name} is no {column.type}; correct it, or keep it as another type"
        raise Refusal(RejectCode.BAD_VALUE, message) from err


def _to_string(value: object) -> str:
    """Strings as they are, anything else as compact JSON."""
    if not isinstance(value, str):
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        return str(value) if numeric else orjson.dumps(value).decode()  # JSON has no NaN and no large integers
    if not value.isascii() and not _is_unicode(value):
        raise ValueError("a lone surrogate")
    return value


def _to_int64(value: object) -> int:
    if isinstance(value, str):
        value = int(value) if _INTEGER.fullmatch(value) else _to_float64(value)
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        value = int(value)  # what data frames make of integers beside missing values
    if type(value) is not int or not -(2**63) <= value < 2**63:
        raise ValueError("no int64")
    return value


def _to_float64(value: object) -> float:
    if isinstance(value, str) and not _FLOAT.fullmatch(value):
        raise ValueError("no float64")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError("no float64")
    return float(value)


def _to_bool(value: object) -> bool:
    found = _BOOLS.get(str(value).lower()) if isinstance(value, str | int) else None
    if found is None:
        raise ValueError("no bool")
    return found


_CONVERTERS: dict[str, Callable[[Any], object]] = {
    "string": _to_string,
    "int64": _to_int64,
    "float64": _to_float64,
    "bool": _to_bool,
}
