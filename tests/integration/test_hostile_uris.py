"""Hostile uris: no connection is made, nothing outside the roots is opened, and each row fails with its code."""

import os
import socket
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from schemas.failures import Failure, FailureCode, Stage
from tests.http_server import Canary, canary
from workers.fetch import Fetcher, FetchRules

SECRET = b"canary of a secret"


class Watch:
    """What this process opens, resolves and connects to, as the interpreter itself tells it."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.resolved: list[str] = []
        self.connected: list[Any] = []
        self._thread: int | None = None
        sys.addaudithook(self._hear)  # for good: an interpreter never forgets a hook

    @contextmanager
    def on(self) -> Iterator["Watch"]:
        """Listen, to this thread's files and to all threads' sockets."""
        self.opened, self.resolved, self.connected = [], [], []
        self._thread = threading.get_ident()
        try:
            yield self
        finally:
            self._thread = None

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if self._thread is None:
            return
        if event == "open" and threading.get_ident() == self._thread:
            self.opened.append(os.fsdecode(args[0]) if isinstance(args[0], (str, bytes)) else "")
        elif event == "socket.getaddrinfo":
            self.resolved.append(str(args[0]))
        elif event in ("socket.connect", "socket.sendto"):
            self.connected.append(args[1])


@pytest.fixture(scope="module")
def watch() -> Watch:
    return Watch()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of media with every trap that a file system offers, beside a secret."""
    folder = tmp_path / "media"
    folder.mkdir()
    (folder / "good.png").write_bytes(b"good")
    (folder / "sub").mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key.png").write_bytes(SECRET)
    (tmp_path / "media-old").mkdir()
    (tmp_path / "media-old" / "key.png").write_bytes(SECRET)
    (folder / "out.png").symlink_to(tmp_path / "secret" / "key.png")
    (folder / "out").symlink_to(tmp_path / "secret")
    (folder / "up").symlink_to("..")
    (folder / "environ.png").symlink_to("/proc/self/environ")
    (folder / "memory.png").symlink_to("/proc/self/mem")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "circle.png").symlink_to("circle.png")
    (folder / "out.tar").symlink_to(tmp_path / "secret" / "key.png")
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(folder / "pipe.tar")
    with tarfile.open(folder / "shard.tar", "w") as made:
        made.add(folder / "good.png", "good.png")
        for name, kind in (("link", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE), ("device", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, str(tmp_path / "secret" / "key.png")
            made.addfile(info)
    return folder


@pytest.fixture
def listener() -> Iterator[Canary]:
    """Whoever connects to it fails the test."""
    with canary() as bird:
        yield bird
    assert bird.visitors == []


#: {port} is where a listener waits on loopback; {root} is the only root, {secret} a file outside it.
FORBIDDEN = [
    "https://127.0.0.1:{port}/a.png",
    "https://127.0.0.1.:{port}/a.png",
    "https://127.1:{port}/",
    "https://127.0.1:{port}/",
    "https://127.255.255.254:{port}/",
    "https://0x7f.1:{port}/",
    "https://0x7f.0x0.0x0.0x1:{port}/",
    "https://0X7F000001:{port}/",
    "https://0x:{port}/",
    "https://2130706433:{port}/",
    "https://017700000001:{port}/",
    "https://0177.0.0.1:{port}/",
    "https://0177.0.0.0x1:{port}/",
    "https://127.0.0.01:{port}/",
    "https://0:{port}/",
    "https://0.0.0.0:{port}/",
    "https://localhost:{port}/",
    "https://LOCALHOST.:{port}/",
    "https://a.localhost:{port}/",
    "https://\uff11\uff12\uff17.0.0.1:{port}/",
    "https://127\u30020\u30020\u30021:{port}/",
    "https://\u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3:{port}/",
    "https://[::1]:{port}/",
    "https://[0:0:0:0:0:0:0:1]:{port}/",
    "https://[::]:{port}/",
    "https://[::127.0.0.1]:{port}/",
    "https://[::ffff:127.0.0.1]:{port}/",
    "https://[::ffff:7f00:1]:{port}/",
    "https://[64:ff9b::7f00:1]:{port}/",
    "https://[64:ff9b:1::7f00:1]:{port}/",
    "https://[2002:7f00:1::]:{port}/",
    "https://[2001:0:7f00:1::]:{port}/",
    "https://[fe80::1]:{port}/",
    "https://[fec0::1]/",
    "https://[fd00:ec2::254]/latest/meta-data/",
    "https://[ff02::1]/",
    "https://[2001:db8::1]/",
    "https://169.254.169.254/latest/meta-data/iam/security-credentials/",
    "https://169.254.170.2/v2/credentials",
    "https://0xa9fea9fe/",
    "https://2852039166/",
    "https://168.63.129.16/",
    "https://100.100.100.200/",
    "https://192.0.0.192/",
    "https://10.0.0.1/",
    "https://172.16.0.1/",
    "https://192.168.1.1/",
    "https://100.64.0.1/",
    "https://198.18.0.1/",
    "https://224.0.0.1/",
    "https://255.255.255.255/",
]
INVALID = [
    "https://user:password@127.0.0.1:{port}/",
    "https://8.8.8.8@127.0.0.1:{port}/",
    "https://127.0.0.1:{port}\\@8.8.8.8/",
    "https://8.8.8.8\\.127.0.0.1:{port}/",
    "https:///127.0.0.1:{port}/",
    "https://127.0.0.1:{port}:80/",
    "https://%31%32%37.0.0.1:{port}/",
    "https://127.0.0.1%00.example.org:{port}/",
    "https://127.0.0.1\r\nHost: example.org:{port}/",
    "https://127.0.0.1:{port}/\0",
    "https://127.0.0.1:{port}/ HTTP/1.1\r\nX: y",
    "https://[::1%25lo]:{port}/",
    "https://[fe80::1%25eth0]:{port}/",
    "https://[::1:{port}/",
    "https://127.0.0.1:99999/",
    "good.png\0.txt",
    "good.png\n",
    "a/" * 3000,
]
SCHEMES = [
    "http://127.0.0.1:{port}/a.png",
    "http://example.org/a.png",
    "HTTP://[::1]:{port}/",
    "file:///etc/passwd",
    "file://localhost/etc/passwd",
    "FILE:{secret}",
    "ftp://127.0.0.1:{port}/a.png",
    "gopher://127.0.0.1:{port}/_GET",
    "dict://127.0.0.1:{port}/",
    "ldap://127.0.0.1:{port}/",
    "jar:https://127.0.0.1:{port}/a.jar!/b",
    "data:image/png;base64,iVBORw0KGgo=",
    "javascript:alert(1)",
    "unix:///var/run/docker.sock",
    "hf://datasets/a/b",
    "git+https://127.0.0.1:{port}/a",
    "memory://a",
    "reference://::{secret}",
    "reference::https://127.0.0.1:{port}/a.json",
    "simplecache::https://127.0.0.1:{port}/a.png",
    "zip://key.png::{secret}",
    "tar://good.png::{root}/shard.tar",
    "good.png::https://127.0.0.1:{port}/",
    "shard.tar::https://127.0.0.1:{port}/",
    "shard.tar::good.png::{secret}",
    "shard.tar.gz::good.png",
    "https://127.0.0.1:{port}/shard.tar::good.png",
]
OUTSIDE = [
    "../secret/key.png",
    "sub/../../secret/key.png",
    "{root}/../secret/key.png",
    "{root}/sub/../../secret/key.png",
    "{secret}",
    "{root}-old/key.png",
    "/etc/passwd",
    "//etc/passwd",
    "/etc/../etc/shadow",
    "/proc/self/environ",
    "/proc/self/root/etc/passwd",
    "/proc/self/cwd/pyproject.toml",
    "/proc/thread-self/environ",
    "/dev/zero",
    "/dev/stdin",
    "/dev/fd/0",
    "/sys/kernel/notes",
    "out.png",
    "out/key.png",
    "up/secret/key.png",
    "environ.png",
    "memory.png",
    "zero.png",
    "circle.png",
    "out.tar::key.png",
    "../secret/key.tar::a",
    "/etc/a.tar::passwd",
    "s3://bucket/key.png",
    "gs://bucket/key.png",
    "az://container/key.png",
    "s3://127.0.0.1:{port}/key.png",
    "https://example.org/a/../b.png",
    "https://example.org/%2e%2e/b.png",
]
NO_FILES = ["pipe.png", "pipe.tar::a", "sub", ".", "{root}", "shard.tar::link", "shard.tar::hard", "shard.tar::device"]
MISSING = ["~/good.png", "$HOME/good.png", "*.png", "good.png ", "good%2epng", "good.png?x", "shard.tar::../good.png"]

HOSTILE = [
    *((uri, FailureCode.ADDRESS_FORBIDDEN) for uri in FORBIDDEN),
    *((uri, FailureCode.URI_INVALID) for uri in INVALID),
    *((uri, FailureCode.URI_SCHEME) for uri in SCHEMES),
    *((uri, FailureCode.OUTSIDE_ROOT) for uri in OUTSIDE),
    *((uri, FailureCode.NOT_A_FILE) for uri in NO_FILES),
    *((uri, FailureCode.NOT_FOUND) for uri in MISSING),
]


def test_hostile_uris_fail_with_their_codes_and_touch_nothing(root: Path, listener: Canary, watch: Watch) -> None:
    """Every one is a failure with its code; none connects, resolves a name, or opens a path that is not the root's."""
    rules = FetchRules(base=str(root), roots=(str(root),))
    fill = {"port": listener.port, "root": root, "secret": root.parent / "secret" / "key.png"}
    uris = [(uri.format(**fill), code) for uri, code in HOSTILE]
    for uri, _ in uris:  # once unwatched: modules that are imported late are files too
        Fetcher(rules).fetch(uri)

    fetcher = Fetcher(rules)
    with watch.on():
        outcomes = [fetcher.fetch(uri) for uri, _ in uris]
    fetcher.close()

    assert len(uris) >= 60
    for (uri, code), outcome in zip(uris, outcomes, strict=True):
        assert isinstance(outcome, Failure), uri
        assert (outcome.code, outcome.stage) == (code, Stage.FETCH), uri
        assert "password" not in outcome.message, uri
    assert (watch.connected, watch.resolved) == ([], [])
    assert [path for path in watch.opened if path.startswith("/") and path != str(root)] == []
    assert not any("secret" in path or ".." in path for path in watch.opened)


def test_the_watch_sees_what_it_must(root: Path, listener: Canary, watch: Watch) -> None:
    """A fetch that may open, resolve and connect is seen to do so: silence above means something."""
    fetcher = Fetcher(
        FetchRules(base=str(root), roots=(str(root),), allow_private=True, allow_http=True, max_seconds=1)
    )

    with watch.on():
        good = fetcher.fetch("good.png")
        refused = fetcher.fetch(f"http://localhost:{_closed_port()}/")
    fetcher.close()

    assert good == b"good"
    assert isinstance(refused, Failure)
    assert refused.code is FailureCode.FETCH_FAILED
    assert str(root) in watch.opened
    assert watch.resolved != []
    assert watch.connected != []


def _closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("private", ["169.254.169.254", "[fd00:ec2::254]", "168.63.129.16", "[::ffff:169.254.169.254]"])
def test_no_flag_opens_the_metadata_of_a_cloud(watch: Watch, private: str) -> None:
    """Neither flags nor a root that names it."""
    fetcher = Fetcher(FetchRules(roots=(f"http://{private}",), allow_http=True, allow_private=True))

    with watch.on():
        outcome = fetcher.fetch(f"http://{private}/latest/meta-data/")

    assert isinstance(outcome, Failure)
    assert outcome.code is FailureCode.ADDRESS_FORBIDDEN
    assert watch.connected == []


def test_an_archive_that_is_swapped_for_a_link_never_leads_out(root: Path) -> None:
    """A shard that becomes a link to an archive outside at any moment yields its own members or a failure."""
    outside = root.parent / "secret" / "shard.tar"
    with tarfile.open(outside, "w") as made:
        made.add(root.parent / "secret" / "key.png", "good.png")
    inside = (root / "shard.tar").read_bytes()
    fetcher, stop = Fetcher(FetchRules(base=str(root), roots=(str(root),))), threading.Event()

    def swap() -> None:
        while not stop.is_set():
            (root / "link").symlink_to(outside)
            (root / "link").replace(root / "shard.tar")
            (root / "file").write_bytes(inside)
            (root / "file").replace(root / "shard.tar")

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        outcomes = [fetcher.fetch("shard.tar::good.png") for _ in range(5000)]
    finally:
        stop.set()
        swapper.join()

    assert {outcome for outcome in outcomes if isinstance(outcome, bytes)} == {b"good"}
