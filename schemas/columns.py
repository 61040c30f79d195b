"""Columns: what a data file has beside ids, vectors and kept columns; fixed when the job is planned."""

from collections.abc import Collection

from schemas.recipe import Recipe, vector_column
from schemas.rows import Modality

#: The column that says where a segment begins.
START = "start_s"
#: What a column tells of each row, and its Arrow type; null where it does not apply.
USAGE: dict[str, str] = {
    START: "float64",  # of the segment
    "end_s": "float64",
    "tokens_in": "int64",  # tokens of the row's text
    "tokens_used": "int64",  # those that the model saw
    "seconds_in": "float64",  # length of the sound or film
    "seconds_used": "float64",  # of a sound: what the model heard; of a film: the segment that its frames are from
    "frames_in": "int64",  # frames of the film
    "frames_used": "int64",  # those that the model saw
}

#: The column of content hashes: rows of one hash have the same vectors. Jobs before format 5 have none.
CONTENT = "content_hash"


def usage_columns(takes: Collection[Modality], recipe: Recipe) -> tuple[str, ...]:
    """The columns that say how much of a row the model saw, for a job of rows that it `takes`."""
    timed = bool({Modality.AUDIO, Modality.VIDEO} & set(takes))
    wanted = {
        START: timed and recipe.segment_s > 0,
        "tokens_in": Modality.TEXT in takes,
        "seconds_in": timed,
        "frames_in": Modality.VIDEO in takes,
    }
    pairs = {START: "end_s", "tokens_in": "tokens_used", "seconds_in": "seconds_used", "frames_in": "frames_used"}
    return tuple(name for first, second in pairs.items() if wanted[first] for name in (first, second))


def own_columns(takes: Collection[Modality], recipe: Recipe) -> frozenset[str]:
    """Every column of a data file that no kept column may be named like."""
    vectors = {vector_column(recipe.outputs, output) for output in recipe.outputs}
    return frozenset({"id", "modality", "embedding", CONTENT, *vectors, *usage_columns(takes, recipe)})
