"""Members of tar files: where each lies, read from the headers alone, so that one is fetched without the others.

`tarfile` is not used: it reads a header extension of any claimed size into memory, searches it with patterns that take
quadratic time, and follows negative sizes backwards for ever.
"""

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from schemas.failures import FailureCode
from workers.fetch_failure import Problem

#: Reads `length` bytes at `offset`; fewer only at the end.
ReadAt = Callable[[int, int], bytes]

_BLOCK = 512
_MAX_MEMBERS = 10**6
_MAX_HEADERS = 3 * _MAX_MEMBERS
#: No uri can name a longer one.
_MAX_NAME = 4096
#: Bytes of all names of an index.
_MAX_NAMES = 2**27
#: Bytes of one header extension, and of all of an archive.
_MAX_EXTENSION = 2**20
_MAX_EXTENSIONS = 2**28

_REGULAR = frozenset(b"0\x007")
#: Types that never have data, whatever their size says: links, devices, folders, pipes.
_DATALESS = frozenset(b"123456")
_SPARSE = ord("S")
_OCTAL = re.compile(rb" *([0-7]*)[ \0]*")

ARCHIVES_KEPT = 64


@dataclass(frozen=True, slots=True)
class Member:
    """A range of an archive."""

    offset: int
    size: int


@dataclass(slots=True)
class TarIndex:
    """The members of one archive, as it was in one version."""

    version: Hashable
    size: int  # of the archive, in bytes
    members: dict[str, Member | None] = field(default_factory=dict)  # None: a folder, a link, a device, a sparse file
    defect: str = ""  # why the index ends before the archive does

    def find(self, name: str, max_bytes: int) -> Member | Problem:
        """Where `name` lies; what lies beyond the archive's end, or is over `max_bytes`, has no place."""
        if name not in self.members:
            if self.defect:
                return FailureCode.FETCH_FAILED, f"no such member before the archive's defect: {self.defect}"
            return FailureCode.NOT_FOUND, "the archive has no such member"
        member = self.members[name]
        if member is None:
            return FailureCode.NOT_A_FILE, "a member that is a folder, a link, a device or sparse"
        if member.size == 0:
            return FailureCode.FILE_EMPTY, "zero bytes"
        if member.size > max_bytes:
            return FailureCode.FILE_TOO_LARGE, f"{member.size} bytes, over the limit of {max_bytes}"
        if member.offset + member.size > self.size:
            return FailureCode.FETCH_FAILED, "the archive is cut off within this member"
        return member


class Archives:
    """The indexes of the archives used last; each is built once, however many threads ask for it."""

    def __init__(self, most: int = ARCHIVES_KEPT, most_members: int = _MAX_MEMBERS) -> None:
        self._most = most
        self._most_members = most_members
        self._slots: OrderedDict[Hashable, _Slot] = OrderedDict()
        self._lock = threading.Lock()

    def index(self, key: Hashable, build: Callable[[], TarIndex], version: Hashable = None) -> TarIndex:
        """The index of the archive `key` in `version` (None: in whatever version it was indexed)."""
        with self._lock:
            slot = self._slots.setdefault(key, _Slot())
            self._slots.move_to_end(key)
        with slot.lock:
            if slot.index is None or (version is not None and slot.index.version != version):
                slot.index = build()
            index = slot.index
        self._shrink()
        return index

    def forget(self, key: Hashable) -> None:
        """The archive has changed: its index is built anew when next asked for."""
        with self._lock:
            self._slots.pop(key, None)

    def _shrink(self) -> None:
        """Drop those not used for longest until the rest is few enough; the newest stays."""
        with self._lock:
            members = sum(len(slot.index.members) for slot in self._slots.values() if slot.index)
            while len(self._slots) > 1 and (len(self._slots) > self._most or members > self._most_members):
                _, old = self._slots.popitem(last=False)
                members -= len(old.index.members) if old.index else 0


@dataclass(slots=True)
class _Slot:
    lock: threading.Lock = field(default_factory=threading.Lock)
    index: TarIndex | None = None


def read_index(read_at: ReadAt, size: int, version: Hashable, window: int) -> TarIndex:
    """Index an archive of `size` bytes by its headers, read in pieces of `window` bytes.

    A header that is none ends the index, and what came before it is kept; raises what `read_at` raises.
    """
    index = TarIndex(version, size)
    scan = _Scan(_windowed(read_at, size, window), index)
    try:
        while scan.header():
            pass
    except _Defect as defect:
        index.defect = str(defect)
    return index


class _Defect(Exception):
    """The archive cannot be followed any further."""


class _Scan:
    """A walk from header to header; each step goes forwards."""

    def __init__(self, read_at: ReadAt, index: TarIndex) -> None:
        self._read_at = read_at
        self._index = index
        self._at = 0
        self._headers = self._extensions = self._names = 0
        self._said: dict[str, str] = {}  # what extensions say of the next member

    def header(self) -> bool:
        """Take in the header at hand and go on to the next; False at the archive's end."""
        block = self._read_at(self._at, _BLOCK)
        if not block.strip(b"\0"):  # the end mark; or the file's own end, where none was written
            return False
        self._headers += 1
        if len(block) < _BLOCK or not _sum_holds(block):
            raise _Defect(f"no header at byte {self._at}")
        if self._headers > _MAX_HEADERS:
            raise _Defect("too many headers")
        size, kind = self._number(block), block[156]
        self._at += _BLOCK
        if kind in b"xgLK":
            self._extension(kind, size)
        else:
            self._member(block, kind, size)
        return True

    def _number(self, block: bytes) -> int:
        size = _size(block[124:136])
        if size is None:
            raise _Defect(f"a header without a usable size at byte {self._at}")
        return size

    def _extension(self, kind: int, size: int) -> None:
        self._extensions += size
        if size > _MAX_EXTENSION or self._extensions > _MAX_EXTENSIONS:
            raise _Defect(f"a header extension of {size} bytes at byte {self._at}")
        data = self._read_at(self._at, size)
        if kind == ord("L"):
            self._said["path"] = _text(data.split(b"\0", 1)[0])
        elif kind == ord("x"):
            said = _pax(data)
            if said is None:
                raise _Defect(f"a broken header extension at byte {self._at}")
            self._said |= said
        self._at += _padded(size)  # g holds for all members and K names a link's target: neither names a file

    def _member(self, block: bytes, kind: int, size: int) -> None:
        said, self._said = self._said, {}
        if "size" in said:
            if not (said["size"].isascii() and said["size"].isdigit() and len(said["size"]) < 20):
                raise _Defect(f"a member without a usable size at byte {self._at}")
            size = int(said["size"])
        sparse = kind == _SPARSE or "sparse" in said
        if kind == _SPARSE:
            self._skip_sparse_map(block)
        name = said.get("path") or _name(block)
        regular = kind in _REGULAR and not sparse and not name.endswith("/")
        self._keep(name, Member(self._at, size) if regular else None)
        if kind not in _DATALESS:
            self._at += _padded(size)

    def _keep(self, name: str, member: Member | None) -> None:
        if len(name) > _MAX_NAME:
            return
        self._names += len(name)
        if len(self._index.members) >= _MAX_MEMBERS or self._names > _MAX_NAMES:
            raise _Defect(f"more than {_MAX_MEMBERS} members, or {_MAX_NAMES} bytes of names")
        self._index.members[name] = member  # of two of one name the last counts, as when they are unpacked

    def _skip_sparse_map(self, block: bytes) -> None:
        more = block[482]
        while more:
            self._headers += 1
            extra = self._read_at(self._at, _BLOCK)
            if len(extra) < _BLOCK or self._headers > _MAX_HEADERS:
                raise _Defect(f"a broken map of a sparse file at byte {self._at}")
            self._at += _BLOCK
            more = extra[504]


def _windowed(read_at: ReadAt, size: int, window: int) -> ReadAt:
    """`read_at` in larger pieces: headers of small members lie close to each other."""
    start, held = 0, b""

    def read(offset: int, length: int) -> bytes:
        nonlocal start, held
        if offset < start or offset + length > start + len(held):
            start, held = offset, read_at(offset, max(0, min(max(window, length), size - offset)))
        return held[offset - start : offset - start + length]

    return read


def _sum_holds(block: bytes) -> bool:
    said = _size(block[148:156])
    return said == sum(block) - sum(block[148:156]) + 8 * ord(" ")


def _size(field: bytes) -> int | None:
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
