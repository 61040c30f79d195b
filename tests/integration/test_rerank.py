"""`embedmill rerank` as a user runs it: real Redis, real workers, real rerankers."""

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from storage.jobs import open_job
from storage.model_files import resolve_model
from storage.shards import published_shards
from storage.store import LocalStore
from tests.inline import InlineMill
from tests.mill import embedmill, started, worker_pids, write_jsonl
from tests.rerank import MODEL, Rows, crossed, failures_of, hash_scores, planned, ranked, scores_of, sentences
from tests.servers import redis_server, wait_for
from workers.encoder import load_encoder  # noqa: F401  # makes torchvision importable for the reference model

#: What scores may differ by from those of each pair alone.
CLOSE = 1e-5


def words_for(folder: Path, pairs: Rows, queries: Rows, items: Rows, *more: object, model: object = MODEL) -> list[Any]:
    """The words of a rerank of these pairs into `folder`/out."""
    return [
        "rerank",
        write_jsonl(folder / "pairs.jsonl", pairs),
        *("--left", write_jsonl(folder / "queries.jsonl", queries)),
        *("--right", write_jsonl(folder / "items.jsonl", items)),
        *("--model", model, "--out", folder / "out"),
        *more,
    ]


def test_a_killed_rerank_goes_on(tmp_path: Path) -> None:
    """kill -9 to the run and all its workers in the middle; the same command ends it, nothing lost or doubled."""
    queries, items = sentences("q", 60, seed=1), sentences("d", 80, seed=2)
    pairs = crossed(queries, items, 10)
    words = words_for(tmp_path, pairs, queries, items, "--activation", "none", "--shard-seconds", 0.01, "--workers", 2)
    store = LocalStore(tmp_path / "out")
    with started(*words, env={"EMBEDMILL_HASH_DELAY_MS": "10"}) as run:
        wait_for(lambda: len(list(published_shards(store))) >= 3, timeout_s=90, what="the first shards")
        for pid in [run.pid, *worker_pids(run.pid)]:
            os.kill(pid, signal.SIGKILL)
    before = scores_of(tmp_path / "out")

    again = embedmill(*words)

    assert again.returncode == 0, again.stderr
    assert 0 < len(before) < len(pairs)
    wanted = hash_scores(pairs, queries, items)
    assert scores_of(tmp_path / "out") == {pair: (wanted[pair], rank) for pair, rank in ranked(wanted).items()}
    proof = embedmill("verify", tmp_path / "out", "--json")
    assert json.loads(proof.stdout)["complete"]
    assert embedmill(*words).stdout.startswith(f"{open_job(store).id}: finished, every pair has a score")
    assert re.search(r"600/600 pairs, .* shards, 0 failed, .* pairs/s", again.stderr)
    assert "  pairs     600 of 600 done" in embedmill("status", tmp_path / "out").stdout


@pytest.mark.model
def test_scores_of_texts_are_those_of_each_pair_alone(tmp_path: Path, tiny_models: dict[str, Path]) -> None:
    """Through two workers, in shards of several queries, texts of all lengths: CrossEncoder.predict gives the same."""
    from sentence_transformers import CrossEncoder

    queries, items = sentences("q", 12, seed=1), sentences("d", 40, seed=2)
    pairs = crossed(queries, items, 8)
    words = words_for(tmp_path, pairs, queries, items, "--shard-seconds", 0.01, model=tiny_models["cross_encoder"])

    done = embedmill(*words, "--workers", 2)

    assert done.returncode == 0, done.stderr
    reference = CrossEncoder(str(tiny_models["cross_encoder"]), device="cpu")
    texts = {row["id"]: row["text"] for row in queries + items}
    found = scores_of(tmp_path / "out")
    assert len(found) == len(pairs)
    for (query, item), (score, _) in found.items():
        assert score == pytest.approx(float(reference.predict((texts[query], texts[item]))), abs=CLOSE)
    assert {pair: rank for pair, (_, rank) in found.items()} == ranked({pair: s for pair, (s, _) in found.items()})


@pytest.mark.model
def test_scores_of_texts_and_images_are_those_of_each_pair_alone(tmp_path: Path, tiny_models: dict[str, Path]) -> None:
    """Queries of text, image, and both, with items of each, through a worker; a missing image costs its pairs."""
    model = tiny_models["qwen3vl_reranker"]
    queries, items, values = _multimodal(tmp_path)
    pairs = [{"query_id": query["id"], "item_id": item["id"]} for query in queries for item in items]

    done = embedmill(*words_for(tmp_path, pairs, queries, items, model=model), "--workers", 1)

    assert done.returncode == 1, done.stderr
    found = scores_of(tmp_path / "out")
    assert {(f["id"].partition("\t")[2], f["code"]) for f in failures_of(tmp_path / "out")} == {("gone", "not_found")}
    assert len(found) == len(queries) * (len(items) - 1)
    for (query, item), score in _alone(model, values, list(found)).items():
        assert found[query, item][0] == pytest.approx(score, abs=CLOSE)


def _multimodal(folder: Path) -> tuple[Rows, Rows, dict[str, dict[str, Any]]]:
    """Queries, items, and what a reference model is given for each of their ids."""
    rng = np.random.default_rng(5)
    values: dict[str, dict[str, Any]] = {}
    rows: Rows = []
    for n, (width, height) in enumerate([(48, 40), (31, 64), (60, 60), (90, 20)]):
        image = Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8))
        image.save(folder / f"{n}.png")
        rows.append({"id": f"i{n}", "uri": f"{n}.png"})
        rows.append({"id": f"m{n}", "uri": f"{n}.png", "text": f"number {n} of four " * n or "none"})
        values |= {f"i{n}": {"image": image}, f"m{n}": {"image": image, "text": rows[-1]["text"]}}
    texts = sentences("t", 6, seed=4)
    values |= {row["id"]: {"text": row["text"]} for row in texts}
    return texts[:3] + rows[:3], [*texts[3:], *rows[3:], {"id": "gone", "uri": "gone.png"}], values


def _alone(model: Path, values: dict[str, dict[str, Any]], pairs: list[tuple[str, str]]) -> dict[Any, float]:
    """What CrossEncoder.predict gives for each pair by itself."""
    from sentence_transformers import CrossEncoder

    reference = CrossEncoder(str(model), device="cpu", model_kwargs={"dtype": "float32"})
    return {(query, item): float(reference.predict((values[query], values[item]))) for query, item in pairs}


@pytest.mark.model
@pytest.mark.parametrize("name", ["cross_encoder", "qwen3vl_reranker"])
def test_order_and_shards_change_no_score(tmp_path: Path, tiny_models: dict[str, Path], name: str) -> None:
    """The same pairs backwards, in shards of one query each, have the same scores and ranks as in one shard."""
    queries, items = sentences("q", 6, seed=7), sentences("d", 12, seed=8)
    pairs = crossed(queries, items, 5)
    found = []
    for folder, order, seconds in (("one", 1, 30.0), ("many", -1, 0.001)):
        (tmp_path / folder).mkdir()
        job = planned(
            tmp_path / folder, pairs[::order], queries, items, model=str(tiny_models[name]), shard_seconds=seconds
        )
        InlineMill(job).run()
        found.append((job.record.plan.shards, scores_of(tmp_path / folder / "out")))

    (shards, one), (more, many) = found
    assert shards == 1
    assert more == len(queries)
    assert {pair: rank for pair, (_, rank) in one.items()} == {pair: rank for pair, (_, rank) in many.items()}
    for pair, (score, _) in one.items():
        assert many[pair][0] == pytest.approx(score, abs=CLOSE)


def test_a_job_can_be_handed_to_a_coordinator(tmp_path: Path) -> None:
    """`rerank --submit`, a worker and a coordinator on one Redis: the job ends, and its queue was that of reranking."""
    queries, items = sentences("q", 5, seed=1), sentences("d", 20, seed=2)
    pairs = crossed(queries, items, 4)
    words = words_for(tmp_path, pairs, queries, items, "--activation", "none")
    with redis_server() as broker:
        url = ("--broker-url", broker.url)
        submitted = embedmill(*words, "--submit", *url, "--json")
        root = ("--root", tmp_path)
        with started("worker", *root, *url, "--queues", "rerank.text.cpu", "--workers", 1):
            ended = embedmill("coordinate", *root, *url, "--until-idle")

    assert ended.returncode == 0, ended.stderr
    assert [queue["queue"] for queue in json.loads(submitted.stdout)["queues"]] == ["rerank.text.cpu"]
    wanted = hash_scores(pairs, queries, items)
    assert {pair: score for pair, (score, _) in scores_of(tmp_path / "out").items()} == wanted


def test_a_pair_that_kills_its_process_costs_itself(tmp_path: Path) -> None:
    """A text that no process survives: its pairs are failures, all others have scores and ranks."""
    queries, items = sentences("q", 2, seed=1), [*sentences("d", 4, seed=2), {"id": "x", "text": "!segfault"}]
    pairs = crossed(queries, items, 5)
    words = words_for(tmp_path, pairs, queries, items, "--activation", "none", "--workers", 1)

    done = embedmill(*words, env={"EMBEDMILL_HASH_FAULTS": "poison"})

    assert done.returncode == 1, done.stderr
    assert {(f["id"], f["code"]) for f in failures_of(tmp_path / "out")} == {
        ("q000\tx", "process_crashed"),
        ("q001\tx", "process_crashed"),
    }
    wanted = hash_scores([pair for pair in pairs if pair["item_id"] != "x"], queries, items)
    assert scores_of(tmp_path / "out") == {pair: (wanted[pair], rank) for pair, rank in ranked(wanted).items()}


@pytest.mark.model
def test_a_model_with_several_labels_is_refused(tmp_path: Path, tiny_models: dict[str, Path]) -> None:
    """One line says how many scores it gives, and nothing is planned."""
    queries, items = sentences("q", 2, seed=1), sentences("d", 2, seed=2)
    model = resolve_model(str(tiny_models["cross_encoder_3"])).card.name

    done = embedmill(*words_for(tmp_path, crossed(queries, items, 2), queries, items, model=model))

    assert done.returncode == 2
    assert "gives a pair 3 scores, one a label" in done.stderr
    assert len(done.stderr.splitlines()) == 1
