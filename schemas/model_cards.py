"""Model cards: what embedmill knows of a model before it loads it."""

from dataclasses import dataclass
from enum import StrEnum

from schemas.rows import Modality


class Family(StrEnum):
    """How a model is loaded and fed."""

    SENTENCE_TRANSFORMER = "sentence-transformer"  # any text model
    CLIP = "clip"
    SIGLIP = "siglip"  # pools the last text position: texts are padded to a fixed length
    CONSE = "conse"  # the packaged text + image demo model
    HASH = "hash"  # no model: a vector that is a function of the row, to check a mill by


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """One model."""

    name: str  # what the user said: a short name, a hub id, a folder
    family: Family
    dim: int
    modalities: frozenset[Modality]
    digest: str  # sha256 over all files that change a vector
    revision: str | None = None  # 40-hex commit of a hub model
    params: int = 0
    max_tokens: int = 512  # longer texts are cut off by the model
    tokens_per_image: int = 0
    text_padding: int | None = None  # fixed length that every text is padded to
    about: str = ""

    @property
    def tokens_per_second(self) -> float:
        """Tokens that one CPU core embeds a second, estimated from the parameters (measured on MiniLM: 3.7 k)."""
        return 8.4e10 / max(self.params, 1_000_000)
