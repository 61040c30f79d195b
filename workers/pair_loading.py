"""Pair loading: both sides of pairs in memory, each decoded once, ahead of the model, as many as memory holds."""

from collections import OrderedDict
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice

from schemas.failures import Failure
from schemas.rows import ManifestRow, Modality, PairRow
from workers.loading import Loaded, Loader, Segments
from workers.pair_scorer import LoadedPair

#: Pairs whose sides are fetched and decoded ahead of the one that is asked for, for each thread.
_AHEAD = 2


def load_pairs(
    loader: Loader, pairs: Sequence[PairRow], *, threads: int, limit: int
) -> Generator[tuple[int, LoadedPair | Failure], None, None]:
    """Each pair's index and content, those of one item together, so that an item is decoded once.

    So is a query, as long as all queries at work take up no more than `limit` bytes. What the loader raises is raised
    here. Closing the iterator waits for the loads under way.
    """
    order = sorted(range(len(pairs)), key=lambda at: (pairs[at].item.id, at))
    pool = ThreadPoolExecutor(threads, thread_name_prefix="load")
    items, queries = _Shelf(loader, pool, limit), _Shelf(loader, pool, limit)
    coming = iter(order)

    def start(count: int) -> None:
        for at in islice(coming, count):
            items.want(pairs[at].item)
            queries.want(pairs[at].query)

    try:
        start(_AHEAD * threads)
        for at in order:
            start(1)
            query, item = queries.get(pairs[at].query), items.get(pairs[at].item)
            yield at, _joined(query, item)
    finally:
        pool.shutdown(cancel_futures=True)


class _Shelf:
    """Sides by id, loaded or being loaded; the one used longest ago goes when they take up more than `limit` bytes."""

    def __init__(self, loader: Loader, pool: ThreadPoolExecutor, limit: int) -> None:
        self._loader, self._pool, self._limit = loader, pool, limit
        self._held: OrderedDict[str, Future[Segments | Failure]] = OrderedDict()
        self._sizes: dict[str, int] = {}  # bytes, of those that were asked for
        self._total = 0

    def want(self, row: ManifestRow) -> None:
        """Begin to load the row, unless it is here."""
        if row.id in self._held:
            self._held.move_to_end(row.id)
        elif row.modality is Modality.TEXT:  # at hand: a thread would only cost time
            self._held[row.id] = Future()
            self._held[row.id].set_result(self._loader.load(row))
        else:
            self._held[row.id] = self._pool.submit(self._loader.load, row)

    def get(self, row: ManifestRow) -> Segments | Failure:
        self.want(row)
        found = self._held[row.id].result()
        if row.id not in self._sizes:
            self._sizes[row.id] = 0 if isinstance(found, Failure) else sum(_bytes_of(found))
            self._total += self._sizes[row.id]
            self._make_room(row.id)
        return found

    def _make_room(self, but: str) -> None:
        if self._total <= self._limit:
            return
        for id_ in [id_ for id_ in self._held if id_ != but and id_ in self._sizes]:
            del self._held[id_]
            self._total -= self._sizes.pop(id_)
            if self._total <= self._limit:
                return


def _bytes_of(segments: Segments) -> Iterator[int]:
    for segment in segments:
        for item in segment.inputs:
            yield item.nbytes + len(item.text or "")


def _joined(query: Segments | Failure, item: Segments | Failure) -> LoadedPair | Failure:
    if isinstance(query, Failure):
        return replace(query, message=f"the query: {query.message}")
    if isinstance(item, Failure):
        return replace(item, message=f"the item: {item.message}")
    return LoadedPair(_whole(query), _whole(item))


def _whole(side: Segments) -> Loaded:
    """The one input of a side: the recipes of rerank jobs cut nothing."""
    [segment] = side
    [loaded] = segment.inputs
    return loaded
