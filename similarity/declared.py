"""Declared: what files outside of their job still say of their vectors, in the footers that embedmill wrote."""

from collections.abc import Sequence

from schemas.errors import Refused
from schemas.shard import Footer


def declared(footers: Sequence[bytes | None], location: str) -> Footer | None:
    """One of the footers, for all that is the same in them; None where nobody says anything.

    Raises Refused where files are of several spaces or modalities, or hold int8 levels, whose ranges lie in their job.
    """
    found = [told for data in footers if data is not None and (told := _parsed(data)) is not None]
    for told in found:
        if told.int8_ranges:
            raise Refused(
                f"{location} holds shards of int8 vectors; give the folder of their job, where the ranges are"
            )
        if (told.space, told.modality) != (found[0].space, found[0].modality):
            first, other = (f"{t.modality} of model {t.model}, space {t.space}" for t in (found[0], told))
            raise Refused(f"{location} holds vectors that must not be compared: {first}; {other}; give them one by one")
    if found and len(found) < len(footers):
        raise Refused(f"{location} holds shards of {found[0].job} among other files; give them one by one")
    return found[0] if found else None


def _parsed(data: bytes) -> Footer | None:
    try:
        told = Footer.from_json(data)
    except (ValueError, TypeError, LookupError):  # of a join, or of a newer embedmill
        return None
    return told if told.space_fields else None
