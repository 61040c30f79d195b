"""What is embedded in benches: texts and pictures of mixed kinds, and models, all from one seed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from PIL import Image

from storage.model_files import resolve_model
from tests.tiny_corpus import byte_pairs
from workers.torchvision_cpu import make_torchvision_importable

SEED = 20261123
_SIZE = (1280, 960)
_LEAST_WORDS, _MOST_WORDS = 2, 400
# transformers is typed in part, and differently in each release.
_hf: Any = transformers


def minilm_folder() -> Path:
    """The folder of the packaged MiniLM."""
    folder = resolve_model("minilm", cache="").folder
    assert folder is not None
    return folder


def texts(folder: Path, count: int, *, duplicates: float, model: Path) -> Path:
    """A manifest of texts of 2-400 words of the model's vocabulary, log-uniform; a share repeats earlier ones."""
    rng = np.random.default_rng(SEED)
    words = [word for word in (model / "vocab.txt").read_text().split() if word.isalpha() and word.isascii()]
    lengths = np.exp(rng.uniform(np.log(_LEAST_WORDS), np.log(_MOST_WORDS + 1), count)).astype(int)
    made = [" ".join(words[at] for at in rng.integers(0, len(words), length)) for length in lengths]
    repeated = _repeated(made, duplicates, rng)
    return _manifest(folder, [{"id": f"t{n:07d}", "text": text} for n, text in enumerate(repeated)])


def pictures(folder: Path, count: int, *, duplicates: float) -> Path:
    """A manifest of JPEGs of 1280 x 960, each of its own file; a share has the bytes of earlier ones."""
    rng = np.random.default_rng(SEED)
    folder.mkdir(parents=True)
    names = []
    for n in range(count):
        path = folder / f"p{n:06d}.jpg"
        _picture(rng).save(path, quality=88)
        names.append(path)
    sources = _repeated(names, duplicates, rng)
    for path, source in zip(names, sources, strict=True):
        if path != source:
            path.write_bytes(source.read_bytes())
    return _manifest(folder, [{"id": path.stem, "modality": "image", "uri": str(path)} for path in names])


def clip_folder(folder: Path) -> Path:
    """CLIP B/32 in the hub's layout, with random weights: 88 M parameters for pictures, 63 M for texts."""
    return clip_like(folder, {}, {})


def clip_like(folder: Path, vision: dict[str, int], text: dict[str, int]) -> Path:
    """A CLIP whose towers differ from B/32 as `vision` and `text` say, with random weights."""
    import torch

    make_torchvision_importable()

    torch.manual_seed(SEED)
    vocab, merges = byte_pairs(900, ("<|startoftext|>", "<|endoftext|>"), suffix="</w>")
    start, end = vocab["<|startoftext|>"], vocab["<|endoftext|>"]
    ids = {"bos_token_id": start, "eos_token_id": end, "pad_token_id": end, "vocab_size": 49408}
    config = _hf.CLIPConfig(
        text_config=ids | text, vision_config=vision, projection_dim=text.get("projection_dim", 512)
    )
    _hf.CLIPModel(config).save_pretrained(folder)
    size = vision.get("image_size", 224)
    images = _hf.CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    _hf.CLIPProcessor(images, _hf.CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)).save_pretrained(
        folder
    )
    return folder


def _picture(rng: np.random.Generator) -> Image.Image:
    """Soft shapes of many sizes, sharp edges and grain: it compresses about as a photo does, to some 300 kB."""
    width, height = _SIZE
    canvas = np.zeros((height, width, 3), np.float32)
    for scale, weight in ((4, 90.0), (24, 50.0), (120, 25.0)):
        small = rng.normal(0, weight, (3 * scale // 4, scale, 3)).astype(np.float32)
        layers = [Image.fromarray(small[..., band]).resize(_SIZE, Image.Resampling.BICUBIC) for band in range(3)]
        canvas += np.stack([np.asarray(layer) for layer in layers], axis=-1)
    top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
    canvas[top : top + height // 3, left : left + width // 3] += rng.normal(0, 60, 3)
    canvas += rng.normal(128, 6, canvas.shape)
    return Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))


def _repeated(made: list[Any], share: float, rng: np.random.Generator) -> list[Any]:
    """`made` with a share of it, anywhere behind the first, replaced by copies of others."""
    count = int(share * len(made))
    if not count:
        return made
    copies = set(rng.choice(np.arange(1, len(made)), count, replace=False).tolist())
    originals = [n for n in range(len(made)) if n not in copies]
    return [made[int(rng.choice(originals))] if n in copies else value for n, value in enumerate(made)]


def _manifest(folder: Path, rows: list[dict[str, str]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
