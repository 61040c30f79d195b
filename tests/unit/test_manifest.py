"""Reading manifests: every format gives the same records, and what is broken is said with its line."""

import csv
import gzip
import hashlib
import io
import json
import os
import tracemalloc
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import S3Store

from producer.manifest import Manifest, manifest_sha256, open_manifest
from producer.records import LINE_LIMIT, Line
from schemas.errors import ManifestError
from schemas.failures import Reject, RejectCode
from tests.servers import S3Server, s3_server

ROWS = [
    {"id": "1", "text": "plain"},
    {"id": "2", "text": 'with "quotes", a comma\tand a tab'},
    {"id": "3", "text": "two\nlines\r\nand a third"},
    {"id": "4", "text": "Grüße, 你好 \u2028 🐈"},
    {"id": "5", "text": ""},
]


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def delimited(rows: list[dict[str, Any]], delimiter: str) -> bytes:
    sink = io.StringIO(newline="")
    writer = csv.DictWriter(sink, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return sink.getvalue().encode()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


WRITERS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "jsonl": jsonl,
    "ndjson": jsonl,
    "csv": lambda rows: delimited(rows, ","),
    "tsv": lambda rows: delimited(rows, "\t"),
    "parquet": parquet,
}


def manifest(folder: Path, name: str, data: bytes) -> Manifest:
    path = folder / name
    path.write_bytes(data)
    return open_manifest(str(path))


def read(folder: Path, name: str, data: bytes) -> list[Line]:
    return list(manifest(folder, name, data).records())


def rejected(lines: list[Line]) -> list[tuple[int, RejectCode]]:
    return [(line, record.code) for line, record in lines if isinstance(record, Reject)]


def records(lines: list[Line]) -> list[dict[str, Any]]:
    return [record for _, record in lines if not isinstance(record, Reject)]


def message(lines: list[Line]) -> str:
    return next(record.message for _, record in lines if isinstance(record, Reject))


# --- formats ---


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("ending", list(WRITERS))
def test_every_format_gives_the_same_records(tmp_path: Path, ending: str, zipped: bool) -> None:
    """JSONL, CSV, TSV and Parquet, plain or gzip'd, hold the same rows."""
    data = WRITERS[ending](ROWS)
    name, data = (f"rows.{ending}.gz", gzip.compress(data)) if zipped else (f"rows.{ending}", data)

    found = manifest(tmp_path, name, data)
    lines = list(found.records())

    assert records(lines) == ROWS
    assert found.sha256 == manifest_sha256(found.location) == hashlib.sha256(data).hexdigest()
    assert found.columns == (None if "json" in ending else ("id", "text"))


@pytest.mark.parametrize("ending", list(WRITERS))
def test_gzip_is_told_by_its_content(tmp_path: Path, ending: str) -> None:
    """A gzip'd manifest whose name does not say so, and a plain one whose name says gzip, are read all the same."""
    zipped = read(tmp_path, f"a.{ending}", gzip.compress(WRITERS[ending](ROWS)))
    plain = read(tmp_path, f"b.{ending}.gz", WRITERS[ending](ROWS))

    assert records(zipped) == records(plain) == ROWS


def test_gzip_of_several_members_is_read_whole(tmp_path: Path) -> None:
    """Files made by appending one gzip to another lose nothing."""
    lines = read(tmp_path, "a.jsonl.gz", gzip.compress(b'{"id": 1}\n{"i') + gzip.compress(b'd": 2}\n'))

    assert records(lines) == [{"id": 1}, {"id": 2}]


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"], ids=["bare", "bom"])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("last", [True, False], ids=["newline", "no-newline"])
@pytest.mark.parametrize(
    ("name", "lines"),
    [("a.jsonl", [b'{"id": 1, "text": "x"}', b'{"id": 2, "text": "y"}']), ("a.csv", [b"id,text", b"1,x", b"2,y"])],
)
def test_byte_order_marks_and_newlines_do_not_matter(
    tmp_path: Path, name: str, lines: list[bytes], bom: bytes, newline: bytes, last: bool
) -> None:
    """With or without BOM, with LF or CRLF, with or without the last newline: two rows."""
    found = read(tmp_path, name, bom + newline.join(lines) + (newline if last else b""))

    assert [(str(r["id"]), r["text"]) for r in records(found)] == [("1", "x"), ("2", "y")]
    assert rejected(found) == []


def test_rows_over_many_chunks_are_read_in_order(tmp_path: Path) -> None:
    """Lines that straddle the reader's chunks come out whole, with their numbers."""
    rows = [{"id": n, "text": "x" * (n * 37 % 4001)} for n in range(2000)]

    lines = read(tmp_path, "a.jsonl", jsonl(rows))

    assert records(lines) == rows
    assert [number for number, _ in lines] == list(range(1, 2001))


# --- broken lines ---


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"not json",
        b"[1, 2]",
        b'"text"',
        b"null",
        b"12",
        b'{"id": NaN}',
        b'{"id": NaN, "text": "\\ud800"}',
        b'{"id": "\xff"}',
        b'{"id": "\xed\xa0\x80"}',
        b'["\\ud800"]',
        b'{"id": "\\ud800"',
        b"[" * 100_000,
        b'{"a":' * 100_000 + b'"\\ud800"' + b"}" * 100_000,
    ],
    ids=lambda line: ascii(line[:20]),
)
def test_a_broken_json_line_costs_that_line(tmp_path: Path, line: bytes) -> None:
    """Bad JSON, values that are no object, bad UTF-8 and depth bombs are rejects; the rows around them are read."""
    lines = read(tmp_path, "a.jsonl", b'{"id": 1}\n' + line + b'\n{"id": 3}\n')

    assert rejected(lines) == [(2, RejectCode.BROKEN_LINE)]
    assert records(lines) == [{"id": 1}, {"id": 3}]
    assert "\n" not in message(lines)


def test_an_escaped_lone_surrogate_is_a_record(tmp_path: Path) -> None:
    """Such a line is JSON; that its text cannot be embedded is a failure of the row."""
    lines = read(tmp_path, "a.jsonl", b'{"id": 1, "text": "a\\uD800b"}\n')

    assert records(lines) == [{"id": 1, "text": "a\ud800b"}]


def test_blank_json_lines_count_but_are_no_rows(tmp_path: Path) -> None:
    """Line numbers are those that an editor shows."""
    lines = read(tmp_path, "a.jsonl", b'\n{"id": 1}\n  \r\n\n{"id": 2}\n\n')

    assert [number for number, _ in lines] == [2, 5]


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
@pytest.mark.parametrize("where", ["middle", "end"])
def test_a_giant_line_is_rejected_without_being_held(tmp_path: Path, ending: str, where: str) -> None:
    """A line of 32 MiB costs a few MiB of memory and itself; quotes and newlines within it do not derail a CSV."""
    path = tmp_path / f"a.{ending}"
    before, after = (b'{"id": 1}\n', b'{"id": 3}\n') if ending == "jsonl" else (b"id\n1\n", b"3\n")
    giant = b'"' + b'""x,y' * (32 * 2**20 // 5) + b'"'
    path.write_bytes(before + giant + (b"\n" + after if where == "middle" else b""))
    tracemalloc.start()

    lines = list(open_manifest(str(path)).records())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    line = 2 if ending == "jsonl" else 3
    assert rejected(lines) == [(line, RejectCode.LINE_TOO_LONG)]
    assert [str(r["id"]) for r in records(lines)] == (["1", "3"] if where == "middle" else ["1"])
    assert peak < 16 * 2**20


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_a_line_at_the_limit_is_read(tmp_path: Path, ending: str) -> None:
    """The limit is a whole MiB, and one byte more is too long."""
    frame = '{{"id": 1, "text": "{}"}}' if ending == "jsonl" else "1,{}"
    room = LINE_LIMIT - len(frame.format(""))
    header = "" if ending == "jsonl" else "id,text\n"
    texts = ["x" * room, "x" * (room + 1)]

    lines = read(tmp_path, f"a.{ending}", (header + "\n".join(frame.format(t) for t in texts) + "\n").encode())

    assert [len(r["text"]) for r in records(lines)] == [room]
    assert [code for _, code in rejected(lines)] == [RejectCode.LINE_TOO_LONG]


# --- CSV ---


def test_csv_lines_are_numbered_where_records_begin(tmp_path: Path) -> None:
    """A quoted newline does not begin a record; blank lines are no records."""
    lines = read(tmp_path, "a.csv", b'id,text\n1,"a\nb\nc"\n\n2,d\n3,"e\n"\n4,f')

    assert [(number, r["id"]) for number, r in lines if isinstance(r, dict)] == [(2, "1"), (6, "2"), (7, "3"), (9, "4")]
    assert records(lines)[0]["text"] == "a\nb\nc"


@pytest.mark.parametrize(
    "line",
    [b"1", b"1,2,3", b'1,"a"b', b'"1" ,a', b"\xff,1", b'"\xff\n",1'],
    ids=ascii,
)
def test_a_broken_csv_line_costs_that_line(tmp_path: Path, line: bytes) -> None:
    """A wrong number of fields, text behind a closing quote and bad UTF-8 are rejects."""
    lines = read(tmp_path, "a.csv", b"id,text\n0,x\n" + line + b"\n9,y\n")

    assert rejected(lines) == [(3, RejectCode.BROKEN_LINE)]
    assert [r["id"] for r in records(lines)] == ["0", "9"]


def test_a_quote_within_an_unquoted_field_is_a_character(tmp_path: Path) -> None:
    """As with Python, pandas and Excel."""
    lines = read(tmp_path, "a.csv", b'id,text\n1,a 5" disk\n2,b\n')

    assert records(lines) == [{"id": "1", "text": 'a 5" disk'}, {"id": "2", "text": "b"}]


def test_a_quote_that_is_never_closed_is_named_with_its_lines(tmp_path: Path) -> None:
    """No row is made of what follows it, and the message says how far it goes."""
    lines = read(tmp_path, "a.csv", b'id,text\n1,a\n2,"b\n3,c\n4,d\n')

    assert records(lines) == [{"id": "1", "text": "a"}]
    assert rejected(lines) == [(3, RejectCode.BROKEN_LINE)]
    assert "line 5" in message(lines)


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(
        st.lists(st.text(alphabet=st.sampled_from('ab",\t\n é\0'), max_size=8), min_size=2, max_size=2), max_size=6
    ),
    delimiter=st.sampled_from(",\t"),
    newline=st.sampled_from(["\n", "\r\n"]),
)
def test_csv_is_read_as_pythons_csv_module_wrote_it(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], delimiter: str, newline: str
) -> None:
    """Whatever the fields hold, they come back."""
    sink = io.StringIO(newline="")
    csv.writer(sink, delimiter=delimiter, lineterminator=newline).writerows([["id", "text"], *rows])
    path = tmp_path_factory.getbasetemp() / ("written.csv" if delimiter == "," else "written.tsv")
    path.write_bytes(sink.getvalue().encode())

    lines = list(open_manifest(str(path)).records())

    assert [list(r.values()) for r in records(lines)] == rows
    assert rejected(lines) == []


# --- Parquet ---


def test_odd_parquet_types_become_text_or_numbers(tmp_path: Path) -> None:
    """Times, decimals, dictionaries and half floats are read as what JSON could hold."""
    table = pa.table(
        {
            "id": pa.array([7], pa.uint64()),
            "time": pa.array([1_700_000_000_000_000_001], pa.timestamp("ns")),
            "money": pa.array([Decimal("1.50")]),
            "label": pa.array(["x"]).dictionary_encode(),
            "half": pa.array([0.5], pa.float16()),
            "large": pa.array(["y"], pa.large_string()),
            "nothing": pa.nulls(1),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")

    [(number, record)] = open_manifest(str(tmp_path / "a.parquet")).records()

    assert number == 1
    assert record == {
        "id": 7,
        "time": "2023-11-14 22:13:20.000000001",
        "money": "1.50",
        "label": "x",
        "half": 0.5,
        "large": "y",
        "nothing": None,
    }


def test_only_the_columns_asked_for_are_read(tmp_path: Path) -> None:
    """A column that nobody needs is not decoded."""
    found = manifest(tmp_path, "a.parquet", parquet([{"id": 1, "text": "x", "blob": b"\0"}]))

    lines = list(found.records(["id", "text", "absent"]))

    assert records(lines) == [{"id": 1, "text": "x"}]


def test_a_parquet_string_that_is_not_utf8_costs_its_row(tmp_path: Path) -> None:
    """Parquet files may lie about their strings."""
    column = pa.array([b"good", b"\xff", b"fine"]).view(pa.string())
    pq.write_table(pa.table({"id": column}), tmp_path / "a.parquet")

    lines = list(open_manifest(str(tmp_path / "a.parquet")).records())

    assert rejected(lines) == [(2, RejectCode.BROKEN_LINE)]
    assert [r["id"] for r in records(lines)] == ["good", "fine"]


# --- manifests that are refused ---


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.txt", b"x", ".jsonl"),
        ("a", b"x", ".parquet"),
        ("a.gz", b"x", ".csv"),
        ("a.jsonl", b"", "empty"),
        ("a.jsonl", b"\xff\xfe{\0", "UTF-16"),
        ("a.csv", gzip.compress(b"", mtime=0), "no header"),
        ("a.csv", b"\n\n", "no header"),
        ("a.csv", b"id,id\n1,2\n", "twice"),
        ("a.csv", b"\xff,id\n1,2\n", "no header"),
        ("a.parquet", b"PAR1 but not really PAR1", "Parquet"),
        ("a.parquet", parquet(ROWS)[:-20], "Parquet"),
        ("a.parquet", parquet([{"id": 1, "xy": 2}]).replace(b"\x18\x02xy", b"\x18\x02x\x80"), "not UTF-8"),
        ("a.jsonl.gz", gzip.compress(jsonl(ROWS), mtime=0)[:-9], "cut off"),
        ("a.jsonl.gz", gzip.compress(jsonl(ROWS), mtime=0)[:-9] + b"123456789", "corrupt"),
        ("a.jsonl.gz", b"\x1f\x8b not really gzip", "gzip"),
    ],
)
def test_what_is_no_manifest_is_refused_in_one_line(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    """The message names the file and what is wrong."""
    with pytest.raises(ManifestError) as refusal:
        read(tmp_path, name, data)

    assert words in str(refusal.value)
    assert str(tmp_path / name) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_places_without_a_file_are_refused(tmp_path: Path) -> None:
    """A missing file, a folder and an unknown scheme."""
    (tmp_path / "folder.csv").mkdir()

    for place in (tmp_path / "missing.csv", tmp_path / "folder.csv", "ftp://user:secret@host/a.csv"):
        with pytest.raises(ManifestError) as refusal:
            open_manifest(str(place))
        assert "secret" not in str(refusal.value)
    with pytest.raises(ManifestError, match="does not exist"):
        manifest_sha256(str(tmp_path / "missing.csv"))


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("how", ["append", "touch", "replace", "remove"])
def test_a_manifest_that_changes_while_it_is_read_is_refused(tmp_path: Path, ending: str, how: str) -> None:
    """A plan is of one state of the manifest or there is none."""
    path = tmp_path / f"a.{ending}"
    path.write_bytes(WRITERS[ending](ROWS))
    lines = open_manifest(str(path)).records()
    next(lines)

    if how == "append":
        with path.open("ab") as file:
            file.write(b"more")
    elif how == "touch":
        os.utime(path, ns=(1, 1))
    elif how == "replace":
        (tmp_path / "new").write_bytes(path.read_bytes())
        (tmp_path / "new").replace(path)
    else:
        path.unlink()

    with pytest.raises(ManifestError, match="changed"):
        list(lines)


def test_two_readings_must_agree(tmp_path: Path) -> None:
    """A manifest that changed between two readings is refused by the second."""
    found = manifest(tmp_path, "a.jsonl", jsonl(ROWS))
    list(found.records())

    Path(found.location).write_bytes(jsonl(ROWS[1:]))

    with pytest.raises(ManifestError, match="changed"):
        list(found.records())


# --- S3 ---


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    for name, value in s3.environ().items():
        monkeypatch.setenv(name, value)
    return S3Store.from_url(f"s3://{s3.bucket}")


@pytest.mark.parametrize("name", ["some/a b%41.jsonl", "a.csv.gz", "a.parquet", "a.parquet.gz"])
def test_manifests_are_read_from_s3(bucket: S3Store, name: str) -> None:
    """Every format, by the credentials of the environment."""
    rows = ROWS + [{"id": str(n), "text": f"{n} " * 500} for n in range(10, 1500)]
    ending = name.removesuffix(".gz").rpartition(".")[2]
    data = WRITERS[ending](rows)
    obstore.put(bucket, name, gzip.compress(data) if name.endswith(".gz") else data)

    found = open_manifest(f"s3://bucket/{name}")

    assert records(list(found.records())) == rows
    assert found.sha256 == manifest_sha256(found.location)
    assert found.columns in {None, ("id", "text")}


def test_a_manifest_that_changes_on_s3_while_it_is_read_is_refused(bucket: S3Store) -> None:
    """Ranges of two versions are never mixed."""
    data = jsonl([{"id": n, "text": "x" * 1000} for n in range(5000)])
    obstore.put(bucket, "change.jsonl", data)
    lines = open_manifest("s3://bucket/change.jsonl").records()
    next(lines)

    obstore.put(bucket, "change.jsonl", data.replace(b"x", b"y"))

    with pytest.raises(ManifestError, match="changed"):
        list(lines)


def test_a_manifest_that_is_not_on_s3_is_refused(bucket: S3Store) -> None:
    """As one that is not on disk."""
    with pytest.raises(ManifestError, match=r"missing\.csv does not exist"):
        open_manifest("s3://bucket/missing.csv")
