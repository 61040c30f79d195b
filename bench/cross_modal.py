"""How well each score of a join finds images by words: the demo's judged queries, in a table.

python -m bench.cross_modal out/cross-modal

Embeds the demo's queries and images where the folder does not have them yet, joins them by each score, and measures.
"""

import json
import subprocess
import sys
from pathlib import Path

from schemas.join import Score

_DEMO = Path(__file__).parents[1] / "examples" / "demo"
_ENTRY = (sys.executable, "-c", "from producer.cli import main; main()")


def main(folder: Path) -> None:
    _embedmill("run", _DEMO / "queries.jsonl", "--model", "demo", "--out", folder / "queries", "--quiet")
    _embedmill(
        *("run", _DEMO / "manifest.jsonl", "--model", "demo", "--modality", "image"),
        "--out",
        folder / "images",
        "--quiet",
    )
    outputs = []
    for score in Score:
        outputs.append(folder / f"pairs-{score}")
        words = ("join", folder / "queries", folder / "images", "--score", score, "--top-k", 10, "--quiet")
        _embedmill(*words, "--out", outputs[-1])
    told = json.loads(_embedmill("eval", *outputs, "--judged", _DEMO / "queries.jsonl", "--k", 1, "--k", 10, "--json"))
    print(_table(told))


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
