"""Markup: the one place where text becomes HTML; whatever is not Html is escaped."""

import html
import re
import unicodedata
from collections.abc import Iterable

#: Kinds of characters that are shown by their numbers: controls, surrogates, and format characters such as those that
#: turn the direction of what follows. What joins emoji and letters of some scripts stays.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_JOINERS = frozenset("\u200c\u200d")
_PLAIN = re.compile(r"[\x20-\x7e]*")
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


def visible(text: str) -> str:
    """`text` with what cannot be seen, or changes how the rest is seen, by its number, as `\\u202e`."""
    if _PLAIN.fullmatch(text):
        return text
    return "".join(_numbered(c) if _is_hidden(c) else c for c in text)


def snippet(text: str, limit: int) -> str:
    """The beginning of `text` on one line, at most `limit` characters, as `visible` shows them."""
    some = visible(" ".join(text[: 2 * limit].split()))
    return some if len(some) <= limit and len(text) <= 2 * limit else f"{some[: limit - 1]}…"


def _is_hidden(char: str) -> bool:
    return unicodedata.category(char) in _HIDDEN and char not in _JOINERS


def _numbered(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


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
