"""What a model takes up, and so which size of device it is sent to."""

import pytest

from schemas.errors import ModelError
from schemas.model_cards import Family, ModelCard
from schemas.rows import Modality
from storage.model_footprint import dtype_for, footprint, size_for


def card(params: int, *, family: Family = Family.QWEN_VL, dtype: str = "bfloat16") -> ModelCard:
    return ModelCard(
        name="m",
        family=family,
        dim=8,
        modalities=frozenset({Modality.TEXT}),
        digest="",
        params=params,
        dtype=dtype,
    )


def test_the_published_sizes_are_met() -> None:
    """Qwen3-VL is announced for 8 GB at 2 billion parameters, and for 24 GB at 8."""
    two, eight = card(2_127_532_032), card(8_144_793_840)

    assert size_for(two) == (
        "gpu8",
        "2.13 B parameters in bfloat16 take 4.0 GiB, a batch 2.7 GiB, CUDA 0.7 GiB: 7.4 GiB",
    )
    assert size_for(eight)[0] == "gpu24"
    assert footprint(eight, "bfloat16").total_gib == pytest.approx(20, abs=0.5)


@pytest.mark.parametrize(
    ("params", "size"),
    [
        (0, "cpu"),
        (22_713_728, "cpu"),
        (567_754_752, "cpu"),
        (877_960_498, "gpu8"),
        (4_000_000_000, "gpu16"),
        (30_000_000_000, "gpu80"),
    ],
)
def test_small_models_need_no_gpu(params: int, size: str) -> None:
    """Up to 600 million parameters a processor does; beyond, the smallest GPU that holds model and batch."""
    assert size_for(card(params, family=Family.SENTENCE_TRANSFORMER, dtype="float32"))[0] == size


def test_a_model_that_fits_nowhere_is_refused() -> None:
    """It is said when the job is planned, with what it would take."""
    with pytest.raises(ModelError, match=r"model m fits no device: 70\.00 B parameters .* gpu80 holds 80"):
        size_for(card(70_000_000_000))


def test_float32_takes_twice_the_room() -> None:
    """Weights and batch double; CUDA's own memory does not."""
    half, whole = footprint(card(10**9), "float16"), footprint(card(10**9), "float32")

    assert whole.weights_gib == 2 * half.weights_gib
    assert whole.activations_gib == 2 * half.activations_gib
    assert whole.context_gib == half.context_gib


@pytest.mark.parametrize(
    ("size", "stored", "dtype"),
    [
        ("cpu", "bfloat16", "float32"),
        ("gpu8", "bfloat16", "bfloat16"),
        ("gpu8", "float32", "float16"),
        ("gpu80", "float16", "float16"),
    ],
)
def test_the_dtype_follows_the_device_and_the_files(size: str, stored: str, dtype: str) -> None:
    """Processors compute in float32; GPUs in the half that loses least of what is stored."""
    assert dtype_for(card(10**9, dtype=stored), size) == dtype
