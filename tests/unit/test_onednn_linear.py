"""Linear layers by oneDNN give what those by MKL give, and only where they may."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from transformers.activations import ACT2FN

from workers.onednn_linear import OneDnnLinear, is_roundoff, use_onednn

VENDOR = "GenuineIntel"


def small_model(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(48, 64), nn.GELU(), nn.Linear(64, 24, bias=False)).to(dtype)


class Bert(nn.Module):
    """A layer and its activation as BERT has them."""

    def __init__(self, activation: str) -> None:
        super().__init__()
        self.dense, self.intermediate_act_fn = nn.Linear(48, 64), ACT2FN[activation]

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.intermediate_act_fn(self.dense(rows))
        return found


class Clip(nn.Module):
    """Two layers and what is between them as CLIP has them."""

    def __init__(self, activation: str, *, bias: bool = True) -> None:
        super().__init__()
        self.fc1, self.activation_fn = nn.Linear(48, 64, bias=bias), ACT2FN[activation]
        self.fc2 = nn.Linear(64, 24)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.fc2(self.activation_fn(self.fc1(rows)))
        return found


def rows_of(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


@torch.inference_mode()
def assert_same(model: nn.Module, other: nn.Module, rows: torch.Tensor) -> None:
    assert torch.allclose(model(rows), other(rows), atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 48), (600, 48), (4, 300, 48), (0, 48), (3, 1, 48)])
def test_the_vectors_are_the_same_but_for_roundoff(shape: tuple[int, ...]) -> None:
    """Of few rows and many, in two dimensions and three, with a bias and without."""
    model = small_model()
    other = copy.deepcopy(model)

    replaced = use_onednn(other, VENDOR)

    assert_same(model, other, rows_of(*shape))
    assert replaced == 2
    assert [type(layer) for layer in other.children()] == [OneDnnLinear, nn.GELU, OneDnnLinear]
    assert other.state_dict().keys() == model.state_dict().keys()


def test_rows_may_lie_anywhere() -> None:
    """A transposed view, every other row, one row for all."""
    model = small_model()
    other = copy.deepcopy(model)
    use_onednn(other, VENDOR)

    for rows in (rows_of(48, 20).T, rows_of(40, 48)[::2], rows_of(1, 48).expand(7, 48), rows_of(4, 6, 48)[:, 0]):
        assert_same(model, other, rows)


@pytest.mark.parametrize("activation", ["gelu", "gelu_pytorch_tanh", "silu", "relu"])
@pytest.mark.parametrize("kind", [Bert, Clip])
def test_an_activation_is_computed_along(kind: type[nn.Module], activation: str) -> None:
    """Where a module of a known form holds both."""
    model = kind(activation)
    other = copy.deepcopy(model)

    use_onednn(other, VENDOR)

    assert_same(model, other, 3 * rows_of(50, 48))
    assert nn.Identity in {type(module) for module in other.children()}


@pytest.mark.parametrize("bias", [True, False])
def test_clips_own_activation_is_a_scaled_swish(bias: bool) -> None:
    """1.702 goes into the layer before and out of the one after."""
    model = Clip("quick_gelu", bias=bias)
    other = copy.deepcopy(model)

    use_onednn(other, VENDOR)

    assert_same(model, other, 3 * rows_of(50, 48))
    assert type(other.activation_fn) is nn.Identity


def test_an_activation_that_onednn_has_not_stays() -> None:
    """And one whose scale nothing could take out again."""
    for model in (Clip("gelu_new"), Bert("quick_gelu")):
        other = copy.deepcopy(model)

        use_onednn(other, VENDOR)

        assert_same(model, other, 3 * rows_of(50, 48))
        assert nn.Identity not in {type(module) for module in other.children()}


def test_other_processors_and_other_types_keep_what_torch_chose() -> None:
    """Where it was not measured, and half precision, for which torch takes oneDNN by itself."""
    assert use_onednn(small_model(), "ARM") == 0
    assert use_onednn(small_model(), "") == 0
    assert use_onednn(small_model(torch.bfloat16), VENDOR) == 0


def test_a_layer_of_another_kind_stays() -> None:
    """A subclass may do more than multiply; a weight that another module shares is read by that one too."""

    class Doubling(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
            return 2 * super().forward(input)

    tied = nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 8, bias=False))
    tied[1].weight = tied[0].weight

    assert use_onednn(nn.Sequential(Doubling(4, 4)), VENDOR) == 0
    assert use_onednn(tied, VENDOR) == 0


def test_roundoff_is_of_the_largest_component() -> None:
    """A small component may lose all its digits, a large one may not."""
    known = [np.array([1.0, 1e-9], np.float32)]

    assert is_roundoff(known, [np.array([1.000001, 2e-9], np.float32)])
    assert not is_roundoff(known, [np.array([1.0001, 1e-9], np.float32)])
    assert not is_roundoff(known, [np.array([np.nan, 1e-9], np.float32)])
