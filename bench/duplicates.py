"""What 30 % of duplicates save: `python -m bench.duplicates --rows 20000 --runs 5`.

The same number of texts of 2 to 400 words, once all different, once with a share of them said again under other ids,
through `embedmill run` as a whole process; runs alternate. Prints one line of JSON: medians of rows a second, and the
ratio. `--reuse` measures instead the manifest once more with a tenth of it new, beside the vectors of the first run.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_ENTRY = [sys.executable, "-c", "from producer.cli import main; main()"]
_WORDS = ("a", "cat", "sleeps", "on", "the", "sofa", "while", "rockets", "launch", "over", "Zürich", "and", "coffee")


def _texts(rows: int, share: float, seed: int) -> list[str]:
    """`rows` texts in random order, of which a `share` was said before."""
    rng = random.Random(seed)
    own = rows - round(rows * share)
    texts = [f"{n} {' '.join(rng.choices(_WORDS, k=rng.randint(1, 399)))}" for n in range(own)]
    texts += rng.sample(texts, rows - own) if rows - own <= own else rng.choices(texts, k=rows - own)
    rng.shuffle(texts)
    return texts


def _write(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"id": f"r{n}", "text": text}) + "\n" for n, text in enumerate(texts)))
    return path


def _seconds(manifest: Path, out: Path, model: str, *words: str) -> float:
    began = time.perf_counter()
    subprocess.run([*_ENTRY, "run", str(manifest), "--model", model, "--out", str(out), "-q", *words], check=True)
    return time.perf_counter() - began


def _compare(folder: Path, given: argparse.Namespace) -> dict[str, object]:
    rows, model = given.rows, given.model
    plain = _write(folder / "plain.jsonl", _texts(rows, 0.0, given.seed))
    texts, words = _texts(rows, 0.0 if given.reuse else given.share, given.seed + 1), []
    if given.reuse:  # nine of ten rows are those of the first manifest
        known = _texts(rows, 0.0, given.seed)
        texts, words = [texts[n] if n % 10 == 0 else known[n] for n in range(rows)], ["--reuse", f"{folder}/plain-0"]
    other = _write(folder / "other.jsonl", texts)
    rates: dict[str, list[float]] = {"plain": [], "other": []}
    for run in range(given.runs):
        rates["plain"].append(rows / _seconds(plain, folder / f"plain-{run}", model))
        rates["other"].append(rows / _seconds(other, folder / f"other-{run}", model, *words))
    medians = {name: statistics.median(found) for name, found in rates.items()}
    told = {name: [round(rate, 1) for rate in found] for name, found in rates.items()}
    return {"rows": rows, "model": model, "rows_per_s": told, "ratio": round(medians["other"] / medians["plain"], 3)}


def main() -> None:
    """Run, and print one line of JSON."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=20_000, help="rows of each manifest")
    arguments.add_argument("--share", type=float, default=0.3, help="of the rows that repeat another one's text")
    arguments.add_argument("--runs", type=int, default=5, help="of each manifest, alternating")
    arguments.add_argument("--model", default="minilm", help="the model")
    arguments.add_argument("--seed", type=int, default=1, help="of the generator")
    arguments.add_argument("--reuse", action="store_true", help="measure a changed manifest beside its first vectors")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="embedmill-bench-") as folder:
        sys.stdout.write(json.dumps(_compare(Path(folder), given)) + "\n")


if __name__ == "__main__":
    main()
