"""Manifests read in blocks: what comes out is what the line by line reading gives, to the last byte."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producer.blocks import Block
from producer.manifest import FileManifest, Format, open_manifest
from producer.parsing import RowParser
from producer.planner import make_plan
from producer.records import LINE_LIMIT
from schemas.errors import ManifestError
from schemas.failures import Reject
from schemas.job import JobSpec, KeptColumn, PlanRecord
from schemas.model_cards import Family, ModelCard
from schemas.recipe import OutputType, Recipe
from schemas.rows import ManifestRow, Modality
from schemas.text_run import TextRun
from storage.store import memory_store

KEEP = (KeptColumn(name="label"), KeptColumn(name="price", type="float64"))
CARD = ModelCard(
    name="hash",
    family=Family.HASH,
    dim=16,
    modalities=frozenset(Modality),
    digest="0" * 64,
    params=84_000_000,  # 1,000 tokens a second
    max_tokens=100,
)
Outcome = ManifestRow | Reject | None

#: What most lines of a manifest are, so that blocks are made of them, and what spoils one.
PLAIN = st.builds(
    lambda number, text, label: {"id": f"r{number}", "text": text, "label": label},
    st.integers(0, 99),
    st.sampled_from(["a cat", "é", "line\nbreak", 'say ""', "x" * 30, "a,b\tc"]),
    st.sampled_from(["", "l", "ü"]),
)
ODD = st.dictionaries(
    st.sampled_from(["id", "text", "uri", "modality", "parts", "label", "price"]),
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from(["", " ", "\0", "\ud800", "text", "image", "mixed", "a.png", "1.5", "x" * 60, "\x1b", "扡"])
    | st.sampled_from([[], [1], {}, {"k": {"id": "r1"}}, [{"text": "t"}, {"uri": "a.png"}], 1.5]),
    max_size=5,
)
#: Lines that look like records to who reads several at once.
TORN = st.sampled_from(
    [
        b'{"id":"a","text":"b"},{"id":"c","text":"d"}',
        b'{"id":[{"x":1}',
        b'{"y":2}],"id":"b","text":"t"}',
        b'{"id":"a","text":"b}',
        b'{"id":"a","text":"b"}{"id":"c","text":"d"}',
        b'  {"id":"w","text":"w"} \r',
        b'{"id":"a","id":"b","text":"c","text":"d"}',
        b'{"id":"n","text":"n","label":null}',
        b"",
        b"  ",
        b"[]",
        b"3",
        b'{"id":"\\ud800","text":"x"}',
        b'{"id":"u","text":"\xff"}',
        b'{"id":-0,"text":"zero"}',
        b"\xef\xbb\xbf{}",
    ]
)
JSON_LINES = st.lists(
    PLAIN.map(lambda row: json.dumps(row).encode()) | ODD.map(lambda row: json.dumps(row).encode()) | TORN, max_size=12
)


def by_line(manifest: FileManifest, parser: RowParser) -> list[Outcome]:
    return [
        record if isinstance(record, Reject) else parser.parse(line, record)
        for line, record in manifest.records(parser.columns)
    ]


def in_blocks(manifest: FileManifest, parser: RowParser, window: int) -> tuple[list[Outcome], int]:
    """The outcomes, and how many of them came in runs."""
    found: list[Outcome] = []
    in_runs = 0
    for item in manifest.blocks(parser.columns, window):
        if not isinstance(item, Block):
            found.append(item[1] if isinstance(item[1], Reject) else parser.parse(item[0], item[1]))
            continue
        for outcome in parser.parse_block(item):
            if isinstance(outcome, TextRun):
                in_runs += len(outcome)
                found += outcome.rows()
            else:
                found.append(outcome)
    return found, in_runs


def require_the_same(path: Path, data: bytes, window: int) -> None:
    path.write_bytes(data)
    parser = RowParser(keep=KEEP, max_chars=50)
    manifest = FileManifest(str(path), Format(path.suffix[1:]))

    expected = outcome_of(lambda: by_line(manifest, parser))
    digest, manifest.sha256 = manifest.sha256, None
    found = outcome_of(lambda: in_blocks(manifest, parser, window)[0])

    assert found == expected
    assert manifest.sha256 == digest


def outcome_of(read: Callable[[], list[Outcome]]) -> list[Outcome] | str:
    """What reading gives, or why the whole cannot be read."""
    try:
        return read()
    except ManifestError as err:
        return str(err)


@settings(max_examples=300, deadline=None)
@given(lines=JSON_LINES, ends=st.booleans(), window=st.sampled_from([1, 7, 60, 200, 2**17]))
def test_json_lines_are_what_they_are_one_by_one(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], ends: bool, window: int
) -> None:
    """Rows, rejects with line and message, and the digest: whatever stands beside what."""
    data = b"\n".join(lines) + b"\n" * ends

    require_the_same(tmp_path_factory.getbasetemp() / "blocks.jsonl", data, window)


CSV_FIELD = st.sampled_from(
    ["a", "r1", "r2", "a cat", "é", "扡", '"a, b"', '"a\nb"', '"say ""hi"""', '"c\r\nd"', '""', "", '5" disk', "1.5"]
) | st.sampled_from(['"', '"a"b', 'x"', "\r", "a\rb", "\0", " ", '"open', '"\t"', '""""', 'a""b', "\udcff"])
CSV_LINE = st.builds(
    lambda fields, delimiter, newline: delimiter.join(fields) + newline,
    st.lists(CSV_FIELD, min_size=1, max_size=4),
    st.sampled_from(",\t"),
    st.sampled_from(["\n", "\n", "\n", "\r\n", "\r"]),
)
CSV_PLAIN = st.builds(
    lambda row, newline: f'{row["id"]},"{row["text"].replace(chr(34), chr(34) * 2)}",{row["label"]}{newline}',
    PLAIN,
    st.sampled_from(["\n", "\n", "\r\n"]),
)


@settings(max_examples=400, deadline=None)
@given(
    header=st.sampled_from(["id,text,label\n", "id\ttext\n", "id,text,label\r\n", '"id",text,label\n', "id\n", "\n"]),
    lines=st.lists(CSV_PLAIN | CSV_PLAIN | CSV_LINE, max_size=12),
    name=st.sampled_from(["blocks.csv", "blocks.tsv"]),
    ends=st.booleans(),
    window=st.sampled_from([1, 7, 60, 200, 2**17]),
)
def test_delimited_records_are_what_they_are_one_by_one(
    tmp_path_factory: pytest.TempPathFactory, header: str, lines: list[str], name: str, ends: bool, window: int
) -> None:
    """Quotes, newlines within them, fields too many or too few, bytes that are no UTF-8."""
    text = header + "".join(lines)
    data = (text if ends else text.rstrip("\r\n")).encode("utf-8", "surrogateescape")

    require_the_same(tmp_path_factory.getbasetemp() / name, data, window)


@pytest.mark.parametrize("name", ["long.jsonl", "long.csv"])
@pytest.mark.parametrize("size", [LINE_LIMIT - 40, LINE_LIMIT + 40, 3 * LINE_LIMIT])
@pytest.mark.parametrize("ends", [True, False])
def test_lines_at_the_limit_are_what_they_are_one_by_one(tmp_path: Path, name: str, size: int, ends: bool) -> None:
    """A very long line is rejected with its size, between others and at the end."""
    rows = [("a", "b"), ("c", "d" * size), ("e", "f"), ("g", "h" * size)]
    if name.endswith("csv"):
        lines = ["id,text", *(f"{id_},{text}" for id_, text in rows)]
    else:
        lines = [json.dumps({"id": id_, "text": text}) for id_, text in rows]

    require_the_same(tmp_path / name, ("\n".join(lines) + "\n" * ends).encode(), 2**17)


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(PLAIN | ODD.filter(lambda row: all(type(v) in (str, type(None)) for v in row.values()))))
def test_parquet_rows_are_what_they_are_one_by_one(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    """Column by column, nulls and empty strings among them."""
    names = ["id", "text", "uri", "modality", "parts", "label", "price"]
    columns = {
        name: [None if (value := row.get(name)) is None else value.encode("utf-8", "replace") for row in rows]
        for name in names
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({name: pa.array(column, pa.string()) for name, column in columns.items()}), sink)

    require_the_same(tmp_path_factory.getbasetemp() / "blocks.parquet", sink.getvalue().to_pybytes(), 2**17)


ODD_TEXTS: list[Any] = ["", " ", "\u2003", "\0", "\ud800", "a\0b", "a\ud800", "x" * 51, None, 3, True, [], {"a": 1}]
ODD_IDS: list[Any] = ["", "\x7f", "\x85", "a\n", "é" * 257, "é" * 256, "i" * 513, "i" * 512, "\ud800", "扡"]
ODD_IDS += [None, 3, -(2**63), 1.5, True, [1]]
BESIDE: list[Any] = [
    "",
    "text",
    "image",
    "mixed",
    "a.png",
    "x",
    "[]",
    "1.5",
    "inf",
    0,
    False,
    [],
    {},
    [1],
    [{"text": "t"}],
]
ODD_ROWS: list[dict[str, Any]] = [
    *({"id": "o", "text": text} for text in ODD_TEXTS),
    *({"id": id_, "text": "t"} for id_ in ODD_IDS),
    *({"id": "o", "text": "t", name: value} for name in ("modality", "uri", "parts", "price") for value in BESIDE),
    *({"id": "o"}, {"text": "t"}, {}, {"id": "o", "uri": "a.png"}, {"id": "o", "label": "\ud800", "text": "t"}),
]


@pytest.mark.parametrize("others", [0, 30])
@pytest.mark.parametrize("row", ODD_ROWS, ids=str)
def test_one_odd_row_is_what_it_is_alone(tmp_path: Path, row: dict[str, Any], others: int) -> None:
    """Among plain rows, which stay a run, and by itself."""
    plain = [{"id": f"r{n}", "text": f"text {n}"} for n in range(others)]
    lines = [json.dumps(one) for one in (*plain[:20], row, *plain[20:])]
    path = tmp_path / "odd.jsonl"

    require_the_same(path, "\n".join(lines).encode(), 2**17)

    _, in_runs = in_blocks(FileManifest(str(path), Format.JSONL), RowParser(keep=KEEP, max_chars=50), 2**17)
    assert in_runs >= others or "\\ud800" in "".join(lines) or "price" in row  # these spoil the block


class ByLine(FileManifest):
    """A manifest that is read line by line."""

    def blocks(self, columns: Any = None, window: int = 0) -> Iterator[Any]:
        return self.records(columns)


def _manifest_of_many(path: Path) -> None:
    """4,000 rows: odd ones here and there, ids and texts that come again, shards that are full of this and that."""
    with path.open("w") as file:
        for n in range(4000):
            row: dict[str, Any] = {"id": f"r{(n * 7919) % 4001}", "text": f"text {n} " + "w " * (n % 90), "price": n}
            if n % 97 == 5:
                row = {"id": f"m{n}", "uri": f"{n}.png"}
            elif n % 501 == 7:
                row["text"] = ""
            elif n % 801 == 9:
                row["id"] = "r1"
            elif n % 50 == 11:
                row["text"] = f"again {n % 7} é" + "w " * 80
            file.write("oops\n" if n in (13, 3900) else json.dumps(row) + "\n")


@pytest.mark.parametrize("outputs", [(OutputType.FLOAT32,), (OutputType.INT8,)])
def test_a_plan_of_blocks_is_the_plan_of_lines(tmp_path: Path, outputs: tuple[OutputType, ...]) -> None:
    """The same shards, costs, rejects, sample and digests: all files of the plan have the same names and bytes."""
    path = tmp_path / "rows.jsonl"
    _manifest_of_many(path)
    spec = JobSpec(manifest=str(path), manifest_sha256="", model="hash", model_digest="0" * 64, keep=KEEP[1:])

    def planned(manifest: FileManifest) -> tuple[PlanRecord, str, dict[str, bytes]]:
        store = memory_store()
        plan, digest = make_plan(store, manifest, spec, CARD, Recipe(outputs=outputs))
        return plan, digest, {item.key: store.get(item.key) for item in store.walk("plan")}

    by_lines = planned(ByLine(str(path), Format.JSONL))
    in_runs = in_blocks(FileManifest(str(path), Format.JSONL), RowParser(keep=KEEP[1:]), 2**17)[1]
    found = planned(open_manifest(str(path)))  # type: ignore[arg-type]  # a file

    assert in_runs > 1500  # else the test compares nothing
    assert found == by_lines
    assert by_lines[0].rejects > 4
