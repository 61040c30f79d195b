"""The oneDNN linear layer: products of float32 by oneDNN, their weights packed once and what follows them fused in.

torch multiplies float32 by MKL, which packs the weights anew in each call, copies the bias beforehand and leaves the
activation to a pass of its own; and whose quickest kernels are for Intel's own processors. docs/benchmarks.md has the
ratios. The sums are the same but for their order: some float32 roundoffs.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from schemas.errors import WorkerUnfit

#: Makers of the processors on which it was measured to be faster.
_MEASURED = frozenset({"AuthenticAMD", "GenuineIntel"})
#: Rows of a batch that the packing is chosen for; it serves all others.
_USUAL_ROWS = 2048

#: The most that a component may change by, of the largest.
_ROUNDOFF = 1e-5

#: Where models of transformers apply an activation to what a linear layer gives: the layer's name, the activation's,
#: and that of the layer which takes the outcome, where the same module holds it.
_ACTIVATED = (("dense", "intermediate_act_fn", ""), ("fc1", "activation_fn", "fc2"))
#: The activations that oneDNN computes as it stores a product, by the class that transformers or torch has for them.
_FUSED = {
    "GELUActivation": ("gelu", "none"),
    "GELUTanh": ("gelu", "tanh"),
    "PytorchGELUTanh": ("gelu", "tanh"),
    "SiLUActivation": ("swish", ""),
    "SiLU": ("swish", ""),
    "ReLU": ("relu", ""),
}
#: x * sigmoid(1.702 x), CLIP's: swish of 1.702 x, divided by 1.702 (https://arxiv.org/abs/1606.08415, section 2).
_QUICK_GELU, _QUICK_GELU_SCALE = "QuickGELUActivation", 1.702


class OneDnnLinear(nn.Linear):
    """A linear layer of float32 on the processor, and perhaps its activation; `weight` is in oneDNN's own layout."""

    after: tuple[str, str] = ("none", "")  # oneDNN's names of the activation and of its variety

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 # torch's name of it
        return _product(input, self.weight, self.bias, *self.after)


def quicken(model: nn.Module, vectors: Callable[[], Sequence[np.ndarray]]) -> bool:
    """Let oneDNN compute the model's linear layers; False where it then gives others: it must be loaded anew.

    `vectors` gives those of some items, or their scores, by the model as it is at the call. Raises what it raises
    (WorkerUnfit) where the model gives none before anything is changed.
    """
    known = vectors()
    if not use_onednn(model):
        return True
    try:
        return is_roundoff(known, vectors())
    except WorkerUnfit:
        return False


def use_onednn(model: nn.Module, vendor: str | None = None) -> int:
    """Let oneDNN compute the model's linear layers where `vendor`, by default this processor's, makes that faster.

    Returns how many layers it computes now: 0 where torch has it not, or where it does not give what MKL gives. What
    cannot be seen from here is whether a model reads such a layer's weight by itself: the caller must try the model.
    """
    if (_vendor() if vendor is None else vendor) not in _MEASURED or not _is_right():
        return 0
    layers = _plain_layers(model)
    _fuse_activations(model, layers)
    for layer in layers:
        layer.weight = nn.Parameter(_packed(layer.weight.detach()), requires_grad=False)
        layer.__class__ = OneDnnLinear
    return len(layers)


def is_roundoff(known: Sequence[np.ndarray], now: Sequence[np.ndarray]) -> bool:
    """Whether vectors or scores differ by no more than the order in which their sums were taken."""
    largest = (max(float(np.abs(vector).max()), 0.1) for vector in known)
    return all(
        bool((np.abs(one - other) <= _ROUNDOFF * scale).all())
        for one, other, scale in zip(known, now, largest, strict=True)
    )


def _plain_layers(model: nn.Module) -> list[nn.Linear]:
    """The layers that do nothing but multiply float32 on the processor, by weights that are theirs alone."""
    owners: dict[int, int] = {}
    for module in model.modules():
        for weight in module.parameters(recurse=False):
            owners[id(weight)] = owners.get(id(weight), 0) + 1
    return [m for m in model.modules() if type(m) is nn.Linear and owners[id(m.weight)] == 1 and _is_float_here(m)]


def _is_float_here(layer: nn.Linear) -> bool:
    return layer.weight.dtype == torch.float32 and layer.weight.device.type == "cpu" and layer.weight.numel() > 0


def _fuse_activations(model: nn.Module, layers: list[nn.Linear]) -> None:
    """Have those of `layers` that an activation follows apply it, where `model` has both in a form that is known."""
    known = {id(layer) for layer in layers}
    for holder in model.modules():
        for name, activation, following in _ACTIVATED:
            layer, after = getattr(holder, name, None), getattr(holder, following, None) if following else None
            if id(layer) in known and isinstance(getattr(holder, activation, None), nn.Module):
                assert isinstance(layer, nn.Linear)
                _fuse(layer, holder, activation, after if id(after) in known else None)


def _fuse(layer: nn.Linear, holder: nn.Module, activation: str, following: nn.Module | None) -> None:
    """Have `layer` apply the activation that `holder` has under this name, where oneDNN knows it."""
    kind = type(getattr(holder, activation)).__name__
    if kind == _QUICK_GELU and isinstance(following, nn.Linear):
        with torch.no_grad():
            for scaled in (layer.weight, layer.bias):
                if scaled is not None:
                    scaled.mul_(_QUICK_GELU_SCALE)
            following.weight.div_(_QUICK_GELU_SCALE)
        after = ("swish", "")
    elif kind in _FUSED:
        after = _FUSED[kind]
    else:
        return
    layer.after = after  # type: ignore[assignment]  # it is a OneDnnLinear in a moment
    setattr(holder, activation, nn.Identity())


def _packed(weight: Tensor) -> Tensor:
    found: Any = torch.ops.mkldnn._reorder_linear_weight(weight, _USUAL_ROWS)
    return found  # type: ignore[no-any-return]


def _product(rows: Tensor, packed: Tensor, bias: Tensor | None, after: str = "none", variety: str = "") -> Tensor:
    found: Any = torch.ops.mkldnn._linear_pointwise(rows, packed, bias, after, [], variety)
    return found  # type: ignore[no-any-return]


@functools.cache  # neither torch nor the processor changes
def _is_right() -> bool:
    """Whether this torch has the products, by names that are its own affair, and they give what they should."""
    generator = torch.Generator().manual_seed(20261123)
    rows, weight = torch.randn(4, 256, 96, generator=generator), torch.randn(160, 96, generator=generator)
    bias = weight[:, 0].contiguous()
    plain = nn.functional.linear(rows, weight, bias)
    activations = {("none", ""): plain, ("gelu", "none"): nn.functional.gelu(plain)}
    activations |= {("gelu", "tanh"): nn.functional.gelu(plain, approximate="tanh")}
    activations |= {("swish", ""): nn.functional.silu(plain), ("relu", ""): nn.functional.relu(plain)}
    try:
        with torch.inference_mode():
            packed = _packed(weight)
            found = {after: _product(rows, packed, bias, *after) for after in activations}
    except (AttributeError, RuntimeError, TypeError):
        return False
    return all(torch.allclose(found[after], right, rtol=1e-4, atol=1e-4) for after, right in activations.items())


@functools.cache
def _vendor() -> str:
    """The maker of this machine's processor, as Linux says it; empty elsewhere."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")
