"""Answer some of the demo's queries from the vectors that `make demo` made: nearest images to a text, sounds to a sound.

python examples/ask_demo.py out/demo out/demo-queries out/demo-sounds
"""

import json
import sys
from pathlib import Path

from similarity.nearest import load_dataset, nearest
from storage.store import open_store

QUERIES = Path(__file__).parent / "demo" / "queries.jsonl"
SHOWN = 6


def main(rows: str, queries: str, sounds: str) -> None:
    """Print the first queries with their nearest images, each film's nearest caption, each sound's nearest sound."""
    ask_images(rows, queries)
    ask_films(rows)
    ask_sounds(sounds)


def ask_images(rows: str, queries: str) -> None:
    asked = {row["id"]: row for row in map(json.loads, QUERIES.read_text().splitlines())}
    texts = load_dataset(open_store(queries), "text")
    found = dict(zip(texts.ids, nearest(texts, load_dataset(open_store(rows), "image"), k=3), strict=True))
    print("\nAsking the images in words (* marks what people judged to fit):")
    for query in list(asked.values())[:SHOWN]:
        hits = [
            f"{'*' if n.id in query['relevant'] else ' '}{n.id.removeprefix('img-')} {n.score:.2f}"
            for n in found[query["id"]]
        ]
        print(f"  {query['text'][:34]:34}  {'  '.join(f'{hit:22}' for hit in hits)}")
    first = sum(found[name][0].id in query["relevant"] for name, query in asked.items())
    among = sum(any(n.id in query["relevant"] for n in found[name]) for name, query in asked.items())
    print(f"  of {len(asked)} queries, {first} find a fitting image first, {among} among the first three")


def ask_films(rows: str) -> None:
    store = open_store(rows)
    films, images = load_dataset(store, "video"), load_dataset(store, "image")
    print("\nWhat each film shows, by the images nearest to the mean of its frames:")
    for name, hits in zip(films.ids, nearest(films, images, k=3), strict=True):
        print(f"  {name:34}  {'  '.join(f'{hit.id} {hit.score:.2f}' for hit in hits)}")


def ask_sounds(sounds: str) -> None:
    heard = load_dataset(open_store(sounds), "audio")
    print("\nWhich sounds are alike, by timbre alone:")
    for name, hits in zip(heard.ids, nearest(heard, heard, k=3), strict=True):
        others = [hit for hit in hits if hit.id != name][:2]
        print(f"  {name:34}  {'  '.join(f'{hit.id} {hit.score:.2f}' for hit in others)}")


if __name__ == "__main__":
    main(*sys.argv[1:4])
