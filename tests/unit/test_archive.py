"""Members of tar files: read by their range, found by headers that may be hostile."""

import contextlib
import gzip
import io
import os
import random
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from schemas.failures import Failure, FailureCode
from workers import archive
from workers.archive import Archives, Member, TarIndex, read_index
from workers.fetch import Fetcher, FetchRules, gunzip

MAX_BYTES = 5000
#: Members with every kind of name and size that headers have a way of their own for.
MEMBERS = {
    "000.jpg": b"first",
    "000.json": b"{}",
    "./dot.jpg": b"dot",
    "../up.jpg": b"up",
    "/etc/passwd": b"no path",
    "deep/" * 30 + "a.jpg": b"prefix",
    "long" * 60 + ".jpg": b"long name",
    "größe 図.jpg": b"unicode",
    "a::b.jpg": b"never reached",
    "block.bin": bytes(512),
    "large.bin": bytes(range(256)) * 18,
}


def tar(members: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as made:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    return file.getvalue()


def header(name: bytes, size: bytes, kind: bytes = b"0", magic: bytes = b"ustar\x0000") -> bytes:
    """One header with whatever is written in it, and the right sum."""
    block = bytearray(512)
    block[: len(name)] = name
    block[124 : 124 + len(size)] = size
    block[148:156] = b" " * 8
    block[156:157] = kind
    block[257:265] = magic
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def pax(*records: tuple[str, str]) -> bytes:
    """An extension header and its records."""
    data = b""
    for key, value in records:
        rest = f" {key}={value}\n".encode()
        length = len(rest) + 1
        while len(str(length)) + len(rest) != length:
            length += 1
        data += str(length).encode() + rest
    return header(b"pax", f"{len(data):011o}".encode(), b"x") + padded(data)


def indexed(data: bytes, window: int = 4096) -> TarIndex:
    return read_index(lambda at, length: data[at : at + length], len(data), "v1", window)


def content(data: bytes, name: str) -> bytes:
    member = indexed(data).find(name, MAX_BYTES)
    assert isinstance(member, Member), member
    return data[member.offset : member.offset + member.size]


def code_of(outcome: bytes | Failure | Member | tuple[FailureCode, str]) -> FailureCode:
    assert not isinstance(outcome, (bytes, Member)), "it was found"
    return outcome.code if isinstance(outcome, Failure) else outcome[0]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a shard."""
    (tmp_path / "shard.tar").write_bytes(tar(MEMBERS))
    return tmp_path


@pytest.fixture
def fetcher(root: Path) -> Fetcher:
    return Fetcher(FetchRules(base=str(root), roots=(str(root),), max_bytes=MAX_BYTES))


# The index


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("window", [512, 4096, 2**20])
def test_members_are_found_in_every_format(form: int, window: int) -> None:
    """What tarfile writes is found where it lies, whatever the size of the pieces that are read."""
    members = {name: data for name, data in MEMBERS.items() if form != tarfile.USTAR_FORMAT or len(name) < 200}
    data = tar(members, form)

    index = indexed(data, window)

    assert index.defect == ""
    found = {name: data[m.offset : m.offset + m.size] for name, m in index.members.items() if m is not None}
    assert found == members


def test_of_two_members_of_one_name_the_last_counts() -> None:
    """As it does when a tar is unpacked."""
    data = tar({"a": b"old"})[:1024] + tar({"a": b"new"})

    assert content(data, "a") == b"new"


def test_a_header_may_give_its_size_in_binary() -> None:
    """Sizes above 8 GiB are written so, and smaller ones may be."""
    data = header(b"a", b"\x80" + bytes(10) + b"\x05") + padded(b"hello")

    assert content(data, "a") == b"hello"


def test_the_size_of_an_extension_holds() -> None:
    """A pax size stands for one that the header cannot hold."""
    data = pax(("size", "5"), ("path", "ä.jpg"), ("SCHILY.xattr.user.x", "y")) + header(b"x", b"0") + padded(b"hello")

    assert content(data, "ä.jpg") == b"hello"


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"5", b"6"])
def test_what_is_no_regular_file_is_no_medium(kind: bytes) -> None:
    """Links, devices, folders and pipes are refused, and have no data whatever they claim."""
    data = header(b"odd", b"00000001000", kind) + tar({"a": b"hello"})

    assert code_of(indexed(data).find("odd", MAX_BYTES)) is FailureCode.NOT_A_FILE
    assert content(data, "a") == b"hello"


def test_sparse_members_are_no_media() -> None:
    """Their data are not their content; what follows them is found."""
    old = bytearray(header(b"old", b"00000001000", b"S"))
    old[482] = 1
    old[148:156] = b" " * 8
    old[148:156] = f"{sum(old):06o}\0 ".encode()
    new = pax(("GNU.sparse.major", "1"), ("path", "new")) + header(b"x", b"00000001000")
    data = bytes(old) + bytes(512) + bytes(512) + new + bytes(512) + tar({"a": b"hello"})

    assert code_of(indexed(data).find("old", MAX_BYTES)) is FailureCode.NOT_A_FILE
    assert code_of(indexed(data).find("new", MAX_BYTES)) is FailureCode.NOT_A_FILE
    assert content(data, "a") == b"hello"


@pytest.mark.parametrize(
    "bad",
    [
        b"x" * 512,
        header(b"a", b"-0000000001"),
        header(b"a", b"\xff" * 12),
        header(b"a", b"0x10"),
        header(b"a", b"9999"),
        header(b"a", b"5")[:-1] + b"x",
        header(b"a", b"\x80" + b"\xff" * 11, b"x"),
        header(b"a", b"77777777777", b"L"),
        header(b"a", b"77777777777", b"g"),
        pax(("size", "-5")) + header(b"a", b"5"),
        pax(("size", "9" * 5000)) + header(b"a", b"5"),
        pax(("size", "٣")) + header(b"a", b"5"),
        header(b"p", b"00000000010", b"x") + padded(b"99999999 a=b\n"),
        header(b"p", b"00000000010", b"x") + padded(b"0 a=b\n"),
        header(b"p", b"00000000010", b"x") + padded(b"3 a=b\n"),
        header(b"p", b"00000000010", b"x") + padded(b"a=b\n"),
        header(b"p", b"00000000010", b"x") + padded(b" " * 8),
        header(b"a", b"5")[:300],
    ],
)
def test_a_corrupt_header_ends_the_index_and_costs_nobody_before_it(bad: bytes) -> None:
    """Members before the defect are found; what is not found may have been lost with the rest: the failure says so."""
    data = tar({"good": b"hello"})[:1024] + bad + (padded(b"") if len(bad) < 512 else tar({"after": b"x"}))

    index = indexed(data)

    assert content(data, "good") == b"hello"
    assert index.defect
    assert code_of(index.find("after", MAX_BYTES)) is FailureCode.FETCH_FAILED


def test_a_tar_that_is_cut_off_keeps_its_whole_members() -> None:
    """Wherever it is cut: a member is found whole or not at all, and nothing raises."""
    data = tar({"a": b"a" * 700, "b": b"b" * 700})

    for cut in range(0, len(data), 64):
        index = indexed(data[:cut])
        for name in ("a", "b"):
            found = index.find(name, MAX_BYTES)
            if isinstance(found, Member):
                assert data[:cut][found.offset : found.offset + found.size] == name.encode() * 700


def test_noise_is_no_tar() -> None:
    """Bytes turned over anywhere yield members within the archive or a defect, never an error or an endless loop."""
    chance = random.Random(3)
    good = tar(MEMBERS)

    for _ in range(300):
        data = bytearray(good)
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        index = indexed(bytes(data))
        for name in index.members:
            found = index.find(name, MAX_BYTES)
            assert not isinstance(found, Member) or 0 <= found.offset <= found.offset + found.size <= len(data)


def test_an_index_ends_somewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers without end are not followed for ever, and names that no uri can hold are not kept."""
    monkeypatch.setattr(archive, "_MAX_MEMBERS", 50)
    monkeypatch.setattr(archive, "_MAX_HEADERS", 150)
    many = b"".join(header(str(number).encode(), b"0") for number in range(99))
    empty = header(b"p", b"0", b"x") * 999
    long = pax(("path", "n" * 5000)) + header(b"x", b"0") + tar({"a": b"hello"})

    assert len(indexed(many).members) == 50
    assert code_of(indexed(many).find("98", MAX_BYTES)) is FailureCode.FETCH_FAILED
    assert indexed(empty).defect == "too many headers"
    assert list(indexed(long).members) == ["a"]


def test_headers_are_read_in_pieces_and_data_is_not() -> None:
    """Small members are scanned many at a time; large ones are stepped over."""
    data = tar({f"{n}": b"x" for n in range(100)} | {"large": bytes(10**6), "last": b"y"})
    asked: list[int] = []

    def read_at(at: int, length: int) -> bytes:
        asked.append(length)
        return data[at : at + length]

    read_index(read_at, len(data), "v1", 2**14)

    assert len(asked) < 20
    assert sum(asked) < 200_000


# Fetching


@pytest.mark.parametrize("name", [name for name in MEMBERS if "::" not in name])
def test_a_member_is_fetched_by_its_name(fetcher: Fetcher, root: Path, name: str) -> None:
    """Names are keys: no part of one is a path."""
    assert fetcher.fetch(f"shard.tar::{name}") == MEMBERS[name]
    assert fetcher.fetch(f"{root}/shard.tar::{name}") == MEMBERS[name]


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("shard.tar::missing.jpg", FailureCode.NOT_FOUND),
        ("shard.tar::dot.jpg", FailureCode.NOT_FOUND),
        ("shard.tar::../shard.tar", FailureCode.NOT_FOUND),
        ("missing.tar::000.jpg", FailureCode.NOT_FOUND),
        ("shard.tar::", FailureCode.URI_SCHEME),
        ("::000.jpg", FailureCode.URI_SCHEME),
        ("shard.tar::a::b.jpg", FailureCode.URI_SCHEME),
        ("shard.tar::inner.tar::a.jpg", FailureCode.URI_SCHEME),
        ("shard.tar::s3://bucket/key", FailureCode.URI_SCHEME),
        ("shard.tar.gz::000.jpg", FailureCode.URI_SCHEME),
        ("shard.tgz::000.jpg", FailureCode.URI_SCHEME),
        ("shard.zip::000.jpg", FailureCode.URI_SCHEME),
        ("tar://shard.tar::000.jpg", FailureCode.URI_SCHEME),
        ("https://example.org/shard.tar::000.jpg", FailureCode.URI_SCHEME),
        ("../shard.tar::000.jpg", FailureCode.OUTSIDE_ROOT),
        ("/etc/shard.tar::000.jpg", FailureCode.OUTSIDE_ROOT),
        ("s3://bucket/shard.tar::000.jpg", FailureCode.OUTSIDE_ROOT),
        ("link.tar::000.jpg", FailureCode.OUTSIDE_ROOT),
        ("folder.tar::000.jpg", FailureCode.NOT_A_FILE),
        ("pipe.tar::000.jpg", FailureCode.NOT_A_FILE),
        ("text.tar::000.jpg", FailureCode.FETCH_FAILED),
        ("none.tar::000.jpg", FailureCode.NOT_FOUND),
        ("sizes.tar::none", FailureCode.FILE_EMPTY),
        ("sizes.tar::more", FailureCode.FILE_TOO_LARGE),
        ("lies.tar::a", FailureCode.FILE_TOO_LARGE),
        ("sizes.tar::cut", FailureCode.FETCH_FAILED),
    ],
)
def test_a_member_that_cannot_be_read_is_a_failure(fetcher: Fetcher, root: Path, uri: str, code: FailureCode) -> None:
    """Archives are held to the rules of all files, and members to those of media."""
    (root / "folder.tar").mkdir()
    os.mkfifo(root / "pipe.tar")
    (root / "link.tar").symlink_to("/etc/passwd")
    (root / "text.tar").write_bytes(b"no tar " * 999)
    (root / "none.tar").touch()
    (root / "sizes.tar").write_bytes(
        header(b"none", b"0")
        + header(b"more", f"{MAX_BYTES + 1:o}".encode())
        + padded(bytes(MAX_BYTES + 1))
        + header(b"cut", b"1000")
    )
    (root / "lies.tar").write_bytes(header(b"a", b"\x80" + b"\x7f" * 11))

    assert code_of(fetcher.fetch(uri)) is code


def test_an_archive_may_be_larger_than_a_medium(root: Path) -> None:
    """The limit is a member's."""
    (root / "big.tar").write_bytes(tar({f"{n}": bytes([n]) * 900 for n in range(200)}))
    fetcher = Fetcher(FetchRules(base=str(root), roots=(str(root),), max_bytes=1000))

    assert [fetcher.fetch(f"big.tar::{n}") for n in range(200)] == [bytes([n]) * 900 for n in range(200)]
    assert code_of(fetcher.fetch("big.tar")) is FailureCode.FILE_TOO_LARGE


def test_an_archive_that_changes_is_indexed_anew(fetcher: Fetcher, root: Path) -> None:
    """Another size, time or file of the same name: what is read is what is there now."""
    assert fetcher.fetch("shard.tar::000.jpg") == b"first"

    (root / "shard.tar").write_bytes(tar({"pad": b"x" * 999, "000.jpg": b"second"}))
    second = fetcher.fetch("shard.tar::000.jpg")
    (root / "new.tar").write_bytes(tar({"000.jpg": b"third"}))
    (root / "new.tar").replace(root / "shard.tar")
    third = fetcher.fetch("shard.tar::000.jpg")

    assert (second, third) == (b"second", b"third")
    assert code_of(fetcher.fetch("shard.tar::pad")) is FailureCode.NOT_FOUND


def test_a_gzipped_member_is_unpacked(fetcher: Fetcher, root: Path) -> None:
    """Its own name says that it is gzip'd; one level only."""
    twice = gzip.compress(gzip.compress(b"twice"))
    (root / "zipped.tar").write_bytes(tar({"a.png.gz": gzip.compress(b"a"), "b.gz.gz": twice, "c.gz": b"plain"}))

    assert fetcher.fetch("zipped.tar::a.png.gz") == b"a"
    assert fetcher.fetch("zipped.tar::b.gz.gz") == gzip.compress(b"twice")
    assert fetcher.fetch("zipped.tar::c.gz") == b"plain"


def test_many_threads_read_one_archive(fetcher: Fetcher, root: Path) -> None:
    """Each gets its own member."""
    (root / "big.tar").write_bytes(tar({f"{n}": str(n).encode() * 99 for n in range(300)}))

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda n: fetcher.fetch(f"big.tar::{n}"), range(300)))

    assert outcomes == [str(n).encode() * 99 for n in range(300)]


# The indexes that are kept


def index_of(members: int, version: str = "v1") -> TarIndex:
    return TarIndex(version, 0, {str(n): None for n in range(members)})


def test_an_index_is_built_once_and_again_for_another_version() -> None:
    """Whatever the version, where none is asked for."""
    archives = Archives()

    def built(version: str | None) -> object:
        return archives.index("a", lambda: index_of(1, version or "new"), version).version

    found = [built(version) for version in ("v1", "v1", None, "v2", None)]
    archives.forget("a")

    assert found == ["v1", "v1", "v1", "v2", "v2"]
    assert built(None) == "new"


def test_threads_that_ask_at_once_build_once() -> None:
    """The others wait for the one that builds."""
    archives, built, started = Archives(), [], threading.Event()

    def build() -> TarIndex:
        started.wait(60)
        built.append(1)
        return index_of(1)

    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(archives.index, "a", build, "v1") for _ in range(4)]
        started.set()
        found = [future.result(60) for future in waiting]

    assert len(built) == 1
    assert all(index is found[0] for index in found)


def test_indexes_not_used_for_longest_are_dropped() -> None:
    """Their number is bounded, and that of all their members; an index that cannot be built leaves nothing behind."""
    archives, built = Archives(most=3, most_members=100), []

    def ask(key: str, members: int = 1) -> None:
        def build() -> TarIndex:
            built.append(key)
            return index_of(members)

        archives.index(key, build, "v1")

    for key in "abcadabc":
        ask(key)
    few = "".join(built)
    ask("large", 99)
    ask("small", 2)
    ask("large", 99)
    with contextlib.suppress(OSError):
        archives.index("bad", _raise, "v1")
    ask("bad")

    assert few == "abcdbc"
    assert "".join(built)[len(few) :] == "largesmalllargebad"


def _raise() -> TarIndex:
    raise OSError("gone")


# gzip


def test_gzip_is_unpacked_up_to_the_limit() -> None:
    """Parts in a row and padding are fine; a bomb is stopped at the limit."""
    zeros = gzip.compress(bytes(10**7))
    noise = random.Random(5).randbytes(10**5)
    parts = gzip.compress(b"one ") + gzip.compress(b"") + gzip.compress(b"two") + bytes(100)

    assert gunzip(parts, 7) == b"one two"
    assert gunzip(gzip.compress(noise), len(noise)) == noise
    assert code_of(gunzip(parts, 6)) is FailureCode.FILE_TOO_LARGE
    assert code_of(gunzip(zeros, MAX_BYTES)) is FailureCode.FILE_TOO_LARGE


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(b"hello")[:-1],
        gzip.compress(b"hello")[:9],
        gzip.compress(b"hello") + b"more",
        gzip.compress(b"hello")[:-8] + bytes(8),
        gzip.compress(b"") * 100_001 + gzip.compress(b"late"),
    ],
    ids=["cut off", "a head only", "something after it", "a wrong sum", "too many parts"],
)
def test_corrupt_gzip_is_a_failure(data: bytes) -> None:
    """No part of what it holds is taken for the medium."""
    assert code_of(gunzip(data, MAX_BYTES)) is FailureCode.FETCH_FAILED


def test_gzip_of_nothing_is_empty() -> None:
    """Zero bytes are no medium, packed or not."""
    assert code_of(gunzip(gzip.compress(b""), MAX_BYTES)) is FailureCode.FILE_EMPTY


def test_a_gzipped_file_is_unpacked_by_its_name_and_content(root: Path, fetcher: Fetcher) -> None:
    """x.png.gz is x.png; what only claims to be gzip'd is taken as it is."""
    (root / "a.png.gz").write_bytes(gzip.compress(b"a"))
    (root / "b.png.gz").write_bytes(b"plain")
    (root / "c.png").write_bytes(gzip.compress(b"c"))
    (root / "d.png.gz").write_bytes(gzip.compress(b"d" * 99)[:-3])

    assert fetcher.fetch("a.png.gz") == b"a"
    assert fetcher.fetch("b.png.gz") == b"plain"
    assert fetcher.fetch("c.png") == gzip.compress(b"c")
    assert code_of(fetcher.fetch("d.png.gz")) is FailureCode.FETCH_FAILED
