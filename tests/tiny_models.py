"""Tiny models with random weights, in the layouts that models have on the hub: built in seconds, without a network."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import sentencepiece
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

_CORPUS = [
    "a photo of a cat sleeping on a sofa",
    "a rocket launches from the pad at night",
    "how many people live in berlin?",
    "the quick brown fox jumps over the lazy dog",
    "a cup of coffee on a wooden table",
    "dogs bark loudly, birds sing softly",
    "what is the capital of france? paris is the capital of france.",
    "yes no 0 1 2 3 4 5 6 7 8 9",
] * 4

_SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
TEXT_TOKENS, SIGLIP_TOKENS = 64, 64
PROMPT = "passage: "

# transformers and tokenizers are typed in part, and differently in each release.
_hf: Any = transformers


def build_all(folder: Path) -> dict[str, Path]:
    """Every tiny model, by name, in folders below `folder`."""
    bert = build_bert(folder / "bert")
    clip = build_clip(folder / "clip")
    return {
        "bert": bert,
        "text_st": build_text(bert, folder / "text_st"),
        "text_dense": build_text_with_dense(bert, folder / "text_dense"),
        "clip": clip,
        "clip_legacy": build_clip_legacy(clip, folder / "clip_legacy"),
        "clip_st": build_saved_anew(clip, folder / "clip_st"),
        "siglip": build_siglip(folder / "siglip"),
        "siglip2": build_siglip2(folder / "siglip2"),
    }


def build_bert(path: Path) -> Path:
    """A plain transformers folder, as google-bert/bert-base-uncased."""
    torch.manual_seed(0)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    words.normalizer = normalizers.BertNormalizer(lowercase=True)
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.train_from_iterator(
        _CORPUS, trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    )
    tokenizer = _hf.BertTokenizer(vocab=words.get_vocab(), model_max_length=TEXT_TOKENS)
    config = _hf.BertConfig(vocab_size=len(tokenizer), max_position_embeddings=TEXT_TOKENS, **_SMALL)
    _hf.BertModel(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def build_text(bert: Path, path: Path) -> Path:
    """The layout of sentence-transformers/all-MiniLM-L6-v2."""
    module = Transformer(str(bert))
    return _saved([module, Pooling(module.get_embedding_dimension(), "mean"), Normalize()], path)


def build_text_with_dense(bert: Path, path: Path) -> Path:
    """Two poolings side by side, a smaller last layer, and a prompt that every text is given."""
    torch.manual_seed(1)
    module = Transformer(str(bert))
    width = module.get_embedding_dimension()
    modules = [module, Pooling(width, ("cls", "mean")), Dense(2 * width, 16), Normalize()]
    return _saved(modules, path, prompts={"passage": PROMPT}, default_prompt_name="passage")


def build_clip(path: Path) -> Path:
    """A plain transformers folder, as openai/clip-vit-base-patch32."""
    torch.manual_seed(2)
    vocab, merges = _byte_pairs(900, ("<|startoftext|>", "<|endoftext|>"), suffix="</w>")
    start, end = vocab["<|startoftext|>"], vocab["<|endoftext|>"]
    text = {"vocab_size": len(vocab), "max_position_embeddings": 77, "projection_dim": 24, **_SMALL}
    config = _hf.CLIPConfig(
        text_config=text | {"bos_token_id": start, "eos_token_id": end, "pad_token_id": end},
        vision_config={"image_size": 32, "patch_size": 8, "projection_dim": 24, **_SMALL},
        projection_dim=24,
    )
    _hf.CLIPModel(config).save_pretrained(path)
    images = _hf.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    tokenizer = _hf.CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)
    _hf.CLIPProcessor(images, tokenizer).save_pretrained(path)
    return path


def build_clip_legacy(clip: Path, path: Path) -> Path:
    """The layout that sentence-transformers/clip-ViT-B-32 has to this day."""
    shutil.copytree(clip, path / "0_CLIPModel")
    module = {"idx": 0, "name": "0", "path": "0_CLIPModel", "type": "sentence_transformers.models.CLIPModel"}
    (path / "modules.json").write_text(json.dumps([module]))
    return path


def build_saved_anew(source: Path, path: Path) -> Path:
    """`source` as today's sentence-transformers saves it."""
    SentenceTransformer(str(source), device="cpu").save_pretrained(str(path), create_model_card=False)
    return path


def build_siglip(path: Path) -> Path:
    """A plain transformers folder with a sentencepiece tokenizer, as google/siglip-base-patch16-224."""
    torch.manual_seed(3)
    pieces = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_CORPUS),
        model_writer=pieces,
        vocab_size=160,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    path.mkdir()
    (path / "spiece.model").write_bytes(pieces.getvalue())
    tokenizer = _hf.SiglipTokenizer(str(path / "spiece.model"), model_max_length=SIGLIP_TOKENS)
    config = _hf.SiglipConfig(
        text_config=_siglip_text(len(tokenizer), bos=1), vision_config={"image_size": 32, "patch_size": 8, **_SMALL}
    )
    _hf.SiglipModel(config).save_pretrained(path)
    images = _hf.SiglipImageProcessorPil(size={"height": 32, "width": 32})
    _hf.SiglipProcessor(images, tokenizer).save_pretrained(path)
    return path


def build_siglip2(path: Path) -> Path:
    """A plain transformers folder with a BPE tokenizer and free image sizes, as google/siglip2-base-patch16-naflex."""
    torch.manual_seed(4)
    vocab, merges = _byte_pairs(600, ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"))
    tokenizer = _hf.Siglip2Tokenizer(vocab=vocab, merges=merges, model_max_length=SIGLIP_TOKENS)
    # The processor forces these two upon every call, whatever the files say.
    patches = {"patch_size": 16, "num_patches": 256}
    config = _hf.Siglip2Config(text_config=_siglip_text(len(tokenizer), bos=2), vision_config={**patches, **_SMALL})
    _hf.Siglip2Model(config).save_pretrained(path)
    images = _hf.Siglip2ImageProcessorPil(patch_size=16, max_num_patches=256)
    _hf.Siglip2Processor(images, tokenizer).save_pretrained(path)
    return path


def _siglip_text(vocab_size: int, *, bos: int) -> dict[str, Any]:
    ids = {"vocab_size": vocab_size, "bos_token_id": bos, "eos_token_id": 1}
    return {**ids, "max_position_embeddings": SIGLIP_TOKENS, "projection_size": 32, **_SMALL}


def _saved(modules: list[torch.nn.Module], path: Path, **options: Any) -> Path:
    model = SentenceTransformer(modules=modules, device="cpu", **options)
    model.save_pretrained(str(path), create_model_card=False)
    return path


def _byte_pairs(size: int, special: tuple[str, ...], *, suffix: str = "") -> tuple[dict[str, int], list[Any]]:
    """A byte-level BPE's vocabulary and merges; the suffix "</w>" gives CLIP's kind."""
    extra: dict[str, Any] = {"end_of_word_suffix": suffix} if suffix else {}
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    pairs = Tokenizer(models.BPE(**extra))
    pairs.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    pairs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False, **extra
    )
    pairs.train_from_iterator(_CORPUS, trainer)
    model = json.loads(pairs.to_str())["model"]
    vocab: dict[str, int] = model["vocab"]
    if suffix:  # CLIP needs every byte both bare and as a word's end
        for letter in sorted(alphabet):
            vocab.setdefault(letter + suffix, len(vocab))
    return vocab, [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in model["merges"]]
