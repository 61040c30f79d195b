"""Real models: each vector is what sentence-transformers gives for that row alone, and unfit models do not load."""

import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from schemas.errors import WorkerUnfit
from schemas.failures import Failure, FailureCode
from schemas.model_cards import Family, ModelCard
from schemas.rows import Modality
from storage.model_files import ResolvedModel, resolve_model
from workers.batching import TokenBudget, encode_batches
from workers.encoder import Encoder, load_encoder
from workers.loading import Loaded

TINY = ["bert", "text_st", "text_dense", "clip", "clip_legacy", "clip_st", "siglip", "siglip2"]
PACKAGED = ["minilm", "demo"]
IMAGES = Path(__file__).parents[2] / "examples" / "demo" / "images"
#: Pictures that the classifier inside the demo model knows, in words that are none of its classes.
SEEN = {
    "tiger.png": "a big striped cat of the jungle",
    "acoustic-guitar.png": "a musical instrument with strings",
    "strawberry.png": "a sweet red fruit",
    "umbrella.webp": "protection from the rain",
    "sailboat.png": "a boat with sails",
    "padlock.png": "it keeps a door locked",
}


class Served:
    """A model as embedmill has it, beside the same as sentence-transformers has it."""

    def __init__(self, name: str, cache: str) -> None:
        from sentence_transformers import SentenceTransformer

        self.model: ResolvedModel = resolve_model(name, cache=cache)
        self.card: ModelCard = self.model.card
        self.encoder: Encoder = load_encoder(self.model, cache=cache)
        folder = self.model.folder or resolve_model(name, cache=cache).folder
        # The same backend for pixels: torchvision's differs by a grey level here and there.
        pil = {"backend": "pil"} if self.card.family in (Family.CLIP, Family.SIGLIP, Family.CONSE) else {}
        self._reference = SentenceTransformer(str(folder), device="cpu", processor_kwargs=pil)

    def encode(self, items: list[Loaded], *, tokens: int, max_items: int = 64) -> list[np.ndarray | Failure]:
        return encode_batches(self.encoder, items, budget=TokenBudget(tokens), max_items=max_items)

    def reference(self, item: Loaded) -> np.ndarray:
        """The vector of one item alone; SigLIP's texts at the fixed length that it was trained with."""
        options: dict[str, Any] = {}
        if self.card.family is Family.SIGLIP and item.text is not None:
            options["processing_kwargs"] = {"text": {"padding": "max_length", "max_length": self.card.text_padding}}
        value: Any = {"image": item.image} if item.text is None else {"text": item.text}
        vector: np.ndarray = self._reference.encode([value], show_progress_bar=False, **options)[0]
        return vector


@pytest.fixture(scope="module")
def serve(tiny_models: dict[str, Path], model_cache: str) -> Any:
    """Load models by name, each once."""
    loaded: dict[str, Served] = {}

    def by_name(name: str) -> Served:
        if name not in loaded:
            loaded[name] = Served(str(tiny_models.get(name, name)), model_cache)
        return loaded[name]

    return by_name


@pytest.fixture
def served(request: pytest.FixtureRequest, serve: Any) -> Served:
    model: Served = serve(request.param)
    return model


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    x, y = a.astype(np.float64), b.astype(np.float64)
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))


def words(rng: random.Random, count: int) -> str:
    return " ".join(rng.choice("cat rocket coffee Berlin quick brown, sofa? 42 über 猫".split()) for _ in range(count))


def assert_as_alone(served: Served, items: list[Loaded], outcomes: list[np.ndarray | Failure]) -> None:
    assert len(outcomes) == len(items)
    for item, outcome in zip(items, outcomes, strict=True):
        assert not isinstance(outcome, Failure), outcome
        wanted = served.reference(item)
        assert cosine(outcome, wanted) > 0.99999, item
        np.testing.assert_allclose(np.linalg.norm(outcome), np.linalg.norm(wanted), rtol=1e-4)


@pytest.mark.parametrize("served", TINY + PACKAGED, indirect=True)
def test_a_text_has_the_vector_that_it_has_alone(served: Served) -> None:
    """Texts of all lengths, shuffled and batched, come out in order and as if each had been encoded alone."""
    rng = random.Random(7)
    texts = [words(rng, rng.randint(1, 40)) for _ in range(24)] + ["a", "word " * 400, "  a\tb\r\n", "\u200b", "[MASK]"]
    rng.shuffle(texts)
    items = [Loaded(text=text) for text in texts]

    outcomes = served.encode(items, tokens=300)

    assert_as_alone(served, items, outcomes)


@pytest.mark.parametrize(
    "served", [name for name in [*TINY, "demo"] if name[:4] not in ("bert", "text")], indirect=True
)
def test_an_image_has_the_vector_that_it_has_alone(served: Served) -> None:
    """Images of different sizes, batched, come out in order and as if each had been encoded alone."""
    rng = np.random.default_rng(3)
    sizes = [(48, 40), (224, 224), (31, 90), (300, 20), (1, 1), (500, 333)]
    pictures = [Image.fromarray(rng.integers(0, 255, (h, w, 3), np.uint8)) for w, h in sizes]
    pictures += [_picture(name) for name in list(SEEN)[:3]]
    items = [Loaded(image=picture) for picture in pictures]

    outcomes = served.encode(items, tokens=4 * served.card.tokens_per_image)

    assert_as_alone(served, items, outcomes)


@pytest.mark.parametrize("served", ["text_st", "clip", "siglip2"], indirect=True)
def test_a_text_that_looks_like_a_location_is_a_text(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Addresses, existing files and data URIs in a text are embedded as they are written; nothing is opened."""
    Image.new("RGB", (20, 20), "red").save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    texts = [str(tmp_path / "photo.png"), "photo.png", "./photo.png", "http://127.0.0.1:9/photo.png"]
    texts += ["data:image/png;base64,iVBORw0KGgo=", "https://127.0.0.1:9/a.jpg", "file:///etc/passwd", "<image>"]
    items = [Loaded(text=text) for text in texts]

    outcomes = served.encode(items, tokens=10**6)

    assert_as_alone(served, items, outcomes)
    assert len(np.unique(np.round(np.stack([o for o in outcomes if isinstance(o, np.ndarray)]), 6), axis=0)) > 1


@pytest.mark.parametrize("served", ["siglip", "siglip2"], indirect=True)
def test_siglips_texts_are_padded_alike(served: Served) -> None:
    """A short SigLIP text has one vector, whatever the longest of its batch."""
    short, long = Loaded(text="cat"), Loaded(text="the quick brown fox jumps over the lazy dog")

    alone, among = served.encode([short], tokens=999)[0], served.encode([short, long], tokens=999)[0]

    assert isinstance(alone, np.ndarray)
    assert isinstance(among, np.ndarray)
    np.testing.assert_allclose(alone, among, atol=1e-6)


def test_the_demos_texts_are_minilms(serve: Any) -> None:
    """The demo's text tower is all-MiniLM-L6-v2, to its last token."""
    texts = ["a cat", "The quick brown fox.", "", "word " * 150, "Über 猫 " * 300]
    items = [Loaded(text=text) for text in texts]

    demo, minilm = serve("demo").encode(items, tokens=2048), serve("minilm").encode(items, tokens=2048)

    np.testing.assert_allclose(np.stack(demo), np.stack(minilm), atol=1e-6)


def test_the_demo_finds_images_by_what_is_on_them(serve: Any) -> None:
    """A description in free words is nearest to the image that it describes, among six."""
    images = np.stack(serve("demo").encode([Loaded(image=_picture(name)) for name in SEEN], tokens=2048))
    queries = np.stack(serve("demo").encode([Loaded(text=text) for text in SEEN.values()], tokens=2048))

    nearest = (queries @ images.T).argmax(axis=1)

    assert nearest.tolist() == list(range(len(SEEN)))


@pytest.mark.parametrize("served", ["clip"], indirect=True)
def test_what_the_model_cannot_take_costs_its_row(served: Served) -> None:
    """A text that is no Unicode, met by a real tokenizer, fails alone."""
    items = [Loaded(text=text) for text in ("a cat", "bad \ud800", "a dog")]

    outcomes = served.encode(items, tokens=999)

    failure = outcomes[1]
    assert isinstance(failure, Failure)
    assert failure.code is FailureCode.PREPROCESS_FAILED
    assert_as_alone(served, [items[0], items[2]], [outcomes[0], outcomes[2]])


# --- loading


def test_loading_says_nothing(tiny_models: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    """Neither progress bars nor warnings of the libraries reach the terminal."""
    for name in TINY:
        encoder = load_encoder(resolve_model(str(tiny_models[name])))
        encoder.lengths([Loaded(text="word " * 1000)])

    assert capfd.readouterr() == ("", "")


def test_changed_files_do_not_load(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    """Weights that are not those of the card are never computed with."""
    folder = Path(shutil.copytree(tiny_models["text_st"], tmp_path / "model"))
    model = resolve_model(str(folder))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")

    with pytest.raises(WorkerUnfit, match="not those that the job was planned with"):
        load_encoder(model)


def test_a_model_of_another_dimension_does_not_load(tiny_models: dict[str, Path]) -> None:
    """The dimension is that of real vectors, not of a config."""
    model = resolve_model(str(tiny_models["clip"]))
    wrong = replace(model, card=replace(model.card, dim=23))

    with pytest.raises(WorkerUnfit, match="says 23 dimensions"):
        load_encoder(wrong)


def test_a_model_without_a_modality_of_its_card_does_not_load(tiny_models: dict[str, Path]) -> None:
    """A text model is not taken for one of images."""
    model = resolve_model(str(tiny_models["text_st"]))
    wrong = replace(model, card=replace(model.card, modalities=frozenset(Modality)))

    with pytest.raises(WorkerUnfit):
        load_encoder(wrong)


def test_a_model_of_nan_does_not_load(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    """Broken weights cost the worker at once, not every row its vector."""
    from safetensors.numpy import load_file, save_file

    folder = Path(shutil.copytree(tiny_models["text_st"], tmp_path / "model"))
    weights = {name: weight * np.float32("nan") for name, weight in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(WorkerUnfit, match="not finite"):
        load_encoder(resolve_model(str(folder)))


def test_a_missing_tokenizer_does_not_load(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    """A model whose files do not fit together is the worker's end, with the library's own reason."""
    folder = Path(shutil.copytree(tiny_models["clip"], tmp_path / "model"))
    for name in ("tokenizer.json", "tokenizer_config.json", "processor_config.json"):
        (folder / name).unlink()

    with pytest.raises(WorkerUnfit, match=r"cannot be loaded here|cannot be fed here|takes no text here"):
        load_encoder(resolve_model(str(folder)))


def test_torchs_own_words_for_out_of_memory_are_known() -> None:
    """What the CPU's allocator raises is told from every other RuntimeError."""
    import torch

    from workers.sentence_encoder import is_out_of_memory

    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)

    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert not is_out_of_memory(ValueError("out of memory"))


# --- the demo model's folder


BUILDER = """
import sys
from workers.demo_model import demo_folder
from workers.torchvision_cpu import make_torchvision_importable
make_torchvision_importable()
import sentence_transformers
print("ready", flush=True)
sys.stdin.readline()
print(demo_folder(sys.argv[1], sys.argv[2]))
"""


@pytest.fixture(scope="module")
def built_twice(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The demo's folder, as two builders at once saw it in an empty cache."""
    cache = str(tmp_path_factory.mktemp("twice"))
    # Processes, as workers are: two loads in threads of one leave transformers patched (its `no_tie_weights`).
    words = [sys.executable, "-c", BUILDER, cache, resolve_model("demo").card.digest]
    pipe = subprocess.PIPE
    builders = [subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) for _ in range(2)]
    for builder in builders:
        assert builder.stdout is not None
        assert builder.stdout.readline() == "ready\n"
    for builder in builders:  # both are ready: neither is told much later than the other
        assert builder.stdin is not None
        builder.stdin.write("go\n")
        builder.stdin.flush()
    said = [builder.communicate(timeout=300)[0] for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0]
    return [Path(folder.strip()) for folder in said]


def test_two_builders_at_once_have_one_folder(built_twice: list[Path]) -> None:
    """Both see a whole model; nothing half-built is left beside it, and every user may read it."""
    folder, other = built_twice

    assert folder == other
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()} == {0o644}
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} <= {".json", ".safetensors", ""}


def test_the_demo_runs_no_code_of_a_folder(built_twice: list[Path]) -> None:
    """Its modules are sentence-transformers' own, and its config asks for no code."""
    folder = built_twice[0]
    modules = json.loads((folder / "modules.json").read_text())

    assert all(module["type"].startswith("sentence_transformers.") for module in modules)
    assert "auto_map" not in json.loads((folder / "config.json").read_text())


def test_a_damaged_demo_does_not_load(built_twice: list[Path], tmp_path: Path) -> None:
    """A folder that changed since it was built is refused, and the way out is said."""
    folder = built_twice[0]
    copy = shutil.copytree(folder, tmp_path / folder.name, copy_function=os.link)
    (copy / "config.json").unlink()
    (copy / "config.json").write_text("{}")

    from workers.demo_model import demo_folder

    with pytest.raises(WorkerUnfit, match="delete that folder"):
        demo_folder(str(tmp_path), resolve_model("demo").card.digest)


def _picture(name: str) -> Image.Image:
    """A picture of the demo on white, as decoding gives it."""
    picture = Image.open(IMAGES / name).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture)
    return white.convert("RGB")
