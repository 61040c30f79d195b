"""An http(s) URL, parsed strictly and once: what is judged is what is dialled."""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urljoin

from schemas.failures import FailureCode
from workers.fetch_failure import Problem

#: A redirect's signed address may be long; no honest one is longer.
_MAX_LENGTH = 8192
_DEFAULT_PORTS = {"http": 80, "https": 443}
# ASCII: without it, IGNORECASE takes U+017F for an s.
_URL = re.compile(r"(https?)://([^/?#]*)([^?#]*)(\?[^#]*)?(?:#.*)?", re.IGNORECASE | re.ASCII)
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:@%\s]+)(?::([0-9]{1,5}))?")
_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")
#: A last label that resolvers take for a number: 0x7f.1, 2130706433, 0177.0.0.1.
_NUMERIC = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")
#: Letters that the two standards of international names map differently: to two different hosts.
_AMBIGUOUS = frozenset("ßẞς\u200c\u200d")
_UNUSABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\\]")
_LONE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpUrl:
    """One address; `host` is a lower-case ASCII name or an IP in its only spelling."""

    scheme: str
    host: str
    port: int
    path: str  # percent-encoded, begins with /
    query: str  # percent-encoded, begins with ? unless empty
    literal: bool  # the host is an IP address

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port

    @property
    def server(self) -> str:
        """Host and port as the Host header and people write them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def target(self) -> str:
        """What the request line asks for."""
        return self.path + self.query

    @property
    def segments(self) -> tuple[str, ...]:
        """The names of the path, decoded."""
        return tuple(unquote(part) for part in self.path.split("/")[1:])

    def __str__(self) -> str:
        return f"{self.scheme}://{self.server}{self.target}"

    def within(self, root: "HttpUrl") -> bool:
        """Whether this is `root` or lies below it, name by name."""
        names = root.segments[:-1] if root.path.endswith("/") else root.segments
        return self.origin == root.origin and self.segments[: len(names)] == names


def parse_http_url(text: str) -> HttpUrl | Problem:
    """`text` as an address, or what is wrong with it; nothing is resolved."""
    match = None if len(text) > _MAX_LENGTH or _UNUSABLE.search(text) else _URL.fullmatch(text)
    authority = _AUTHORITY.fullmatch(match[2]) if match else None
    if match is None or authority is None:
        return FailureCode.URI_INVALID, "not https://host/path (no credentials, backslash, zone or odd port)"
    host = _parse_host(authority[1])
    if not isinstance(host, str):
        return host
    scheme = match[1].lower()
    port = int(authority[2] or _DEFAULT_PORTS[scheme])
    if not 0 < port < 2**16:
        return FailureCode.URI_INVALID, "no such port"
    path, query = _encoded(match[3] or "/", "/:@!$&'()*+,;=~"), _encoded(match[4] or "", "?/:@!$&'()*+,;=~[]")
    if _climbs(path):
        return FailureCode.OUTSIDE_ROOT, "an address has no '..' in its path; write the path"
    return HttpUrl(scheme=scheme, host=host, port=port, path=path, query=query, literal=_is_ip(host))


def joined(url: HttpUrl, location: str) -> str:
    """Where a redirect from `url` leads, not judged yet."""
    try:
        return urljoin(str(url), location)
    except ValueError:  # urllib's own checks; ours say what is wrong
        return location


def _parse_host(text: str) -> str | Problem:
    if text.startswith("["):
        try:
            return str(ipaddress.IPv6Address(text[1:-1]))
        except ValueError:
            return FailureCode.URI_INVALID, "no such IPv6 address"
    name = _ascii_name(text)
    if name is None or not _NAME.fullmatch(name):
        return FailureCode.URI_INVALID, "not a host name (write an international one in its xn-- form)"
    if _NUMERIC.fullmatch(name) and not _is_ip(name):
        return FailureCode.ADDRESS_FORBIDDEN, "an IP address in an unusual spelling"
    return name


def _ascii_name(text: str) -> str | None:
    """The lower-case ASCII form of a host name; forms of digits and dots beyond ASCII become plain ones here."""
    if not text.isascii():
        if len(text) > 253 or _AMBIGUOUS.intersection(text):
            return None
        try:
            text = text.encode("idna").decode("ascii")
        except UnicodeError:
            return None
    return text.lower().removesuffix(".")


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _encoded(text: str, safe: str) -> str:
    """`text` with what a request line cannot hold percent-encoded, and what is encoded already kept."""
    return quote(_LONE_PERCENT.sub("%25", text), safe=f"%{safe}")


def _climbs(path: str) -> bool:
    """Whether a server may read `path` as leading upwards, however often it decodes."""
    for _ in range(4):
        parts = (part.partition(";")[0] for part in re.split(r"[/\\]", path))
        if ".." in parts:
            return True
        path = unquote(path)
    return False
