"""Ask the vectors that `make demo` made what each film shows, and which sounds are alike.

python examples/ask_demo.py out/demo out/demo-sounds
"""

import sys
from pathlib import Path

from similarity.nearest import load_dataset, nearest
from storage.store import open_store


def main(rows: str, sounds: str) -> None:
    """Print each film's nearest images, and each sound's nearest sounds."""
    ask_films(rows)
    ask_sounds(sounds)
    print("\nLook at what was made, in a browser:")
    for report in sorted(Path(rows).parent.glob("*/report.html")):
        print(f"  {report}")


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
    main(*sys.argv[1:3])
