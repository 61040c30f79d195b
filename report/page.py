"""The page: one file without a single request, with a policy that allows none, whatever a job holds."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from report.html import Html, joined, tag, trusted

_ALONE = "It is one file: nothing in it is loaded from elsewhere."


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the page that the list at its top leads to."""

    name: str  # of the anchor
    title: str
    body: Html


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What is shown, from top to bottom."""

    title: str
    kind: str  # job, join, dedup
    outcome: str  # one sentence
    state: str  # good | warn | bad | open
    tiles: Sequence[tuple[str, str, str]]  # name, value, more
    sections: Sequence[Section]
    maps: Mapping[str, object]  # what the script knows of the points of each map
    made_from: str  # where it lies


def rendered(page: Page) -> bytes:
    """The page as UTF-8."""
    style, script = (_resource(name) for name in ("style.css", "script.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("meta", name="robots", content="noindex"),
        tag("title", f"{page.title}: embedmill report"),
        trusted(f"<style>{style}</style>"),
    )
    body = tag(
        "body",
        tag("a", "Skip to the report", href="#main", class_="skip"),
        _header(page),
        tag("main", [_section(section) for section in page.sections], id="main", tabindex=-1),
        tag("footer", tag("p", f"Made by embedmill from {page.made_from}. {_ALONE}")),
        tag("div", id="said", class_="hidden", aria_live="polite"),
        trusted(f'<script type="application/json" id="maps">{_data(page.maps)}</script>'),
        trusted(f"<script>{script}</script>"),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n".encode()


def _header(page: Page) -> Html:
    links = [tag("li", tag("a", section.title, href=f"#{section.name}")) for section in page.sections]
    tiles = [
        tag("div", tag("dt", name), tag("dd", tag("b", value), tag("span", more) if more else None))
        for name, value, more in page.tiles
    ]
    return tag(
        "header",
        tag("p", f"embedmill {page.kind}", class_="kind"),
        tag("h1", tag("bdi", page.title)),
        tag("p", page.outcome, class_=f"outcome {page.state}"),
        tag("dl", tiles, class_="tiles"),
        tag("nav", tag("ul", links), aria_label="Sections"),
    )


def _section(section: Section) -> Html:
    return tag(
        "section",
        tag("h2", section.title, id=f"{section.name}-title"),
        section.body,
        id=section.name,
        aria_labelledby=f"{section.name}-title",
    )


def _data(maps: Mapping[str, object]) -> str:
    """JSON that cannot end its own element."""
    told = json.dumps(maps, ensure_ascii=False, separators=(",", ":"))
    return told.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _resource(name: str) -> str:
    return files("report").joinpath(name).read_text("utf-8")


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def paragraphs(*lines: str | Html | None) -> Html:
    """Each line as a paragraph."""
    return joined([tag("p", line) for line in lines if line])
