"""Markup: the one place where text becomes HTML; whatever is not Html is escaped."""

import html
import shlex
from collections.abc import Iterable

from schemas.redaction import redact
from schemas.visible import visible

_VOID = frozenset({"meta", "br", "hr", "img", "link"})


class Html(str):
    """Markup that is ready to be written; made by `tag` and `joined`, and by `trusted` of our own files."""

    __slots__ = ()


Child = Html | str | int | float | None | Iterable["Child"]
Attribute = str | int | float | bool | None


def trusted(text: str) -> Html:
    """Our own scripts and styles as they are; never anything that was read from a job."""
    return Html(text)


def tag(element: str, *children: Child, **attributes: Attribute) -> Html:
    """An element; `class_` is the attribute class, `aria_label` aria-label; None and False leave an attribute out."""
    told = "".join(_attribute(name, value) for name, value in attributes.items())
    if element in _VOID:
        return Html(f"<{element}{told}>")
    return Html(f"<{element}{told}>{joined(*children)}</{element}>")


def joined(*children: Child) -> Html:
    """What lies in an element, one after the other."""
    return Html("".join(map(_child, children)))


def snippet(text: str, limit: int) -> str:
    """The beginning of `text` on one line, at most `limit` characters, as `visible` shows them."""
    some = visible(" ".join(text[: 2 * limit].split()))
    return some if len(some) <= limit and len(text) <= 2 * limit else f"{some[: limit - 1]}…"


def command(name: str, place: str, *words: str) -> str:
    """`embedmill NAME PLACE WORDS...` as a shell takes it, without the secrets of a URL."""
    return shlex.join(["embedmill", name, redact(place), *words])


def _child(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return child
    if isinstance(child, str):
        return html.escape(visible(child))
    if isinstance(child, int | float):
        return str(child)
    return "".join(map(_child, child))


def _attribute(name: str, value: Attribute) -> str:
    if value is None or value is False:
        return ""
    name = name.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{html.escape(visible(str(value)))}"'
