"""The rates file: what was measured of models on this machine's devices, by jobs and by `embedmill bench`."""

from itertools import product

from schemas.rates import Rates, Source
from schemas.sizes import above
from storage.memory_file import RATES, MemoryFile


class RatesFile:
    """Rates by model, size of device, and type of the computation."""

    def __init__(self, folder: str = "") -> None:
        """`folder` is where the machine's memory lies; default: the user's cache folder."""
        self._file = MemoryFile(folder, RATES)

    @property
    def path(self) -> str:
        return str(self._file.path)

    def find(self, digest: str, size: str, dtype: str) -> Rates | None:
        """The best that is known: of a job, else of a bench; of the smallest size that is known, from `size` on."""
        entries = self._file.entries()
        for at, source in product((size, *above(size)), (Source.JOB, Source.BENCH)):
            try:
                return Rates.from_dict(entries[_key(digest, at, dtype, source)])
            except (ValueError, TypeError, LookupError, AttributeError):  # not there, or not what embedmill wrote
                continue
        return None

    def put(self, digest: str, size: str, dtype: str, rates: Rates) -> None:
        """Remember, in the place of what was known from the same source."""
        self._file.put({_key(digest, size, dtype, rates.source): rates.to_dict()})


def _key(digest: str, size: str, dtype: str, source: Source) -> str:
    return f"{digest[:32]} {size} {dtype} {source}"
