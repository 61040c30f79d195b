"""Model cards: what embedmill knows of a model before it loads it."""

from dataclasses import dataclass
from enum import StrEnum

from schemas.rows import Modality

#: Bytes of one number in each dtype of a computation.
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


#: Pixels of a film's frame that make one token, at the least: a card knows its models' limits, not a film's size.
PIXELS_PER_TOKEN = 28 * 28


class Kind(StrEnum):
    """What a model makes of its input."""

    EMBED = "embed"  # a vector of a row
    RERANK = "rerank"  # a score of a pair of rows


class Family(StrEnum):
    """How a model is loaded and fed."""

    SENTENCE_TRANSFORMER = "sentence-transformer"  # any text model
    CLIP = "clip"
    SIGLIP = "siglip"  # pools the last text position: texts are padded to a fixed length
    CLAP = "clap"  # texts and sounds of one window's length
    VIDEOPRISM = "videoprism"  # texts and films of a fixed number of frames
    QWEN_VL = "qwen-vl"  # texts, images, films and mixtures of them, through a chat template
    OMNI = "omni"  # the same, and sounds
    CROSS_ENCODER = "cross-encoder"  # scores pairs of texts
    CONSE = "conse"  # the packaged text + image demo model
    MEL = "mel"  # no weights: statistics of a mel spectrogram
    HASH = "hash"  # no model: a vector that is a function of the row, to check a mill by


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """One model."""

    name: str  # what the user said: a short name, a hub id, a folder
    family: Family
    kind: Kind = Kind.EMBED
    dim: int  # 1 for a model that scores
    modalities: frozenset[Modality]  # what it has an input for; MIXED: several parts in one input
    digest: str  # sha256 over all files that change a vector
    revision: str | None = None  # 40-hex commit of a hub model
    params: int = 0
    dtype: str = "float32"  # that its files are stored in
    max_tokens: int = 512  # longer texts are cut off by the model
    tokens_per_image: int = 0  # at most
    text_padding: int | None = None  # fixed length that every text is padded to
    prompts: tuple[tuple[str, str], ...] = ()  # name and text
    default_prompt: str = ""  # the text of the prompt that the model uses when none is asked for
    audio_rate: int = 0  # Hz
    audio_window_s: float = 0.0  # the longest sound in one input; longer ones are cut into windows
    video_frames: int = 0  # frames that every film must have; 0: any number
    tokens_per_frame: float = 0.0  # at most
    about: str = ""

    def weight_bytes(self, dtype: str) -> int:
        """Bytes that the weights take up in memory in `dtype`."""
        return self.params * DTYPE_BYTES[dtype]

    @property
    def tokens_per_second(self) -> float:
        """Tokens that one CPU core embeds a second, estimated from the parameters (measured on MiniLM: 3.7 k)."""
        return 8.4e10 / max(self.params, 1_000_000)
