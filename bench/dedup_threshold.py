"""What a threshold of dedup parts, with the packaged MiniLM: edits of a text from the texts that are most like it.

python -m bench.dedup_threshold
"""

import json
import random
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path

import numpy as np

from storage.model_files import minilm_folder
from workers.torchvision_cpu import make_torchvision_importable

DEMO = Path(__file__).parents[1] / "examples" / "demo" / "manifest.jsonl"
THRESHOLDS = (0.8, 0.9, 0.95, 0.98)
SEED = 0


def main() -> None:
    """Print the share of edits, and of other texts, that each threshold takes for copies."""
    make_torchvision_importable()
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(minilm_folder()), device="cpu")
    texts = _texts()
    vectors = _unit(model, texts)
    others = vectors @ vectors.T
    np.fill_diagonal(others, -1)
    print(f"{len(texts)} texts of four words and more, seed {SEED}\n")
    print(f"{'':38}" + "".join(f"{threshold:>8}" for threshold in THRESHOLDS))
    print(f"{'another text (its nearest one)':38}" + _shares(others.max(axis=1)))
    for name, edit in _edits(random.Random(SEED)).items():
        edited = _unit(model, [edit(text) for text in texts])
        print(f"{name:38}" + _shares((edited * vectors).sum(axis=1)))


def _texts() -> list[str]:
    """Summaries of installed packages and captions of the demo."""
    captions = [json.loads(line).get("text") for line in DEMO.read_text().splitlines()]
    found = {text.strip() for text in [*captions, *(d.metadata["Summary"] for d in distributions())] if text}
    return sorted(text for text in found if len(text.split()) >= 4)


def _unit(model, texts: list[str]) -> np.ndarray:  # type: ignore[no-untyped-def]  # a SentenceTransformer, imported late
    return np.asarray(model.encode(texts, normalize_embeddings=True, show_progress_bar=False))


def _shares(cosines: np.ndarray) -> str:
    return "".join(f"{(cosines >= threshold).mean():8.1%}" for threshold in THRESHOLDS)


def _edits(rng: random.Random) -> dict[str, Callable[[str], str]]:
    def one_typo(text: str) -> str:
        at = rng.randrange(1, len(text) - 1)
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]

    def without_a_word(text: str) -> str:
        words = text.split()
        words.pop(rng.randrange(len(words)))
        return " ".join(words)

    def changed_over(text: str) -> str:
        words = text.split()
        at = rng.randrange(len(words) - 1)
        words[at], words[at + 1] = words[at + 1], words[at]
        return " ".join(words)

    return {
        "in capitals": str.upper,
        "double spaces and a full stop": lambda text: text.replace(" ", "  ") + ".",
        "two neighbouring words changed over": changed_over,
        "one word added": lambda text: f"{text} {rng.choice(['now', 'today', 'again', 'online'])}",
        "one word left out": without_a_word,
        "two neighbouring letters changed over": one_typo,
    }


if __name__ == "__main__":
    main()
