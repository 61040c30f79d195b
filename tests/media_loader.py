"""The loader that workers have, for tests: a folder of media, decoded in processes of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas.recipe import Recipe
from workers.decoders import DecodeLimits, Decoders
from workers.fetch import Fetcher, FetchRules
from workers.loading import MediaLoader


@contextmanager
def media_loader(
    folder: Path, recipe: Recipe | None = None, *, max_bytes: int = 64 * 2**20, limits: DecodeLimits | None = None
) -> Iterator[MediaLoader]:
    """A loader of the media in `folder`; its processes end with the `with`."""
    decoders = Decoders(count=2, limits=limits or DecodeLimits())
    rules = FetchRules(base=str(folder), roots=(str(folder),), max_bytes=max_bytes)
    loader = MediaLoader(Fetcher(rules), decoders, recipe or Recipe())
    try:
        yield loader
    finally:
        loader.close()
        decoders.close()
