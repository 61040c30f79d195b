"""From a manifest to a table and a picture: embed, join texts to images, rerank the first of them, measure.

python examples/pipeline.py --out out

Each step is a command of embedmill, printed before it runs: copy the lines, and put your own files in. Repeated, it goes
on where it was. The join compares a question with pixels; the rerank compares it with the words that come with a
picture (caption, title, keywords), which know what pixels do not tell.
"""

import argparse
import json
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.dataset
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table

DEMO = Path(__file__).parent / "demo"
EMBEDMILL = [sys.executable, "-c", "from producer.cli import main; main()"]

ASKED = 6  # queries that are shown
SHOWN = 6  # images of each
TILE, CAPTION, MARGIN, LABELS = 150, 22, 10, 90  # pixels
INK, PALE, FITS, PAPER = "#202020", "#808080", "#2a9d4a", "#ffffff"


@dataclass(frozen=True, slots=True)
class Hit:
    """An image that was found: its id, its score, and whether people judged it to fit."""

    id: str
    score: float
    fits: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """A query with its first images, before and after they were reranked."""

    text: str
    joined: list[Hit]
    reranked: list[Hit]


def main() -> None:
    asked = _arguments()
    rows, queries = read(asked.manifest), read(asked.queries)
    asked.out.mkdir(parents=True, exist_ok=True)
    words = write_words(rows, asked.out / "demo-words.jsonl")
    for number, (saying, command) in enumerate(steps(asked, words), 1):
        print(f"\n==> {number}. {saying}\n$ embedmill {shlex.join(command)}", flush=True)
        subprocess.run([*EMBEDMILL, *command], check=True)
    answers = answers_of(queries[:ASKED], asked.out)
    show_table(answers)
    picture = asked.out / "demo.png"
    draw(answers, {row["id"]: asked.manifest.parent / row["uri"] for row in rows if "uri" in row}).save(picture)
    print(f"\nthe same with its images: {picture}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--manifest", type=Path, default=DEMO / "manifest.jsonl", help="texts, images and films")
    parser.add_argument("--queries", type=Path, default=DEMO / "queries.jsonl", help="texts, and what fits them")
    parser.add_argument("--out", type=Path, default=Path("out"), help="the folder that all outputs are put in")
    parser.add_argument("--model", default="demo", help="a model that embeds texts and images")
    parser.add_argument("--reranker", default="demo-reranker", help="a model that scores two texts")
    parser.add_argument("--depth", type=int, default=50, help="images of a query that are joined and reranked")
    parser.add_argument("--workers", type=int, default=0, help="worker processes; 0: one for each core")
    return parser.parse_args()


def steps(asked: argparse.Namespace, words: Path) -> list[tuple[str, list[str]]]:
    """What each step does, and its command."""
    manifest, queries = str(asked.manifest), str(asked.queries)
    vectors, questions, pairs, scores = (
        str(asked.out / name) for name in ("demo", "demo-queries", "demo-nearest", "demo-scores")
    )
    workers = ["--workers", str(asked.workers)]
    modalities = ["--modality", "text", "--modality", "image", "--modality", "video"]
    kept = ["--keep", "category", "--keep", "title"]
    how = ["--score", "csls", "--top-k", str(asked.depth), "--keep-right", "title"]
    sides = ["--left", queries, "--right", str(words)]
    return [
        (
            "embed the texts, images and films of a manifest",
            ["run", manifest, "--model", asked.model, *modalities, *kept, "--out", vectors, *workers],
        ),
        (
            "embed the queries with the same model",
            ["run", queries, "--model", asked.model, "--out", questions, "--quiet", *workers],
        ),
        (
            "join: for each query the images whose vectors are nearest",
            ["join", questions, vectors, "--right-modality", "image", *how, "--out", pairs],
        ),
        (
            "rerank them: each query with the words that come with the image",
            ["rerank", pairs, *sides, "--model", asked.reranker, "--out", scores, "--quiet", *workers],
        ),
        ("measure both with what people judged to fit", ["eval", pairs, scores, "--judged", queries]),
    ]


# --- what is read and written


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def write_words(rows: list[dict[str, Any]], path: Path) -> Path:
    """A manifest of the words that come with each image, under the image's id."""
    captions = {row["describes"]: row["text"] for row in rows if "describes" in row}
    images = [row for row in rows if row["modality"] == "image"]
    lines = [json.dumps({"id": row["id"], "text": words_of(row, captions.get(row["id"], ""))}) for row in images]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def words_of(image: dict[str, Any], caption: str) -> str:
    """Caption, title and keywords, as one text."""
    named = ", ".join([image.get("title", ""), *image.get("keywords", [])])
    return f"{caption}. {named}" if caption else named


def answers_of(queries: list[dict[str, Any]], out: Path) -> list[Answer]:
    """What the join found for some queries, and what the rerank made of it."""
    joined = first_of(out / "demo-nearest", "left_id", "right_id", queries)
    reranked = first_of(out / "demo-scores", "query_id", "item_id", queries)
    return [Answer(query["text"], joined[query["id"]], reranked[query["id"]]) for query in queries]


def first_of(folder: Path, query: str, item: str, queries: list[dict[str, Any]]) -> dict[str, list[Hit]]:
    """The first hits of each query, read from the Parquet of a join or a rerank."""
    table = pyarrow.dataset.dataset(folder / "data").to_table([query, item, "score", "rank"]).sort_by("rank")
    relevant = {row["id"]: set(row.get("relevant", ())) for row in queries}
    hits: dict[str, list[Hit]] = {name: [] for name in relevant}
    for row in table.to_pylist():
        if row[query] in hits:
            hits[row[query]].append(Hit(row[item], row["score"], row[item] in relevant[row[query]]))
    return hits


# --- what is shown


def show_table(answers: list[Answer]) -> None:
    """The first three of each query before and after, what fits in green and with a star."""
    table = Table("query", "nearest by vector", "after the rerank", title="\nThe first three images (* fits)")
    for answer in answers:
        table.add_row(answer.text, *("\n".join(map(_told, hits[:3])) for hits in (answer.joined, answer.reranked)))
        table.add_section()
    Console().print(table)


def _told(hit: Hit) -> str:
    text = f"{'*' if hit.fits else ' '} {hit.id.removeprefix('img-')} {hit.score:.2f}"
    return f"[green]{text}[/green]" if hit.fits else text


def draw(answers: list[Answer], files: dict[str, Path]) -> Image.Image:
    """A contact sheet: for each query a row of images by vector, and one after the rerank."""
    heading = 30
    height = heading + 2 * (TILE + CAPTION + MARGIN) + MARGIN
    sheet = Image.new("RGB", (LABELS + SHOWN * (TILE + MARGIN) + MARGIN, height * len(answers) + MARGIN), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, answer in enumerate(answers):
        top = number * height + MARGIN
        pen.text((MARGIN, top), answer.text, INK, ImageFont.load_default(20))
        for line, (label, hits) in enumerate((("vectors", answer.joined), ("reranked", answer.reranked))):
            y = top + heading + line * (TILE + CAPTION + MARGIN)
            pen.text((MARGIN, y + TILE // 2), label, PALE, ImageFont.load_default(15))
            for place, hit in enumerate(hits[:SHOWN]):
                _draw_hit(sheet, (LABELS + place * (TILE + MARGIN), y), hit, files[hit.id])
    return sheet


def _draw_hit(sheet: Image.Image, at: tuple[int, int], hit: Hit, file: Path) -> None:
    """An image in its tile, framed in green where it fits, its score below."""
    x, y = at
    pen = ImageDraw.Draw(sheet)
    with Image.open(file) as opened:
        picture = opened.convert("RGBA")
    picture.thumbnail((TILE - 12, TILE - 12))
    sheet.paste(picture, (x + (TILE - picture.width) // 2, y + (TILE - picture.height) // 2), picture)
    pen.rectangle(
        (x, y, x + TILE - 1, y + TILE - 1), outline=FITS if hit.fits else "#dddddd", width=4 if hit.fits else 1
    )
    pen.text((x, y + TILE + 2), f"{hit.score:.2f}", FITS if hit.fits else PALE, ImageFont.load_default(14))


if __name__ == "__main__":
    main()
