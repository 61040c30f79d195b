"""Groups of a webdataset tar: the members of one key, and the rows that they are."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from producer.contents import CONTENT_COLUMNS
from producer.records import LINE_LIMIT, UNSAFE, Record, name_reject
from producer.tar_members import TarMember
from schemas.errors import ManifestError
from schemas.failures import Reject, RejectCode, one_line
from schemas.rows import Modality, modality_of_uri

#: Members, and bytes of texts and JSON, of one key: they are held in memory.
_MOST_MEMBERS, _MOST_BYTES = 10_000, 4 * 2**20
_TEXTS = frozenset({"txt", "caption"})
_OWN = CONTENT_COLUMNS | {"id"}


@dataclass(slots=True)
class TarGroup:
    """Consecutive members of one key."""

    key: str
    archive: str  # what messages call it
    _media: list[tuple[str, str]] = field(default_factory=list)  # ending and member name
    _texts: list[tuple[str, str]] = field(default_factory=list)  # ending and text
    _json: dict[str, Any] | None = None  # Any: whatever JSON holds
    _rejects: list[Reject] = field(default_factory=list)
    _broken: bool = False  # there are no rows: a member beside the media is among the rejects
    _members: int = 0
    _bytes: int = 0

    def take(self, member: TarMember, ending: str, read: Callable[[TarMember], bytes]) -> bool:
        """Take a member in, and read it if it is a text or JSON; False where its ending says nothing.

        Raises ManifestError when the key has more than memory should hold.
        """
        self._members += 1
        last = ending.rpartition(".")[2].lower()
        if member.kind:
            self._refuse(RejectCode.BROKEN_LINE, f"{member.name} is {member.kind}; pack the file itself")
        elif modality_of_uri(member.name) is not None:
            self._take_medium(member.name, ending)
        elif last in _TEXTS or last == "json":
            self._bytes += min(member.size, LINE_LIMIT)
            self._take_small(member, ending, read, is_json=last == "json")
        else:
            return False
        if self._members > _MOST_MEMBERS or self._bytes > _MOST_BYTES:
            raise ManifestError(
                f"{self.archive}: over {_MOST_MEMBERS:,} members or {_MOST_BYTES // 2**20} MiB of texts have the key "
                f"{one_line(self.key)}; a key is what stands before the first dot of a name"
            )
        return True

    def records(self, uri: str) -> Iterator[Record | Reject]:
        """The rows, for a tar at `uri`; the rejects' lines are not known here."""
        yield from self._rejects
        if self._broken:
            return
        json = self._json or {}
        said = json.get("text", json.get("caption"))
        texts = self._texts or ([] if said is None else [("json", said)])
        columns = {name: value for name, value in json.items() if name not in _OWN}
        if self._media and (self._texts or (texts and "caption" not in columns)):
            columns["caption"] = texts[0][1]
        for id_, name in self._named(self._media):
            yield {**columns, "id": id_, "modality": modality_of_uri(name), "uri": f"{uri}::{name}"}
        for id_, text in self._named([] if self._media else texts):
            yield {**columns, "id": id_, "modality": Modality.TEXT, "text": text}
        if self._json is not None and not self._media and not texts:
            yield self._reject(RejectCode.NO_CONTENT, f"{self.key}.json has no text, and no medium or text beside it")

    def _named(self, contents: list[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
        """Each content with its id: the key, or if there are several, the key with the ending."""
        for ending, content in contents:
            yield self._id if len(contents) == 1 else f"{self._id}.{ending}", content

    @property
    def _id(self) -> str:
        return self.key.removeprefix("./")

    def _take_medium(self, name: str, ending: str) -> None:
        reject = name_reject(0, name)
        if reject is None:
            self._media.append((ending, name))
        else:
            self._rejects.append(reject)

    def _take_small(self, member: TarMember, ending: str, read: Callable[[TarMember], bytes], *, is_json: bool) -> None:
        if member.size > LINE_LIMIT:
            message = f"{member.name} is {member.size:,} bytes long, the limit is {LINE_LIMIT:,}; shorten it"
            self._break(RejectCode.LINE_TOO_LONG, message)
            return
        data = read(member)
        try:
            if not is_json:
                self._texts.append((ending, data.decode("utf-8-sig")))
                return
            found = orjson.loads(data.removeprefix(b"\xef\xbb\xbf"))
        except ValueError as err:  # of both
            self._break(RejectCode.BROKEN_LINE, f"{member.name} is not {'JSON' if is_json else 'UTF-8'}: {err}")
            return
        if isinstance(found, dict):
            self._json = (self._json or {}) | found
        else:
            self._break(RejectCode.BROKEN_LINE, f"{member.name} is JSON, and not an object")

    def _break(self, code: RejectCode, message: str) -> None:
        self._broken = True
        self._refuse(code, message)

    def _refuse(self, code: RejectCode, message: str) -> None:
        self._rejects.append(self._reject(code, message))

    def _reject(self, code: RejectCode, message: str) -> Reject:
        id_ = None if UNSAFE.search(self._id) else self._id
        return Reject(line=0, id=id_, code=code, message=one_line(f"{self.archive}: {message}"))
