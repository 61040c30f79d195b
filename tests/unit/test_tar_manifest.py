"""webdataset tars as manifests: what lies under one key becomes rows, and a broken tar never loses any in silence."""

import io
import itertools
import json
import os
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import obstore
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import S3Store

from producer.manifest import manifest_sha256, open_manifest
from producer.parsing import RowParser
from producer.records import LINE_LIMIT
from schemas.errors import ManifestError
from schemas.failures import Reject, RejectCode
from schemas.rows import ManifestRow, Modality
from tests.servers import S3Server, s3_server
from workers.fetch import Fetcher, FetchRules

Members = list[tuple[str, bytes]]


def tar(path: Path, members: Members, form: int = tarfile.USTAR_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def special(path: Path, kind: bytes, name: str = "b.png") -> Path:
    """A tar with a member that is no file between two that are."""
    with tarfile.open(path, "w") as archive:
        for number, member in enumerate((tarfile.TarInfo("a.png"), tarfile.TarInfo(name), tarfile.TarInfo("c.png"))):
            member.type, member.linkname = (kind, "a.png") if number == 1 else (tarfile.REGTYPE, "")
            archive.addfile(member)
    return path


def found(location: Path | str) -> list[dict[str, Any] | Reject]:
    lines = list(open_manifest(str(location)).records())
    assert [number for number, _ in lines] == list(range(1, len(lines) + 1))
    assert all(record.line == number for number, record in lines if isinstance(record, Reject))
    return [record for _, record in lines]


def read(folder: Path, members: Members) -> list[dict[str, Any] | Reject]:
    return found(tar(folder / "s.tar", members))


def only_reject(folder: Path, members: Members) -> Reject:
    [reject] = [record for record in read(folder, members) if isinstance(record, Reject)]
    return reject


# --- groups ---


@pytest.mark.parametrize(
    ("members", "records"),
    [
        ([("a.png", b"x")], [{"id": "a", "modality": "image", "uri": "s.tar::a.png"}]),
        ([("a.txt", b"\xc3\xa9")], [{"id": "a", "modality": "text", "text": "é"}]),
        ([("a.caption", b"\xef\xbb\xbfx")], [{"id": "a", "modality": "text", "text": "x"}]),
        (
            [("d/a.JPG", b"x"), ("d/a.txt", b"a cat\n")],
            [{"id": "d/a", "modality": "image", "uri": "s.tar::d/a.JPG", "caption": "a cat\n"}],
        ),
        (
            [("a.txt", b"x"), ("a.jpg", b""), ("a.wav", b"")],
            [
                {"id": "a.jpg", "modality": "image", "uri": "s.tar::a.jpg", "caption": "x"},
                {"id": "a.wav", "modality": "audio", "uri": "s.tar::a.wav", "caption": "x"},
            ],
        ),
        (
            [("a.txt", b"x"), ("a.caption", b"y")],
            [{"id": "a.txt", "modality": "text", "text": "x"}, {"id": "a.caption", "modality": "text", "text": "y"}],
        ),
        (
            [("a.left.png", b"x"), ("a.right.png", b"y")],
            [
                {"id": "a.left.png", "modality": "image", "uri": "s.tar::a.left.png"},
                {"id": "a.right.png", "modality": "image", "uri": "s.tar::a.right.png"},
            ],
        ),
        ([("./a.mp4", b"x")], [{"id": "a", "modality": "video", "uri": "s.tar::./a.mp4"}]),
        ([("v1.2/a.png", b"x")], [{"id": "v1.2/a", "modality": "image", "uri": "s.tar::v1.2/a.png"}]),
        (
            [("a.png", b"x"), ("b.png", b"x"), ("a.txt", b"y")],
            [
                {"id": "a", "modality": "image", "uri": "s.tar::a.png"},
                {"id": "b", "modality": "image", "uri": "s.tar::b.png"},
                {"id": "a", "modality": "text", "text": "y"},
            ],
        ),
    ],
)
def test_the_members_of_a_key_are_its_rows(tmp_path: Path, members: Members, records: list[dict[str, Any]]) -> None:
    """One of each medium; a text beside a medium is its caption, and a row of its own where there is none."""
    assert read(tmp_path, members) == records


@pytest.mark.parametrize(
    ("members", "said", "record"),
    [
        (["a.png"], {"w": 5, "l": [1]}, {"modality": "image", "uri": "s.tar::a.png", "w": 5, "l": [1]}),
        (["a.png"], {"text": "x"}, {"modality": "image", "uri": "s.tar::a.png", "caption": "x"}),
        (["a.png"], {"text": "x", "caption": "y"}, {"modality": "image", "uri": "s.tar::a.png", "caption": "y"}),
        (["a.png", "a.txt"], {"caption": "y"}, {"modality": "image", "uri": "s.tar::a.png", "caption": "a.txt"}),
        (["a.png"], {"id": 1, "uri": "u", "modality": "m", "parts": []}, {"modality": "image", "uri": "s.tar::a.png"}),
        (["a.txt"], {"text": "x", "id": "i", "lang": "en"}, {"modality": "text", "text": "a.txt", "lang": "en"}),
        ([], {"text": "x", "id": "i"}, {"modality": "text", "text": "x"}),
        ([], {"caption": "x", "n": 1}, {"modality": "text", "text": "x", "caption": "x", "n": 1}),
    ],
)
def test_a_json_beside_them_is_columns(
    tmp_path: Path, members: list[str], said: dict[str, Any], record: dict[str, Any]
) -> None:
    """It changes nothing that the members say themselves; its text counts where there is no other."""
    packed = [(name, name.encode()) for name in members] + [("a.json", json.dumps(said).encode())]

    assert read(tmp_path, packed) == [{"id": "a"} | record]


def test_members_of_other_endings_are_counted(tmp_path: Path) -> None:
    """Classes, arrays, hidden files, files without an ending and webdataset's own; folders are nothing at all."""
    names = ["a.cls", "a.png", "b.npy", "README", ".hidden", "d/._a.png", "__meta__.json", "x"]
    manifest = open_manifest(str(tar(tmp_path / "s.tar", [(name, b"0") for name in names])))
    with tarfile.open(tmp_path / "f.tar", "w") as archive:
        archive.add(tmp_path, "folder", recursive=False)

    records = list(manifest.records())

    assert [record["id"] for _, record in records if isinstance(record, dict)] == ["a"]
    assert manifest.left_out == 7
    assert found(tmp_path / "f.tar") == []


@pytest.mark.parametrize(
    ("form", "name"),
    [
        *itertools.product(
            (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT),
            ("a b.png", "ü/你.png", f"{'d' * 90}/{'n' * 90}.png"),
        ),
        (tarfile.GNU_FORMAT, f"{'d' * 200}/{'n' * 150}.png"),
        (tarfile.PAX_FORMAT, f"{'d' * 200}/{'n' * 150}.png"),
    ],
)
def test_what_is_listed_can_be_fetched(tmp_path: Path, form: int, name: str) -> None:
    """Every row's uri leads to its member, whatever wrote the tar."""
    manifest = open_manifest(str(tar(tmp_path / "x:y.tar", [("0.png", b"no"), (name, b"yes"), ("z.png", b"no")], form)))
    fetcher = Fetcher(FetchRules(base=manifest.base, roots=(manifest.base,)))

    records = [record for _, record in manifest.records() if isinstance(record, dict)]

    assert [record["id"] for record in records] == ["0", name.removesuffix(".png"), "z"]
    assert [fetcher.fetch(record["uri"]) for record in records] == [b"no", b"yes", b"no"]


def test_content_is_not_read(tmp_path: Path) -> None:
    """A tar of gigabytes takes as long as its headers."""
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("a.mp4")
        member.size = 2**32
        archive.addfile(member)
    with path.open("r+b") as file:  # a hole of 4 GiB
        file.truncate(512 + 2**32 + 1024)
    tracemalloc.start()

    records = found(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert len(records) == 1
    assert peak < 2**20


def test_many_members_are_read_in_little_memory(tmp_path: Path) -> None:
    """Nothing is kept of a group that is done."""
    path = tar(tmp_path / "s.tar", [(f"{n:06}.{end}", b"x" * 100) for n in range(1000) for end in ("png", "txt")])
    manifest = open_manifest(str(path))
    tracemalloc.start()

    count = sum(1 for _ in manifest.records())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert count == 1000
    assert peak < 200_000


# --- rejects ---


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.FIFOTYPE, "a pipe"),
    ],
)
@pytest.mark.parametrize("name", ["b.png", "b.txt", "b"])
def test_a_member_that_is_no_file_costs_itself(tmp_path: Path, kind: bytes, words: str, name: str) -> None:
    """The message names the tar and the member."""
    records = found(special(tmp_path / "s.tar", kind, name))

    [reject] = [record for record in records if isinstance(record, Reject)]
    assert [record["id"] for record in records if isinstance(record, dict)] == ["a", "c"]
    assert (reject.id, reject.code, reject.line) == ("b", RejectCode.BROKEN_LINE, 2)
    assert f"s.tar: {name} is {words}" in reject.message


@pytest.mark.parametrize(
    ("name", "data", "code", "words"),
    [
        ("b.txt", b"\xff", RejectCode.BROKEN_LINE, "b.txt is not UTF-8"),
        ("b.json", b"{", RejectCode.BROKEN_LINE, "b.json is not JSON"),
        ("b.json", b"[1]", RejectCode.BROKEN_LINE, "not an object"),
        ("b.txt", b"x" * (LINE_LIMIT + 1), RejectCode.LINE_TOO_LONG, "b.txt is 1,048,577 bytes"),
        ("b.json", b"x" * (LINE_LIMIT + 1), RejectCode.LINE_TOO_LONG, "b.json is 1,048,577 bytes"),
    ],
)
@pytest.mark.parametrize("beside", [[], [("b.png", b"x")]])
def test_a_broken_text_or_json_costs_its_key(
    tmp_path: Path, name: str, data: bytes, code: RejectCode, words: str, beside: Members
) -> None:
    """The medium beside it too: its caption or its columns would be missing in silence."""
    records = read(tmp_path, [("a.png", b"x"), *beside, (name, data), ("c.png", b"x")])

    [reject] = [record for record in records if isinstance(record, Reject)]
    assert [record["id"] for record in records if isinstance(record, dict)] == ["a", "c"]
    assert (reject.id, reject.code) == ("b", code)
    assert words in reject.message


def test_a_json_without_text_or_medium_is_rejected(tmp_path: Path) -> None:
    """There is nothing to embed."""
    reject = only_reject(tmp_path, [("a.json", b"{}")])

    assert (reject.id, reject.code) == ("a", RejectCode.NO_CONTENT)


@pytest.mark.parametrize("name", ["b\udcff.png", "b\n.png", "b.\udcff.png"])
def test_a_member_whose_name_can_be_no_id_is_rejected(tmp_path: Path, name: str) -> None:
    """As the name of a file in a folder is."""
    reject = only_reject(tmp_path, [("a.png", b""), (name, b"")])

    assert reject.code is RejectCode.BAD_ID
    assert reject.message.isprintable()


# --- broken tars ---


PACKED: Members = [("a.png", b"x" * 700), ("b.txt", b"y" * 100), ("c.png", b"z" * 600)]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[:300], "at its start"),
        (lambda data: data[:1000], "at its start.*within 'a.png'"),
        (lambda data: data[:1536], "behind member 'a.png'.*mark"),
        (lambda data: data[:1700], "behind member 'a.png'"),
        (lambda data: data[:2100], "behind member 'a.png'.*within 'b.txt'"),
        (lambda data: data[:2560], "behind member 'b.txt'.*mark"),
        (lambda data: data[:4096], "behind member 'c.png'.*mark"),
        (lambda data: data[:1536] + b"?" + data[1537:], "behind member 'a.png', at byte 1,536: .*no header"),
        (lambda data: data[:1536] + b"\0" * 512 + data[1536:], "behind member 'a.png'.*goes on"),
        (lambda data: data + data, "behind member 'c.png'.*goes on"),
        (lambda data: b"\0" * 300, "at its start"),
        (lambda data: b"not a tar at all" * 100, "at its start"),
    ],
)
def test_a_tar_that_is_cut_off_or_broken_is_refused(
    tmp_path: Path, damage: Callable[[bytes], bytes], words: str
) -> None:
    """The message names the member at which it broke; nothing behind it is lost in silence."""
    path = tar(tmp_path / "s.tar", PACKED)
    path.write_bytes(damage(path.read_bytes()))

    with pytest.raises(ManifestError, match=f"s.tar is broken {words}"):
        found(path)
    with pytest.raises(ManifestError, match=words):
        manifest_sha256(str(path))


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, 10_239), byte=st.integers(0, 255), count=st.sampled_from([1, 12, 512]))
def test_any_bytes_are_rows_rejects_or_a_manifest_error(
    tmp_path_factory: pytest.TempPathFactory, at: int, byte: int, count: int
) -> None:
    """Nothing that a tar may hold raises anything else, or takes for ever."""
    path = tar(tmp_path_factory.getbasetemp() / "any.tar", PACKED, tarfile.PAX_FORMAT)
    data = path.read_bytes()
    path.write_bytes(data[:at] + bytes([byte]) * count + data[at + count :])
    parser = RowParser()

    try:
        records = found(path)
    except ManifestError:
        return

    assert all(isinstance(r, Reject) or isinstance(parser.parse(1, r), ManifestRow | Reject) for r in records)


@pytest.mark.parametrize("name", ["s.tar.gz", "s.tgz", "s.tar.zst", "s.tar"])
def test_a_compressed_tar_is_refused(tmp_path: Path, name: str) -> None:
    """It is told by its name, or by its first bytes."""
    with tarfile.open(tmp_path / name, "w:gz"):
        pass

    with pytest.raises(ManifestError, match=rf"{name} is a compressed tar: .* unpack it"):
        open_manifest(str(tmp_path / name))


def test_a_key_with_too_many_members_is_refused(tmp_path: Path) -> None:
    """Names that differ behind their first dot only would all be held in memory."""
    path = tar(tmp_path / "s.tar", [(f"img.{number:05}.png", b"") for number in range(10_001)])

    with pytest.raises(ManifestError, match=r"10,000 members.*key img; a key is"):
        found(path)


# --- several tars ---


def shards(folder: Path, *names: str) -> Path:
    for name in names:
        tar(folder / name, [(f"{Path(name).stem}-{n}.png", name.encode()) for n in range(2)])
    return folder


@pytest.mark.parametrize(
    ("names", "pattern", "uris"),
    [
        (["s-00.tar", "s-01.tar", "s-02.tar"], "s-{01..02}.tar", ["s-01.tar", "s-02.tar"]),
        (["s-9.tar", "s-10.tar"], "s-{9..10}.tar", ["s-9.tar", "s-10.tar"]),
        (["s-009.tar", "s-010.tar"], "s-{9..010}.tar", None),
        (["s-1.tar", "s-2.tar"], "s-{2..1}.tar", ["s-2.tar", "s-1.tar"]),
        (["a0/s1.tar", "a0/s2.tar", "a1/s1.tar", "a1/s2.tar"], "a{0..1}/s{1..2}.tar", None),
    ],
)
def test_a_range_in_braces_is_read_in_its_order(
    tmp_path: Path, names: list[str], pattern: str, uris: list[str] | None
) -> None:
    """Uris are relative to the folder before the first brace."""
    shards(tmp_path, *names)

    manifest = open_manifest(str(tmp_path / pattern))
    tars = [record["uri"].split("::")[0] for _, record in manifest.records() if isinstance(record, dict)]

    assert tars[::2] == tars[1::2] == (uris or names)
    assert manifest.base == str(tmp_path)


def test_every_tar_of_a_range_must_be_there(tmp_path: Path) -> None:
    """Before the first is read."""
    shards(tmp_path, "s-0.tar", "s-2.tar")

    with pytest.raises(ManifestError, match=r"s-1\.tar does not exist"):
        open_manifest(str(tmp_path / "s-{0..2}.tar"))


def test_a_folder_of_tars_is_their_manifest(tmp_path: Path) -> None:
    """All of them, sorted, where there are no media beside them; else they are files of another ending."""
    shards(tmp_path, "s-1.tar", "s-0.tar", "sub/s-2.tar", ".s-3.tar")

    tars = [record["uri"].split("::")[0] for record in found(tmp_path) if isinstance(record, dict)]
    (tmp_path / "x.png").write_bytes(b"x")
    beside = open_manifest(str(tmp_path))

    assert tars[::2] == ["s-0.tar", "s-1.tar", "sub/s-2.tar"]
    assert [record for _, record in beside.records()] == [{"id": "x.png", "modality": Modality.IMAGE, "uri": "x.png"}]
    assert beside.left_out == 3


@pytest.mark.parametrize("how", ["rename", "append", "touch"])
def test_a_tar_that_changes_has_another_digest(tmp_path: Path, how: str) -> None:
    """And a second reading of the same manifest is refused."""
    path = tar(tmp_path / "s.tar", PACKED)
    manifest = open_manifest(str(path))
    list(manifest.records())
    before = manifest_sha256(str(path))

    if how == "rename":
        times = path.stat()
        tar(path, [("d.png", b"x" * 700), *PACKED[1:]])
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    elif how == "append":
        tar(path, [*PACKED, ("d.png", b"")])
    else:
        os.utime(path, ns=(1, 1))

    assert manifest.sha256 == before != manifest_sha256(str(path))
    with pytest.raises(ManifestError, match="changed"):
        list(manifest.records())


# --- S3 ---


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    for name, value in s3.environ().items():
        monkeypatch.setenv(name, value)
    return S3Store.from_url(f"s3://{s3.bucket}")


@pytest.mark.parametrize("location", ["s-{0..1}.tar", "s-0.tar", ""])
def test_tars_are_read_from_s3(bucket: S3Store, tmp_path: Path, location: str) -> None:
    """One, a range and a prefix, by seeking over the media, and every uri can be fetched."""
    shards(tmp_path, "s-0.tar", "s-1.tar")
    for name in ("s-0.tar", "s-1.tar"):
        obstore.put(bucket, f"sets/{name}", (tmp_path / name).read_bytes())

    manifest = open_manifest(f"s3://bucket/sets/{location}")
    records = [record for _, record in manifest.records() if isinstance(record, dict)]
    fetcher = Fetcher(FetchRules(base=manifest.base, roots=(manifest.base,)))

    assert manifest.base == "s3://bucket/sets"
    assert records == found(tmp_path / location)
    assert [fetcher.fetch(record["uri"]) for record in records] == [r["uri"].split("::")[0].encode() for r in records]
    assert manifest.sha256 == manifest_sha256(manifest.location)
