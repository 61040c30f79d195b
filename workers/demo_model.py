"""The demo model: ConSE, built once from installed packages into a folder that loads like any model's."""

import json
from pathlib import Path
from typing import Any

from storage.model_files import class_names_file, demo_path, efficientnet_file, minilm_folder
from workers.built_folder import built_folder

_IMAGE_SIDE = 224


def demo_folder(cache: str, digest: str) -> Path:
    """The demo model's folder below `cache` (default: the user's cache folder), built where it is missing.

    Any number of processes may ask at once: each sees a whole folder. Raises WorkerUnfit where it is damaged.
    """
    return built_folder(demo_path(cache, digest), _build, what="the demo model")


def _build(folder: Path, parts: Path) -> None:
    from workers.sentence_encoder import quiet

    with quiet():
        _save_parts(parts)
        _save_model(parts, folder)


def _save_parts(parts: Path) -> None:
    """ConSE as `transformers` has it: the weights of both towers, the class names' embeddings, the processor."""
    import torch
    from sentence_transformers import SentenceTransformer

    from workers.conse import ConseConfig, ConseModel

    source = str(minilm_folder())
    minilm = SentenceTransformer(source, device="cpu", local_files_only=True, model_kwargs={"use_safetensors": True})
    bert: Any = minilm[0].model  # Any: torch takes each attribute of a module for a tensor or a module
    model = ConseModel(ConseConfig(text_config=bert.config.to_dict()))
    weights = {name: weight for name, weight in bert.state_dict().items() if not name.startswith("pooler.")}
    model.text_model.load_state_dict(weights)
    model.vision_model.load_state_dict(torch.load(efficientnet_file(), weights_only=True, map_location="cpu"))
    names = json.loads(class_names_file().read_text("utf-8"))
    model.class_embeddings.copy_(minilm.encode(names, convert_to_tensor=True, normalize_embeddings=True))
    model.save_pretrained(parts)
    _save_processor(source, minilm.max_seq_length, parts)


def _save_processor(source: str, max_tokens: int | None, parts: Path) -> None:
    """The image classifier's preprocessing beside the sentence model's tokenizer."""
    from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPProcessor

    images = CLIPImageProcessorPil(
        size={"shortest_edge": _IMAGE_SIDE},
        crop_size={"height": _IMAGE_SIDE, "width": _IMAGE_SIDE},
        image_mean=[127 / 255] * 3,
        image_std=[128 / 255] * 3,
    )
    tokenizer = AutoTokenizer.from_pretrained(source, model_max_length=max_tokens)
    _forget_lengths(tokenizer)
    # It takes any image processor and any tokenizer.
    processor = CLIPProcessor(images, tokenizer)  # type: ignore[no-untyped-call]  # transformers is typed in part
    processor.save_pretrained(parts)


def _forget_lengths(tokenizer: Any) -> None:  # Any: transformers does not say which class it loads
    """Drop what tokenizer.json says of truncation: a processor prefers its 128 tokens to the model's 256."""
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    for name in ("max_length", "stride", "truncation_strategy", "pad_to_multiple_of"):
        tokenizer.init_kwargs.pop(name, None)


def _save_model(parts: Path, folder: Path) -> None:
    """The same with sentence-transformers' modules around it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer

    from workers.conse import MODALITY_CONFIG, register_conse

    register_conse()
    module = Transformer(str(parts), modality_config=MODALITY_CONFIG, module_output_name="sentence_embedding")
    model = SentenceTransformer(modules=[module, Normalize()], device="cpu")
    model.save_pretrained(str(folder), create_model_card=False)
