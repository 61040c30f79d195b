"""Members of a tar: its headers, one behind the other, in flat memory and without the content between them.

`tarfile` is not used: it takes a broken header for the end, and so loses rows in silence, keeps all members in memory,
and reads a header extension of any claimed size.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from schemas.errors import ManifestError

_BLOCK = 512
#: Bytes of one header extension.
_MAX_EXTENSION = 2**20
_PIECE = 2**16

_OCTAL = re.compile(rb" *([0-7]*)[ \0]*")
#: Types that never have data, whatever their size says: links, devices, folders, pipes.
_DATALESS = frozenset(b"123456")
_KINDS = {ord("1"): "a hard link", ord("2"): "a link", ord("3"): "a device", ord("4"): "a device", ord("6"): "a pipe"}


FOLDER = "a folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class TarMember:
    """One member, and the range of the archive that is its content."""

    name: str  # bytes that are not UTF-8 are lone surrogates
    offset: int
    size: int
    kind: str = ""  # what it is when it is no file: a folder, a link ...


def tar_members(file: IO[bytes], size: int, name: str) -> Iterator[TarMember]:
    """The members of an archive of `size` bytes; `file` may be moved between them.

    Raises ManifestError naming the last whole member when the archive is cut off or broken.
    """
    scan = _Scan(file, size, name)
    while (member := scan.next()) is not None:
        yield member


class _Scan:
    """A walk from header to header; each step goes forwards."""

    def __init__(self, file: IO[bytes], size: int, name: str) -> None:
        self._file, self._size, self._name = file, size, name
        self._at = 0
        self._last = ""  # the last member that is whole

    def next(self) -> TarMember | None:
        """The next member; None behind the last."""
        said: dict[str, str] = {}  # what extensions say of it
        while block := self._header():
            size, kind = self._number(block), block[156]
            self._at += _BLOCK
            if kind not in b"xgLK":
                return self._member(block, kind, size, said)
            said |= self._extension(kind, size)
        if said:
            raise self._broken("it ends behind a header extension")
        return None

    def _header(self) -> bytes:
        """The header at hand; nothing at the mark that ends an archive."""
        block = self._read(self._at, _BLOCK)
        if len(block) < _BLOCK:
            raise self._broken("it is cut off: the mark that ends a tar is missing")
        if not block.strip(b"\0"):
            self._require_end()
            return b""
        if _number(block[148:156]) != sum(block) - sum(block[148:156]) + 8 * ord(" "):
            raise self._broken("what follows is no header")
        return block

    def _require_end(self) -> None:
        """Several archives in one file would be read as the first alone."""
        at = self._at
        while piece := self._read(at, _PIECE):
            if piece.strip(b"\0"):
                raise self._broken("it goes on behind the mark that ends a tar")
            at += len(piece)

    def _number(self, block: bytes) -> int:
        size = _number(block[124:136])
        if size is None:
            raise self._broken("the next header has no usable size")
        return size

    def _extension(self, kind: int, size: int) -> dict[str, str]:
        data = self._read(self._at, size) if size <= _MAX_EXTENSION else b""
        if len(data) < size:
            raise self._broken(f"a header extension of {size:,} bytes is cut off or too long")
        self._at += _padded(size)
        if kind == ord("L"):
            return {"path": _text(data.split(b"\0", 1)[0])}
        said = _pax(data) if kind == ord("x") else {}  # g holds for all, K is a link's target: neither names a file
        if said is None:
            raise self._broken("a header extension is broken")
        return said

    def _member(self, block: bytes, kind: int, size: int, said: dict[str, str]) -> TarMember:
        if "size" in said:
            if not (said["size"].isascii() and said["size"].isdigit() and len(said["size"]) < 20):
                raise self._broken("the next header has no usable size")
            size = int(said["size"])
        name = said.get("path") or _name(block)
        if kind == ord("S"):
            self._skip_sparse_map(block)
        size = 0 if kind in _DATALESS else size
        if self._at + size > self._size:
            raise self._broken(f"it is cut off within {name!a}")
        member = TarMember(name=name, offset=self._at, size=size, kind=_kind(kind, name, said))
        self._at += _padded(size)
        self._last = name
        return member

    def _skip_sparse_map(self, block: bytes) -> None:
        more = block[482]
        while more:
            extra = self._read(self._at, _BLOCK)
            if len(extra) < _BLOCK:
                raise self._broken("the map of a sparse file is cut off")
            self._at += _BLOCK
            more = extra[504]

    def _read(self, offset: int, length: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(length)

    def _broken(self, reason: str) -> ManifestError:
        where = f"behind member {self._last!a}" if self._last else "at its start"
        return ManifestError(f"{self._name} is broken {where}, at byte {self._at:,}: {reason}; make it again")


def _kind(kind: int, name: str, said: dict[str, str]) -> str:
    if kind == ord("5") or (name.endswith("/") and kind in b"0\x007"):
        return FOLDER
    if kind == ord("S") or "sparse" in said:
        return "a sparse file"
    return "" if kind in b"0\x007" else _KINDS.get(kind, f"a member of type {chr(kind)!a}")


def _number(field: bytes) -> int | None:
    """A number of a header, octal or binary; None for what is none, or below zero."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    match = _OCTAL.fullmatch(field)
    return int(match[1] or b"0", 8) if match else None


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _name(block: bytes) -> str:
    name = block[:100].split(b"\0", 1)[0]
    prefix = block[345:500].split(b"\0", 1)[0] if block[257:263] == b"ustar\0" else b""
    return _text(prefix + b"/" + name if prefix else name)


def _pax(data: bytes) -> dict[str, str] | None:
    """What matters of an extension's records "<length> <key>=<value>\\n": path, size, and whether it is sparse."""
    said: dict[str, str] = {}
    at = 0
    while at < len(data) and data[at]:
        space = data.find(b" ", at, at + 8)
        if space < 0 or not data[at:space].isdigit():
            return None
        end = at + int(data[at:space])
        if not space < end - 1 < len(data) or data[end - 1] != ord("\n"):
            return None
        key, _, value = data[space + 1 : end - 1].partition(b"=")
        if key in (b"path", b"size"):
            said[key.decode()] = _text(value)
        elif key.startswith(b"GNU.sparse."):
            said["sparse"] = "yes"
        at = end
    return said
