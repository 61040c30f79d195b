"""Storage: what a job keeps, and how it is read; `from storage import open_job` reads what it published."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from storage.reader import open_job

__all__ = ["open_job"]


def __getattr__(name: str) -> object:
    if name != "open_job":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from storage.reader import open_job  # only readers need Arrow: `embedmill --help` must be quick

    return open_job
