"""How fast a manifest of N short texts is planned, and in how much memory: `python -m bench.plan_rows 1000000`."""

import argparse
import csv
import json
import multiprocessing
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from producer.manifest import open_manifest
from producer.planner import make_plan
from schemas.job import JobSpec
from schemas.model_cards import Family, ModelCard
from schemas.recipe import Recipe
from schemas.rows import Modality
from storage.store import LocalStore

CARD = ModelCard(name="hash", family=Family.HASH, dim=16, modalities=frozenset(Modality), digest="0" * 64)
#: Estimated tokens of a row of these manifests, on average.
_TOKENS_A_ROW = 23.5
_AT_ONCE = 10_000
WORDS = ("a", "cat", "sleeps", "on", "the", "sofa", "while", "rockets", "launch", "over", "Zürich", "and", "coffee")


def write_manifest(path: Path, rows: int, seed: int, *, repeats: bool = False) -> None:
    """A manifest of `rows` texts of 5 to 305 characters, in the format of the path's ending; the same for a seed.

    Each text is another one, unless it `repeats`: then some four in ten do, as they are cut from a string of 400,000.
    """
    writer = _WRITERS[path.suffix](path)
    rng = random.Random(seed)
    # Text is cut from one long string: drawing words for 10^7 rows would take longer than planning them.
    words = " ".join(rng.choices(WORDS, k=100_000))
    for begin in range(0, rows, _AT_ONCE):
        ids, texts = [], []
        for number in range(begin, min(begin + _AT_ONCE, rows)):
            start, length = int(rng.random() * 400_000), int(5 + rng.random() ** 3 * 300)
            ids.append(f"row-{number:09d}")
            texts.append(words[start : start + length] if repeats else f"{number} {words[start : start + length]}")
        writer.send((ids, texts))
    writer.close()


Rows = tuple[list[str], list[str]]


def _json_writer(path: Path) -> Generator[None, Rows, None]:
    with path.open("w") as file:
        while True:
            ids, texts = yield
            file.write("".join(f'{{"id": "{i}", "text": "{t}"}}\n' for i, t in zip(ids, texts, strict=True)))


def _csv_writer(path: Path) -> Generator[None, Rows, None]:
    """Every seventh text has a comma, so that it is in quotes."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text"])
        while True:
            ids, texts = yield
            told = (t.replace(" cat", ", cat") if n % 7 == 0 else t for n, t in enumerate(texts))
            writer.writerows(zip(ids, told, strict=True))


def _parquet_writer(path: Path) -> Generator[None, Rows, None]:
    schema = pa.schema({"id": pa.string(), "text": pa.string()})
    with pq.ParquetWriter(path, schema) as writer:
        while True:
            writer.write_table(pa.table(list((yield)), schema=schema))


def _started(make: Callable[[Path], Generator[None, Rows, None]], path: Path) -> Generator[None, Rows, None]:
    writer = make(path)
    next(writer)
    return writer


_WRITERS = {
    ".jsonl": partial(_started, _json_writer),
    ".csv": partial(_started, _csv_writer),
    ".parquet": partial(_started, _parquet_writer),
}


def main() -> None:
    """Generate, plan, and print one line of JSON."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("rows", type=int, help="rows of the manifest")
    arguments.add_argument("--form", choices=["jsonl", "csv", "parquet"], default="jsonl", help="of the manifest")
    arguments.add_argument("--repeats", action="store_true", help="texts that repeat, so that it is read twice")
    arguments.add_argument("--shard-rows", type=int, default=0, help="rows of a shard, about; default: 30 s of a core")
    arguments.add_argument("--seed", type=int, default=1, help="of the generator")
    arguments.add_argument(
        "--folder", default=None, help="where manifest and plan are written; default: the temp folder"
    )
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="embedmill-bench-", dir=given.folder) as folder:
        path = Path(folder) / f"rows.{given.form}"
        in_child(write_manifest, path, given.rows, given.seed, repeats=given.repeats)
        sys.stdout.write(json.dumps({"form": given.form, **_planned(path, folder, given.shard_rows)}) + "\n")


def _planned(path: Path, folder: str, shard_rows: int) -> dict[str, float]:
    spec = JobSpec(manifest=str(path), manifest_sha256="", model=CARD.name, model_digest=CARD.digest)
    if shard_rows:
        spec = replace(spec, shard_seconds=shard_rows * _TOKENS_A_ROW / CARD.tokens_per_second)
    began, cpu = time.perf_counter(), time.process_time()
    plan, _ = make_plan(LocalStore(Path(folder) / "job"), open_manifest(str(path)), spec, CARD, Recipe())
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    return {
        "rows": plan.rows,
        "shards": plan.shards,
        "manifest_mb": round(path.stat().st_size / 1e6),
        "seconds": round(wall, 2),
        "cpu_seconds": round(cpu, 2),
        "rows_per_s": round(plan.rows / wall),
        "rows_per_cpu_s": round(plan.rows / cpu),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def in_child(work: Callable[..., None], *words: object, **named: object) -> None:
    """Do `work` in a process of its own: its memory is not ours."""
    child = multiprocessing.get_context("spawn").Process(target=work, args=words, kwargs=named)
    child.start()
    child.join()
    if child.exitcode:
        raise SystemExit(child.exitcode)


if __name__ == "__main__":
    main()
