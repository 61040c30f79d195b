"""Answer some of the demo's queries from the vectors that `make demo` made: nearest images to a text.

python examples/ask_demo.py out/demo out/demo-queries
"""

import json
import sys
from pathlib import Path

from similarity.nearest import load_dataset, nearest
from storage.store import open_store

QUERIES = Path(__file__).parent / "demo" / "queries.jsonl"
SHOWN = 6


def main(images: str, queries: str) -> None:
    """Print the first queries with their three nearest images, and how often the first was a judged hit."""
    asked = {row["id"]: row for row in map(json.loads, QUERIES.read_text().splitlines())}
    texts = load_dataset(open_store(queries), "text")
    found = dict(zip(texts.ids, nearest(texts, load_dataset(open_store(images), "image"), k=3), strict=True))
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


if __name__ == "__main__":
    main(*sys.argv[1:3])
