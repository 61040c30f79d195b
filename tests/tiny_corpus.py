"""What the tiny models are trained of: a corpus, one size for all towers, and a tokenizer."""

import json
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

CORPUS = [
    "a photo of a cat sleeping on a sofa",
    "a rocket launches from the pad at night",
    "how many people live in berlin?",
    "the quick brown fox jumps over the lazy dog",
    "a cup of coffee on a wooden table",
    "dogs bark loudly, birds sing softly",
    "what is the capital of france? paris is the capital of france.",
    "yes no 0 1 2 3 4 5 6 7 8 9",
] * 4

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def byte_pairs(size: int, special: tuple[str, ...], *, suffix: str = "") -> tuple[dict[str, int], list[Any]]:
    """A byte-level BPE's vocabulary and merges; the suffix "</w>" gives CLIP's kind."""
    extra: dict[str, Any] = {"end_of_word_suffix": suffix} if suffix else {}
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    pairs = Tokenizer(models.BPE(**extra))
    pairs.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    pairs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False, **extra
    )
    pairs.train_from_iterator(CORPUS, trainer)
    model = json.loads(pairs.to_str())["model"]
    vocab: dict[str, int] = model["vocab"]
    if suffix:  # CLIP needs every byte both bare and as a word's end
        for letter in sorted(alphabet):
            vocab.setdefault(letter + suffix, len(vocab))
    return vocab, [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in model["merges"]]
