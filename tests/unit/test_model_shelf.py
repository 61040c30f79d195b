"""The shelf: which models a worker holds, and which leave."""

from schemas.model_cards import Family, ModelCard
from schemas.rows import Modality
from storage.model_files import ResolvedModel
from workers.encoder import Encoder
from workers.hash_encoder import HashEncoder
from workers.model_shelf import ModelShelf

MIB = 2**20


def model(name: str, *, mib: int) -> ResolvedModel:
    """A model whose weights take up so many MiB in float32."""
    card = ModelCard(
        name=name,
        family=Family.HASH,
        dim=16,
        modalities=frozenset({Modality.TEXT}),
        digest=name,
        params=mib * MIB // 4,
    )
    return ResolvedModel(card=card, folder=None)


class Loads:
    """Loads models and remembers which."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, resolved: ResolvedModel, dtype: str) -> Encoder:
        self.names.append(resolved.card.name)
        return HashEncoder(resolved.card)


def test_a_model_is_loaded_once_while_it_is_held() -> None:
    """Two jobs of one model share it."""
    loads = Loads()
    shelf = ModelShelf(loads)

    first, again = shelf.get(model("a", mib=1), "float32"), shelf.get(model("a", mib=1), "float32")

    assert first is again
    assert (loads.names, shelf.loads) == (["a"], 1)


def test_several_models_are_held_as_far_as_memory_goes() -> None:
    """The one used longest ago leaves."""
    loads = Loads()
    shelf = ModelShelf(loads, capacity=400 * MIB)
    a, b, c = (model(name, mib=100) for name in "abc")

    for wanted in (a, b, a, c):
        shelf.get(wanted, "float32")

    assert shelf.held == ("a", "c")
    assert loads.names == ["a", "b", "c"]


def test_a_model_in_two_types_is_two_models() -> None:
    """Half precision gives other vectors."""
    loads = Loads()
    shelf = ModelShelf(loads)

    shelf.get(model("a", mib=1), "float32")
    shelf.get(model("a", mib=1), "float16")

    assert shelf.loads == 2


def test_a_model_over_the_capacity_is_held_alone() -> None:
    """The share of a worker is an estimate; what fits, the device says."""
    loads = Loads()
    shelf = ModelShelf(loads, capacity=200 * MIB)
    shelf.get(model("small", mib=10), "float32")

    shelf.get(model("huge", mib=1100), "float32")

    assert (shelf.held, loads.names) == (("huge",), ["small", "huge"])


def test_room_is_known_before_a_model_is_loaded() -> None:
    """So that a shard may go to a worker that holds its model already."""
    shelf = ModelShelf(Loads(), capacity=400 * MIB)
    shelf.get(model("a", mib=100), "float32")

    assert shelf.has_room_for(model("b", mib=100), "float32")
    assert not shelf.has_room_for(model("b", mib=300), "float32")
