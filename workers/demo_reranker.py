"""The demo reranker: all-MiniLM-L6-v2 as a CrossEncoder, so that scores mean something without a hub."""

from pathlib import Path

import torch

from storage.model_files import minilm_folder, reranker_path
from workers.built_folder import built_folder

_MAX_TOKENS = 256


def demo_reranker_folder(cache: str, digest: str) -> Path:
    """The demo reranker's folder below `cache` (default: the user's cache folder), built where it is missing.

    Any number of processes may ask at once: each sees a whole folder. Raises WorkerUnfit where it is damaged.
    """
    return built_folder(reranker_path(cache, digest), build_reranker, what="the demo reranker")


def build_reranker(folder: Path, parts: Path) -> None:
    """Save the packaged MiniLM as one that scores pairs in `folder`; `parts` is for what is needed meanwhile."""
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer

    from workers.apart_reader import register_apart_reader
    from workers.sentence_encoder import quiet

    register_apart_reader()
    with quiet():
        _save_parts(parts)
        module = Transformer(str(parts), transformer_task="sequence-classification", max_seq_length=_MAX_TOKENS)
        # A cosine as it is: a sigmoid would make it look like a probability.
        model: CrossEncoder = CrossEncoder(modules=[module], activation_fn=torch.nn.Identity(), device="cpu")
        model.save_pretrained(str(folder), create_model_card=False)


def _save_parts(parts: Path) -> None:
    """The architecture with MiniLM's weights, and its tokenizer."""
    from safetensors.torch import load_file
    from transformers import AutoTokenizer, BertConfig

    from workers.apart_reader import ApartReader, ApartReaderConfig

    source = minilm_folder()
    weights = load_file(source / "model.safetensors")
    weights.pop("embeddings.position_ids", None)
    model = ApartReader(ApartReaderConfig(text_config=BertConfig.from_pretrained(source)))
    model.reader.load_state_dict({name: value for name, value in weights.items() if not name.startswith("pooler.")})
    model.save_pretrained(parts)
    AutoTokenizer.from_pretrained(str(source), model_max_length=_MAX_TOKENS).save_pretrained(parts)
