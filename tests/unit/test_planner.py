"""Planning: rows are cut into shards by cost, and each line ends in exactly one row, reject or skip."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from producer.costs import row_cost, text_cost
from producer.manifest import manifest_sha256, open_manifest
from producer.planner import MAX_SHARD_BYTES, MAX_SHARD_ROWS, make_plan
from schemas.errors import ManifestError
from schemas.failures import FailureCode
from schemas.job import JobSpec, KeptColumn, PlanRecord
from schemas.model_cards import Family, ModelCard
from schemas.recipe import Recipe
from schemas.rows import ManifestRow, Modality
from storage import layout
from storage.plans import PlanReader
from storage.store import LocalStore

CARD = ModelCard(
    name="hash",
    family=Family.HASH,
    dim=16,
    modalities=frozenset({Modality.TEXT, Modality.IMAGE}),
    digest="0" * 64,
    params=84_000_000,  # 1,000 tokens a second
    max_tokens=100,
    tokens_per_image=50,
)
KEEP = (KeptColumn(name="label"), KeptColumn(name="price", type="float64"))
ROWS: list[dict[str, Any]] = [
    {"id": str(n), "text": f'text "{n}",\nof é', "uri": None, "label": f"l{n % 3}", "price": n / 4} for n in range(50)
] + [{"id": f"i{n}", "text": None, "uri": f"{n}.png", "label": "", "price": None} for n in range(20)]


def write_csv(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


WRITERS: dict[str, Callable[[Path, list[dict[str, Any]]], object]] = {
    "rows.jsonl": write_jsonl,
    "rows.csv": write_csv,
    "rows.tsv": lambda path, rows: write_csv(path, rows, "\t"),
    "rows.parquet": lambda path, rows: pq.write_table(pa.Table.from_pylist(rows), path),
}


class Planned:
    """A plan and all that was written for it."""

    def __init__(self, folder: Path, path: Path, **arguments: Any) -> None:
        self.store = LocalStore(folder)
        self.heard: list[int] = []
        spec = JobSpec(manifest=str(path), manifest_sha256="", model="hash", model_digest="0" * 64, **arguments)
        manifest = open_manifest(str(path))
        self.plan, self.sha256 = make_plan(self.store, manifest, spec, CARD, Recipe(), progress=self.heard.append)
        self.reader = PlanReader(self.store, self.plan)

    def rows(self) -> list[ManifestRow]:
        return [row for shard in self.reader.shards() for row in self.reader.read_rows(shard)]

    def rejects(self) -> list[dict[str, Any]]:
        if self.plan.rejects_file is None:
            return []
        found: list[dict[str, Any]] = pq.read_table(io.BytesIO(self.store.get(self.plan.rejects_file))).to_pylist()
        return found

    def files(self) -> dict[str, bytes]:
        return {item.key: self.store.get(item.key) for item in self.store.walk(layout.PLAN)}


@pytest.fixture
def plan(tmp_path: Path) -> Callable[..., Planned]:
    """Plan a manifest of these rows (JSONL), into a folder of its own."""

    def planned(rows: list[dict[str, Any]], **arguments: Any) -> Planned:
        number = len(list(tmp_path.iterdir()))
        return Planned(tmp_path / f"job-{number}", write_jsonl(tmp_path / f"{number}.jsonl", rows), **arguments)

    return planned


def texts(count: int, length: int = 32) -> list[dict[str, Any]]:
    return [{"id": n, "text": str(n).rjust(length, "x")} for n in range(count)]


# --- what a plan holds ---


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", list(WRITERS))
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str, zipped: bool) -> None:
    """Ids, texts, uris and kept columns do not depend on how the manifest is written."""
    path = tmp_path / name
    WRITERS[name](path, ROWS)
    if zipped:
        path = tmp_path / f"{name}.gz"
        path.write_bytes(gzip.compress((tmp_path / name).read_bytes()))

    planned = Planned(tmp_path / "job", path, keep=KEEP)

    found = {row.id: (row.text, row.uri, row.modality, row.defect, row.kept) for row in planned.rows()}
    assert found == {
        row["id"]: (
            row["text"],
            row["uri"],
            Modality.TEXT if row["text"] else Modality.IMAGE,
            None,
            (row["label"], row["price"]),
        )
        for row in ROWS
    }
    assert planned.plan.rows == len(ROWS)
    assert planned.sha256 == manifest_sha256(str(path))


def test_integer_ids_are_the_same_in_every_format(tmp_path: Path) -> None:
    """JSON's and Parquet's integers and CSV's digits are one id."""
    rows = [{"id": n, "text": "x"} for n in (7, -1, 2**40)]
    ids = []
    for name, write in WRITERS.items():
        write(tmp_path / name, rows)
        ids.append(sorted(row.id for row in Planned(tmp_path / f"job-{name}", tmp_path / name).rows()))

    assert ids == [["-1", "1099511627776", "7"]] * len(WRITERS)


def test_the_same_manifest_gives_the_same_plan(plan: Callable[..., Planned]) -> None:
    """Digest, file names and bytes are the same however often it is planned, duplicates or not."""
    rows = [*ROWS, ROWS[3], {"id": "bad"}]

    first, second = plan(rows, keep=KEEP), plan(rows, keep=KEEP)

    assert first.plan == second.plan
    assert first.files() == second.files()


def test_every_line_has_one_outcome(plan: Callable[..., Planned]) -> None:
    """Rows, rejects in line order, and skipped rows add up to the manifest."""
    planned = plan(
        [
            {"id": "a", "text": "x"},
            {"id": "b"},
            {"id": "c", "uri": "c.png"},
            {"text": "x"},
            {"id": "a", "text": "again"},
            {"id": "d", "text": ""},
            {"id": "e", "modality": "smell"},
            {"id": "b", "text": "the first b was no row"},
        ],
        modalities=(Modality.TEXT,),
    )

    assert sorted((row.id, row.line, row.defect) for row in planned.rows()) == [
        ("a", 1, None),
        ("b", 8, None),
        ("d", 6, FailureCode.TEXT_EMPTY),
    ]
    assert [(r["line"], r["id"], r["code"]) for r in planned.rejects()] == [
        (2, "b", "no_content"),
        (4, None, "missing_id"),
        (5, "a", "duplicate_id"),
        (7, "e", "unknown_modality"),
    ]
    assert (planned.plan.rows, planned.plan.rejects, planned.plan.skipped) == (3, 4, 1)


def test_duplicates_are_rejected_with_the_line_of_the_first(plan: Callable[..., Planned]) -> None:
    """The first row with an id is kept, and each later one names it; an integer and its digits are one id."""
    planned = plan(
        [{"id": 5, "text": "first"}, {"id": "6", "text": "x"}, {"id": "5", "text": "2"}, {"id": 5, "text": "3"}]
    )

    assert sorted((row.id, row.text) for row in planned.rows()) == [("5", "first"), ("6", "x")]
    assert [(r["line"], r["id"], r["message"]) for r in planned.rejects()] == [
        (3, "5", "the id was used before, on line 1"),
        (4, "5", "the id was used before, on line 1"),
    ]


def test_duplicates_leave_no_files_of_the_first_reading(plan: Callable[..., Planned]) -> None:
    """Only the plan that is returned is in the store."""
    planned = plan([{"id": 1, "text": "a"}, {"id": 1, "text": "b"}])

    record: PlanRecord = planned.plan
    assert set(planned.files()) == {*record.files, record.index, record.rejects_file}


def test_texts_that_parquet_cannot_hold_are_rows_without_text(tmp_path: Path) -> None:
    """A lone surrogate costs its row a vector and nobody else anything."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"id": 1, "text": "\\ud800"}\n{"id": 2, "text": "fine"}\n')

    rows = Planned(tmp_path / "job", path).rows()

    assert [(row.id, row.text, row.defect) for row in rows] == [("1", None, "text_surrogate"), ("2", "fine", None)]


def test_progress_hears_of_the_records_read(plan: Callable[..., Planned]) -> None:
    """Every 10,000 records, in each reading."""
    rows = texts(25_000)

    assert plan(rows).heard == [10_000, 20_000]
    assert plan([*rows, rows[0]]).heard == [10_000, 20_000] * 2


# --- how shards are cut ---


def test_shards_are_cut_by_cost_and_the_first_are_smaller(plan: Callable[..., Planned]) -> None:
    """A text of 32 characters costs 10 tokens; the budget of 800 is reached step by step, an eighth a shard."""
    planned = plan(texts(1000), shard_seconds=0.8)

    counts = planned.reader.rows.tolist()
    assert counts[:10] == [10, 20, 30, 40, 50, 60, 70, 80, 80, 80]
    assert sum(counts) == 1000
    assert planned.reader.costs.tolist() == [count * 10.0 for count in counts]


def test_a_shard_has_one_modality(plan: Callable[..., Planned]) -> None:
    """Rows of two modalities in turn are cut into shards of their own, which share the ramp."""
    rows = [{"id": n, "text": "x" * 32} if n % 2 else {"id": n, "uri": f"{n}.png"} for n in range(200)]

    planned = plan(rows, shard_seconds=0.8)

    found = [(planned.reader.modality(s), int(planned.reader.rows[s])) for s in planned.reader.shards()]
    assert found[:3] == [(Modality.IMAGE, 2), (Modality.IMAGE, 4), (Modality.IMAGE, 6)]
    assert sum(count for modality, count in found if modality is Modality.TEXT) == 100
    for shard in planned.reader.shards():
        assert {row.modality for row in planned.reader.read_rows(shard)} == {planned.reader.modality(shard)}


def test_a_shard_has_a_limit_of_rows_and_of_bytes(plan: Callable[..., Planned]) -> None:
    """A shard is held in memory as a whole, whatever its cost."""
    many = plan(texts(MAX_SHARD_ROWS + 1, 1), shard_seconds=1e9)
    half = MAX_SHARD_BYTES // 2**20 * 2  # rows of half a MiB
    long = plan(texts(half + 1, 2**19), shard_seconds=1e9)
    rows = [{"id": n, "text": f"x{n}", "label": "y" * 2**19, "price": n} for n in range(half + 1)]
    kept = plan(rows, shard_seconds=1e9, keep=KEEP)

    assert many.reader.rows.tolist() == [MAX_SHARD_ROWS, 1]
    assert long.reader.rows.tolist() == [half, 1]
    assert kept.reader.rows.tolist() == [half, 1]


def test_costs_are_those_of_the_card() -> None:
    """Texts by their length, cut off or padded as the model does; images by their tokens; defects next to nothing."""
    text = ManifestRow(id="a", line=1, modality=Modality.TEXT, text="x" * 40)
    image = ManifestRow(id="a", line=1, modality=Modality.IMAGE, uri="a.png")
    defect = ManifestRow(id="a", line=1, modality=Modality.TEXT, text="x\0", defect=FailureCode.TEXT_NUL)
    padded = ModelCard(
        name="p", family=Family.SIGLIP, dim=1, modalities=frozenset(), digest="", max_tokens=100, text_padding=64
    )

    assert row_cost(text, CARD, Recipe()) == 12
    assert text_cost("x" * 10_000, CARD) == 100
    assert text_cost("x", padded) == 64
    assert row_cost(image, CARD, Recipe()) == 50
    assert row_cost(defect, CARD, Recipe()) == 1


# --- what is refused ---


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"id": 1, "text": "a"}, {"id": 2}, {"id": 3}], "line 2: no_content: neither"),
        (
            [{"id": 1, "text": "a"}, {"id": 1, "text": "b"}, {"id": 3}],
            "line 2: duplicate_id: the id was used before, on line 1",
        ),
        ([{"id": 1, "text": "a"}, {"id": 3}, {"id": 1, "text": "b"}], "line 2: no_content"),
        ([{"id": 1, "text": "a"}, {"id": 2, "text": "b"}, {"id": 2, "text": "b"}], "line 3: duplicate_id"),
    ],
)
def test_strict_refuses_the_first_line_that_is_no_row(tmp_path: Path, rows: list[dict[str, Any]], words: str) -> None:
    """The message names line and reason, duplicates too, and nothing is published."""
    path = write_jsonl(tmp_path / "a.jsonl", rows)

    with pytest.raises(ManifestError) as refusal:
        Planned(tmp_path / "job", path, strict=True)

    assert f"{path} {words}" in str(refusal.value)
    assert not (tmp_path / "job").exists()


def test_strict_takes_rows_with_defects(plan: Callable[..., Planned]) -> None:
    """A row whose text is empty is a row; it will be a failure."""
    assert plan([{"id": 1, "text": ""}], strict=True).plan.rows == 1


@pytest.mark.parametrize(
    ("rows", "arguments", "words"),
    [
        ([{"id": 1}, {"id": 2}], {}, "2 lines were rejected, the first on line 1: neither text nor uri"),
        ([{"id": 1, "text": "a"}], {"modalities": (Modality.IMAGE,)}, "1 are of other modalities"),
        ([], {}, "empty"),
    ],
)
def test_a_manifest_without_rows_is_refused(
    tmp_path: Path, rows: list[dict[str, Any]], arguments: dict[str, Any], words: str
) -> None:
    """The message says where its lines went, and nothing is published."""
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    if not rows:
        path.write_text("\n\n")

    with pytest.raises(ManifestError) as refusal:
        Planned(tmp_path / "job", path, **arguments)

    assert words in str(refusal.value)
    assert not (tmp_path / "job").exists()


def test_a_csv_without_the_id_column_is_refused(tmp_path: Path) -> None:
    """The message names the columns that are there, and the option."""
    path = tmp_path / "a.csv"
    path.write_text("key,text\n1,a\n")

    with pytest.raises(ManifestError, match=r"no column id; it has key, text; name another with --id-column"):
        Planned(tmp_path / "job", path)
    assert [row.id for row in Planned(tmp_path / "job", path, id_column="key").rows()] == ["1"]
