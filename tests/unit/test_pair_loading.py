"""Pairs in memory: each side loaded once, as long as memory holds it."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from schemas.rows import ManifestRow, Modality, PairRow
from workers.loading import IsKnown, Loaded, Segment, Segments, nothing_known
from workers.pair_loading import load_pairs
from workers.pair_scorer import LoadedPair

SIDE = 50
IMAGE_BYTES = SIDE * SIDE * 3


class Images:
    """A loader of images that are told by their row's id."""

    def __init__(self) -> None:
        self.loads: Counter[str] = Counter()

    def load(self, row: ManifestRow, is_known: IsKnown = nothing_known) -> Segments:
        self.loads[row.id] += 1
        return (Segment(inputs=(Loaded(image=image(row.id)),)),)

    def close(self) -> None: ...


def image(id_: str) -> Image.Image:
    return Image.fromarray(np.full((SIDE, SIDE, 3), int(id_[1:]), np.uint8))


def pairs(queries: int, items: int) -> list[PairRow]:
    rows = {f"{kind}{n}": _row(f"{kind}{n}") for kind, count in (("q", queries), ("d", items)) for n in range(count)}
    return [PairRow(line=1, query=rows[f"q{q}"], item=rows[f"d{d}"]) for q in range(queries) for d in range(items)]


def _row(id_: str) -> ManifestRow:
    return ManifestRow(id=id_, line=1, modality=Modality.IMAGE, uri=f"{id_}.png")


@pytest.mark.parametrize("threads", [1, 3])
def test_each_side_is_loaded_once(threads: int) -> None:
    """Ten queries with ten items: twenty loads, and each pair has its own two sides."""
    loader, rows = Images(), pairs(10, 10)

    loaded = dict(load_pairs(loader, rows, threads=threads, limit=100 * IMAGE_BYTES))

    assert loader.loads == Counter({side.id: 1 for pair in rows for side in (pair.query, pair.item)})
    for at, row in enumerate(rows):
        pair = loaded[at]
        assert isinstance(pair, LoadedPair)
        assert (pair.query.image, pair.item.image) == (image(row.query.id), image(row.item.id))


def test_what_memory_does_not_hold_is_loaded_again() -> None:
    """With room for four queries of ten, items are loaded once all the same, and each pair still has its own sides."""
    loader, rows = Images(), pairs(10, 10)

    loaded = dict(load_pairs(loader, rows, threads=1, limit=4 * IMAGE_BYTES))

    assert {loader.loads[f"d{n}"] for n in range(10)} == {1}
    assert max(loader.loads.values()) > 1
    for at, row in enumerate(rows):
        pair = loaded[at]
        assert isinstance(pair, LoadedPair)
        assert (pair.query.image, pair.item.image) == (image(row.query.id), image(row.item.id))


def test_few_are_loaded_ahead() -> None:
    """Before the first pair is asked for nothing is loaded, after it no more than two pairs a thread and that one."""
    loader, rows = Images(), pairs(1, 50)
    coming = load_pairs(loader, rows, threads=2, limit=100 * IMAGE_BYTES)
    before = loader.loads.total()

    next(coming)
    coming.close()

    assert before == 0
    assert 2 <= loader.loads.total() <= 1 + 2 * 2 + 1
