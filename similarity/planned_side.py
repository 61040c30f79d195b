"""A planned side: the vectors that a join or dedup was planned with, opened again."""

from collections.abc import Callable

from schemas.errors import SpecMismatch
from schemas.join import JoinSide
from similarity.vectors import VectorSource, open_vectors


def planned_side(side: JoinSide, allow: Callable[[str], None] = lambda location: None) -> VectorSource:
    """The vectors of `side`; `allow` is asked for their location first, and may raise.

    Raises SpecMismatch where they are not what they were.
    """
    allow(side.location)
    source = open_vectors(
        side.location,
        modality=side.modality or None,
        id_column=side.id_column,
        column=side.column,
        known=side.digest,
        integers=side.integers,
    )
    if source.digest != side.digest:
        raise SpecMismatch(f"{side.location} is not what it was when the join was planned; restore it")
    return source
