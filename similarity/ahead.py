"""Working ahead: the next block is read while one is scanned."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Iterable[T]) -> Iterator[T]:
    """`items` in their order, each taken from its iterator while the caller works on the one before."""
    if isinstance(items, list | tuple):
        yield from items
        return
    iterator = iter(items)
    with ThreadPoolExecutor(1, "ahead") as reader:
        coming = reader.submit(next, iterator, None)
        try:
            while (item := coming.result()) is not None:
                coming = reader.submit(next, iterator, None)
                yield item
        finally:
            coming.cancel()
