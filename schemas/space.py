"""The vector space: all that changes a vector, and nothing else."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from schemas.model_cards import ModelCard

#: Raised whenever decoding gives other pixels: EXIF-transposed, RGB, transparency on white, PIL backend.
IMAGE_RULE = "rgb-on-white-exif-pil-1"
#: Raised whenever a text reaches the model otherwise: passed as written, the model's own truncation.
TEXT_RULE = "as-written-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The fields that make two vectors comparable; equal digests mean equal spaces."""

    model_digest: str
    dim: int
    dtype: str = "float32"  # of the computation
    backend: str = "torch"
    text_padding: int | None = None
    text_rule: str = TEXT_RULE
    image_rule: str = IMAGE_RULE

    @classmethod
    def of(cls, card: ModelCard) -> "Space":
        """The space that this version of embedmill embeds a model in."""
        return cls(model_digest=card.digest, dim=card.dim, text_padding=card.text_padding)

    @property
    def digest(self) -> str:
        """The name of the space: 16 hex digits of the sha256 over its fields."""
        canonical = json.dumps(self.fields(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def fields(self) -> dict[str, Any]:
        """The fields by name, as footers carry them."""
        return asdict(self)

    def differences(self, other: "Space") -> list[str]:
        """The names of the fields in which two spaces differ."""
        mine, theirs = asdict(self), asdict(other)
        return [name for name in mine if mine[name] != theirs[name]]
