"""The footprint of a model: what it takes up on a device with a batch in work, and so the size that it is sent to."""

from dataclasses import dataclass

from schemas.errors import ModelError
from schemas.model_cards import DTYPE_BYTES, ModelCard
from schemas.sizes import CPU, GIB, SIZES, smallest_holding
from storage.model_traits import CHAT_FAMILIES

_GIB = 2**30
#: Up to here a processor is fast enough, and a GPU would wait for the tokenizer: all single towers and CLIPs.
_CPU_PARAMS = 600_000_000
_CONTEXT_GIB = 0.7  # what CUDA and its libraries take before the first tensor
_BATCH_TOKENS = 16_384
#: Bytes of a token in work, at two bytes a number. (8 * hidden + 3 * intermediate) * 2 is 70 kB at 2.13 billion
#: parameters and 137 kB at 8.1: it grows with their square root. A visual token holds four patches of the vision
#: tower at the same time, 137 kB, and four of five tokens in a full batch are visual.
_TOKEN_BYTES = 48_000  # at 10^9 parameters
_VISUAL_BYTES = 110_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """GiB of device memory, estimated but for the weights."""

    weights_gib: float
    activations_gib: float  # of a batch of 16k tokens
    context_gib: float

    @property
    def total_gib(self) -> float:
        """What the device must have free."""
        return self.weights_gib + self.activations_gib + self.context_gib


def footprint(card: ModelCard, dtype: str) -> Footprint:
    """What the model takes up on a GPU that computes in `dtype`."""
    token = _TOKEN_BYTES * (card.params / 1e9) ** 0.5 + (_VISUAL_BYTES if card.family in CHAT_FAMILIES else 0)
    return Footprint(
        weights_gib=card.weight_bytes(dtype) / _GIB,
        activations_gib=_BATCH_TOKENS * token * DTYPE_BYTES[dtype] / 2 / _GIB,
        context_gib=_CONTEXT_GIB,
    )


def size_for(card: ModelCard) -> tuple[str, str]:
    """The smallest size that holds the model and a batch, and why; raises ModelError where none does."""
    if not card.params:
        return CPU, "no weights to speak of: a processor is enough"
    if card.params <= _CPU_PARAMS:
        weights = card.weight_bytes("float32") / _GIB
        return CPU, f"{_count(card.params)} parameters in float32 take {weights:.1f} GiB: a processor is enough"
    dtype = _half(card)
    needs = footprint(card, dtype)
    reason = (
        f"{_count(card.params)} parameters in {dtype} take {needs.weights_gib:.1f} GiB, "
        f"a batch {needs.activations_gib:.1f} GiB, CUDA {needs.context_gib:.1f} GiB: {needs.total_gib:.1f} GiB"
    )
    size = smallest_holding(needs.total_gib)
    if size is None:
        raise ModelError(f"model {card.name} fits no device: {reason}, and {SIZES[-1]} holds {GIB[SIZES[-1]]}")
    return size, reason


def dtype_for(card: ModelCard, size: str) -> str:
    """The dtype that a model is computed in on devices of `size`, where none is asked for."""
    return "float32" if size == CPU else _half(card)


def _half(card: ModelCard) -> str:
    """Weights stored in bfloat16 may hold numbers beyond float16's range; all others lose less in float16."""
    return "bfloat16" if card.dtype == "bfloat16" else "float16"


def _count(params: int) -> str:
    return f"{params / 1e9:.2f} B" if params >= 10**9 else f"{params / 1e6:.1f} M"
