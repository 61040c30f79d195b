"""Plans: what is written as a shard is read back as it was, and nothing else is taken for it."""

from pathlib import Path

import pyarrow as pa
import pytest

from schemas.errors import StoreError
from schemas.failures import FailureCode
from schemas.job import KeptColumn, PlanRecord
from schemas.rows import ManifestRow, Modality, Part
from storage.parquet import plain_file
from storage.plans import PlanReader, PlanWriter, rows_of, rows_table
from storage.store import LocalStore

IMAGE = Part(modality=Modality.IMAGE, uri="é/a.png")
AUDIO = Part(modality=Modality.AUDIO, uri="a.wav")
TEXT = Part(modality=Modality.TEXT, text="ein Bär")
MIXED = [
    ManifestRow(id="1", line=3, modality=Modality.MIXED, parts=(IMAGE, TEXT), kept=(1,)),
    ManifestRow(id="2", line=1, modality=Modality.MIXED, defect=FailureCode.TEXT_EMPTY, kept=(None,)),
    ManifestRow(id="3", line=2, modality=Modality.MIXED, parts=(IMAGE, AUDIO, TEXT), kept=(3,)),
]
PLAIN = [
    ManifestRow(id="4", line=4, modality=Modality.TEXT, text="x", kept=(4,)),
    ManifestRow(id="5", line=5, modality=Modality.TEXT, text="", defect=FailureCode.TEXT_EMPTY, kept=(None,)),
]
KEEP = (KeptColumn(name="n", type="int64"),)


def planned(store: LocalStore, shards: list[list[ManifestRow]]) -> PlanRecord:
    with PlanWriter(KEEP) as writer:
        for rows in shards:
            writer.add_shard(rows[0].modality, rows, cost=1.0)
        return writer.publish(store)


def test_rows_are_read_back_as_they_were_planned(tmp_path: Path) -> None:
    """Parts, defects and kept columns of mixed and of plain rows, by id."""
    store = LocalStore(tmp_path)

    reader = PlanReader(store, planned(store, [MIXED[::-1], PLAIN]))

    assert reader.read_rows(0) == MIXED
    assert reader.read_rows(1) == PLAIN


def test_the_order_of_rows_in_the_manifest_does_not_change_a_shards_digest(tmp_path: Path) -> None:
    """Nor does writing the shard anew from what was read, as retry does."""
    store = LocalStore(tmp_path)
    first = PlanReader(store, planned(store, [MIXED]))

    shuffled = planned(store, [[MIXED[2], MIXED[0], MIXED[1]]])
    with PlanWriter(KEEP) as writer:
        writer.add_table(Modality.MIXED, first.read_table(0), cost=1.0)
        again = writer.publish(store)

    assert first.plan.digest == shuffled.digest == again.digest


@pytest.mark.parametrize(
    "parts",
    [
        (IMAGE, Part(modality=Modality.TEXT, text="ein Bar")),
        (IMAGE,),
        (),
        (Part(modality=Modality.VIDEO, uri=IMAGE.uri), TEXT),
        (Part(modality=Modality.IMAGE, text=IMAGE.uri), TEXT),
    ],
)
def test_every_part_counts_in_the_digest(tmp_path: Path, parts: tuple[Part, ...]) -> None:
    """A changed text, uri or modality of one part makes another plan."""
    store = LocalStore(tmp_path)
    other = ManifestRow(id="1", line=3, modality=Modality.MIXED, parts=parts, kept=(1,))

    assert planned(store, [MIXED]).digest != planned(store, [[other, *MIXED[1:]]]).digest


def test_parts_that_changed_in_the_store_are_refused(tmp_path: Path) -> None:
    """A shard is worked on as it was planned, or not at all."""
    store = LocalStore(tmp_path)
    plan = planned(store, [MIXED])
    [changed] = rows_table([MIXED[0]], KEEP).to_pylist()
    changed["parts"][1]["text"] = "ein Bar"
    table = pa.concat_tables(
        [pa.Table.from_pylist([changed], rows_table([], KEEP).schema), rows_table(MIXED[1:], KEEP)]
    )
    store.path(plan.files[0]).write_bytes(plain_file(table))

    with pytest.raises(StoreError, match="not those that were planned"):
        PlanReader(store, plan).read_rows(0)


def test_a_table_keeps_the_order_of_its_rows() -> None:
    """Whoever sorts does so before."""
    rows = [MIXED[2], MIXED[0]]

    assert rows_of(rows_table(rows, KEEP), Modality.MIXED) == rows
    assert rows_of(rows_table(rows, KEEP).slice(1, 1), Modality.MIXED) == rows[1:]
    assert rows_of(rows_table([], ()), Modality.TEXT) == []
