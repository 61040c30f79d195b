"""Who may look at the monitor: one name, one password, checked in front of every page."""

import base64
import binascii
import hmac
import os
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from schemas.errors import Refused

PASSWORD = "EMBEDMILL_MONITOR_PASSWORD"  # noqa: S105  # the variable's name
#: Characters of a password that nobody tries out over the network.
_LEAST = 12
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True)
class Access:
    """A name and a password of printable ASCII, as browsers send them."""

    user: str
    password: str = field(repr=False)
    generated: bool = False  # just now: nobody knows it yet

    @property
    def pair(self) -> str:
        return f"{self.user}:{self.password}"

    def admits(self, authorization: str) -> bool:
        """Whether the header of a request says so, compared in constant time."""
        scheme, _, told = authorization.partition(" ")
        try:
            given = base64.b64decode(told.strip(), validate=True)
        except (binascii.Error, ValueError):
            return False
        return scheme.lower() == "basic" and hmac.compare_digest(given, self.pair.encode())


def read_access(user: str, file: str, environ: Mapping[str, str], *, address: str, on_terminal: bool) -> Access:
    """The access that file or environment name; a new one where neither does, for this machine and a terminal only.

    Raises Refused for a password that others can read or guess, and where nobody could learn a new one.
    """
    password = _read(file) if file else environ.get(PASSWORD, "")
    if password:
        return Access(_checked(user, "the user", least=1), _checked(password, "the password", least=_LEAST))
    if address not in _LOOPBACK:
        raise Refused(f"{address} is not this machine alone: set {PASSWORD}, or give --password-file")
    if not on_terminal:
        raise Refused(f"no password: set {PASSWORD}, or give --password-file")
    return Access(_checked(user, "the user", least=1), secrets.token_urlsafe(18), generated=True)


def _read(file: str) -> str:
    """The first line of a file that is its owner's alone."""
    try:
        handle = os.open(Path(file), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as err:
        raise Refused(f"--password-file {file} cannot be read: {err.strerror}") from None
    with os.fdopen(handle, "rb") as opened:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode) or facts.st_mode & 0o077:
            raise Refused(f"--password-file {file} can be read by others; chmod 600 {file}")
        return opened.readline(4096).decode(errors="replace").strip()


def _checked(word: str, what: str, *, least: int) -> str:
    if len(word) < least:
        raise Refused(f"{what} of the monitor has {len(word)} characters; take {least} or more")
    if not all(" " < letter <= "~" for letter in word) or (what == "the user" and ":" in word):
        raise Refused(f"{what} of the monitor may hold printable ASCII only, no space, and a user no colon")
    return word
