"""Tiny models of texts and images, with random weights and in hub layout."""

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

from tests.tiny_corpus import CORPUS, SMALL, byte_pairs

TEXT_TOKENS, SIGLIP_TOKENS = 64, 64
PROMPT = "passage: "

# transformers and tokenizers are typed in part, and differently in each release.
_hf: Any = transformers


def build_bert(path: Path) -> Path:
    """A plain transformers folder, as google-bert/bert-base-uncased."""
    torch.manual_seed(0)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    words.normalizer = normalizers.BertNormalizer(lowercase=True)
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    )
    tokenizer = _hf.BertTokenizer(vocab=words.get_vocab(), model_max_length=TEXT_TOKENS)
    config = _hf.BertConfig(vocab_size=len(tokenizer), max_position_embeddings=TEXT_TOKENS, **SMALL)
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


def build_cross_encoder(bert: Path, path: Path, *, labels: int) -> Path:
    """A plain transformers folder that scores pairs, as cross-encoder/ms-marco-MiniLM-L6-v2."""
    torch.manual_seed(9)
    tokenizer = _hf.AutoTokenizer.from_pretrained(str(bert))
    config = _hf.BertConfig.from_pretrained(str(bert), num_labels=labels)
    _hf.BertForSequenceClassification(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def build_clip(path: Path) -> Path:
    """A plain transformers folder, as openai/clip-vit-base-patch32."""
    torch.manual_seed(2)
    vocab, merges = byte_pairs(900, ("<|startoftext|>", "<|endoftext|>"), suffix="</w>")
    start, end = vocab["<|startoftext|>"], vocab["<|endoftext|>"]
    text = {"vocab_size": len(vocab), "max_position_embeddings": 77, "projection_dim": 24, **SMALL}
    config = _hf.CLIPConfig(
        text_config=text | {"bos_token_id": start, "eos_token_id": end, "pad_token_id": end},
        vision_config={"image_size": 32, "patch_size": 8, "projection_dim": 24, **SMALL},
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
        sentence_iterator=iter(CORPUS),
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
        text_config=_siglip_text(len(tokenizer), bos=1), vision_config={"image_size": 32, "patch_size": 8, **SMALL}
    )
    _hf.SiglipModel(config).save_pretrained(path)
    images = _hf.SiglipImageProcessorPil(size={"height": 32, "width": 32})
    _hf.SiglipProcessor(images, tokenizer).save_pretrained(path)
    return path


def build_siglip2(path: Path) -> Path:
    """A plain transformers folder with a BPE tokenizer and free image sizes, as google/siglip2-base-patch16-naflex."""
    torch.manual_seed(4)
    vocab, merges = byte_pairs(600, ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"))
    tokenizer = _hf.Siglip2Tokenizer(vocab=vocab, merges=merges, model_max_length=SIGLIP_TOKENS)
    # The processor forces these two upon every call, whatever the files say.
    patches = {"patch_size": 16, "num_patches": 256}
    config = _hf.Siglip2Config(text_config=_siglip_text(len(tokenizer), bos=2), vision_config={**patches, **SMALL})
    _hf.Siglip2Model(config).save_pretrained(path)
    images = _hf.Siglip2ImageProcessorPil(patch_size=16, max_num_patches=256)
    _hf.Siglip2Processor(images, tokenizer).save_pretrained(path)
    return path


def _siglip_text(vocab_size: int, *, bos: int) -> dict[str, Any]:
    ids = {"vocab_size": vocab_size, "bos_token_id": bos, "eos_token_id": 1}
    return {**ids, "max_position_embeddings": SIGLIP_TOKENS, "projection_size": 32, **SMALL}


def _saved(modules: list[torch.nn.Module], path: Path, **options: Any) -> Path:
    model = SentenceTransformer(modules=modules, device="cpu", **options)
    model.save_pretrained(str(path), create_model_card=False)
    return path
