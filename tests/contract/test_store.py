"""What every store promises: the folder, memory, and S3 (against a real S3-speaking server)."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from schemas.errors import NotFound, Refused
from storage.private_files import private_name
from storage.store import LocalStore, Store, keys_below, memory_store, open_store, require_create_only, require_within
from tests.servers import S3Server, s3_server
from tests.virtual_store import Faults, VirtualStore, bucket_of


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture(params=["local", "memory", "virtual", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """One of the stores, empty."""
    if request.param == "local":
        return LocalStore(tmp_path / "job")
    if request.param == "memory":
        return memory_store()
    if request.param == "virtual":
        return VirtualStore(bucket_of({}, lambda: 0.0, Faults()), "virtual://job")
    server: S3Server = request.getfixturevalue("s3")
    for name, value in server.environ().items():
        monkeypatch.setenv(name, value)
    return open_store(f"s3://{server.bucket}/{tmp_path.name}")


def test_the_first_to_create_a_key_wins(store: Store) -> None:
    """A key that exists is not created again, and keeps its bytes."""
    first = store.create("data/part.parquet", b"first")
    second = store.create("data/part.parquet", b"second")

    assert (first, second) == (True, False)
    assert store.get("data/part.parquet") == b"first"


def test_a_missing_object_is_not_found(store: Store) -> None:
    """Reading what is not there raises NotFound; its size is None, and deleting it is no error."""
    store.delete("nothing")

    assert store.size("nothing") is None
    with pytest.raises(NotFound):
        store.get("nothing")
    with pytest.raises(NotFound):
        store.get_range("nothing", 0, 1)


def test_ranges_are_read(store: Store) -> None:
    """A part of an object can be read without the rest."""
    store.create("a", b"0123456789")

    assert store.get_range("a", 3, 4) == b"3456"
    assert store.size("a") == 10


def test_replace_goes_over_what_was_there(store: Store) -> None:
    """The second of two replaces is what stays."""
    store.replace("a", b"first")
    store.replace("a", b"second")

    assert store.get("a") == b"second"


def test_a_listing_has_the_folder_and_nothing_else(store: Store) -> None:
    """Objects below the prefix are listed with their sizes, those beside it are not."""
    store.create("data/x/one", b"1")
    store.create("data/two", b"22")
    store.create("database", b"333")

    assert {(item.key, item.size) for item in store.walk("data")} == {("data/x/one", 1), ("data/two", 2)}
    assert sorted(keys_below(store, "data")) == ["data/two", "data/x/one"]
    assert list(store.walk("nowhere")) == []
    assert list(keys_below(store, "nowhere")) == []


def test_folders_are_those_right_below(store: Store) -> None:
    """Only the first level is named."""
    store.create("a/b/c", b"1")
    store.create("d/e", b"1")

    assert store.folders() == ["a", "d"]


def test_a_deleted_object_can_be_created_again(store: Store) -> None:
    """Deleting makes room."""
    store.create("a", b"first")
    store.delete("a")

    assert store.create("a", b"second")


def race(write: Callable[[int], bool], writers: int) -> int:
    """How many of `writers` threads, let go at once, say that they won."""
    barrier = threading.Barrier(writers)
    won: list[bool] = []

    def run(number: int) -> None:
        barrier.wait()
        won.append(write(number))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(won)


def test_of_many_at_once_one_wins_on_local_disk(tmp_path: Path) -> None:
    """A race of 8 for each of 50 keys has 50 winners, and leaves no private file behind."""
    store = LocalStore(tmp_path)

    winners = [race(lambda n, key=key: store.create(f"data/{key}", str(n).encode() * 1000), 8) for key in range(50)]  # type: ignore[misc]

    assert winners == [1] * 50
    assert list((tmp_path / "_tmp").iterdir()) == []


def test_every_store_keeps_the_promise(store: Store) -> None:
    """The probe that each new job makes finds nothing wrong, and leaves nothing behind."""
    require_create_only(store)

    assert [item for item in store.walk("") if item.key.endswith(".probe")] == []


def test_a_store_that_overwrites_is_refused() -> None:
    """Without create-if-absent nothing can be exactly once: no job begins."""

    class Overwriting:
        """A store that says yes to every create."""

        def __init__(self) -> None:
            self.inner = memory_store()
            self.url = self.inner.url

        def create(self, key: str, data: bytes) -> bool:
            self.inner.replace(key, data)
            return True

        def __getattr__(self, name: str) -> object:
            return getattr(self.inner, name)

    with pytest.raises(Refused, match="overwrites what exists"):
        require_create_only(Overwriting())  # type: ignore[arg-type]  # a store by __getattr__


def test_a_dead_process_private_file_is_swept_and_a_live_one_is_not(tmp_path: Path) -> None:
    """What is being written now stays."""
    store = LocalStore(tmp_path)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / "_tmp").mkdir()
    left, live = (tmp_path / "_tmp" / private_name(pid) for pid in (dead.pid, os.getpid()))
    left.touch()
    live.touch()
    (tmp_path / "_tmp" / ".nfs0001").touch()
    (tmp_path / "_tmp" / "a-folder").mkdir()

    store.sweep()

    assert not left.exists()
    assert live.exists()


@pytest.mark.parametrize(
    "url", ["s3://", "s3://bucket/../other", "s3://bucket/%2e%2e/other", "s3://bucket//x", "s3://b/."]
)
def test_a_location_cannot_climb_out_of_its_roots(url: str) -> None:
    """A URL that names another place than it seems to is refused."""
    with pytest.raises(Refused):
        require_within(url, ("s3://bucket/root",), what="the job's folder")


def test_a_conflict_without_a_winner_is_tried_again() -> None:
    """409: the store was creating the key for another, which then failed; ours must not be taken for published."""

    class Conflicting:
        """A server that answers 409 twice, and then stores."""

        puts = 0

        def do_put(self, handler: BaseHTTPRequestHandler) -> None:
            handler.rfile.read(int(handler.headers["Content-Length"]))
            self.puts += 1
            handler.send_response(409 if self.puts < 3 else 200)
            handler.send_header("ETag", '"1"')
            handler.send_header("Content-Length", "0")
            handler.end_headers()

    state = Conflicting()

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            state.do_put(self)

        def do_HEAD(self) -> None:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *words: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, pytest.MonkeyPatch.context() as patch:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name, value in S3Server(f"http://127.0.0.1:{server.server_port}", "bucket").environ().items():
            patch.setenv(name, value)

        created = open_store("s3://bucket/job").create("key", b"data")
        server.shutdown()

    assert created
    assert state.puts == 3
