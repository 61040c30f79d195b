"""The one place where secrets are taken out of what people see."""

import re

_USERINFO = re.compile(r"(?<=://)\S*@")  # greedy: a password may hold @ and /
_QUERY = re.compile(r"[?#]\S*")


def redact(text: str) -> str:
    """`text` with user info, queries and fragments of every URL in it replaced by `***`."""
    return re.sub(r"[A-Za-z][A-Za-z0-9+.-]*://\S+", lambda m: _redact_url(m.group()), text)


def _redact_url(url: str) -> str:
    return _QUERY.sub("?***", _USERINFO.sub("***@", url), count=1)
