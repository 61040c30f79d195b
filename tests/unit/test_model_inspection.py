"""What is read from a model's files is what the libraries say once it is loaded."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import ModelError
from schemas.model_cards import Family, Kind, ModelCard
from schemas.rows import Modality
from storage.model_inspection import inspect_folder
from tests.unit.test_model_files import CLIP, TEXT, edit, plain, sentence_transformer, write_json, write_modules

NAMES = (
    "bert",
    "text_st",
    "text_dense",
    "cross_encoder",
    "cross_encoder_3",
    "clip",
    "clip_legacy",
    "clip_st",
    "siglip",
    "siglip2",
    "clap",
    "videoprism",
    "qwen3vl_embedding",
    "qwen3vl_reranker",
    "omni",
)
SOUND = {"sampling_rate": 16_000, "chunk_length": 30}
FORWARD = {"method": "forward", "method_output_name": "last_hidden_state"}


def inspected(models: dict[str, Path], name: str) -> ModelCard:
    return inspect_folder(name, models[name])


def declare(folder: Path, *modalities: str) -> Path:
    """Write down what a model takes, as sentence-transformers does."""
    config = dict.fromkeys(modalities, FORWARD)
    write_json(folder / "sentence_bert_config.json", {"modality_config": config})
    return folder


def saved_chat_model(folder: Path, *modalities: str) -> Path:
    """A model of an architecture that nobody knows by name, saved with a pooling."""
    plain(folder, {"model_type": "newest_vl", "text_config": {"hidden_size": 48}, "vision_config": {"patch_size": 16}})
    write_modules(folder, [("", "sentence_transformers.base.modules.transformer.Transformer")])
    return declare(folder, *modalities)


# --- against the libraries


@pytest.mark.model
@pytest.mark.parametrize("name", NAMES)
def test_a_card_says_what_the_loaded_model_says(tiny_models: dict[str, Path], name: str) -> None:
    """Modalities, dimension, prompts, length and parameters are known without torch, for every family."""
    from sentence_transformers import CrossEncoder, SentenceTransformer

    card = inspected(tiny_models, name)
    loader: Any = CrossEncoder if card.kind is Kind.RERANK else SentenceTransformer

    model = loader(str(tiny_models[name]), device="cpu", local_files_only=True)

    takes = {str(modality) for modality in card.modalities - {Modality.MIXED}}
    assert takes == set(model.modalities) - {"message"}
    assert (Modality.MIXED in card.modalities) == (len(takes) > 1 and model.supports(tuple(sorted(takes))))
    assert card.dim == (model.num_labels if card.kind is Kind.RERANK else model.get_embedding_dimension())
    assert dict(card.prompts) == {key: text for key, text in model.prompts.items() if text}
    assert card.default_prompt == model.prompts.get(model.default_prompt_name or "", "")
    assert card.max_tokens == model.max_seq_length
    assert card.dtype == str(next(model.parameters()).dtype).removeprefix("torch.")
    assert card.params >= sum(parameter.numel() for parameter in model.parameters()) * 0.99


def test_every_tiny_model_is_compared(tiny_models: dict[str, Path]) -> None:
    """A family that is added to the tiny models is added here."""
    assert set(tiny_models) == set(NAMES)


# --- what only the files tell


def test_clap_says_its_rate_and_window(tiny_models: dict[str, Path]) -> None:
    """Sounds are resampled to the rate, and longer ones are cut into windows before the model would crop them."""
    card = inspected(tiny_models, "clap")

    assert (card.family, card.audio_rate, card.audio_window_s) == (Family.CLAP, 48_000, 1.0)


def test_omni_says_what_it_takes_of_everything(tiny_models: dict[str, Path]) -> None:
    """Rate, window, and the most tokens that an image and a frame can become."""
    card = inspected(tiny_models, "omni")

    assert (card.family, card.audio_rate, card.audio_window_s) == (Family.OMNI, 16_000, 2.0)
    assert (card.tokens_per_image, card.tokens_per_frame, card.video_frames) == (4, 8.0, 0)


def test_qwen_says_the_most_tokens_of_an_image(tiny_models: dict[str, Path]) -> None:
    """64 x 64 pixels at most, 32 x 32 to a token; a film of 8 such frames' area has two frames or more."""
    card = inspected(tiny_models, "qwen3vl_embedding")

    assert (card.family, card.kind, card.tokens_per_image, card.tokens_per_frame) == (
        Family.QWEN_VL,
        Kind.EMBED,
        4,
        2.0,
    )


def test_videoprism_says_its_frames(tiny_models: dict[str, Path]) -> None:
    """All films have the same number of frames, each of 2 x 2 patches."""
    card = inspected(tiny_models, "videoprism")

    assert (card.family, card.video_frames, card.tokens_per_frame) == (Family.VIDEOPRISM, 4, 4.0)


@pytest.mark.parametrize(
    ("name", "family"), [("cross_encoder", Family.CROSS_ENCODER), ("qwen3vl_reranker", Family.QWEN_VL)]
)
def test_rerankers_keep_their_family(tiny_models: dict[str, Path], name: str, family: Family) -> None:
    """A reranker of texts is a cross-encoder; one of images is fed like the embedding model beside it."""
    card = inspected(tiny_models, name)

    assert (card.kind, card.family, card.dim) == (Kind.RERANK, family, 1)


def test_a_chat_model_without_its_head_is_refused(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    """The same files without modules.json embed nothing."""
    folder = Path(shutil.copytree(tiny_models["qwen3vl_embedding"], tmp_path / "model"))
    (folder / "modules.json").unlink()

    with pytest.raises(ModelError, match="without an embedding or score head"):
        inspect_folder("qwen", folder)


def test_a_score_head_without_tokens_is_refused(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    """A published reranker has this fault: it would load 16 GB, and fail then."""
    folder = Path(shutil.copytree(tiny_models["qwen3vl_reranker"], tmp_path / "model"))
    (folder / "1_LogitScore" / "config.json").unlink()

    with pytest.raises(ModelError, match=r"1_LogitScore/config\.json has no true_token_id"):
        inspect_folder("qwen", folder)


# --- what is written down


@pytest.mark.parametrize(
    ("declared", "family"),
    [
        (("text", "image", "message"), Family.QWEN_VL),
        (("text", "image", "video", "message"), Family.QWEN_VL),
        (("text", "audio", "message"), Family.OMNI),
        (("text", "message"), Family.SENTENCE_TRANSFORMER),
        (("text", "image"), Family.CLIP),
        (("text", "audio"), Family.CLAP),
        (("text", "video"), Family.VIDEOPRISM),
        (("text",), Family.SENTENCE_TRANSFORMER),
    ],
)
def test_an_unknown_architecture_is_fed_by_what_it_declares(
    tmp_path: Path, declared: tuple[str, ...], family: Family
) -> None:
    """A model that is newer than embedmill has its modalities written down; messages of several are mixtures."""
    folder = saved_chat_model(tmp_path, *declared)
    write_json(folder / "preprocessor_config.json", SOUND)
    write_modules(
        folder,
        [
            ("", "sentence_transformers.base.modules.transformer.Transformer"),
            ("1_Pooling", "sentence_transformers.models.Pooling"),
        ],
    )
    write_json(folder / "1_Pooling" / "config.json", {"embedding_dimension": 48, "pooling_mode": "lasttoken"})

    card = inspect_folder("new", folder)

    alone = {Modality(name) for name in declared if name != "message"}
    mixed = {Modality.MIXED} if "message" in declared and len(alone) > 1 else set()
    assert (card.family, card.dim) == (family, 48)
    assert card.modalities == alone | mixed


def test_an_unknown_architecture_without_texts_is_refused(tmp_path: Path) -> None:
    """Pictures alone can be searched with no text."""
    with pytest.raises(ModelError, match="it is a newest_vl model"):
        inspect_folder("new", saved_chat_model(tmp_path, "image"))


def test_sounds_need_their_rate(tmp_path: Path) -> None:
    """Without the extractor's config nobody knows what to resample to."""
    with pytest.raises(
        ModelError, match=r"its audio rate is in none of its configs; get its preprocessor_config\.json"
    ):
        inspect_folder("clap", plain(tmp_path, {"model_type": "clap"}))


def test_the_extractors_old_file_is_read(tmp_path: Path) -> None:
    """Published CLAPs keep their rate in preprocessor_config.json."""
    folder = plain(tmp_path, {"model_type": "clap", "text_config": {"max_position_embeddings": 514}})
    write_json(folder / "preprocessor_config.json", {"sampling_rate": 48_000, "max_length_s": 10})
    write_json(folder / "tokenizer_config.json", {"model_max_length": 512})

    card = inspect_folder("clap", folder)

    assert (card.dim, card.max_tokens, card.audio_rate, card.audio_window_s) == (512, 512, 48_000, 10.0)


def test_prompts_are_the_ones_declared(tmp_path: Path) -> None:
    """Empty prompts are none, and the default is known by its text."""
    folder = sentence_transformer(tmp_path)
    saved = {"prompts": {"query": "q: ", "document": ""}, "default_prompt_name": "query"}
    write_json(folder / "config_sentence_transformers.json", saved)

    card = inspect_folder("text", folder)

    assert (card.prompts, card.default_prompt) == ((("query", "q: "),), "q: ")


@pytest.mark.parametrize("prompts", [["query"], {"query": 1}])
def test_odd_prompts_are_refused(tmp_path: Path, prompts: object) -> None:
    """A prompt that is no text cannot be put before one."""
    write_json(sentence_transformer(tmp_path) / "config_sentence_transformers.json", {"prompts": prompts})

    with pytest.raises(ModelError, match="model text: its "):
        inspect_folder("text", tmp_path)


@pytest.mark.parametrize(("labels", "dim"), [({"0": "LABEL_0"}, 1), ({"0": "a", "1": "b", "2": "c"}, 3), (None, 2)])
def test_a_plain_classifier_is_a_reranker(tmp_path: Path, labels: object, dim: int) -> None:
    """Rerankers from before sentence-transformers wrote their kind down are known by their architecture."""
    config = TEXT | {"architectures": ["BertForSequenceClassification"]} | ({"id2label": labels} if labels else {})

    card = inspect_folder("cross", plain(tmp_path, config))

    assert (card.kind, card.family, card.dim) == (Kind.RERANK, Family.CROSS_ENCODER, dim)


def test_a_classifiers_backbone_embeds(tmp_path: Path) -> None:
    """With a pooling after it a classifier's architecture makes vectors."""
    edit(sentence_transformer(tmp_path) / "config.json", architectures=["BertForSequenceClassification"])

    assert inspect_folder("text", tmp_path).kind is Kind.EMBED


def test_a_declared_reranker_scores(tmp_path: Path) -> None:
    """CrossEncoder is written down since version 4."""
    write_json(
        plain(tmp_path, TEXT | {"id2label": {"0": "x"}}) / "config_sentence_transformers.json",
        {"model_type": "CrossEncoder"},
    )

    assert inspect_folder("cross", tmp_path).kind is Kind.RERANK


@pytest.mark.parametrize("saved", [{"model_type": "Other"}, {"model_type": ["CrossEncoder"]}])
def test_a_kind_that_nobody_knows_is_refused(tmp_path: Path, saved: dict[str, object]) -> None:
    """What a later version writes down is not guessed at."""
    write_json(sentence_transformer(tmp_path) / "config_sentence_transformers.json", saved)

    with pytest.raises(ModelError, match="model text: it is a "):
        inspect_folder("text", tmp_path)


def test_a_sparse_model_is_known_by_its_modules(tmp_path: Path) -> None:
    """Sparse encoders of before were not written down as such."""
    splade = "sentence_transformers.sparse_encoder.models.SpladePooling"
    write_modules(sentence_transformer(tmp_path), [("", "sentence_transformers.models.Transformer"), ("1", splade)])

    with pytest.raises(ModelError, match="it is a SparseEncoder"):
        inspect_folder("sparse", tmp_path)


# --- weights


def test_the_type_is_that_of_most_numbers(tmp_path: Path) -> None:
    """A few buffers of integers, or layers kept in float32, do not change what a model is stored in."""
    folder = plain(tmp_path, TEXT)
    header = {
        "weight": {"dtype": "BF16", "shape": [10], "data_offsets": [0, 20]},
        "norm": {"dtype": "F32", "shape": [2], "data_offsets": [20, 28]},
        "ids": {"dtype": "I64", "shape": [20], "data_offsets": [28, 188]},
    }
    raw = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(188))

    card = inspect_folder("text", folder)

    assert (card.dtype, card.params) == ("bfloat16", 32)


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    """Their bytes are no numbers that a loader here computes with."""
    folder = plain(tmp_path, TEXT)
    raw = json.dumps({"weight": {"dtype": "F8_E4M3", "shape": [10], "data_offsets": [0, 10]}}).encode()
    (folder / "model.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(10))

    with pytest.raises(ModelError, match=r"quantised \(F8_E4M3\)"):
        inspect_folder("text", folder)


def test_a_copy_in_parts_is_counted_once(tmp_path: Path) -> None:
    """Some repositories hold the whole beside its parts; one of them is loaded."""
    folder = plain(tmp_path, CLIP)
    params = inspect_folder("clip", folder).params

    shutil.copy(folder / "model.safetensors", folder / "consolidated.safetensors")

    assert inspect_folder("clip", folder).params == params
