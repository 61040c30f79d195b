"""Parsing records: what becomes a row, what a row with a defect, and what is rejected, with its reason."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producer.manifest import Manifest, open_manifest
from producer.parsing import RowParser, kept_columns, require_columns
from schemas.errors import ManifestError, Refused
from schemas.failures import MESSAGE_LIMIT, FailureCode, Reject, RejectCode
from schemas.job import KeptColumn
from schemas.rows import ManifestRow, Modality, Part

PARSER = RowParser(supported=(Modality.TEXT, Modality.IMAGE), max_chars=100)


def row(record: dict[str, Any], parser: RowParser = PARSER) -> ManifestRow:
    found = parser.parse(7, record)
    assert isinstance(found, ManifestRow), found
    return found


def reject(record: dict[str, Any], parser: RowParser = PARSER) -> Reject:
    found = parser.parse(7, record)
    assert isinstance(found, Reject), found
    assert found.line == 7
    return found


def kept(value: object, kind: str) -> object:
    parser = RowParser(keep=[KeptColumn(name="k", type=kind)])
    return row({"id": 1, "text": "x", "k": value}, parser).kept[0]


def written(folder: Path, name: str, data: bytes) -> Manifest:
    (folder / name).write_bytes(data)
    return open_manifest(str(folder / name))


# --- ids ---


@pytest.mark.parametrize(
    ("value", "id_"),
    [
        ("a", "a"),
        (12, "12"),
        ("12", "12"),
        (-3, "-3"),
        (2**63, "9223372036854775808"),
        ("é 你", "é 你"),
        ("x" * 512, "x" * 512),
    ],
)
def test_ids_are_text_or_integers(value: object, id_: str) -> None:
    """An integer is written in decimal, so that every format gives the same id."""
    assert row({"id": value, "text": "x"}).id == id_


@pytest.mark.parametrize("record", [{}, {"id": None}, {"id": ""}])
def test_a_row_needs_an_id(record: dict[str, Any]) -> None:
    """A row without id is rejected, and the message names the column."""
    found = reject({"text": "x"} | record, RowParser())

    assert found.code is RejectCode.MISSING_ID
    assert found.message.startswith("id is missing")


@pytest.mark.parametrize(
    "value", [1.0, True, [1], {"a": 1}, b"x", "x" * 513, "é" * 257, "a\nb", "a\0", "a\x7f", "a\x85", "\ud800", math.nan]
)
def test_other_ids_are_rejected(value: object) -> None:
    """Floats, truth values, control characters, lone surrogates and long ids."""
    found = reject({"id": value, "text": "x"})

    assert found.code is RejectCode.BAD_ID
    assert found.id is None


def test_the_id_column_may_have_another_name() -> None:
    """`--id-column` names it."""
    assert row({"id": "no", "key": "yes", "text": "x"}, RowParser(id_column="key")).id == "yes"


# --- modalities ---


@pytest.mark.parametrize(
    ("record", "modality", "text", "uri"),
    [
        ({"text": "x"}, "text", "x", None),
        ({"text": "x", "uri": None}, "text", "x", None),
        ({"text": "x", "uri": ""}, "text", "x", None),
        ({"uri": "a.PNG"}, "image", None, "a.PNG"),
        ({"uri": "a.jpeg", "text": ""}, "image", None, "a.jpeg"),
        ({"uri": "s3://b/a.webp", "modality": ""}, "image", None, "s3://b/a.webp"),
        ({"uri": "a.wav", "modality": None}, "audio", None, "a.wav"),
        ({"uri": "a", "modality": "image"}, "image", None, "a"),
        ({"uri": "a", "uri_modality": "video"}, "video", None, "a"),
        ({"uri": "a.wav", "uri_modality": "video", "parts": ""}, "video", None, "a.wav"),
        ({"uri": "a.png", "text": "x", "parts": []}, "mixed", None, None),
        ({"uri": "a.png", "text": "x"}, "mixed", None, None),
        ({"uri": "a.png", "text": "x", "modality": "mixed"}, "mixed", None, None),
        ({"uri": "a.png", "text": "x", "modality": "text"}, "text", "x", None),
        ({"uri": "a.png", "text": "x", "modality": "image"}, "image", None, "a.png"),
        ({"uri": "a.png", "text": 5, "modality": "image"}, "image", None, "a.png"),
    ],
)
def test_the_modality_is_said_or_plain_from_the_row(
    record: dict[str, Any], modality: str, text: str | None, uri: str | None
) -> None:
    """Texts keep their text and media their uri; an empty cell beside a filled one counts as absent."""
    found = row({"id": 1} | record)

    assert (found.modality, found.text, found.uri) == (modality, text, uri)


@pytest.mark.parametrize(
    ("record", "code", "words"),
    [
        ({"modality": "picture", "uri": "a.png"}, RejectCode.UNKNOWN_MODALITY, ["'picture'", "text, image"]),
        ({"modality": 3, "uri": "a.png"}, RejectCode.UNKNOWN_MODALITY, ["text, image"]),
        ({"uri": "a.bin"}, RejectCode.UNKNOWN_MODALITY, ["column modality"]),
        ({"uri": "png"}, RejectCode.UNKNOWN_MODALITY, ["column modality"]),
        ({"uri": 5}, RejectCode.UNKNOWN_MODALITY, ["column modality"]),
        ({}, RejectCode.NO_CONTENT, ["neither"]),
        ({"text": None, "uri": None}, RejectCode.NO_CONTENT, ["neither"]),
        ({"text": "", "uri": ""}, RejectCode.NO_CONTENT, ["neither"]),
        ({"text": 5}, RejectCode.BAD_VALUE, ["text is a int"]),
        ({"text": ["x"]}, RejectCode.BAD_VALUE, ["text is a list"]),
        ({"modality": "image", "uri": 5}, RejectCode.BAD_VALUE, ["uri is a int"]),
    ],
)
def test_what_is_no_row_is_rejected(record: dict[str, Any], code: RejectCode, words: list[str]) -> None:
    """The message says what was found and what is accepted, and the id is kept."""
    found = reject({"id": "r1"} | record)

    assert (found.code, found.id) == (code, "r1")
    assert all(word in found.message for word in words)


def test_a_hostile_modality_stays_one_short_line() -> None:
    """Messages are safe to print and to store, whatever the row says."""
    found = reject({"id": 1, "text": "x", "modality": "\x1b[31m\n\ud800" + "x" * 10_000})

    assert found.message.isprintable()
    assert len(found.message) <= MESSAGE_LIMIT
    assert "text, image" in found.message


def test_other_modalities_than_asked_for_are_skipped() -> None:
    """They are neither rows nor rejects, even where their content is bad."""
    parser = RowParser(modalities=(Modality.IMAGE,))

    assert parser.parse(1, {"id": 1, "text": 5}) is None
    assert row({"id": 2, "uri": "a.png"}, parser).modality is Modality.IMAGE


# --- defects ---


@pytest.mark.parametrize(
    ("record", "defect", "text", "uri"),
    [
        ({"text": ""}, FailureCode.TEXT_EMPTY, "", None),
        ({"text": " \t\n\u2003"}, FailureCode.TEXT_EMPTY, " \t\n\u2003", None),
        ({"modality": "text"}, FailureCode.TEXT_EMPTY, None, None),
        ({"modality": "text", "uri": "a.png"}, FailureCode.TEXT_EMPTY, None, None),
        ({"text": "a\0b"}, FailureCode.TEXT_NUL, "a\0b", None),
        ({"text": "a\ud800b"}, FailureCode.TEXT_SURROGATE, None, None),
        ({"text": "\udfff"}, FailureCode.TEXT_SURROGATE, None, None),
        ({"text": "x" * 101}, FailureCode.TEXT_TOO_LONG, None, None),
        ({"text": "x" * 100}, None, "x" * 100, None),
        ({"modality": "image"}, FailureCode.URI_EMPTY, None, None),
        ({"modality": "image", "uri": ""}, FailureCode.URI_EMPTY, None, None),
        ({"modality": "image", "uri": " "}, FailureCode.URI_EMPTY, None, " "),
        ({"uri": "a\0.png"}, FailureCode.URI_INVALID, None, None),
        ({"uri": "a\n.png"}, FailureCode.URI_INVALID, None, None),
        ({"uri": "\ud800.png"}, FailureCode.URI_INVALID, None, None),
        ({"uri": "a.wav"}, FailureCode.MODALITY_UNSUPPORTED, None, "a.wav"),
        ({"uri": "a.png", "text": "x"}, FailureCode.MODALITY_UNSUPPORTED, None, None),
        ({"uri": "a.png", "text": "\ud800"}, FailureCode.MODALITY_UNSUPPORTED, None, None),
    ],
)
def test_rows_that_can_have_no_vector_carry_their_defect(
    record: dict[str, Any], defect: FailureCode | None, text: str | None, uri: str | None
) -> None:
    """They are rows all the same; what Parquet cannot hold is left out."""
    found = row({"id": 1} | record)

    assert (found.defect, found.text, found.uri) == (defect, text, uri)


# --- mixed rows ---

IMAGE = Part(modality=Modality.IMAGE, uri="a.png")
VIDEO = Part(modality=Modality.VIDEO, uri="a.mp4")
AUDIO = Part(modality=Modality.AUDIO, uri="a.wav")
TEXT = Part(modality=Modality.TEXT, text="x")
ALL = RowParser(max_chars=100)


@pytest.mark.parametrize(
    ("record", "parts"),
    [
        ({"uri": "a.png", "text": "x"}, (IMAGE, TEXT)),
        ({"uri": "a", "uri_modality": "image", "text": "x"}, (Part(modality=Modality.IMAGE, uri="a"), TEXT)),
        ({"uri": "a.mp4", "text": "x", "modality": "mixed", "parts": None}, (VIDEO, TEXT)),
        ({"parts": [{"text": "x"}, {"uri": "a.png"}]}, (IMAGE, TEXT)),
        ({"parts": [{"text": "x"}, {"uri": "a.wav"}, {"uri": "a.mp4"}, {"uri": "a.png"}]}, (IMAGE, VIDEO, AUDIO, TEXT)),
        ({"parts": [{"uri": "a.wav"}, {"uri": "a.png"}], "text": "", "uri": None}, (IMAGE, AUDIO)),
        (
            {"parts": [{"text": "x", "uri": "", "modality": "text"}, {"uri": "a", "modality": "audio", "text": None}]},
            (Part(modality=Modality.AUDIO, uri="a"), TEXT),
        ),
        ({"parts": '[{"text": "x"}, {"uri": "a.png"}]', "modality": "mixed"}, (IMAGE, TEXT)),
        ({"parts": [{"text": "x", "weight": 2}, {"uri": "a.png", "modality": ""}], "modality": ""}, (IMAGE, TEXT)),
    ],
)
def test_several_parts_are_one_mixed_row(record: dict[str, Any], parts: tuple[Part, ...]) -> None:
    """They come from text and uri or from the column parts, and their order in the manifest changes nothing."""
    found = row({"id": 1} | record, ALL)

    assert found == ManifestRow(id="1", line=7, modality=Modality.MIXED, parts=parts)


@pytest.mark.parametrize("part", [{"text": "x"}, {"uri": "a.png"}, {"uri": "a", "modality": "video"}, {"text": " "}])
def test_a_single_part_is_a_plain_row(part: dict[str, Any]) -> None:
    """It is the row that the same columns without parts would be."""
    assert row({"id": 1, "parts": [part], "modality": "mixed"}, ALL) == row({"id": 1} | part, ALL)


def test_parts_beside_a_modality_that_is_said_are_none_of_the_row() -> None:
    """As a text beside the uri of an image is not."""
    found = row({"id": 1, "modality": "image", "uri": "b.png", "parts": [{"text": "x"}]}, ALL)

    assert (found.modality, found.uri, found.parts) == (Modality.IMAGE, "b.png", ())


@pytest.mark.parametrize(
    ("record", "code", "words"),
    [
        ({"parts": 5}, RejectCode.BAD_VALUE, ["parts is a int", "list"]),
        ({"parts": {"text": "x"}}, RejectCode.BAD_VALUE, ["parts is a dict"]),
        ({"parts": "x"}, RejectCode.BAD_VALUE, ["parts is not JSON"]),
        ({"parts": '{"text": "x"}'}, RejectCode.BAD_VALUE, ["parts is a dict"]),
        ({"parts": []}, RejectCode.NO_CONTENT, ["neither"]),
        ({"parts": "[]"}, RejectCode.NO_CONTENT, ["neither"]),
        ({"parts": [{"text": "x"}] * 9}, RejectCode.BAD_VALUE, ["9 parts", "1 to 8"]),
        ({"parts": [{"text": "x"}, "y"]}, RejectCode.BAD_VALUE, ["part 2 is a str"]),
        ({"parts": [{"text": "x"}, None]}, RejectCode.BAD_VALUE, ["part 2 is a NoneType"]),
        ({"parts": [{"uri": "a.png"}, {"uri": "b.jpg"}]}, RejectCode.BAD_VALUE, ["part 2 and part 1", "image"]),
        ({"parts": [{"text": "x"}, {"text": ""}]}, RejectCode.BAD_VALUE, ["part 2 and part 1", "text"]),
        ({"parts": [{"text": "x", "uri": "a.png"}]}, RejectCode.BAD_VALUE, ["part 1", "both"]),
        ({"parts": [{"text": 5}, {"uri": "a.png"}]}, RejectCode.BAD_VALUE, ["part 1", "text is a int"]),
        ({"parts": [{"text": "x"}, {"uri": 5, "modality": "image"}]}, RejectCode.BAD_VALUE, ["part 2", "uri is a int"]),
        ({"parts": [{"text": "x"}, {}]}, RejectCode.NO_CONTENT, ["part 2", "neither"]),
        ({"parts": [{"text": "x"}, {"uri": ""}]}, RejectCode.NO_CONTENT, ["part 2", "neither"]),
        ({"parts": [{"text": "x"}, {"image": "a.png"}]}, RejectCode.NO_CONTENT, ["part 2", "neither"]),
        ({"parts": [{"uri": "a.bin"}]}, RejectCode.UNKNOWN_MODALITY, ["part 1", "ending"]),
        ({"parts": [{"uri": "a", "modality": "film"}]}, RejectCode.UNKNOWN_MODALITY, ["part 1", "'film'"]),
        ({"parts": [{"uri": "a", "modality": ["x"]}]}, RejectCode.UNKNOWN_MODALITY, ["part 1", "'list'"]),
        ({"parts": [{"uri": "a", "modality": "mixed"}]}, RejectCode.UNKNOWN_MODALITY, ["part 1", "image, audio or"]),
        ({"parts": [{"uri": "a.png", "modality": "text"}]}, RejectCode.UNKNOWN_MODALITY, ["part 1", "image, audio or"]),
        ({"parts": [{"text": "x", "modality": "image"}]}, RejectCode.UNKNOWN_MODALITY, ["part 1", "a text"]),
        ({"parts": [{"text": "x"}], "text": "y"}, RejectCode.BAD_VALUE, ["parts is filled"]),
        ({"parts": [{"text": "x"}], "uri": "y.png"}, RejectCode.BAD_VALUE, ["parts is filled"]),
        ({"uri": "a.bin", "text": "x"}, RejectCode.UNKNOWN_MODALITY, ["ending"]),
        ({"uri": "a", "uri_modality": "text", "text": "x"}, RejectCode.UNKNOWN_MODALITY, ["uri_modality is text"]),
        ({"uri": "a", "uri_modality": "film"}, RejectCode.UNKNOWN_MODALITY, ["uri_modality is 'film'"]),
    ],
)
def test_parts_that_make_no_row_are_rejected(record: dict[str, Any], code: RejectCode, words: list[str]) -> None:
    """The message names the part by its number."""
    found = reject({"id": "r1"} | record, ALL)

    assert (found.code, found.id) == (code, "r1")
    assert all(word in found.message for word in words), found.message


@pytest.mark.parametrize(
    ("record", "defect"),
    [
        ({"uri": "a.png", "text": " "}, FailureCode.TEXT_EMPTY),
        ({"uri": "a.png", "text": "\ud800"}, FailureCode.TEXT_SURROGATE),
        ({"uri": "a\n.png", "text": "x"}, FailureCode.URI_INVALID),
        ({"modality": "mixed", "uri": "a.png"}, FailureCode.TEXT_EMPTY),
        ({"modality": "mixed", "text": "x", "uri": ""}, FailureCode.URI_EMPTY),
        ({"modality": "mixed"}, FailureCode.URI_EMPTY),
        ({"parts": [{"text": ""}, {"uri": "a.png"}]}, FailureCode.TEXT_EMPTY),
        ({"parts": [{"text": "\0"}, {"uri": "a.png"}]}, FailureCode.TEXT_NUL),
        ({"parts": [{"text": "x" * 101}, {"uri": "a.png"}]}, FailureCode.TEXT_TOO_LONG),
        ({"parts": [{"text": "x"}, {"uri": "", "modality": "audio"}]}, FailureCode.URI_EMPTY),
        ({"parts": [{"text": ""}, {"uri": " ", "modality": "audio"}]}, FailureCode.URI_EMPTY),
    ],
)
def test_a_part_without_a_vector_is_the_defect_of_its_row(record: dict[str, Any], defect: FailureCode) -> None:
    """Such a row has no parts: nothing of it can be embedded."""
    found = row({"id": 1} | record, ALL)

    assert found == ManifestRow(id="1", line=7, modality=Modality.MIXED, defect=defect)


@pytest.mark.parametrize(
    ("supported", "defect"),
    [
        ((Modality.MIXED, Modality.TEXT, Modality.IMAGE), None),
        ((Modality.TEXT, Modality.IMAGE), FailureCode.MODALITY_UNSUPPORTED),
        ((Modality.MIXED, Modality.TEXT, Modality.AUDIO), FailureCode.MODALITY_UNSUPPORTED),
    ],
)
def test_a_model_must_take_mixed_rows_and_each_part(
    supported: tuple[Modality, ...], defect: FailureCode | None
) -> None:
    """The parts of a row that it does not take are kept for the report of its failure."""
    found = row({"id": 1, "uri": "a.png", "text": "x"}, RowParser(supported=supported))

    assert (found.defect, found.parts) == (defect, (IMAGE, TEXT))


def test_mixed_rows_are_skipped_where_others_are_asked_for() -> None:
    """A single part counts as what it is."""
    parser = RowParser(modalities=(Modality.TEXT,))

    assert parser.parse(1, {"id": 1, "text": "x", "uri": "a.png"}) is None
    assert parser.parse(1, {"id": 1, "parts": [{"uri": "a.png"}]}) is None
    assert row({"id": 1, "parts": [{"text": "x"}]}, parser).text == "x"


def test_every_format_writes_the_same_parts(tmp_path: Path) -> None:
    """JSONL has lists, Parquet lists of structs, CSV JSON in a string."""
    rows: list[dict[str, Any]] = [
        {"id": "1", "text": None, "parts": [{"text": 'a "b"'}, {"uri": "a.png"}]},
        {"id": "2", "text": None, "parts": [{"uri": "x", "modality": "video"}]},
        {"id": "3", "text": "x", "parts": None},
    ]
    as_text = [row | {"parts": row["parts"] and json.dumps(row["parts"])} for row in rows]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "m.parquet")
    with (tmp_path / "m.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "text", "parts"])
        writer.writeheader()
        writer.writerows(as_text)

    found = {
        name: [
            row(record, ALL)
            for _, record in open_manifest(str(tmp_path / name)).records(ALL.columns)
            if not isinstance(record, Reject)
        ]
        for name in ("m.jsonl", "m.parquet", "m.csv")
    }

    assert found["m.jsonl"] == found["m.parquet"] == found["m.csv"]
    assert [row.modality for row in found["m.jsonl"]] == [Modality.MIXED, Modality.VIDEO, Modality.TEXT]


# --- kept columns ---


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("x", "string", "x"),
        ("", "string", ""),
        (None, "string", None),
        (12, "string", "12"),
        (2**70, "string", str(2**70)),
        (1.5, "string", "1.5"),
        (math.inf, "string", "inf"),
        (True, "string", "true"),
        ([1, "a"], "string", '[1,"a"]'),
        ({"a": {"é": None}}, "string", '{"a":{"é":null}}'),
        (12, "int64", 12),
        ("12", "int64", 12),
        ("-9223372036854775808", "int64", -(2**63)),
        (3.0, "int64", 3),
        ("3.0", "int64", 3),
        ("", "int64", None),
        (None, "int64", None),
        (1.5, "float64", 1.5),
        (2, "float64", 2.0),
        ("1e3", "float64", 1000.0),
        (".5", "float64", 0.5),
        ("inf", "float64", math.inf),
        (True, "bool", True),
        ("False", "bool", False),
        ("1", "bool", True),
        (0, "bool", False),
        ("", "bool", None),
    ],
)
def test_kept_values_take_the_columns_type(value: object, kind: str, expected: object) -> None:
    """CSV's text, JSON's and Parquet's values become the same value of the declared type."""
    found = kept(value, kind)

    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("x", "int64"),
        ("1_000", "int64"),
        ("\uff11", "int64"),
        (" 1", "int64"),
        (1.5, "int64"),
        (True, "int64"),
        (2**63, "int64"),
        ("9223372036854775808", "int64"),
        (math.nan, "int64"),
        ([1], "int64"),
        ("x", "float64"),
        ("1_0", "float64"),
        (True, "float64"),
        (10**400, "float64"),
        ({}, "float64"),
        ("yes", "bool"),
        (2, "bool"),
        (1.0, "bool"),
        ("\ud800", "string"),
        (["\ud800"], "string"),
        (b"x", "string"),
    ],
)
def test_kept_values_of_another_type_are_rejected(value: object, kind: str) -> None:
    """The message names column and type, and not the value."""
    parser = RowParser(keep=[KeptColumn(name="price", type=kind)])

    found = reject({"id": 1, "text": "x", "price": value}, parser)

    assert found.code is RejectCode.BAD_VALUE
    assert found.message.startswith(f"price is no {kind}")


def test_a_kept_column_that_a_json_row_lacks_is_null() -> None:
    """JSON rows need not have every column."""
    parser = RowParser(keep=[KeptColumn(name="a"), KeptColumn(name="b", type="int64")])

    assert row({"id": 1, "text": "x", "b": 2}, parser).kept == (None, 2)


def test_deeply_nested_kept_values_do_not_end_the_parser() -> None:
    """What cannot be written as JSON again is rejected."""
    nested: object = 1
    for _ in range(1000):
        nested = [nested]

    assert reject({"id": 1, "text": "x", "k": nested}, RowParser(keep=[KeptColumn(name="k")])).code == "bad_value"


def test_the_columns_that_parsing_needs_are_known() -> None:
    """So that no other column of a Parquet file is read."""
    parser = RowParser(id_column="key", keep=[KeptColumn(name="a")])

    assert parser.columns == {"key", "modality", "text", "uri", "uri_modality", "parts", "a"}


# --- --keep ---


def test_keep_names_columns_and_types(tmp_path: Path) -> None:
    """`name` is a string, `name:type` a type; a name may hold a colon when the type is given."""
    found = kept_columns(["a", "b:int64", "c:d:bool"], written(tmp_path, "m.jsonl", b"{}"))

    assert [str(column) for column in found] == ["a:string", "b:int64", "c:d:bool"]


def test_parquet_columns_keep_their_own_types(tmp_path: Path) -> None:
    """Integers, floats and truth values stay what they are unless another type is said."""
    table = pa.table({"i": pa.array([1], pa.int8()), "f": [1.5], "b": [True], "s": ["x"], "t": [[1]]})
    pq.write_table(table, tmp_path / "m.parquet")

    found = kept_columns(["i", "f", "b", "s", "t"], open_manifest(str(tmp_path / "m.parquet")))
    said = kept_columns(["i:string"], open_manifest(str(tmp_path / "m.parquet")))

    assert [column.type for column in found] == ["int64", "float64", "bool", "string", "string"]
    assert said[0].type == "string"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a:int"], "string|int64|float64|bool"),
        (["a:"], "string|int64|float64|bool"),
        ([":int64"], "name"),
        (["embedding"], "already"),
        (["id:int64"], "already"),
        (["modality"], "already"),
        (["a", "a:int64"], "twice"),
    ],
)
def test_keep_is_refused_where_it_cannot_be_done(tmp_path: Path, names: list[str], words: str) -> None:
    """Unknown types, our own columns and repetitions are refused with what is accepted."""
    with pytest.raises(Refused) as refusal:
        kept_columns(names, written(tmp_path, "m.jsonl", b"{}"))

    assert words in str(refusal.value)


@pytest.mark.parametrize("name", ["m.csv", "m.tsv", "m.parquet"])
def test_columns_that_the_header_lacks_are_refused(tmp_path: Path, name: str) -> None:
    """The message names the columns that are there, and the option."""
    if name == "m.parquet":
        pq.write_table(pa.table({"key": ["1"], "text": ["x"]}), tmp_path / name)
        manifest = open_manifest(str(tmp_path / name))
    else:
        manifest = written(tmp_path, name, b"key,text\n1,x\n".replace(b",", b"\t" if "tsv" in name else b","))

    with pytest.raises(ManifestError, match=r"no column label; it has key, text; .*--keep"):
        kept_columns(["label"], manifest)
    with pytest.raises(ManifestError, match=r"no column id; it has key, text; .*--id-column"):
        require_columns(manifest, ["id"], "--id-column")


# --- anything ---


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
PARTS = st.lists(
    st.dictionaries(
        st.sampled_from(["text", "uri", "modality"]),
        JSON_VALUES | st.sampled_from(["a.png", "a.wav", "x", "image", "audio", "text", "mixed"]),
    ),
    max_size=4,
)
KEEP = tuple(KeptColumn(name=kind, type=kind) for kind in ("string", "int64", "float64", "bool"))


@settings(max_examples=500, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["id", "modality", "text", "uri", "parts", "string", "int64", "float64", "bool"]),
        JSON_VALUES | PARTS,
    )
)
def test_any_record_becomes_a_row_or_a_reject_that_can_be_stored(record: dict[str, Any]) -> None:
    """Parsing never raises, and what it gives fits into Parquet."""
    found = RowParser(keep=KEEP, max_chars=50).parse(1, record)

    if isinstance(found, ManifestRow):
        assert 0 < len(found.id.encode()) <= 512
        for text in (found.text, found.uri, found.kept[0], *(part.text or part.uri for part in found.parts)):
            assert text is None or str(text).encode() is not None
        assert bool(found.parts) == (found.modality is Modality.MIXED and found.defect is None)
    else:
        assert isinstance(found, Reject)
        assert found.message.isprintable()


@settings(max_examples=300, deadline=None)
@given(
    data=st.binary(max_size=200)
    | st.lists(
        st.sampled_from([b'{"id":', b'"1"', b',"text":', b'"x"', b"}", b"\n", b"\\ud800", b'"', b",", b"\xff"])
    ).map(b"".join),
    name=st.sampled_from(["any.jsonl", "any.csv", "any.tsv", "any.parquet"]),
)
def test_any_bytes_are_rows_rejects_or_a_manifest_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, name: str
) -> None:
    """Nothing that a file may hold raises anything else."""
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(data)
    parser = RowParser(keep=KEEP)

    try:
        lines = list(open_manifest(str(path)).records())
    except ManifestError:
        return  # its message: tests/unit/test_manifest.py

    numbers = [number for number, _ in lines]
    assert numbers == sorted(set(numbers))
    for number, record in lines:
        found = record if isinstance(record, Reject) else parser.parse(number, record)
        assert isinstance(found, ManifestRow | Reject)
        assert found.line == number
