"""The recipe: how the rows of a job become vectors, as the model's card and the user said when the job was planned."""

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What side of a search a row is on; models with two prompts embed the sides differently."""

    NONE = ""  # the model's default
    QUERY = "query"  # what is searched with
    DOCUMENT = "document"  # what is searched


class OutputType(StrEnum):
    """The type that a vector column is written in."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"  # a level of 256 between the least and the largest value that a sample had in the dimension
    BINARY = "binary"  # a bit for each dimension, 1 where the value is above zero; the first is a byte's highest


#: Types whose bytes must not depend on the last bits of the computation.
QUANTISED = frozenset({OutputType.INT8, OutputType.BINARY})


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything between a decoded row and its vector that is chosen and not the model's; all of it enters the space.

    What does not concern the model is left at its default: frames do not part two spaces of texts.
    """

    dtype: str = "float32"  # of the computation
    role: Role = Role.NONE
    prompt: str = ""  # what the model is told before the row
    truncate_dim: int = 0  # 0: all dimensions; else so many, scaled to unit length
    normalize: bool = False  # scaled to unit length, whatever the model does by itself
    outputs: tuple[OutputType, ...] = (OutputType.FLOAT32,)  # the first is the column `embedding`
    segment_s: float = 0.0  # 0: one vector a row; else one for each so many seconds
    audio_rate: int = 0  # Hz
    audio_window_s: float = 0.0  # longer sounds are embedded in equal windows, and these averaged
    frames: int = 0  # frames of a film, or of each segment, at most
    fps: float = 0.0  # 0: `frames` frames whatever the length
    exact_frames: bool = False  # a shorter film repeats some: the model takes no fewer
    frame_pixels: int = 0  # larger frames are scaled down
    films_as_frames: bool = False  # the model takes no film: the mean of its frames' vectors


def vector_column(outputs: tuple[OutputType, ...], output: OutputType) -> str:
    """The name of the column that holds the vectors as `output`."""
    return "embedding" if output is outputs[0] else f"embedding_{output}"
