"""Equal rows: which rows of a shard the plan makes of one content, so that it is embedded once."""

from collections.abc import Sequence

from schemas.rows import ManifestRow, PairRow


def first_of_equals(rows: Sequence[ManifestRow | PairRow]) -> list[int]:
    """For each row the index of the first one of the same texts and uris: its own where there is none before it.

    Pairs are all their own: the plan has none twice.
    """
    first: dict[object, int] = {}
    return [at if isinstance(row, PairRow) else first.setdefault(_made_of(row), at) for at, row in enumerate(rows)]


def _made_of(row: ManifestRow) -> tuple[object, ...]:
    return row.modality, row.text, row.uri, row.parts, row.defect
