"""Joins keep spaces apart: by model, revision, prompt, truncation; int8 levels are read in the ranges of their job."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from producer.prepare import JobRequest, prepare_job
from producer.recipes import Wishes
from schemas.errors import Refused
from schemas.recipe import OutputType, Role
from similarity.join_proof import prove_join
from similarity.join_request import JoinRequest, SideRequest
from similarity.joining import Joined, join_here
from storage import layout
from storage.store import LocalStore, open_store
from tests.inline import InlineMill
from tests.jobs import planned_job, text_rows
from tests.mill import texts, write_jsonl


def embedded(folder: Path, name: str, *, rows: int = 12, first: int = 0, **wishes: object) -> Path:
    """A finished job of the model `hash`."""
    manifest = write_jsonl(folder / f"{name}.jsonl", texts(first + rows)[first:])
    request = JobRequest(
        manifest=str(manifest),
        model="hash",
        out=str(folder / name),
        wishes=Wishes(**wishes),  # type: ignore[arg-type]
    )
    InlineMill(prepare_job(request)).run()
    return folder / name


def joined(left: Path, right: Path, out: Path, *, force: bool = False) -> Joined:
    sides = [SideRequest(location=str(side)) for side in (left, right)]
    request = JoinRequest(left=sides[0], right=sides[1], force=force, memory=2**29)
    return join_here(request, str(out), max_pairs=10**6, progress=lambda *seen: None)


def of_another(folder: Path, *, digest: str, name: str) -> Path:
    """A finished job whose model has these files and this name."""
    job = planned_job(LocalStore(folder), [text_rows(6)], model_digest=digest)
    InlineMill(job).run()
    record = replace(job.record, spec=replace(job.record.spec, model=name))
    job.store.replace(layout.JOB, record.to_json())
    return folder


def test_what_differs_between_two_spaces_is_named(tmp_path: Path) -> None:
    """Another model, revision, prompt or truncation is refused by its name; forced, every file says so for ever."""
    plain, one = embedded(tmp_path, "plain"), of_another(tmp_path / "one", digest="0" * 64, name="hash")
    others = {
        "model: hash / other": (one, of_another(tmp_path / "model", digest="1" * 64, name="other")),
        r"revision of model hash: files 0{12} / 2{12}": (
            one,
            of_another(tmp_path / "new", digest="2" * 64, name="hash"),
        ),
        r"\(prompt: .* / as a title: \)": (plain, embedded(tmp_path, "prompted", prompt="as a title: ")),
        r"\(normalize: False / True\)": (plain, embedded(tmp_path, "unit", normalize=True)),
    }

    for at, (named, sides) in enumerate(others.items()):
        out = tmp_path / f"out-{at}"
        with pytest.raises(Refused, match=named):
            joined(sides[0], sides[1], out)
        assert not out.exists()
        done = joined(sides[0], sides[1], out, force=True)
        record = json.loads((out / layout.JOIN).read_bytes())
        footer = json.loads(pq.read_schema(out / layout.panel_key(0)).metadata[b"embedmill"])
        assert len(done.forced) == 1
        assert list(done.forced) == record["spec"]["forced"] == footer["forced"]
        assert prove_join(open_store(str(out))).complete


def test_vectors_of_another_length_cannot_be_forced(tmp_path: Path) -> None:
    """A truncation is named with the lengths that come of it; --force has nothing to compare."""
    plain, short = embedded(tmp_path, "plain"), embedded(tmp_path, "short", truncate_dim=8)

    for force in (False, True):
        with pytest.raises(Refused, match=r"dim: 16 and 8; .*truncate_dim: 0 / 8"):
            joined(plain, short, tmp_path / "out", force=force)


def test_a_query_and_a_document_are_made_to_be_compared(tmp_path: Path) -> None:
    """Their prompts differ, and that is how it should be."""
    sides = tuple(embedded(tmp_path, role, role=Role(role), prompt=f"{role}: ") for role in ("query", "document"))

    assert joined(sides[0], sides[1], tmp_path / "out").forced == ()


def test_int8_levels_of_two_jobs_are_read_each_in_its_own_ranges(tmp_path: Path) -> None:
    """Scores are those of the float vectors up to the steps of both; as bare levels they would be far off."""
    words = {"left": (12, 0), "right": (30, 12)}
    floats = [embedded(tmp_path, f"{n}-f32", rows=rows, first=at) for n, (rows, at) in words.items()]
    levels = [
        embedded(tmp_path, f"{n}-int8", rows=rows, first=at, outputs=(OutputType.INT8,))
        for n, (rows, at) in words.items()
    ]

    joined(floats[0], floats[1], tmp_path / "f32")
    joined(levels[0], levels[1], tmp_path / "int8")

    assert (levels[0] / layout.RANGES).read_bytes() != (levels[1] / layout.RANGES).read_bytes()
    exact = cosines(*floats)
    found = pq.read_table(tmp_path / "int8" / layout.panel_key(0)).to_pylist()
    off = [abs(row["score"] - exact[row["left_id"], row["right_id"]]) for row in found]
    assert max(off) < 0.01
    bare = cosines(*levels)  # of the levels as they are written
    assert max(abs(bare[pair] - score) for pair, score in exact.items()) > 0.1


def cosines(left: Path, right: Path) -> dict[tuple[str, str], float]:
    """Of every pair of rows of two jobs, by the numbers in their files."""
    ids, units = [], []
    for side in (left, right):
        table = pq.read_table(sorted((side / "data").rglob("*.parquet")))
        wide = np.array(table["embedding"].to_pylist(), np.float64)
        ids.append(table["id"].to_pylist())
        units.append(wide / np.linalg.norm(wide, axis=1, keepdims=True))
    scores = units[0] @ units[1].T
    return {(x, y): float(scores[i, j]) for i, x in enumerate(ids[0]) for j, y in enumerate(ids[1])}
