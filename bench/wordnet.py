"""WordNet's nouns: what they are called, what they are, and what they are kinds of.

Read from the files of Princeton WordNet 3.0 (Debian: wordnet-base, in /usr/share/wordnet). Its licence lets anybody
use, change and pass it on with its notice; nothing of it is in this repository.
"""

import hashlib
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

#: Lexicographer files of things that can be seen or done: act, animal, artifact, body, event, food, location, object,
#: person, phenomenon, plant, shape, substance.
_FILES = frozenset({4, 5, 6, 8, 11, 13, 15, 17, 18, 19, 20, 25, 27})
_WORD = re.compile(r"[a-z]+(?:[ -][a-z]+){0,2}")
_HELD_OUT_OF = 10  # one in ten is held out


@dataclass(frozen=True, slots=True)
class Noun:
    """One meaning: its names, of which it is the most common meaning, and its definition."""

    key: str
    file: int
    names: tuple[str, ...]
    definition: str
    parents: tuple[str, ...]  # keys of what it is a kind of

    @property
    def is_held_out(self) -> bool:
        """Whether it is for measuring only, decided by a hash of its key."""
        return int(hashlib.sha256(self.key.encode()).hexdigest(), 16) % _HELD_OUT_OF == 0


class WordNet:
    """All nouns, and which are kinds of which."""

    def __init__(self, folder: Path) -> None:
        first = _first_meanings(folder / "index.noun")
        lines = (folder / "data.noun").read_text("utf-8").splitlines()
        self.nouns = {noun.key: noun for line in lines if line[0] != " " for noun in [_parsed(line, first)]}
        self._below: dict[str, set[str]] = {}
        self._children: dict[str, list[str]] = defaultdict(list)
        for noun in self.nouns.values():
            for parent in noun.parents:
                self._children[parent].append(noun.key)

    def usable(self) -> list[Noun]:
        """Nouns of things with a plain name, a definition of 4 to 14 words that does not hold it, in file order."""
        return [noun for noun in self.nouns.values() if noun.file in _FILES and noun.names and _tells(noun)]

    def below(self, key: str) -> set[str]:
        """Keys of a noun and of all that are kinds of it."""
        if key not in self._below:
            found, todo = {key}, [key]
            while todo:
                fresh = [child for child in self._children[todo.pop()] if child not in found]
                found.update(fresh)
                todo.extend(fresh)
            self._below[key] = found
        return self._below[key]

    def above(self, noun: Noun, levels: int) -> list[Noun]:
        """What a noun is a kind of, by its first parents, nearest first."""
        found: list[Noun] = []
        while noun.parents and len(found) < levels:
            noun = self.nouns[noun.parents[0]]
            found.append(noun)
        return found


def _first_meanings(path: Path) -> dict[str, str]:
    """The key of each word's most common meaning."""
    first = {}
    for line in path.read_text("utf-8").splitlines():
        if line[0] != " ":
            parts = line.split()
            first[parts[0]] = parts[6 + int(parts[3])]  # lemma, n, meanings, pointers, the pointers, 2 counts, keys
    return first


def _parsed(line: str, first: dict[str, str]) -> Noun:
    head, _, gloss = line.partition(" | ")
    parts = head.split()
    count = int(parts[3], 16)
    words, pointers = parts[4 : 4 + 2 * count : 2], parts[5 + 2 * count :]
    plain = [word.replace("_", " ") for word in words if first.get(word.lower()) == parts[0]]
    return Noun(
        key=parts[0],
        file=int(parts[1]),
        names=tuple(name for name in plain if _WORD.fullmatch(name)),
        definition=re.sub(r"\([^)]*\)", "", gloss.split(";")[0].split('"')[0]).strip(),
        parents=tuple(key for sign, key in zip(pointers[0::4], pointers[1::4], strict=False) if sign == "@"),
    )


def _tells(noun: Noun) -> bool:
    words = re.findall(r"[a-z]+", noun.definition.lower())
    named = {word for name in noun.names for word in re.split("[ -]", name) if len(word) > 3}
    return 4 <= len(words) <= 14 and not named & set(words) and bool(noun.parents)
