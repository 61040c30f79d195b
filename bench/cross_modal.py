"""How well each score of a join finds images by words: the demo's judged queries, in a table.

python -m bench.cross_modal out/cross-modal

Embeds the demo's queries, captions and images where the folder does not have them yet, joins them by each score, and
measures: the images that queries find, and what a threshold by --fpr lets through, of shuffled pairs and of true.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from schemas.join import Score

_DEMO = Path(__file__).parents[1] / "examples" / "demo"
_FPR = 0.01
_SHUFFLES = 1000
_ENTRY = (sys.executable, "-c", "from producer.cli import main; main()")


def main(folder: Path) -> None:
    _embedmill("run", _DEMO / "queries.jsonl", "--model", "demo", "--out", folder / "queries", "--quiet")
    for modality in ("image", "text"):
        only = ("--model", "demo", "--modality", modality, "--quiet")
        _embedmill("run", _DEMO / "manifest.jsonl", *only, "--out", folder / f"{modality}s")
    outputs = []
    for score in Score:
        outputs.append(folder / f"pairs-{score}")
        words = ("join", folder / "queries", folder / "images", "--score", score, "--top-k", 10, "--quiet")
        _embedmill(*words, "--out", outputs[-1])
    told = json.loads(_embedmill("eval", *outputs, "--judged", _DEMO / "queries.jsonl", "--k", 1, "--k", 10, "--json"))
    print(_table(told))
    print()
    print("\n".join(_let_through(folder)))


def _let_through(folder: Path) -> list[str]:
    """What passes the threshold of a false positive rate, of shuffled pairs of captions and images and of true ones."""
    rows = [json.loads(line) for line in (_DEMO / "manifest.jsonl").read_text("utf-8").splitlines()]
    truth = [(row["id"], row["describes"]) for row in rows if row.get("describes", "").startswith("img-")]
    texts, images = ([row["id"] for row in rows if row["modality"] == kind] for kind in ("text", "image"))
    lines = ["| score | threshold | shuffled pairs that pass | true pairs that pass |", "| --- | --- | --- | --- |"]
    for score in Score:
        out = folder / f"passed-{score}"
        words = ("join", folder / "texts", folder / "images", "--score", score, "--fpr", _FPR, "--json")
        told = json.loads(_embedmill(*words, "--out", out))
        table = pq.read_table(out / "data")
        passed = set(zip(table["left_id"].to_pylist(), table["right_id"].to_pylist(), strict=True))
        shares = _shuffled(passed, texts, images)
        found = np.mean([pair in passed for pair in truth])
        shuffled = f"{100 * shares.mean():.2f} % ± {100 * shares.std(ddof=1) / np.sqrt(len(shares)):.2f}"
        lines.append(f"| {score} | {told['threshold']:.3f} | {shuffled} | {100 * found:.0f} % |")
    return lines


def _shuffled(passed: set[tuple[str, str]], texts: list[str], images: list[str]) -> np.ndarray:
    """The share of pairs that pass, of each of many shuffles: a random image for each text. Seed 0."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(images), (_SHUFFLES, len(texts)))
    return np.array([np.mean([(t, images[n]) in passed for t, n in zip(texts, row, strict=True)]) for row in drawn])


def _table(told: dict[str, list[dict[str, dict[str, dict[str, float]]]]]) -> str:
    """Means over the queries, with their standard errors."""
    lines = ["| score | recall@1 | recall@10 | MRR | nDCG@10 |", "| --- | --- | --- | --- | --- |"]
    for score, found in zip(Score, told["outputs"], strict=True):
        values = [found["metrics"][name] for name in ("recall@1", "recall@10", "mrr", "ndcg@10")]
        lines.append(f"| {score} | " + " | ".join(f"{v['mean']:.3f} ± {v['error']:.3f}" for v in values) + " |")
    return "\n".join(lines)


def _embedmill(*words: object) -> str:
    done = subprocess.run([*_ENTRY, *map(str, words)], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]))
