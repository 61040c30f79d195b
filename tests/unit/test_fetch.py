"""Fetching: what is read, what is refused, and that nothing hangs, leaks or leads out of the roots."""

import contextlib
import hashlib
import io
import os
import re
import resource
import socket
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from schemas.errors import NotAllowed, Refused, WorkerUnfit
from schemas.failures import Failure, FailureCode, Stage
from workers.fetch import Fetcher, FetchRules

MAX_BYTES = 1000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of media beside a secret."""
    folder = tmp_path / "media"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.png").write_bytes(b"inside")
    (folder / "sub" / "b.png").write_bytes(b"deeper")
    (tmp_path / "secret.png").write_bytes(b"secret")
    return folder


@pytest.fixture
def fetcher(root: Path) -> Fetcher:
    return reader(str(root), (str(root),))


def reader(base: str, roots: tuple[str, ...]) -> Fetcher:
    return Fetcher(FetchRules(base=base, roots=roots, max_bytes=MAX_BYTES))


def code_of(outcome: bytes | Failure) -> FailureCode:
    assert isinstance(outcome, Failure), "the fetch succeeded"
    assert outcome.stage is Stage.FETCH
    return outcome.code


@pytest.mark.parametrize("uri", ["a.png", "./a.png", ".//a.png"])
def test_a_relative_uri_is_read_below_the_base(fetcher: Fetcher, uri: str) -> None:
    """A relative uri is a file below the base."""
    assert fetcher.fetch(uri) == b"inside"


def test_an_absolute_path_below_a_root_is_read(fetcher: Fetcher, root: Path) -> None:
    """An absolute path is read when it lies below a root."""
    assert fetcher.fetch(str(root / "sub" / "b.png")) == b"deeper"


def test_the_base_alone_allows_nothing(root: Path) -> None:
    """A base that lies below no root is not read from."""
    assert code_of(reader(str(root), ()).fetch("a.png")) is FailureCode.OUTSIDE_ROOT


def test_without_a_base_a_relative_uri_is_not_read_from_the_working_folder(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job without a base reads no relative uri, wherever its worker was started."""
    monkeypatch.chdir(root)

    assert code_of(reader("", (str(root),)).fetch("a.png")) is FailureCode.OUTSIDE_ROOT


def test_a_root_reached_through_a_link_is_the_folder_it_leads_to(root: Path, tmp_path: Path) -> None:
    """Roots and absolute uris may both be written by way of a link."""
    (tmp_path / "alias").symlink_to(root)

    assert reader("", (str(root),)).fetch(str(tmp_path / "alias" / "a.png")) == b"inside"
    assert reader("", (str(tmp_path / "alias"),)).fetch(str(root / "a.png")) == b"inside"


def test_a_way_around_that_ends_inside_is_inside(fetcher: Fetcher, root: Path) -> None:
    """`..` is resolved, and what it leads to is judged: a manifest may lie beside its media."""
    assert fetcher.fetch("sub/../a.png") == b"inside"
    assert fetcher.fetch(f"../{root.name}/a.png") == b"inside"
    assert code_of(fetcher.fetch("sub/../../secret.png")) is FailureCode.OUTSIDE_ROOT


@pytest.mark.parametrize("name", ["100%25.png", "a b?c#d.png", "größe 図.png", "~.png", "back\\slash.png", "-rf"])
def test_odd_names_are_literal(fetcher: Fetcher, root: Path, name: str) -> None:
    """Nothing in a local name is decoded, expanded or taken for a query."""
    (root / name).write_bytes(b"odd")

    assert fetcher.fetch(name) == b"odd"


def test_a_name_with_a_colon_is_written_with_its_folder(fetcher: Fetcher, root: Path) -> None:
    """./name says that what precedes a colon is no scheme."""
    (root / "photo:1.png").write_bytes(b"colon")

    assert fetcher.fetch("./photo:1.png") == b"colon"
    assert code_of(fetcher.fetch("photo:1.png")) is FailureCode.URI_SCHEME


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("", FailureCode.URI_EMPTY),
        ("missing.png", FailureCode.NOT_FOUND),
        ("a.png/b.png", FailureCode.NOT_FOUND),
        ("sub", FailureCode.NOT_A_FILE),
        (".", FailureCode.NOT_A_FILE),
        ("a\0.png", FailureCode.URI_INVALID),
        ("a\n.png", FailureCode.URI_INVALID),
        ("\x1b[2J.png", FailureCode.URI_INVALID),
        ("a\ud800.png", FailureCode.URI_INVALID),
        ("a" * 300 + ".png", FailureCode.URI_INVALID),
        ("a/" * 500_000, FailureCode.URI_INVALID),
        ("../secret.png", FailureCode.OUTSIDE_ROOT),
        ("sub/../../secret.png", FailureCode.OUTSIDE_ROOT),
        ("/etc/passwd", FailureCode.OUTSIDE_ROOT),
        ("/proc/self/environ", FailureCode.OUTSIDE_ROOT),
        ("//etc/passwd", FailureCode.OUTSIDE_ROOT),
        ("s3://bucket/key.png", FailureCode.OUTSIDE_ROOT),
        ("file:///etc/passwd", FailureCode.URI_SCHEME),
        ("file:a.png", FailureCode.URI_SCHEME),
        ("FILE:a.png", FailureCode.URI_SCHEME),
        ("http://127.0.0.1:9/a.png", FailureCode.URI_SCHEME),
        ("https://127.0.0.1:9/a.png", FailureCode.ADDRESS_FORBIDDEN),
        ("ftp://example.org/a.png", FailureCode.URI_SCHEME),
        ("gs://bucket/a.png", FailureCode.OUTSIDE_ROOT),
        ("az://container/a.png", FailureCode.OUTSIDE_ROOT),
        ("abfs://container/a.png", FailureCode.URI_SCHEME),
        ("data:image/png;base64,iVBORw0KGgo=", FailureCode.URI_SCHEME),
        ("zip://a.png::file:///etc/passwd", FailureCode.URI_SCHEME),
        ("a.png::s3://bucket/key", FailureCode.URI_SCHEME),
        ("reference://::a.json", FailureCode.URI_SCHEME),
        ("S3://bucket/key.png", FailureCode.URI_SCHEME),
    ],
)
def test_a_uri_that_cannot_be_read_is_a_failure_with_its_code(fetcher: Fetcher, uri: str, code: FailureCode) -> None:
    """Each wrong uri has a code of its own, and none raises."""
    assert code_of(fetcher.fetch(uri)) is code


def test_a_folder_whose_name_begins_like_a_root_is_outside(fetcher: Fetcher, root: Path) -> None:
    """Roots end at a name's end: /media-old is not below /media."""
    other = root.with_name("media-old")
    other.mkdir()
    (other / "a.png").write_bytes(b"old")

    assert code_of(fetcher.fetch(str(other / "a.png"))) is FailureCode.OUTSIDE_ROOT


def test_sizes_are_held_to_their_limits(fetcher: Fetcher, root: Path) -> None:
    """The limit itself is allowed; nothing, and one byte more, are not."""
    (root / "none.png").write_bytes(b"")
    (root / "most.png").write_bytes(bytes(MAX_BYTES))
    (root / "more.png").write_bytes(bytes(MAX_BYTES + 1))

    assert code_of(fetcher.fetch("none.png")) is FailureCode.FILE_EMPTY
    assert fetcher.fetch("most.png") == bytes(MAX_BYTES)
    assert code_of(fetcher.fetch("more.png")) is FailureCode.FILE_TOO_LARGE


def test_a_link_is_followed_inside_the_root_only(fetcher: Fetcher, root: Path) -> None:
    """Links are fine as long as they stay below the root."""
    (root / "good.png").symlink_to("sub/b.png")
    (root / "folder").symlink_to(root / "sub")
    (root / "bad.png").symlink_to(root.parent / "secret.png")
    (root / "up").symlink_to("..")
    (root / "dangling.png").symlink_to("nowhere.png")
    (root / "circle.png").symlink_to("circle.png")

    assert fetcher.fetch("good.png") == b"deeper"
    assert fetcher.fetch("folder/b.png") == b"deeper"
    assert code_of(fetcher.fetch("bad.png")) is FailureCode.OUTSIDE_ROOT
    assert code_of(fetcher.fetch("up/secret.png")) is FailureCode.OUTSIDE_ROOT
    assert code_of(fetcher.fetch("dangling.png")) is FailureCode.NOT_FOUND
    assert code_of(fetcher.fetch("circle.png")) is FailureCode.OUTSIDE_ROOT


def test_pipes_sockets_and_devices_do_not_hang(fetcher: Fetcher, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe without a writer is a failure at once."""
    monkeypatch.chdir(root)
    os.mkfifo("pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")

    assert code_of(fetcher.fetch("pipe.png")) is FailureCode.NOT_A_FILE
    assert code_of(fetcher.fetch("socket.png")) is FailureCode.NOT_A_FILE
    assert code_of(reader("", ("/dev",)).fetch("/dev/zero")) is FailureCode.NOT_A_FILE


def test_a_file_without_permission_is_a_failure(fetcher: Fetcher, root: Path) -> None:
    """A file that this user may not read costs its row only, and may be tried again."""
    (root / "a.png").chmod(0)

    with as_nobody():
        outcome = fetcher.fetch("a.png")

    assert code_of(outcome) is FailureCode.FETCH_FAILED
    assert isinstance(outcome, Failure)
    assert "Permission denied" in outcome.message


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's right to read everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_running_out_of_handles_is_no_fault_of_the_row(fetcher: Fetcher) -> None:
    """A process without file handles is unfit; its rows are not failures."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(WorkerUnfit, match="open files"):
            fetcher.fetch("a.png")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_no_handle_is_left_open(fetcher: Fetcher, root: Path) -> None:
    """Whatever becomes of a fetch, its handles are closed."""
    (root / "none.png").touch()
    before = len(list(Path("/dev/fd").iterdir()))

    for uri in ("a.png", "sub/b.png", "sub", "none.png", "missing.png", "sub/missing.png", "a.png/b", "../x"):
        fetcher.fetch(uri)

    assert len(list(Path("/dev/fd").iterdir())) == before


def test_a_swap_during_the_walk_never_leads_out(root: Path) -> None:
    """A folder and a file that become links to a secret at any moment yield their own bytes or a failure."""
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "b.png").write_bytes(b"secret")
    fetcher, stop = reader(str(root), (str(root),)), threading.Event()

    def swap() -> None:
        while not stop.is_set():
            (root / "sub").rename(root / "aside")
            (root / "sub").symlink_to(outside)
            (root / "sub").unlink()
            (root / "aside").rename(root / "sub")
            (root / "link").symlink_to(root.parent / "secret.png")
            (root / "link").rename(root / "a.png")
            (root / "file").write_bytes(b"inside")
            (root / "file").rename(root / "a.png")

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        outcomes = [fetcher.fetch(uri) for _ in range(2500) for uri in ("sub/b.png", "a.png")]
    finally:
        stop.set()
        swapper.join()

    assert {o for o in outcomes if isinstance(o, bytes)} <= {b"deeper", b"inside"}


def test_messages_name_the_place_but_no_secret_and_no_content(fetcher: Fetcher, root: Path) -> None:
    """A failure's message is one redacted line that says what is wrong first."""
    (root / "big.png").write_bytes(b"private content " * 100)

    refused = fetcher.fetch("https://user:pass@example.org/a.png?token=abc")
    large = fetcher.fetch("big.png")

    assert isinstance(refused, Failure)
    assert isinstance(large, Failure)
    assert "example.org/a.png" in refused.message
    assert not any(secret in refused.message for secret in ("user", "pass", "abc"))
    assert large.message == f"1600 bytes, over the limit of 1000: {root}/big.png"


@pytest.mark.parametrize(
    "uri",
    [
        "https://canary:canary@127.0.0.1/a.png",
        "https://127.0.0.1/a b.png?sig=canary",
        "https://127.0.0.1/a.png?x=1 y&sig=canary",
        "http://127.0.0.1/?canary",
        "http:canary:canary@host/a",
        "ftp://canary:canary@host/a",
        "data:text/plain,canary",
        "DATA:canary",
        "s3://canary:canary@bucket/a",
        "reference::https://canary:canary@host/?canary",
        "a.tar::https://host/?canary",
        "https://127.0.0.1/a.tar::b?sig=canary#canary",
        "./sub/https://canary:canary@host/?canary",
    ],
)
def test_no_failure_tells_user_info_queries_or_inline_data(fetcher: Fetcher, uri: str) -> None:
    """Whatever is wrong with a uri, what may be secret in it is left out."""
    outcome = fetcher.fetch(uri)

    assert isinstance(outcome, Failure)
    assert "canary" not in outcome.message


class Bucket(ThreadingHTTPServer):
    """As much of S3 as a GET needs, with faults to order."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Get)
        self.objects: dict[str, bytes] = {}
        self.faults: dict[str, list[int]] = {}  # statuses that a path answers with first
        self.sizes: dict[str, int] = {}  # sizes that a path only claims to have
        self.requests: list[str] = []
        self.sent = 0  # bytes of ranges


class _Get(BaseHTTPRequestHandler):
    server: Bucket

    def do_GET(self) -> None:
        bucket, path = self.server, self.path
        bucket.requests.append(path)
        faults = bucket.faults.get(path, [])
        status = faults.pop(0) if faults else 200 if path in bucket.objects else 404
        body = bucket.objects[path] if status == 200 else b"<Error><AWSAccessKeyId>AKIACANARY</AWSAccessKeyId></Error>"
        e_tag = f'"{hashlib.sha256(body).hexdigest()}"'
        if status == 200 and self.headers.get("If-Match", e_tag) != e_tag:
            status, body = 412, b""
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        self.send_response(206 if span and status == 200 else status)
        if span and status == 200:
            first, last = int(span[1]), min(int(span[2]), len(body) - 1)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(body)}")
            body = body[first : last + 1]
            bucket.sent += len(body)
        self.send_header("ETag", e_tag)
        self.send_header("Last-Modified", "Wed, 12 Oct 2022 17:50:00 GMT")
        self.send_header("Content-Length", str(bucket.sizes.get(path, len(body))))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the parameter's name in the base class
        """Tests are quiet."""


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    with Bucket() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def remote(bucket: Bucket) -> Fetcher:
    return reader("s3://pictures/set", ("s3://pictures/set/",))


@pytest.mark.parametrize("uri", ["a.png", "./a.png", "s3://pictures/set/a.png"])
def test_an_object_below_the_prefix_is_read(remote: Fetcher, bucket: Bucket, uri: str) -> None:
    """Relative uris are keys below an s3 base; whole s3:// urls name theirs."""
    bucket.objects["/pictures/set/a.png"] = b"object"

    assert remote.fetch(uri) == b"object"


def test_an_odd_key_is_literal(remote: Fetcher, bucket: Bucket) -> None:
    """A key's percent sign, question mark and space are its own."""
    bucket.objects["/pictures/set/100%25%20a%3Fb.png"] = b"odd"

    assert remote.fetch("100% a?b.png") == b"odd"


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("missing.png", FailureCode.NOT_FOUND),
        ("../other/a.png", FailureCode.OUTSIDE_ROOT),
        ("s3://pictures/set/../other/a.png", FailureCode.OUTSIDE_ROOT),
        ("s3://pictures/other/a.png", FailureCode.OUTSIDE_ROOT),
        ("s3://pictures/settings.png", FailureCode.OUTSIDE_ROOT),
        ("s3://elsewhere/set/a.png", FailureCode.OUTSIDE_ROOT),
        ("s3://key:secret@pictures/set/a.png", FailureCode.OUTSIDE_ROOT),
        ("/etc/passwd", FailureCode.OUTSIDE_ROOT),
        ("folder/", FailureCode.NOT_A_FILE),
        ("a//b.png", FailureCode.URI_INVALID),
        ("http://pictures/set/a.png", FailureCode.URI_SCHEME),
    ],
)
def test_an_object_that_cannot_be_read_is_a_failure(remote: Fetcher, uri: str, code: FailureCode) -> None:
    """What lies outside the prefix, or nowhere, has its code."""
    assert code_of(remote.fetch(uri)) is code


def test_what_is_refused_is_never_asked_for(remote: Fetcher, bucket: Bucket) -> None:
    """No request leaves the process for a uri outside the roots."""
    for uri in ("s3://elsewhere/a.png", "../a.png", "s3://pictures/a.png", "http://127.0.0.1/a.png", "/a.png"):
        remote.fetch(uri)

    assert bucket.requests == []


def test_the_size_of_an_object_is_judged_before_its_body_is_read(remote: Fetcher, bucket: Bucket) -> None:
    """An object that claims a terabyte fails at once, though its body never comes."""
    bucket.objects |= {"/pictures/set/none.png": b"", "/pictures/set/huge.png": b""}
    bucket.sizes["/pictures/set/huge.png"] = 2**40

    assert code_of(remote.fetch("none.png")) is FailureCode.FILE_EMPTY
    assert code_of(remote.fetch("huge.png")) is FailureCode.FILE_TOO_LARGE


def test_a_store_that_fails_for_a_moment_is_asked_again(remote: Fetcher, bucket: Bucket) -> None:
    """A busy store costs time, not the row."""
    bucket.objects["/pictures/set/a.png"] = b"object"
    bucket.faults["/pictures/set/a.png"] = [503, 500]

    assert remote.fetch("a.png") == b"object"
    assert len(bucket.requests) == 3


def test_a_store_that_refuses_is_a_failure_that_tells_no_secret(remote: Fetcher, bucket: Bucket) -> None:
    """The message has the status, and nothing of the reply's body."""
    bucket.faults["/pictures/set/a.png"] = [403]

    outcome = remote.fetch("a.png")

    assert isinstance(outcome, Failure)
    assert outcome.code is FailureCode.FETCH_FAILED
    assert outcome.retryable
    assert outcome.message == "the store answered 403: s3://pictures/set/a.png"


def test_a_body_that_breaks_off_is_never_taken_for_the_object(remote: Fetcher, bucket: Bucket) -> None:
    """A truncated reply is a failure, not a short file."""
    bucket.objects["/pictures/set/a.png"] = b"half"
    bucket.sizes["/pictures/set/a.png"] = 8

    assert code_of(remote.fetch("a.png")) is FailureCode.FETCH_FAILED


def tar(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as made:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    return file.getvalue()


def test_a_member_of_an_object_is_read_by_its_range(remote: Fetcher, bucket: Bucket) -> None:
    """The headers are read once; then each member is one request of its own bytes."""
    bucket.objects["/pictures/set/a.tar"] = tar({f"{n}.png": bytes([n]) * 500 for n in range(50)})

    outcomes = [remote.fetch(f"a.tar::{n}.png") for n in range(50)]

    assert outcomes == [bytes([n]) * 500 for n in range(50)]
    assert len(bucket.requests) == 1 + 1 + 50  # size, headers, members
    assert bucket.sent == len(bucket.objects["/pictures/set/a.tar"]) + 50 * 500


def test_an_object_written_anew_is_indexed_anew(remote: Fetcher, bucket: Bucket) -> None:
    """A range of another version is never taken for the member."""
    bucket.objects["/pictures/set/a.tar"] = tar({"a": b"first", "b": b"gone"})
    first = remote.fetch("s3://pictures/set/a.tar::a")

    bucket.objects["/pictures/set/a.tar"] = tar({"c": b"x" * 600, "a": b"second"})

    assert (first, remote.fetch("a.tar::a")) == (b"first", b"second")
    assert code_of(remote.fetch("a.tar::b")) is FailureCode.NOT_FOUND


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("missing.tar::a", FailureCode.NOT_FOUND),
        ("a.tar::b", FailureCode.NOT_FOUND),
        ("a.tar::large", FailureCode.FILE_TOO_LARGE),
        ("a.tar::none", FailureCode.FILE_EMPTY),
        ("noise.tar::a", FailureCode.FETCH_FAILED),
        ("cut.tar::large", FailureCode.FILE_TOO_LARGE),
        ("cut.tar::small", FailureCode.FETCH_FAILED),
        ("empty.tar::a", FailureCode.NOT_FOUND),
        ("../other/a.tar::a", FailureCode.OUTSIDE_ROOT),
        ("s3://elsewhere/a.tar::a", FailureCode.OUTSIDE_ROOT),
    ],
)
def test_a_member_of_an_object_that_cannot_be_read_is_a_failure(
    remote: Fetcher, bucket: Bucket, uri: str, code: FailureCode
) -> None:
    """Archives in a store are held to the rules of those in folders."""
    whole = tar({"none": b"", "large": bytes(MAX_BYTES + 1)})
    bucket.objects |= {
        "/pictures/set/a.tar": whole,
        "/pictures/set/cut.tar": whole[:2048] + tar({"small": b"x" * 900})[:600],
        "/pictures/set/noise.tar": b"noise" * 999,
        "/pictures/set/empty.tar": b"",
    }

    assert code_of(remote.fetch(uri)) is code


def test_google_and_azure_are_opened_as_roots_only(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """gs:// and az:// are prefixes like s3://; nothing is asked of a store for a uri outside them."""
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    fetcher = reader("gs://pictures/set", ("gs://pictures/set", "az://container/set", str(root)))

    for outside in ("../a.png", "gs://pictures/a.png", "gs://other/set/a.png", "az://container/a.png", "s3://set/a"):
        assert code_of(fetcher.fetch(outside)) is FailureCode.OUTSIDE_ROOT, outside
    assert code_of(fetcher.fetch("folder/")) is FailureCode.NOT_A_FILE
    assert code_of(fetcher.fetch("az://container/set/")) is FailureCode.NOT_A_FILE
    assert code_of(fetcher.fetch("GS://pictures/set/a.png")) is FailureCode.URI_SCHEME
    assert fetcher.fetch(f"{root}/a.png") == b"inside"


def test_a_store_that_this_process_cannot_open_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker without the account of a job's media must not fail the job's rows."""
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)

    with pytest.raises(NotAllowed, match=r"az://container cannot be opened by this worker.*AZURE_"):
        reader("", ("az://container/set",))


def test_a_root_of_an_unknown_kind_is_refused() -> None:
    """What no fetch could ever read is no root."""
    with pytest.raises(Refused, match="ftp://host"):
        reader("", ("ftp://host/set",))
