"""The oneDNN linear layer: products of float32 by oneDNN instead of MKL, on processors where that is faster.

MKL, which torch takes for float32, keeps its quickest kernels for Intel's own processors; oneDNN makes its own for
whatever it finds. docs/benchmarks.md has the ratios. The sums are the same but for their order: some float32 roundoffs.
"""

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

#: Rows below which calling oneDNN, which reorders the weights each time, gains nothing.
_LEAST_ROWS = 512
_SLOW_WITH_MKL = "AuthenticAMD"


class OneDnnLinear(nn.Linear):
    """A linear layer of float32 on the processor; `nn.Linear` in all but what multiplies."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 # torch's name of it
        if input.numel() < _LEAST_ROWS * self.in_features or input.dtype != torch.float32:
            return super().forward(input)
        return _product(input, self.weight, self.bias)


def use_onednn(model: nn.Module, vendor: str | None = None) -> int:
    """Let oneDNN compute the model's linear layers where `vendor`, by default this processor's, makes that faster.

    Returns how many layers it computes now: 0 where torch has it not, or where it does not give what MKL gives.
    """
    if (_vendor() if vendor is None else vendor) != _SLOW_WITH_MKL or not _is_right():
        return 0
    layers = [m for m in model.modules() if type(m) is nn.Linear and _is_plain(m)]
    for layer in layers:
        layer.__class__ = OneDnnLinear
    return len(layers)


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    found: Any = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return found  # type: ignore[no-any-return]


def _is_plain(layer: nn.Linear) -> bool:
    return layer.weight.dtype == torch.float32 and layer.weight.device.type == "cpu"


@functools.cache  # neither torch nor the processor changes
def _is_right() -> bool:
    """Whether this torch has the product, by a name that is its own affair, and it gives what it should."""
    generator = torch.Generator().manual_seed(20261123)
    rows, weight = torch.randn(4, 256, 96, generator=generator), torch.randn(160, 96, generator=generator)
    try:
        with torch.inference_mode():
            found = _product(rows, weight, weight[:, 0].contiguous())
    except (AttributeError, RuntimeError, TypeError):
        return False
    return torch.allclose(found, nn.functional.linear(rows, weight, weight[:, 0]), rtol=1e-4, atol=1e-4)


@functools.cache
def _vendor() -> str:
    """The maker of this machine's processor, as Linux says it; empty elsewhere."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")
