"""Dedup: clusters of copies, the rows that stay, and that neither memory nor threads nor kills change them."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.errors import Conflict, Refused, SpecMismatch, Stopped
from similarity.components import Components
from similarity.dedup import Dedup, Effort, pin
from similarity.dedup_proof import prove_dedup
from similarity.dedup_request import Deduped, DedupRequest, dedup_here, plan_dedup
from similarity.join_request import SideRequest
from storage import layout
from storage.parquet import plain_file
from storage.parquet_seal import check_seal
from storage.store import LocalStore, open_store
from tests.mill import embedmill, write_jsonl

DIM = 24


def dataset(path: Path, vectors: np.ndarray, **columns: object) -> Path:
    """Parquet with ids `r0`, `r1`, ... in row groups of 100."""
    flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
    column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    table = pa.table({"id": [f"r{n}" for n in range(len(vectors))], "embedding": column, **columns})
    pq.write_table(table, path, row_group_size=100)
    return path


def request_of(path: Path, threshold: float = 0.95, **asked: object) -> DedupRequest:
    return replace(DedupRequest(side=SideRequest(location=str(path)), threshold=threshold, memory=2**28), **asked)  # type: ignore[arg-type]


def deduped(path: Path, out: Path, threshold: float = 0.95, **asked: object) -> Deduped:
    return dedup_here(request_of(path, threshold, **asked), str(out), progress=lambda *seen: None)


def clusters_of(out: Path) -> dict[int, list[tuple[str, str, bool]]]:
    """The rows of each cluster: id, representative, is_kept."""
    found: dict[int, list[tuple[str, str, bool]]] = {}
    for row in pq.read_table(out / layout.CLUSTERS).to_pylist():
        found.setdefault(row["cluster"], []).append((row["id"], row["representative"], row["is_kept"]))
    return found


def kept_ids(out: Path) -> list[str]:
    ids: list[str] = pq.read_table(out / layout.KEEP)["id"].to_pylist()
    return ids


def brute_force(vectors: np.ndarray, threshold: float) -> list[int]:
    """The least row that each one hangs together with, by a search over the whole matrix."""
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    near = (unit @ unit.T).astype(np.float32) >= np.float32(threshold)
    label = [-1] * len(vectors)
    for row in range(len(vectors)):
        ahead = [row] if label[row] < 0 else []
        while ahead:
            at = ahead.pop()
            if label[at] < 0:
                label[at] = row
                ahead += [int(other) for other in np.flatnonzero(near[at])]
    return label


def near_copy(vector: np.ndarray, cosine: float, rng: np.random.Generator) -> np.ndarray:
    """A vector of that cosine to `vector`."""
    unit = vector / np.linalg.norm(vector)
    aside = rng.normal(size=vector.shape)
    aside -= (aside @ unit) * unit
    made: np.ndarray = cosine * unit + np.sqrt(1 - cosine**2) * aside / np.linalg.norm(aside)
    return made


def test_300_exact_and_100_near_copies_are_all_found(tmp_path: Path) -> None:
    """Among 2,000 rows that are far apart, in any order: each copy with its original, and nothing else. Seed 11."""
    rng = np.random.default_rng(11)
    originals = rng.normal(size=(2000, 64)).astype(np.float32)
    chosen = rng.permutation(2000)[:400]
    near = [near_copy(originals[n], 0.97, rng) for n in chosen[300:]]
    rows = np.concatenate([originals, originals[chosen[:300]], np.array(near, np.float32)])
    of = np.concatenate([np.arange(2000), chosen])  # which original each row is, or is a copy of
    mixed = rng.permutation(2400)

    done = deduped(dataset(tmp_path / "rows.parquet", rows[mixed]), tmp_path / "out")

    told = done.to_dict()
    assert (told["rows"], told["kept"], told["exact"], told["near"], told["clusters"]) == (2400, 2000, 300, 100, 400)
    expected: dict[int, list[str]] = {}
    for at, original in enumerate(of[mixed]):
        expected.setdefault(int(original), []).append(f"r{at}")
    found = sorted(sorted(id_ for id_, _, _ in cluster) for cluster in clusters_of(tmp_path / "out").values())
    assert found == sorted(sorted(ids) for ids in expected.values() if len(ids) > 1)
    assert sorted(kept_ids(tmp_path / "out")) == sorted(ids[0] for ids in expected.values())
    scores = pq.read_table(tmp_path / "out" / layout.CLUSTERS)["score"].to_numpy()
    assert np.isclose(scores[:, None], [0.97, 1.0], atol=1e-6).any(axis=1).all()


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.9])
def test_clusters_are_those_of_brute_force(tmp_path: Path, threshold: float) -> None:
    """Single linkage over the whole matrix: chains, clusters across row groups, large ones and small. Seed 3."""
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(400, 8)).astype(np.float32)
    vectors[200:230] = vectors[100:130]

    deduped(dataset(tmp_path / "rows.parquet", vectors), tmp_path / "out", threshold)

    label = brute_force(vectors, threshold)
    for cluster in clusters_of(tmp_path / "out").values():
        rows = [int(id_[1:]) for id_, _, _ in cluster]
        assert rows == [row for row in range(400) if label[row] == label[rows[0]]]
        assert {representative for _, representative, _ in cluster} == {f"r{rows[0]}"}
        assert [is_kept for _, _, is_kept in cluster] == [True] + [False] * (len(rows) - 1)
    assert kept_ids(tmp_path / "out") == [f"r{row}" for row in range(400) if label[row] == row]
    copies = pq.read_table(tmp_path / "out" / layout.KEEP)["copies"].to_pylist()
    assert copies == [label.count(row) for row in sorted(set(label))]


def test_panels_halves_threads_and_blocks_change_nothing(tmp_path: Path) -> None:
    """The same bytes of both tables, from panels of another size, and from pairs that memory does not hold at once."""
    rng = np.random.default_rng(4)
    vectors = (rng.normal(size=(20, 8))[rng.integers(0, 20, 300)] + 0.2 * rng.normal(size=(300, 8))).astype(np.float32)
    path = dataset(tmp_path / "rows.parquet", vectors)
    source, spec = plan_dedup(request_of(path, 0.8))
    found = []

    for panel_rows, effort in ((300, Effort()), (37, Effort(threads=2)), (300, Effort(memory=2**14)), (11, Effort())):
        store = LocalStore(tmp_path / f"{panel_rows}-{effort.memory}")
        dedup = Dedup(store, pin(store, replace(spec, panel_rows=panel_rows)), source, effort=effort)
        tally = dedup.run()
        tables = [pq.read_table(store.path(key)).replace_schema_metadata() for key in (layout.CLUSTERS, layout.KEEP)]
        found.append((replace(tally, dedup=""), *tables))

    assert found[0][0].pairs > 2 * 2**14 // 4 // 64  # more than the least memory holds
    for tally, clusters, keep in found[1:]:
        assert tally == found[0][0]
        assert clusters.equals(found[0][1])
        assert keep.equals(found[0][2])


def test_what_stays_is_chosen_by_a_column(tmp_path: Path) -> None:
    """The greatest or the least value, also of texts; null and NaN lose, and among equals the first row stays."""
    vectors = np.repeat(np.eye(4, DIM), 3, axis=0)
    quality = pa.array([1.0, 5.0, 3.0, None, float("nan"), 0.5, 2.0, 2.0, 2.0, None, None, float("nan")])
    names = ["b", "c", "a"] * 4
    path = dataset(tmp_path / "rows.parquet", vectors, quality=quality, **{"name:min": names})

    kept = {}
    for keep_by in ("", "quality", "quality:max", "quality:min", "name:min:max", "name:min:min"):
        out = tmp_path / f"by-{keep_by.replace(':', '-')}"
        deduped(path, out, keep_by=keep_by)
        kept[keep_by] = kept_ids(out)

    assert kept == {
        "": ["r0", "r3", "r6", "r9"],
        "quality": ["r1", "r5", "r6", "r9"],
        "quality:max": ["r1", "r5", "r6", "r9"],
        "quality:min": ["r0", "r5", "r6", "r9"],
        "name:min:max": ["r1", "r4", "r7", "r10"],
        "name:min:min": ["r2", "r5", "r8", "r11"],
    }
    first = clusters_of(tmp_path / "by-quality")[0]
    assert first == [("r1", "r1", True), ("r0", "r1", False), ("r2", "r1", False)]


def test_the_first_row_is_the_manifests_first(tmp_path: Path) -> None:
    """Of a job whose shards are in another order: with `z` before `a` in the manifest `z` stays."""
    rows = [{"id": id_, "text": text} for id_, text in (("z", "same"), ("m", "other"), ("a", "same"), ("b", "other"))]
    rows += [{"id": f"x{n}", "text": f"text number {n} " * (n % 5 + 1)} for n in range(30)]
    out = tmp_path / "out"
    done = embedmill("run", write_jsonl(tmp_path / "r.jsonl", rows), "-m", "hash", "-o", out, "--shard-seconds", "0.01")
    assert done.returncode == 0, done.stderr

    deduped(out, tmp_path / "dedup")

    assert list(clusters_of(tmp_path / "dedup").values()) == [
        [("z", "z", True), ("a", "z", False)],
        [("m", "m", True), ("b", "m", False)],
    ]


class Killed(Exception):
    """Stands for the end of the process."""


class DyingStore(LocalStore):
    """A folder whose process ends at the nth object that it creates: before it is there, or right after."""

    def __init__(self, folder: Path, nth: int, *, after: bool) -> None:
        super().__init__(folder)
        self._left, self._after = nth, after

    def create(self, key: str, data: bytes) -> bool:
        self._left -= 1
        if self._left == 0:
            if self._after:
                super().create(key, data)
            raise Killed
        return super().create(key, data)


@pytest.mark.parametrize("after", [False, True])
def test_a_dedup_that_was_killed_goes_on(tmp_path: Path, *, after: bool) -> None:
    """Killed at each of its objects in turn: what is there is kept byte for byte, and the end is the same."""
    rng = np.random.default_rng(8)
    vectors = np.repeat(rng.normal(size=(50, 8)), 2, axis=0).astype(np.float32)
    vectors[1::4] += 0.01
    source, spec = plan_dedup(request_of(dataset(tmp_path / "rows.parquet", vectors)))
    spec = replace(spec, panel_rows=30)
    whole = LocalStore(tmp_path / "whole")
    expected = Dedup(whole, pin(whole, spec), source).run()
    objects = sum(1 for _ in whole.walk(""))

    for nth in range(1, objects + 1):
        store = DyingStore(tmp_path / f"{nth}", nth, after=after)
        with pytest.raises(Killed):
            Dedup(store, pin(store, spec), source).run()
        before = {item.key: store.get(item.key) for item in store.walk("") if not item.key.startswith("_tmp")}
        tally = Dedup(store, pin(store, spec), source).run()

        assert replace(tally, dedup="") == replace(expected, dedup="")
        assert all(store.get(key) == data for key, data in before.items())
        for key in (layout.CLUSTERS, layout.KEEP):
            ours, theirs = (pq.read_table(s.path(key)).replace_schema_metadata() for s in (store, whole))
            assert ours.equals(theirs)
    assert objects == 7


def test_every_file_is_sealed(tmp_path: Path) -> None:
    """Each Parquet file carries the sha256 of its bytes; called again, nothing is written."""
    path = dataset(tmp_path / "rows.parquet", np.repeat(np.eye(4, DIM), 2, axis=0))
    deduped(path, tmp_path / "out")
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*.parquet")}

    again = deduped(path, tmp_path / "out")

    assert len(files) == 4
    assert {check_seal(file.read_bytes(), file.name)[1] for file in files} == {""}
    assert again.was_done
    assert {file: file.stat().st_mtime_ns for file in files} == files


def test_a_dedup_is_proved_offline(tmp_path: Path) -> None:
    """Whole: proved; before its end: not complete; a flipped bit in any file, or tables that disagree: named."""
    path = dataset(tmp_path / "rows.parquet", np.repeat(np.eye(4, DIM), 2, axis=0))
    deduped(path, tmp_path / "out")
    store = open_store(str(tmp_path / "out"))

    assert prove_dedup(store).complete
    for file in sorted((tmp_path / "out").rglob("*.parquet")):
        data = file.read_bytes()
        file.write_bytes(data[:40] + bytes([data[40] ^ 4]) + data[41:])
        verdict = prove_dedup(store)
        assert not verdict.complete
        assert [problem.partition(":")[0] for problem in verdict.problems] == [str(file.relative_to(tmp_path / "out"))]
        file.write_bytes(data)
    clusters = pq.read_table(tmp_path / "out" / layout.CLUSTERS)
    other = clusters.set_column(3, "is_kept", pa.array(~np.asarray(clusters["is_kept"])))
    (tmp_path / "out" / layout.CLUSTERS).write_bytes(plain_file(other))
    assert any("representative" in problem for problem in prove_dedup(store).problems)
    (tmp_path / "out" / layout.CLUSTERS).unlink()
    unfinished = prove_dedup(store)
    assert not unfinished.complete
    assert unfinished.problems == []


def test_too_many_pairs_stop_it_resumably(tmp_path: Path) -> None:
    """It says what to do, and with a higher limit goes on."""
    rng = np.random.default_rng(9)
    path = dataset(tmp_path / "rows.parquet", 1 + 0.01 * rng.normal(size=(60, DIM)))

    with pytest.raises(Stopped, match="--max-pairs"):
        deduped(path, tmp_path / "out", max_pairs=100)
    done = deduped(path, tmp_path / "out", max_pairs=60 * 59 // 2)

    assert (done.tally.pairs, done.tally.clusters, done.tally.kept) == (60 * 59 // 2, 1, 1)


def test_another_dedup_or_a_changed_data_set_is_refused(tmp_path: Path) -> None:
    """What differs is named; nothing is overwritten."""
    path = dataset(tmp_path / "rows.parquet", np.eye(4, DIM))
    deduped(path, tmp_path / "out")

    with pytest.raises(SpecMismatch, match=r"threshold: 0\.95 / 0\.9"):
        deduped(path, tmp_path / "out", 0.9)
    dataset(path, 2 * np.eye(5, DIM))
    with pytest.raises(SpecMismatch, match=r"source\.digest"):
        deduped(path, tmp_path / "out")


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    """A threshold that is no cosine, a column that is not there or has no order, the data set's own folder."""
    path = dataset(tmp_path / "rows.parquet", np.eye(4, DIM), tags=[["x"]] * 4)

    for threshold in (0.0, 1.5, float("nan")):
        with pytest.raises(Refused, match="no cosine"):
            deduped(path, tmp_path / "out", threshold)
    with pytest.raises(Refused, match="no such column"):
        deduped(path, tmp_path / "out", keep_by="quality")
    with pytest.raises(Refused, match="no such column"):
        deduped(path, tmp_path / "out", keep_by="tags")
    with pytest.raises(Refused, match="of its own"):
        deduped(path, path)
    assert not (tmp_path / "out").exists()


def test_a_file_of_another_dedup_is_a_conflict(tmp_path: Path) -> None:
    """A stage that was copied from elsewhere is not believed."""
    one, two = (dataset(tmp_path / f"{n}.parquet", n * np.eye(4, DIM)) for n in (1, 2))
    deduped(one, tmp_path / "one")
    deduped(two, tmp_path / "two")
    key = layout.stage_key("alike", 0)
    (tmp_path / "two" / layout.KEEP).unlink()
    (tmp_path / "two" / key).write_bytes((tmp_path / "one" / key).read_bytes())

    with pytest.raises(Conflict, match="is not of dedup-"):
        deduped(two, tmp_path / "two")


def edges(rng: np.random.Generator, rows: int, pairs: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for _ in range(4):
        yield rng.integers(0, rows, pairs), rng.integers(0, rows, pairs)


@pytest.mark.parametrize("pairs", [3, 20, 100])
def test_components_do_not_depend_on_the_order_of_pairs(pairs: int) -> None:
    """The same labels forwards and backwards, and those of a search from each row. Seed = pairs."""
    rows = 120
    batches = list(edges(np.random.default_rng(pairs), rows, pairs))
    forward, backward = Components(rows), Components(rows)

    for left, right in batches:
        forward.connect(left, right)
    for left, right in batches[::-1]:
        backward.connect(right[::-1], left[::-1])

    near = np.eye(rows, dtype=np.int64)
    for left, right in batches:
        near[left, right] = near[right, left] = 1
    reach = np.linalg.matrix_power(near.astype(np.float64), rows) > 0
    assert forward.labels().tolist() == backward.labels().tolist() == reach.argmax(axis=1).tolist()


def test_the_command_says_what_it_found(tmp_path: Path) -> None:
    """A line for people, JSON for scripts, one line for a mistake."""
    path = dataset(tmp_path / "rows.parquet", np.repeat(np.eye(4, DIM), 2, axis=0))

    told = json.loads(embedmill("dedup", path, "--out", tmp_path / "out", "--json").stdout)
    shown = embedmill("dedup", path, "--out", tmp_path / "out")
    proved = embedmill("verify", tmp_path / "out")
    wrong = embedmill("dedup", tmp_path / "none", "--out", tmp_path / "out")

    assert {name: told[name] for name in ("rows", "kept", "exact", "near", "clusters")} == {
        "rows": 8,
        "kept": 4,
        "exact": 4,
        "near": 0,
        "clusters": 4,
    }
    assert "8 rows, 4 kept; left out 4 exact and 0 near copies" in shown.stdout
    assert (proved.returncode, "4 of 8 rows kept" in proved.stdout) == (0, True)
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (2, 1)
