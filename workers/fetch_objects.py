"""Objects of s3://, gs:// and az:// stores, whole or a member of a tar among them."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, cast

from schemas.errors import NotAllowed
from schemas.failures import Failure, FailureCode
from storage.store import store_answer
from workers.archive import Archives, Member, TarIndex, read_index
from workers.fetch_failure import Problem, fetch_failure, size_problem

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import AzureStore, GCSStore, S3Store

    AnyStore = AzureStore | GCSStore | S3Store

OBJECT_SCHEMES = ("s3://", "gs://", "az://")
#: A request costs about what 4 MiB cost to transfer.
_WINDOW = 2**22


class ObjectSource:
    """Reads objects below `prefixes`, canonical urls of stores.

    Credentials and endpoints come from the process environment, never from a uri; raises NotAllowed where they do not
    suffice to open a store at all.
    """

    def __init__(self, prefixes: tuple[str, ...], max_bytes: int, archives: Archives) -> None:
        self._prefixes = prefixes
        self._stores = {place: _open_store(place) for place in sorted({_split(prefix)[0] for prefix in prefixes})}
        self._max_bytes = max_bytes
        self._archives = archives

    def fetch(self, url: str) -> bytes | Failure:
        """The content of the object `url`."""
        return self._guarded(url, self._download, url)

    def member(self, url: str, name: str) -> bytes | Failure:
        """The content of the member `name` of the tar `url`; once the tar is indexed, no bytes but its own are read."""
        return self._guarded(url, partial(self._member, name), f"{url}::{name}")

    def _guarded(self, url: str, read: "Callable[[_Object], bytes | Problem]", shown: str) -> bytes | Failure:
        """What `read` makes of the object `url`, if it lies below a prefix; what the store raises becomes a failure."""
        from obstore.exceptions import BaseError, NotFoundError

        found = self._object(url)
        if not isinstance(found, _Object):
            return fetch_failure(*found, shown)
        try:
            outcome = read(found)
        except (FileNotFoundError, NotFoundError):
            outcome = FailureCode.NOT_FOUND, "no such object"
        except ValueError:  # an empty segment, for one: obstore has no spelling for such a key
            outcome = FailureCode.URI_INVALID, "no usable key"
        except (OSError, BaseError) as err:
            outcome = FailureCode.FETCH_FAILED, store_answer(err)
        return outcome if isinstance(outcome, bytes) else fetch_failure(*outcome, shown)

    def _object(self, url: str) -> "_Object | Problem":
        if ".." in url.split("/"):  # a folder's is resolved and checked; an object's key means it literally
            return FailureCode.OUTSIDE_ROOT, "an object has no '..'; write its key"
        if not any(url == root or url.startswith(f"{root}/") for root in self._prefixes):
            return FailureCode.OUTSIDE_ROOT, "outside the media roots (--media-root names them)"
        place, key = _split(url)
        if not key or key.endswith("/"):
            return FailureCode.NOT_A_FILE, "a prefix, not an object"
        return _Object(url, self._stores[place], key)

    def _download(self, found: "_Object") -> bytes | Problem:
        import obstore

        reply = obstore.get(found.store, found.key)
        problem = size_problem(reply.meta["size"], self._max_bytes)  # told by the reply's head, before its body is read
        return bytes(reply.bytes()) if problem is None else problem

    def _member(self, name: str, found: "_Object") -> bytes | Problem:
        from obstore.exceptions import PreconditionError

        for _ in range(2):
            index = self._archives.index(found.url, found.index)
            member = index.find(name, self._max_bytes)
            if not isinstance(member, Member):
                return member
            try:
                data = found.range(member.offset, member.size, cast("str | None", index.version))
            except PreconditionError:  # it was written anew: so is its index
                self._archives.forget(found.url)
                continue
            return data if len(data) == member.size else (FailureCode.FETCH_FAILED, "the reply broke off")
        return FailureCode.FETCH_FAILED, "the archive changes while it is read"


@dataclass(frozen=True, slots=True)
class _Object:
    """One object that may be read."""

    url: str
    store: "AnyStore"
    key: str

    def range(self, offset: int, length: int, e_tag: str | None) -> bytes:
        """A part of the version `e_tag`, where the store tells versions apart."""
        import obstore

        options: GetOptions = {"range": (offset, offset + length)}
        if e_tag is not None:
            options["if_match"] = e_tag
        return bytes(obstore.get(self.store, self.key, options=options).bytes())

    def index(self) -> TarIndex:
        """The index of the tar that this object is."""
        import obstore

        head = obstore.head(self.store, self.key)
        read_at = partial(self._read_at, head["e_tag"])
        return read_index(read_at, head["size"], head["e_tag"], _WINDOW)

    def _read_at(self, e_tag: str | None, offset: int, length: int) -> bytes:
        return self.range(offset, length, e_tag) if length else b""


def _open_store(place: str) -> "AnyStore":
    """The store of a bucket or container, as "s3://bucket"."""
    from obstore.exceptions import BaseError
    from obstore.store import AzureStore, GCSStore, S3Store

    scheme, _, bucket = place.partition("://")
    kind: Callable[..., AnyStore] = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}[scheme]
    try:
        # About 6 s of retries: longer outages are the job's to wait out, not the row's.
        return kind(bucket, retry_config={"max_retries": 6, "retry_timeout": timedelta(seconds=60)})
    except (BaseError, OSError, ValueError) as err:
        reason = str(err).splitlines()[0]
        raise NotAllowed(
            f"{place} cannot be opened by this worker: {reason}; set the store's variables (AWS_*, GOOGLE_*, AZURE_*)"
        ) from err


def _split(url: str) -> tuple[str, str]:
    """ "scheme://bucket" and the key of an object's url."""
    scheme, _, rest = url.partition("://")
    bucket, _, key = rest.partition("/")
    return f"{scheme}://{bucket}", key
