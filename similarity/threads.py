"""Threads of a scan: each runs torch with one thread of its own, which is faster than one torch with several."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

import torch

from similarity.tiles import Engine, Precision

Start = TypeVar("Start")
Result = TypeVar("Result")


class Each(Protocol):
    """Calls a function with each item, several at once; the results in the items' order."""

    def __call__(self, work: Callable[[Start], Result], items: Iterable[Start], /) -> Iterable[Result]: ...


@contextlib.contextmanager
def each_of(engine: Engine) -> Iterator[Each]:
    """The threads of `engine`; torch's own settings are as before when they end."""
    before, tf32 = torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = engine.precision is Precision.TF32
    try:
        if engine.threads == 1:
            yield map
        else:
            with ThreadPoolExecutor(engine.threads, "scan", initializer=torch.set_num_threads, initargs=(1,)) as pool:
                yield pool.map
    finally:
        torch.set_num_threads(before)
        torch.backends.cuda.matmul.allow_tf32 = tf32
