"""Pages of reports, read as a browser would: their elements, what runs in them, and what they say."""

import base64
import hashlib
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser


@dataclass
class Read(HTMLParser):
    """What a page is made of."""

    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    inside: dict[str, list[str]] = field(default_factory=dict)  # of script and style

    def __post_init__(self) -> None:
        super().__init__()
        self._raw = ""

    __hash__ = object.__hash__

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._raw = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        self._raw = ""

    def handle_data(self, data: str) -> None:
        if self._raw:
            self.inside.setdefault(self._raw, []).append(data)
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def breaches(self) -> list[str]:
        """What a page of ours never has: handlers, styles in attributes, places elsewhere, scripts of others."""
        found = []
        for tag, attributes in self.tags:
            for name, value in attributes.items():
                elsewhere = name in ("href", "src", "action", "data") and not re.match("#|data:image/", value or "")
                if name.startswith("on") or name in ("style", "srcdoc", "formaction") or elsewhere:
                    found.append(f"<{tag} {name}={value!r}>")
            if tag in ("iframe", "object", "embed", "link", "base", "form", "audio", "video"):
                found.append(f"<{tag}>")
        policy = next(a["content"] or "" for t, a in self.tags if t == "meta" and "http-equiv" in a)
        programs = [s for s, (t, a) in zip(self.inside["script"], self._of("script"), strict=True) if "type" not in a]
        for kind, texts in (("style", self.inside["style"]), ("script", programs)):
            for text in texts:
                digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
                if f"{kind}-src 'sha256-{digest}'" not in policy:
                    found.append(f"a {kind} that the policy does not know")
        return found

    def _of(self, name: str) -> list[tuple[str, dict[str, str | None]]]:
        return [(tag, attributes) for tag, attributes in self.tags if tag == name]


def read_page(page: bytes) -> Read:
    """The page, parsed."""
    read = Read()
    read.feed(page.decode("utf-8"))
    return read
