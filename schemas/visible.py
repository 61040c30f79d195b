"""Visible: text shown so that nothing in it acts, on a terminal, in a page, or in a spreadsheet."""

import re
import unicodedata

#: Kinds of characters that are shown by their numbers: controls, surrogates, and format characters such as those that
#: turn the direction of what follows. What joins emoji and letters of some scripts stays.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_JOINERS = frozenset("\u200c\u200d")
_PLAIN = re.compile(r"[\x20-\x7e]*")
#: What makes a spreadsheet take a cell for a formula (OWASP, "CSV Injection"); a number may begin with a sign.
#: The wide signs count in some languages.
_FORMULA = re.compile(r"[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")


def visible(text: str) -> str:
    """`text` with what cannot be seen, or changes how the rest is seen, by its number, as `\\u202e`."""
    if _PLAIN.fullmatch(text):
        return text
    return "".join(_numbered(c) if _is_hidden(c) else c for c in text)


def visible_lines(text: str) -> str:
    """The same of several lines, which stay lines."""
    return "\n".join(map(visible, text.split("\n")))


def cell(text: str) -> str:
    """`text` for a cell of a CSV file that no spreadsheet computes."""
    safe = visible(text)
    return f"'{safe}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else safe


def _is_hidden(char: str) -> bool:
    return unicodedata.category(char) in _HIDDEN and char not in _JOINERS


def _numbered(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
