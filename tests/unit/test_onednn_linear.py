"""Linear layers by oneDNN give what those by MKL give, and only where they may."""

import pytest
import torch
from torch import nn

from workers.onednn_linear import OneDnnLinear, use_onednn


def small_model(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(48, 64), nn.GELU(), nn.Linear(64, 24, bias=False)).to(dtype)


@pytest.mark.parametrize("shape", [(1, 48), (600, 48), (4, 300, 48), (0, 48)])
def test_the_vectors_are_the_same_but_for_roundoff(shape: tuple[int, ...]) -> None:
    """Of few rows and many, in two dimensions and three, with a bias and without."""
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    model, other = small_model(), small_model()

    replaced = use_onednn(other, "AuthenticAMD")

    with torch.inference_mode():
        assert torch.allclose(model(rows), other(rows), atol=1e-5)
    assert replaced == 2
    assert [type(layer) for layer in other.children()] == [OneDnnLinear, nn.GELU, OneDnnLinear]
    assert other.state_dict().keys() == model.state_dict().keys()


def test_other_processors_and_other_types_keep_what_torch_chose() -> None:
    """Where it was not measured, and half precision, for which torch takes oneDNN by itself."""
    assert use_onednn(small_model(), "GenuineIntel") == 0
    assert use_onednn(small_model(), "") == 0
    assert use_onednn(small_model(torch.bfloat16), "AuthenticAMD") == 0


def test_a_layer_of_another_kind_stays() -> None:
    """A subclass may do more than multiply."""

    class Doubling(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
            return 2 * super().forward(input)

    assert use_onednn(nn.Sequential(Doubling(4, 4)), "AuthenticAMD") == 0
