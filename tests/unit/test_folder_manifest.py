"""Folders as manifests: each medium is a row, in an order and with a digest that both readings agree on."""

import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import S3Store

from producer.manifest import Manifest, manifest_sha256, open_manifest
from producer.parsing import RowParser
from schemas.errors import ManifestError
from schemas.failures import Reject, RejectCode
from schemas.rows import ManifestRow, Modality
from tests.servers import S3Server, s3_server
from workers.fetch import Fetcher, FetchRules


def files(folder: Path, *names: str | bytes) -> Path:
    """Files below `folder`; the content of each is its own name."""
    for name in names:
        path = folder / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(name))
    return folder


def records(manifest: Manifest) -> list[dict[str, Any]]:
    return [record for _, record in manifest.records() if not isinstance(record, Reject)]


def ids(folder: Path) -> list[str]:
    return [record["id"] for record in records(open_manifest(str(folder)))]


# --- what is listed ---


def test_every_medium_below_a_folder_is_a_row(tmp_path: Path) -> None:
    """Its id and uri are its path, its modality is told by its ending, its line is its place in the order."""
    files(tmp_path, "b.WAV", "a/x.mp4", "a/deep/er/y.png", "notes.txt", "LICENCE")

    manifest = open_manifest(str(tmp_path))
    lines = list(manifest.records())

    assert lines == [
        (1, {"id": "a/deep/er/y.png", "modality": Modality.IMAGE, "uri": "a/deep/er/y.png"}),
        (2, {"id": "a/x.mp4", "modality": Modality.VIDEO, "uri": "a/x.mp4"}),
        (3, {"id": "b.WAV", "modality": Modality.AUDIO, "uri": "b.WAV"}),
    ]
    assert manifest.left_out == 2
    assert (manifest.columns, manifest.base) == (("id", "modality", "uri"), str(tmp_path))


def test_the_order_is_that_of_the_paths_bytes(tmp_path: Path) -> None:
    """Folders and files are sorted together, as if all paths were in one list."""
    names = ["a.png", "a/b.png", "a!/c.png", "a0.png", "B.png", "é.png", "z.png", "a/b/c.png", "你.png", "🐈.png"]
    files(tmp_path, *names)

    assert ids(tmp_path) == sorted(names, key=str.encode)


def test_hidden_private_and_job_folders_are_not_entered(tmp_path: Path) -> None:
    """What a job writes into its media folder is never taken for media."""
    files(tmp_path, "a.png", ".b.png", ".git/c.png", "_tmp/d.png", "out/job.json", "out/data/e.png", "in/_tmp/f.png")

    assert ids(tmp_path) == ["a.png"]


def test_the_folder_itself_may_be_a_jobs(tmp_path: Path) -> None:
    """`--out` may name the folder of the media."""
    files(tmp_path, "a.png", "job.json", "data/part-0.parquet")

    assert ids(tmp_path) == ["a.png"]


def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    """A circle ends nothing, and what lies outside stays there; links to files are rows, broken ones too."""
    files(tmp_path / "outside", "x.png")
    folder = files(tmp_path / "in", "a.png")
    (folder / "circle").symlink_to(folder)
    (folder / "far").symlink_to(tmp_path / "outside")
    (folder / "film.mp4").symlink_to(tmp_path / "outside")
    (folder / "file.png").symlink_to(tmp_path / "outside" / "x.png")
    (folder / "broken.png").symlink_to("nowhere.png")
    (folder / "self.png").symlink_to("self.png")

    assert ids(folder) == ["a.png", "broken.png", "file.png", "self.png"]


def test_pipes_are_left_out(tmp_path: Path) -> None:
    """Whatever they are called."""
    os.mkfifo(files(tmp_path, "a.png") / "b.png")

    manifest = open_manifest(str(tmp_path))

    assert [record["id"] for record in records(manifest)] == ["a.png"]
    assert manifest.left_out == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (b"b\xff.png", "not UTF-8"),
        (b"\xff/b.png", "not UTF-8"),
        (b"b\n.png", "control"),
        (b"\xc3\xa9\x7f.png", "control"),
    ],
)
def test_a_name_that_can_be_no_id_is_a_reject(tmp_path: Path, name: bytes, words: str) -> None:
    """It costs that file alone, and the message is one printable line."""
    files(tmp_path, "a.png", name)

    lines = list(open_manifest(str(tmp_path)).records())

    [(number, reject)] = [(number, found) for number, found in lines if isinstance(found, Reject)]
    assert (len(lines), number, reject.line, reject.code) == (2, 2, 2, RejectCode.BAD_ID)
    assert words in reject.message and reject.message.isprintable()


def test_what_is_listed_can_be_fetched(tmp_path: Path) -> None:
    """Every row's uri leads to its file, however it is called."""
    names = ["a.png", "sub/b c.jpg", "c:d.png", "data:e.png", "http:/f.png", "%41.png", "~g.png", "ü.png", "h?i#j.png"]
    manifest = open_manifest(str(files(tmp_path, *names)))
    fetcher = Fetcher(FetchRules(base=manifest.base, roots=(manifest.base,)))
    parser = RowParser()

    rows = [parser.parse(line, record) for line, record in manifest.records() if not isinstance(record, Reject)]

    for row in rows:
        assert isinstance(row, ManifestRow) and row.uri is not None
        assert fetcher.fetch(row.uri) == row.id.encode()
    assert len(rows) == len(names)


def test_a_large_folder_is_read_in_little_memory(tmp_path: Path) -> None:
    """Names of the folder at hand are held, and nothing of those that are done."""
    for folder in range(50):
        files(tmp_path, *(f"{folder:02}/{'x' * 100}{number:03}.png" for number in range(40)))
    manifest = open_manifest(str(tmp_path))
    tracemalloc.start()

    count = sum(1 for _ in manifest.records())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert count == 2000
    assert peak < 200_000


# --- what is refused ---


@pytest.mark.parametrize(
    ("names", "words"),
    [([], "no file below it"), ([".a.png"], "no file below it"), (["a.txt", "b/c.pdf"], "none of the 2 files")],
)
def test_a_folder_without_media_is_refused(tmp_path: Path, names: list[str], words: str) -> None:
    """The message says what a medium ends in."""
    with pytest.raises(ManifestError, match=f"{words}.*png, jpg.*wav.*mp4.*tar"):
        open_manifest(str(files(tmp_path, *names)))


def test_a_folder_that_is_missing_is_refused(tmp_path: Path) -> None:
    """With and without a slash at its end."""
    for place in (f"{tmp_path}/photos", f"{tmp_path}/photos/"):
        with pytest.raises(ManifestError, match="does not exist"):
            open_manifest(place)


# --- changes ---


@pytest.mark.parametrize("how", ["add", "remove", "rename", "write", "touch"])
def test_a_folder_that_changes_has_another_digest(tmp_path: Path, how: str) -> None:
    """And a second reading of the same manifest is refused."""
    files(tmp_path, "a.png", "b/c.png")
    manifest = open_manifest(str(tmp_path))
    list(manifest.records())
    before = manifest_sha256(str(tmp_path))

    if how == "add":
        files(tmp_path, "d.png")
    elif how == "remove":
        (tmp_path / "a.png").unlink()
    elif how == "rename":
        (tmp_path / "a.png").rename(tmp_path / "b" / "a.png")
    elif how == "write":
        (tmp_path / "a.png").write_bytes(b"something else")
    else:
        os.utime(tmp_path / "a.png", ns=(1, 1))

    assert manifest.sha256 == before != manifest_sha256(str(tmp_path))
    with pytest.raises(ManifestError, match="changed"):
        list(manifest.records())


def test_what_is_no_medium_does_not_change_the_digest(tmp_path: Path) -> None:
    """A job may write beside its media."""
    before = manifest_sha256(str(files(tmp_path, "a.png")))

    files(tmp_path, "job.json", "data/part.parquet", "read.me", ".hidden.png")

    assert manifest_sha256(str(tmp_path)) == before


def test_a_folder_that_goes_away_while_it_is_read_is_said_to_change(tmp_path: Path) -> None:
    """No row is lost in silence."""
    lines = open_manifest(str(files(tmp_path, "a.png", "b/c.png"))).records()
    next(lines)

    (tmp_path / "b" / "c.png").unlink()
    (tmp_path / "b").rmdir()

    with pytest.raises(ManifestError, match="changed"):
        list(lines)


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


@pytest.mark.parametrize("location", ["s3://bucket/photos/", "s3://bucket/photos"])
def test_a_prefix_on_s3_is_a_folder(bucket: S3Store, location: str) -> None:
    """The same rows in the same order as of the same files on disk, and a digest that changes with them."""
    names = ["b.png", "a/c d.jpg", "a!.png", "é.wav", ".h.png", "_tmp/x.png", "a/.h/y.png", "notes.txt"]
    for name in names:
        obstore.put(bucket, f"photos/{name}", name.encode())
    obstore.put(bucket, "photos2/z.png", b"z")
    manifest = open_manifest(location)

    found = records(manifest)
    fetcher = Fetcher(FetchRules(base=manifest.base, roots=(manifest.base,)))
    contents = [fetcher.fetch(record["uri"]) for record in found]
    obstore.put(bucket, "photos/b.png", b"new")

    assert [record["id"] for record in found] == ["a!.png", "a/c d.jpg", "b.png", "é.wav"]
    assert contents == [record["id"].encode() for record in found]
    assert manifest.left_out == 1
    assert manifest.sha256 != manifest_sha256(location)


def test_a_prefix_without_objects_is_refused(bucket: S3Store) -> None:
    """As a folder without files is."""
    with pytest.raises(ManifestError, match="s3://bucket/nothing is no manifest: there is no file below it"):
        open_manifest("s3://bucket/nothing")
