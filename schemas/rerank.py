"""Rerank: what a job that scores pairs is asked for, beside what every job is asked for."""

from dataclasses import dataclass
from enum import StrEnum


class Activation(StrEnum):
    """What is made of a model's raw score."""

    DEFAULT = "default"  # what the model was saved with; a sigmoid where it says nothing
    NONE = "none"  # the raw score: a logit, or a difference of two
    SIGMOID = "sigmoid"  # between 0 and 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """What changes a score and no vector; it enters the space of a rerank job."""

    activation: Activation = Activation.DEFAULT
    max_length: int = 0  # tokens of a pair, longer ones are cut off; 0: as many as the model takes


#: What the score and the rank of a join are called where they are kept: the output has its own.
JOIN_SCORE, JOIN_RANK = "join_score", "join_rank"


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankSpec:
    """Where the pairs of a rerank job come from; the pairs themselves are JobSpec.manifest."""

    left: str  # the queries: location of a manifest, or of a job
    left_sha256: str
    right: str  # the items
    right_sha256: str
    query_column: str  # of the pairs
    item_column: str
    band: tuple[float, float] | None = None  # only pairs whose join score is within it are scored; None: all are
