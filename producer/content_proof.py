"""The proof of content hashes: they are those of the planned texts, and rows of one hash have one vector."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.columns import CONTENT
from schemas.contents import text_content
from schemas.job import JobRecord
from schemas.rows import Modality
from schemas.shard import Footer
from storage.parquet import ID

#: What vectors of one content share at least: a row that was tried alone was not in a batch with its equals.
_COSINE = 0.999


def content_claims(
    record: JobRecord, footer: Footer, planned: pa.Table | None, vectors: Mapping[str, np.ndarray], table: pa.Table
) -> dict[str, bool]:
    """What may be wrong with content hashes, and whether it is."""
    taken = footer.equal + footer.reused
    claims = {
        "its footer counts more equal and reused rows than it has": not 0 <= taken <= footer.rows_ok,
        "it has rows of earlier jobs, and the job takes none": bool(footer.reused) and not record.spec.reuse,
    }
    if CONTENT not in table.column_names:
        return claims
    return claims | {
        "its content hashes are not those of the planned texts": footer.modality == Modality.TEXT
        and not _of_texts(planned, table),
        "rows of one content have different vectors": not _alike(vectors, table),
    }


def _of_texts(planned: pa.Table | None, table: pa.Table) -> bool:
    if planned is None:
        return True  # that the plan cannot be read is said elsewhere
    texts = planned["text"].take(pc.index_in(table[ID], planned[ID])).to_pylist()
    wanted = [None if text is None else text_content(text) for text in texts]
    return bool(wanted == table[CONTENT].to_pylist())


def _alike(vectors: Mapping[str, np.ndarray], table: pa.Table) -> bool:
    """Whether each row points where the first one of its content, and of its place among the segments, points."""
    names = table[CONTENT].to_pylist()
    if len(set(names)) == len(names):
        return True
    first: dict[tuple[bytes, int], int] = {}
    owners = [
        first.setdefault(key, at) for at, key in enumerate(zip(names, _places(table[ID].to_pylist()), strict=True))
    ]
    return all(_same_direction(v, v[owners]) for v in vectors.values() if v.dtype.kind == "f")


def _places(ids: list[str]) -> list[int]:
    """The number of each row among those of its id."""
    places: list[int] = []
    for at, id_ in enumerate(ids):
        places.append(places[-1] + 1 if at and ids[at - 1] == id_ else 0)
    return places


def _same_direction(ones: np.ndarray, others: np.ndarray) -> bool:
    a, b = ones.astype(np.float64), others.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return bool((np.einsum("ij,ij->i", a, b) >= _COSINE * lengths).all())
