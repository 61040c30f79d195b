"""The oracle is not blind: whatever is planted in a finished job is found, and in a sound one there is nothing."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chaos.findings import Findings, Wrong
from chaos.history import find_leaks, read_history
from chaos.oracle import check_job
from chaos.published import published_at
from chaos.reader import Reader
from chaos.truth import Truth, write_truth
from producer.prepare import JobRequest, prepare_job
from tests.inline import InlineMill
from tests.servers import wait_for


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    """A finished job of 300 good and a few bad rows in several shards."""
    folder = tmp_path_factory.mktemp("sound")
    truth = write_truth(folder / "manifest", rows=300, seed=7, images=False)
    out = folder / "job"
    request = JobRequest(manifest=str(truth.manifest), model="hash", out=str(out), keep=("label",), shard_seconds=0.02)
    InlineMill(prepare_job(request)).run()
    return out, truth


@pytest.fixture
def job(sound: tuple[Path, Truth], tmp_path: Path) -> tuple[Path, Truth]:
    """A copy of it to be spoilt."""
    return Path(shutil.copytree(sound[0], tmp_path / "job")), sound[1]


def judged(out: Path, truth: Truth) -> Findings:
    findings = Findings()
    check_job(published_at(str(out)), truth, findings)
    return findings


def shards(out: Path) -> list[Path]:
    """The published files, those with most rows first."""
    return sorted(out.rglob("data/*/*.parquet"), key=lambda path: -pq.read_metadata(path).num_rows)


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Forge a published file, its footer with it, so that the file by itself is consistent."""
    table = pq.read_table(path, partitioning=None)
    forged = change(table)
    footer = json.loads(table.schema.metadata[b"embedmill"]) | {"vectors": len(forged), "rows_ok": len(forged)}
    pq.write_table(forged.replace_schema_metadata({b"embedmill": json.dumps(footer).encode()}), path)


def lose_a_row(out: Path) -> None:
    rewrite(shards(out)[0], lambda table: table.slice(1))


def lose_a_shard(out: Path) -> None:
    shards(out)[0].unlink()


def double_a_row(out: Path) -> None:
    rewrite(shards(out)[0], lambda table: pa.concat_tables([table.slice(0, 1), table]))


def publish_a_shard_in_another_s_name(out: Path) -> None:
    first, second = shards(out)[:2]
    shutil.copy(first, second)


def swap_two_vectors(out: Path) -> None:
    def swap(table: pa.Table) -> pa.Table:
        order = pa.array([1, 0, *range(2, len(table))])
        return table.set_column(1, table.field(1), table["embedding"].take(order))

    rewrite(shards(out)[0], swap)


def swap_two_labels(out: Path) -> None:
    def swap(table: pa.Table) -> pa.Table:
        at = table.column_names.index("label")
        order = pa.array([1, 0, *range(2, len(table))])
        return table.set_column(at, table.field(at), table["label"].take(order))

    rewrite(shards(out)[0], swap)


def flip_a_bit_of_a_vector(out: Path) -> None:
    def flip(table: pa.Table) -> pa.Table:
        vectors = table["embedding"].to_pylist()
        vectors[3][5] += 1e-6
        return table.set_column(1, table.field(1), pa.array(vectors, table.field(1).type))

    rewrite(shards(out)[0], flip)


def tear_a_file(out: Path) -> None:
    path = shards(out)[0]
    path.write_bytes(path.read_bytes()[:-100])


def leave_a_stranger(out: Path) -> None:
    shutil.copy(shards(out)[0], out / "data" / "modality=text" / "part-009999.parquet")


def leave_a_scrap(out: Path) -> None:
    (out / "data" / "modality=text" / "part-000000.parquet.tmp").write_bytes(b"")


def recode_a_failure(out: Path) -> None:
    path = next(iter(out.glob("failures/*.parquet")))
    table = pq.read_table(path)
    at = table.column_names.index("code")
    pq.write_table(table.set_column(at, table.field(at), pa.array(["not_found"] * len(table))), path)


def unfinish(out: Path) -> None:
    (out / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("plant", "wrong"),
    [
        (lose_a_row, Wrong.LOST),
        (lose_a_shard, Wrong.LOST),
        (double_a_row, Wrong.DOUBLED),
        (publish_a_shard_in_another_s_name, Wrong.UNEXPECTED),
        (swap_two_vectors, Wrong.MISALIGNED),
        (swap_two_labels, Wrong.MISALIGNED),
        (flip_a_bit_of_a_vector, Wrong.MISALIGNED),
        (tear_a_file, Wrong.TORN),
        (leave_a_stranger, Wrong.UNEXPECTED),
        (leave_a_scrap, Wrong.UNEXPECTED),
        (recode_a_failure, Wrong.MISCODED),
        (unfinish, Wrong.LOST),
    ],
)
def test_what_is_planted_is_found(job: tuple[Path, Truth], plant: Callable[[Path], None], wrong: Wrong) -> None:
    """Each way to spoil a finished job is found, and called by its name."""
    out, truth = job
    plant(out)

    findings = judged(out, truth)

    assert findings.count(wrong) > 0, findings.to_dict()


def test_a_sound_job_has_no_findings(sound: tuple[Path, Truth]) -> None:
    """No false alarm; and everything was looked at."""
    out, truth = sound
    findings = Findings()

    _, counts = check_job(published_at(str(out)), truth, findings)

    assert findings.total == 0, findings.to_dict()
    assert (counts.vectors, counts.failures) == (len(truth.contents), len(truth.failures))
    assert counts.files == counts.shards > 3


def test_rows_of_another_manifest_are_found(sound: tuple[Path, Truth], tmp_path: Path) -> None:
    """The oracle believes the manifest, not the plan: rows that the plan left out are lost."""
    out, _ = sound
    longer = write_truth(tmp_path, rows=301, seed=7, images=False)

    findings = judged(out, longer)

    assert findings.count(Wrong.LOST) > 0


def test_the_reader_sees_what_vanishes_changes_and_is_torn(job: tuple[Path, Truth]) -> None:
    """While it looks: one file goes, one becomes another, one appears cut short."""
    out, _ = job
    whole = shards(out)
    reader = Reader()
    reader.watch(published_at(str(out)))
    reader.start()
    wait_for(lambda: reader.published == len(whole), timeout_s=20, what="the reader's first look")

    whole[0].unlink()
    data = whole[1].read_bytes()
    whole[1].write_bytes(bytes([data[0] ^ 1]) + data[1:])
    (out / "data" / "modality=text" / "part-000777.parquet").write_bytes(data[:100])
    wait_for(lambda: reader.published > len(whole), timeout_s=20, what="the reader's look at the new file")
    findings = reader.stop()

    assert {wrong: findings.count(wrong) for wrong in (Wrong.VANISHED, Wrong.CHANGED, Wrong.TORN)} == {
        Wrong.VANISHED: 1,
        Wrong.CHANGED: 1,
        Wrong.TORN: 1,
    }


def test_histories_tell_of_shards_published_twice_and_tried_too_often(tmp_path: Path) -> None:
    """Counted from the workers' own lines, some of them cut short by a kill."""
    done = {"event": "shard_done", "job": "j", "message": "it failed"}
    lines = [{**done, "shard": 1, "outcome": "published"}] * 2 + [{**done, "shard": 2, "outcome": "error"}] * 6
    taken = [{"event": "shard_taken", "job": "j", "shard": 3}]
    text = "".join(json.dumps(line) + "\n" for line in lines + taken)
    (tmp_path / "worker-0.log").write_text(text + '{"event": "shard_done", "jo')
    history, findings = read_history(tmp_path), Findings()

    history.judge(findings, most=5)

    assert findings.count(Wrong.DOUBLED) == findings.count(Wrong.OVER_RETRIED) == findings.total - 1 == 1
    assert history.repeated == 7  # six that failed, and one that was never heard of again


def test_leaks_are_found(tmp_path: Path) -> None:
    """A password or a word of a row in any log."""
    (tmp_path / "worker-0.log").write_text("redis://:hunter2@127.0.0.1 is away")
    (tmp_path / "worker-1.log").write_text("nothing")
    findings = Findings()

    find_leaks(tmp_path, ["hunter2", "canary", ""], findings)

    assert findings.count(Wrong.LEAKED) == 1
