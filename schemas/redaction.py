"""The one place where secrets and rows' content are taken out of what people see."""

import re
from collections.abc import Iterable

# No pattern here begins with what may be long: a text of a million letters is searched once, not once for each letter.
_URL = re.compile(r"://\S+")
_QUERY = re.compile(r"[?#]\S*")
#: Words whose value is a secret wherever they stand: parameters of signed URLs, headers, settings.
_NAMED = re.compile(
    r"""((?:(?:signature|token|password|passwd|secret|credential|api[-_]?key|access[-_]?key(?:[-_]?id)?|(?:account|message)[-_]?key)
          |\bsig|\bcookie|\b(?:proxy-)?authorization)["']?\s*[=:]\s*["']?)
        (?!\*\*\*)(?:(?:basic|bearer)\s+)?[^\s&"',;]+""",
    re.IGNORECASE | re.VERBOSE,
)
#: So many letters in a row are a quotation.
_QUOTED = 12
#: Of a shorter content all of it is; of one as short as a word of any message nothing is.
_SHORTEST = 4


def redact(text: str) -> str:
    """`text` with `***` for user info, query and fragment of each URL in it, and for the value of what is named so."""
    return _NAMED.sub(r"\1***", _URL.sub(lambda m: _redact_url(m.group()), text))


def _redact_url(url: str) -> str:
    """What comes after the scheme; the last @ ends the user info: a password may hold @ and /."""
    _, at, host = url.rpartition("@")
    return _QUERY.sub("?***", f"://***@{host}" if at else url, count=1)


def unquoted(message: str, contents: Iterable[str]) -> str:
    """`message`, cut off where it begins to quote one of `contents`, as it is or as Python would write it."""
    for content in contents:
        size = min(_QUOTED, len(content))
        if size < _SHORTEST:
            continue
        forms = (content, repr(content), ascii(content), repr(content.encode("utf-8", "replace")))
        at = range(len(message) - size + 1)
        first = next((i for i in at if any(message[i : i + size] in form for form in forms)), None)
        message = message if first is None else f"{message[:first]}***"
    return message
