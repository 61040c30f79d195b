"""The questions that bench.train_reranker learns from: made of WordNet, without what the demo asks or names."""

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.wordnet import Noun, WordNet
from storage.model_files import minilm_folder

CANDIDATES = 8  # items of a question, one of which fits
_NEAR = 3  # of them are near by MiniLM's cosine
_AMONG = 150  # the nearest that these are drawn from
_KINDS = (4, 1500)  # how many nouns a kind holds that is asked for
_DEMO = Path(__file__).parents[1] / "examples" / "demo"
_SCENES = (
    *("in the grass", "on a table", "in a box", "by a window", "on a shelf"),
    *("with a shadow", "from above", "in the rain", "for sale", "at night"),
)
_LOOKS = (
    *("red", "green", "blue", "yellow", "large", "small", "old", "new"),
    *("cartoon", "brown", "white", "black", "round", "simple", "shiny"),
)


@dataclass(frozen=True, slots=True)
class Choice:
    """A question with its items, the fitting one first, and MiniLM's cosine of each."""

    text: str
    items: list[str]
    cosines: list[float]


@dataclass(frozen=True, slots=True)
class _Question:
    text: str
    fits: Noun
    maybe: set[str]  # keys of all nouns that might fit too


def make_choices(wordnet: WordNet, count: int, rng: random.Random) -> list[Choice]:
    """So many questions about nouns that are neither held out nor named by a text of the demo."""
    demo = _Demo()
    nouns = _in_whole_words([n for n in wordnet.usable() if not n.is_held_out and not demo.names(n)])
    questions = list(_questions(wordnet, nouns, demo, rng, count))
    return _with_rivals(questions, nouns, rng)


class _Demo:
    """What the demo's texts say."""

    def __init__(self) -> None:
        lines = [
            line for name in ("manifest", "queries") for line in (_DEMO / f"{name}.jsonl").read_text().splitlines()
        ]
        rows = [json.loads(line) for line in lines]
        self._texts = {_bare(row["text"]) for row in rows if "text" in row}
        said = [" ".join([row.get("text", ""), row.get("title", ""), *row.get("keywords", [])]) for row in rows]
        self._said = " " + re.sub(r"[^a-z]+", " ", " ".join(said).lower()) + " "

    def names(self, noun: Noun) -> bool:
        """Whether a name of the noun, or its plural, stands in any text."""
        return any(f" {name}{ending} " in self._said for name in noun.names for ending in ("", "s", "es"))

    def has(self, text: str) -> bool:
        """Whether this is one of its texts, but for article and plural."""
        return _bare(text) in self._texts


def _bare(text: str) -> str:
    plain = re.sub(r"[^a-z ]", "", text.lower())
    return re.sub(r"^(a|an|the|a kind of) ", "", plain).rstrip("s")


def _in_whole_words(nouns: list[Noun]) -> list[Noun]:
    """Those whose first name the tokenizer has whole: rare words in pieces teach little."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(minilm_folder()))
    pieces = tokenizer([noun.names[0] for noun in nouns], add_special_tokens=False)["input_ids"]
    return [n for n, p in zip(nouns, pieces, strict=True) if len(p) <= len(re.split("[ -]", n.names[0]))]


def _questions(wordnet: WordNet, nouns: list[Noun], demo: _Demo, rng: random.Random, count: int) -> Iterator[_Question]:
    """Half of them by definition, the others by kind."""
    while count:
        question = _question(wordnet, rng.choice(nouns), rng)
        if question is not None and not demo.has(question.text):
            yield question
            count -= 1


def _question(wordnet: WordNet, noun: Noun, rng: random.Random) -> _Question | None:
    if rng.random() < 0.5:
        return _Question(noun.definition, noun, wordnet.below(noun.key) | {n.key for n in wordnet.above(noun, 9)})
    kinds = [kind for kind in wordnet.above(noun, 5) if kind.names and not kind.is_held_out]
    kinds = [kind for kind in kinds if _KINDS[0] <= len(wordnet.below(kind.key)) <= _KINDS[1]]
    if not kinds:
        return None
    kind = rng.choice(kinds)
    name = rng.choice(kind.names)
    text = rng.choice([kind.definition, kind.definition, name, f"a {name}", f"{name}s", f"a kind of {name}"])
    return _Question(text, noun, wordnet.below(kind.key))


def _with_rivals(questions: list[_Question], nouns: list[Noun], rng: random.Random) -> list[Choice]:
    """Each question with its items: the one that fits, some that MiniLM takes for near, and some at random."""
    from sentence_transformers import SentenceTransformer

    minilm = SentenceTransformer(str(minilm_folder()), device="cpu", local_files_only=True)
    texts = minilm.encode([", ".join(n.names) for n in nouns], normalize_embeddings=True, convert_to_tensor=True)
    at_of = {noun.key: n for n, noun in enumerate(nouns)}
    choices = []
    for at in range(0, len(questions), 512):
        some = questions[at : at + 512]
        cosines = minilm.encode([q.text for q in some], normalize_embeddings=True, convert_to_tensor=True) @ texts.T
        for question, line, near in zip(some, cosines, cosines.topk(_AMONG).indices.tolist(), strict=True):
            chosen = [at_of[question.fits.key], *_rivals(question, near, nouns, rng)]
            items = [_item(nouns[n], nouns, question, rng) for n in chosen]
            choices.append(Choice(question.text, items, line[chosen].tolist()))
    return choices


def _rivals(question: _Question, near: list[int], nouns: list[Noun], rng: random.Random) -> list[int]:
    fitting = [n for n in near if nouns[n].key not in question.maybe]
    rivals = rng.sample(fitting, min(_NEAR, len(fitting)))
    while len(rivals) < CANDIDATES - 1:
        other = rng.randrange(len(nouns))
        if nouns[other].key not in question.maybe:
            rivals.append(other)
    return rivals


def _item(noun: Noun, nouns: list[Noun], question: _Question, rng: random.Random) -> str:
    """A noun as a caption might have it, or as a list of its names."""
    name = rng.choice(noun.names)
    other = rng.choice(nouns)
    forms = [name, ", ".join(noun.names), f"A {name}", f"A {rng.choice(_LOOKS)} {name}"]
    forms.append(f"A {name} {rng.choice(_SCENES)}")
    if other.key not in question.maybe:
        forms.append(rng.choice([f"A {name} and a {other.names[0]}", f"A {other.names[0]} with a {name}"]))
    return rng.choice(forms)
