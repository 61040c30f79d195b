"""How fast a manifest of N short texts is planned, and in how much memory: `python -m bench.plan_rows 1000000`."""

import argparse
import json
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

from producer.manifest import open_manifest
from producer.planner import make_plan
from schemas.job import JobSpec
from schemas.model_cards import Family, ModelCard
from schemas.recipe import Recipe
from schemas.rows import Modality
from storage.store import LocalStore

CARD = ModelCard(name="hash", family=Family.HASH, dim=16, modalities=frozenset(Modality), digest="0" * 64)
WORDS = ("a", "cat", "sleeps", "on", "the", "sofa", "while", "rockets", "launch", "over", "Zürich", "and", "coffee")


def write_manifest(path: Path, rows: int, seed: int) -> None:
    """A JSONL manifest of `rows` texts of 1 to 60 words; the same for the same seed."""
    rng = random.Random(seed)
    # Text is cut from one long string: drawing words for 10^7 rows would take longer than planning them.
    words = " ".join(rng.choices(WORDS, k=100_000))
    with path.open("w") as file:
        for number in range(rows):
            start, length = int(rng.random() * 400_000), int(5 + rng.random() ** 3 * 300)
            file.write(f'{{"id": "row-{number:09d}", "text": "{words[start : start + length]}"}}\n')


def main() -> None:
    """Generate, plan, and print one line of JSON."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("rows", type=int, help="rows of the manifest")
    arguments.add_argument("--seed", type=int, default=1, help="of the generator")
    arguments.add_argument(
        "--folder", default=None, help="where manifest and plan are written; default: the temp folder"
    )
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="embedmill-bench-", dir=given.folder) as folder:
        path = Path(folder) / "rows.jsonl"
        write_manifest(path, given.rows, given.seed)
        spec = JobSpec(manifest=str(path), manifest_sha256="", model=CARD.name, model_digest=CARD.digest)
        began, cpu = time.perf_counter(), time.process_time()
        plan, _ = make_plan(LocalStore(Path(folder) / "job"), open_manifest(str(path)), spec, CARD, Recipe())
        seconds = time.perf_counter() - began
        result = {
            "rows": plan.rows,
            "shards": plan.shards,
            "manifest_mb": round(path.stat().st_size / 1e6),
            "seconds": round(seconds, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
            "rows_per_s": round(plan.rows / seconds),
            "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
