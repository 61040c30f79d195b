"""Fetching over http(s): caps, patience, and whom a connection goes to."""

import datetime
import gzip
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from schemas.errors import Refused, WorkerUnfit
from schemas.failures import Failure, FailureCode, Stage
from tests.http_server import Canary, HttpServer, Page, canary, dripping, http_server, pouring, redirect
from workers.breaker import Breaker
from workers.fetch import Fetcher, FetchRules
from workers.fetch_http import HttpSource
from workers.http_connection import connect

MAX_BYTES = 1000
PUBLIC = "93.184.216.34"
HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with http_server() as running:
        yield running


@pytest.fixture
def listener() -> Iterator[Canary]:
    """Whoever connects to it fails the test."""
    with canary() as bird:
        yield bird
    assert bird.visitors == []


@pytest.fixture
def naps() -> list[float]:
    """The seconds that a source would have slept."""
    return []


Make = Callable[..., HttpSource]


@pytest.fixture
def make(naps: list[float]) -> Iterator[Make]:
    """Makes sources that may ask loopback, unless told otherwise."""
    made = []

    def make_source(**options: Any) -> HttpSource:  # Any: whatever the constructor takes
        defaults = {"max_bytes": MAX_BYTES, "max_seconds": 30.0, "allow_http": True, "allow_private": True}
        made.append(HttpSource(**(defaults | {"sleep": naps.append} | options)))
        return made[-1]

    yield make_source
    for source in made:
        source.close()


@pytest.fixture
def source(make: Make) -> HttpSource:
    return make()


def code_of(outcome: bytes | Failure) -> FailureCode:
    assert isinstance(outcome, Failure), "the fetch succeeded"
    assert outcome.stage is Stage.FETCH
    return outcome.code


class World:
    """A resolver whose answers the test writes, and a network in which every address is the test's server."""

    def __init__(self, port: int, **hosts: list[str]) -> None:
        self.port = port
        self.hosts = {name.replace("_", "."): answers for name, answers in hosts.items()}
        self.asked: list[str] = []
        self.dialled: list[tuple[str, int]] = []
        self.later: dict[str, list[str]] = {}  # what a name resolves to from the second time on

    def resolve(self, host: str, port: int, family: int, kind: int) -> list[tuple[int, int, int, str, tuple[Any, ...]]]:
        answers = self.later[host] if host in self.asked and host in self.later else self.hosts.get(host)
        self.asked.append(host)
        if answers is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            (socket.AF_INET6, kind, 6, "", (ip, port, 0, 0)) if ":" in ip else (socket.AF_INET, kind, 6, "", (ip, port))
            for ip in answers
        ]

    def dial(self, family: int, address: tuple[Any, ...], timeout_s: float) -> socket.socket:
        self.dialled.append((address[0], address[1]))
        return connect(socket.AF_INET, ("127.0.0.1", self.port), timeout_s)

    def source(self, make: Make, **options: Any) -> HttpSource:
        return make(**({"allow_private": False, "resolve": self.resolve, "dial": self.dial} | options))


# What is read


def test_a_page_is_read(server: HttpServer, source: HttpSource) -> None:
    """A 200 with its length is the medium, byte for byte."""
    server.pages["/a.png"] = Page(bytes(range(256)))

    assert source.fetch(f"{server.url}/a.png") == bytes(range(256))


@pytest.mark.parametrize(
    "raw",
    [
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\n3\r\ncde\r\n0\r\nTrailer: x\r\n\r\n",
        HEAD + b"\r\nabcde",
        b"HTTP/1.0 200 OK\r\n\r\nabcde",
        b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + b"Content-Length: 5\r\n\r\nabcdeNEXT",
    ],
    ids=["chunked", "until the end", "HTTP/1.0", "more than it said"],
)
def test_every_framing_of_a_body_is_read(server: HttpServer, source: HttpSource, raw: bytes) -> None:
    """Chunks, lengths and plain ends yield the same bytes."""
    server.pages["/a.png"] = Page(raw=lambda _: [raw])

    assert [source.fetch(f"{server.url}/a.png") for _ in range(2)] == [b"abcde", b"abcde"]


def test_a_request_tells_nothing_but_the_address(
    server: HttpServer, source: HttpSource, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No cookie, credential, proxy or netrc; encodings are declined; the fragment stays here."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login canary password canary\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://canary:canary@127.0.0.1:9")
    server.pages["/a%20b.png?x=%C3%A9"] = Page(b"a", headers=(("Set-Cookie", "canary=1"),))

    outcomes = [source.fetch(f"{server.url}/a b.png?x=é#part") for _ in range(2)]

    assert outcomes == [b"a", b"a"]
    expected = {"host": server.url[7:], "user-agent": "embedmill", "accept": "*/*", "accept-encoding": "identity"}
    assert [asked.headers for asked in server.asked] == [expected] * 2


def test_connections_are_used_again(server: HttpServer, source: HttpSource) -> None:
    """Twenty media of one host cost one connection."""
    server.pages = {f"/{n}": Page(str(n).encode() * 50) for n in range(20)}

    outcomes = [source.fetch(f"{server.url}/{n}") for n in range(20)]

    assert outcomes == [str(n).encode() * 50 for n in range(20)]
    assert server.connections == 1


def test_a_connection_that_the_server_closed_meanwhile_costs_no_try(
    server: HttpServer, source: HttpSource, naps: list[float]
) -> None:
    """A reply after which the server closes without saying so is followed by a new connection."""
    server.pages["/a"] = Page(raw=lambda _: [HEAD + b"Content-Length: 1\r\n\r\na"])

    outcomes = [source.fetch(f"{server.url}/a") for _ in range(5)]

    assert outcomes == [b"a"] * 5
    assert naps == []


def test_many_threads_ask_one_host_few_at_a_time(server: HttpServer, source: HttpSource) -> None:
    """Each thread gets its own bytes, over no more connections than a host's places."""
    server.pages = {f"/{n}": Page(str(n).encode() * 9) for n in range(200)}

    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(lambda n: source.fetch(f"{server.url}/{n}"), range(200)))

    assert outcomes == [str(n).encode() * 9 for n in range(200)]
    assert server.connections <= 4


# What is refused


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (404, FailureCode.NOT_FOUND),
        (410, FailureCode.NOT_FOUND),
        (401, FailureCode.ACCESS_DENIED),
        (403, FailureCode.ACCESS_DENIED),
        (407, FailureCode.ACCESS_DENIED),
        (451, FailureCode.ACCESS_DENIED),
        (400, FailureCode.FETCH_FAILED),
        (418, FailureCode.FETCH_FAILED),
        (501, FailureCode.FETCH_FAILED),
        (204, FailureCode.FETCH_FAILED),
        (206, FailureCode.FETCH_FAILED),
        (300, FailureCode.FETCH_FAILED),
        (304, FailureCode.FETCH_FAILED),
        (302, FailureCode.FETCH_FAILED),
        (999, FailureCode.FETCH_FAILED),
    ],
)
def test_what_will_not_pass_is_asked_once(
    server: HttpServer, source: HttpSource, status: int, code: FailureCode
) -> None:
    """A final answer, whatever its body, is a failure at once."""
    server.pages["/a?sig=canary"] = Page(b"secret body" if status not in (204, 304) else b"", status=status)

    outcome = source.fetch(f"{server.url}/a?sig=canary")

    assert code_of(outcome) is code
    assert isinstance(outcome, Failure)
    assert str(status) in outcome.message
    assert not any(secret in outcome.message for secret in ("canary", "secret"))
    assert len(server.paths) == 1


@pytest.mark.parametrize(
    ("page", "code"),
    [
        (Page(b""), FailureCode.FILE_EMPTY),
        (Page(b"", length=2**40), FailureCode.FILE_TOO_LARGE),
        (Page(bytes(MAX_BYTES + 1)), FailureCode.FILE_TOO_LARGE),
        (Page(bytes(MAX_BYTES + 1), length=-1, headers=(("Connection", "close"),)), FailureCode.FILE_TOO_LARGE),
        (pouring(HEAD + b"\r\n", piece=b"x" * 65536), FailureCode.FILE_TOO_LARGE),
        (pouring(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", piece=b"1\r\nx\r\n" * 999), FailureCode.FILE_TOO_LARGE),
        (
            pouring(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", piece=b"x" * 9999),
            FailureCode.FETCH_FAILED,
        ),
        (
            pouring(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", piece=b"Trailer: x\r\n" * 999),
            FailureCode.FILE_TOO_LARGE,
        ),
        (
            pouring(b"HTTP/1.1 100 Continue\r\n\r\n", piece=b"HTTP/1.1 100 Continue\r\n\r\n" * 99),
            FailureCode.FILE_TOO_LARGE,
        ),
        (pouring(HEAD, piece=b"X: y\r\n" * 99), FailureCode.FETCH_FAILED),
        (pouring(HEAD, piece=b"x" * 9999), FailureCode.FETCH_FAILED),
        (pouring(piece=b"x" * 9999), FailureCode.FETCH_FAILED),
        (Page(b"bomb", headers=(("Content-Encoding", "gzip"),)), FailureCode.FETCH_FAILED),
        (Page(b"bomb", headers=(("Content-Encoding", "br"),)), FailureCode.FETCH_FAILED),
        (Page(b"bomb", headers=(("Content-Encoding", "identity, zstd"),)), FailureCode.FETCH_FAILED),
        (Page(b"bomb", length=-1, headers=(("Transfer-Encoding", "gzip, chunked"),)), FailureCode.FETCH_FAILED),
        (Page(b"four", headers=(("Content-Length", "3"),)), FailureCode.FETCH_FAILED),
        (Page(b"four", length=-1, headers=(("Content-Length", "-4"),)), FailureCode.FETCH_FAILED),
        (Page(b"four", length=-1, headers=(("Content-Length", "many"),)), FailureCode.FETCH_FAILED),
        (Page(raw=lambda _: [b"220 mail.example.org ESMTP\r\n"]), FailureCode.FETCH_FAILED),
        (
            Page(raw=lambda _: [HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nabc\r\n0\r\n\r\n"]),
            FailureCode.FETCH_FAILED,
        ),
    ],
)
def test_a_hostile_reply_is_a_failure(server: HttpServer, source: HttpSource, page: Page, code: FailureCode) -> None:
    """Lies, bombs and streams without an end cost their row, and no more bytes than the limit."""
    server.pages["/a"] = page

    assert code_of(source.fetch(f"{server.url}/a")) is code


def test_the_limit_itself_is_allowed(server: HttpServer, source: HttpSource) -> None:
    """Exactly max_bytes pass, framed either way."""
    server.pages["/a"] = Page(bytes(MAX_BYTES))
    server.pages["/b"] = Page(bytes(MAX_BYTES), length=-1, headers=(("Connection", "close"),))

    assert source.fetch(f"{server.url}/a") == source.fetch(f"{server.url}/b") == bytes(MAX_BYTES)


@pytest.mark.parametrize(
    "page",
    [
        dripping(),
        dripping(HEAD + b"Content-Length: 900\r\n\r\n"),
        dripping(HEAD + b"\r\n"),
        dripping(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", piece=b"1\r\nx\r\n"),
        dripping(HEAD + b"X-Long: "),
    ],
    ids=["status", "length", "until the end", "chunks", "head"],
)
def test_a_byte_a_second_ends_at_the_deadline(server: HttpServer, make: Make, naps: list[float], page: Page) -> None:
    """Trickling buys no time: the deadline is of the whole medium."""
    server.pages["/a"] = page
    source = make(max_seconds=0.3)

    outcome = source.fetch(f"{server.url}/a")

    assert code_of(outcome) is FailureCode.FETCH_TIMEOUT
    assert naps == []


def test_a_resolver_that_hangs_ends_at_the_deadline(make: Make) -> None:
    """The time of resolving counts, though a resolver knows no deadline."""
    over = threading.Event()

    def resolve(*_: object) -> list[Any]:
        over.wait(60)
        return []

    outcome = make(resolve=resolve, max_seconds=0.2).fetch("https://slow.example/a")
    over.set()

    assert code_of(outcome) is FailureCode.FETCH_TIMEOUT


# What is tried again


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_what_passes_is_asked_again(server: HttpServer, source: HttpSource, naps: list[float], status: int) -> None:
    """Two bad moments cost time, not the row."""
    server.pages["/a"] = Page(b"a")
    server.first["/a"] = [Page(status=status), Page(status=status)]

    assert source.fetch(f"{server.url}/a") == b"a"
    assert len(naps) == 2
    assert all(0.2 < nap < 1.1 for nap in naps)


def test_what_does_not_pass_is_given_up(server: HttpServer, source: HttpSource) -> None:
    """Three tries are enough."""
    server.first["/a"] = [Page(b"never told", status=503) for _ in range(9)]

    outcome = source.fetch(f"{server.url}/a")

    assert code_of(outcome) is FailureCode.FETCH_FAILED
    assert isinstance(outcome, Failure)
    assert outcome.retryable
    assert outcome.message == f"the host answered 503: {server.url}/a"
    assert len(server.paths) == 3


@pytest.mark.parametrize(
    "raw",
    [b"", HEAD, HEAD + b"Content-Length: 9\r\n\r\nhalf", HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhal"],
    ids=["nothing", "half a head", "half a body", "half a chunk"],
)
def test_a_reply_that_breaks_off_is_asked_for_again_and_never_taken_for_whole(
    server: HttpServer, source: HttpSource, raw: bytes
) -> None:
    """A truncated medium is no medium, however often it is truncated."""
    server.pages["/good"] = Page(b"whole")
    server.first["/good"] = [Page(raw=lambda _: [raw])]
    server.pages["/bad"] = Page(raw=lambda _: [raw])

    assert code_of(source.fetch(f"{server.url}/bad")) is FailureCode.FETCH_FAILED
    assert server.paths.count("/bad") == 3
    assert source.fetch(f"{server.url}/good") == b"whole"


def test_a_refused_connection_is_tried_again(make: Make, naps: list[float]) -> None:
    """A server that is just starting gets its row."""
    with http_server() as server:
        server.pages["/a"] = Page(b"a")
        refusals = [ConnectionRefusedError(111, "Connection refused")] * 2

        def dial(*address: Any) -> socket.socket:
            if refusals:
                raise refusals.pop()
            return connect(*address)

        assert make(dial=dial).fetch(f"{server.url}/a") == b"a"
    assert len(naps) == 2


def test_the_host_says_when_to_come_back(server: HttpServer, source: HttpSource, naps: list[float]) -> None:
    """Retry-After in seconds, or as a date, is waited for."""
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=8)
    server.pages["/a"] = Page(b"a")
    server.first["/a"] = [
        Page(status=429, headers=(("Retry-After", "7"),)),
        Page(status=503, headers=(("Retry-After", format_datetime(later, usegmt=True)),)),
    ]

    assert source.fetch(f"{server.url}/a") == b"a"
    assert naps[0] == 7
    assert 0 < naps[1] <= 8


@pytest.mark.parametrize("told", ["soon", "-5", "", "1e3", "Fri, 99 Nov 99999999999999 00:00:00 GMT"])
def test_a_retry_after_that_says_nothing_is_not_waited_for(
    server: HttpServer, source: HttpSource, naps: list[float], told: str
) -> None:
    """Nonsense there is as good as nothing."""
    server.pages["/a"] = Page(b"a")
    server.first["/a"] = [Page(status=503, headers=(("Retry-After", told),))]

    assert source.fetch(f"{server.url}/a") == b"a"
    assert len(naps) == 1
    assert naps[0] < 1


@pytest.mark.parametrize("told", ["3600", "9" * 400, "Fri, 31 Dec 2100 00:00:00 GMT"])
def test_a_retry_after_beyond_the_deadline_gives_the_row_up(
    server: HttpServer, source: HttpSource, naps: list[float], told: str
) -> None:
    """No thread waits for what comes too late."""
    server.first["/a"] = [Page(status=503, headers=(("Retry-After", told),))] * 3

    assert code_of(source.fetch(f"{server.url}/a")) is FailureCode.FETCH_FAILED
    assert naps == []
    assert len(server.paths) == 1


# Hosts that fail


def test_a_host_that_fails_is_left_alone(server: HttpServer, make: Make) -> None:
    """After five rows in a row its rows fail without being asked for; then one probe opens it again."""
    now = [0.0]
    source = make(breaker=Breaker(clock=lambda: now[0]))
    server.pages = {"/bad": Page(status=500), "/good": Page(b"good"), "/gone": Page(status=404)}

    failed = [code_of(source.fetch(f"{server.url}/bad")) for _ in range(5)]
    asked = len(server.paths)
    left = [source.fetch(f"{server.url}/good") for _ in range(9)]
    untouched = len(server.paths)
    now[0] = 31
    after = [source.fetch(f"{server.url}/good") for _ in range(3)]

    assert failed == [FailureCode.FETCH_FAILED] * 5
    assert {code_of(outcome) for outcome in left} == {FailureCode.HOST_UNAVAILABLE}
    assert all(isinstance(outcome, Failure) and outcome.retryable for outcome in left)
    assert untouched == asked
    assert after == [b"good"] * 3


@pytest.mark.parametrize("final", [404, 403, 400])
def test_dead_links_are_no_fault_of_the_host(server: HttpServer, source: HttpSource, final: int) -> None:
    """A host that says no is well."""
    server.pages = {"/gone": Page(status=final), "/good": Page(b"good")}

    for _ in range(20):
        source.fetch(f"{server.url}/gone")

    assert source.fetch(f"{server.url}/good") == b"good"


def test_a_dead_host_does_not_hold_up_the_others(server: HttpServer, make: Make) -> None:
    """A breaker is one host's."""
    world = World(server.server_port, alive_example=[PUBLIC])
    source = world.source(make)
    server.pages["/a"] = Page(b"a")

    dead = [code_of(source.fetch("http://dead.example/a")) for _ in range(7)]

    assert dead == [FailureCode.FETCH_FAILED] * 5 + [FailureCode.HOST_UNAVAILABLE] * 2
    assert source.fetch("http://alive.example/a") == b"a"


# Redirects


def test_redirects_are_followed(server: HttpServer, source: HttpSource) -> None:
    """Up to three, absolute or relative, and their bodies are not read."""
    server.pages = {
        "/1": redirect(f"{server.url}/2", 301),
        "/2": redirect("3?x=1#y", 307),
        "/3?x=1": redirect("//" + server.url[7:] + "/caf\u00e9".encode().decode("latin-1"), 308),
        "/caf%C3%A9": Page(b"found"),
    }

    assert source.fetch(f"{server.url}/1") == b"found"


def test_redirects_end(server: HttpServer, source: HttpSource) -> None:
    """A circle is left after the third redirect."""
    server.pages["/a"] = redirect("/a")

    assert code_of(source.fetch(f"{server.url}/a")) is FailureCode.TOO_MANY_REDIRECTS
    assert len(server.paths) == 4


@pytest.mark.parametrize(
    ("location", "code"),
    [
        ("http://127.0.0.1:{port}/", FailureCode.ADDRESS_FORBIDDEN),
        ("http://[::1]:{port}/", FailureCode.ADDRESS_FORBIDDEN),
        ("http://[::ffff:127.0.0.1]:{port}/", FailureCode.ADDRESS_FORBIDDEN),
        ("http://localhost:{port}/", FailureCode.ADDRESS_FORBIDDEN),
        ("http://2130706433:{port}/", FailureCode.ADDRESS_FORBIDDEN),
        ("http://169.254.169.254/latest/meta-data/", FailureCode.ADDRESS_FORBIDDEN),
        ("//169.254.169.254/", FailureCode.ADDRESS_FORBIDDEN),
        ("http://private.example:{port}/", FailureCode.ADDRESS_FORBIDDEN),
        ("http://public.example/hop", FailureCode.ADDRESS_FORBIDDEN),
        ("http://user:canary@public.example/", FailureCode.URI_INVALID),
        ("http://public.example\\@127.0.0.1:{port}/", FailureCode.URI_INVALID),
        ("http://[::1", FailureCode.URI_INVALID),
        ("/../../etc/passwd", FailureCode.NOT_FOUND),  # a browser's reading: /etc/passwd of that host
        ("/%2e%2e/secret", FailureCode.OUTSIDE_ROOT),
        ("file:///etc/passwd", FailureCode.URI_SCHEME),
        ("FILE:///etc/passwd", FailureCode.URI_SCHEME),
        ("ftp://127.0.0.1:{port}/", FailureCode.URI_SCHEME),
        ("gopher://127.0.0.1:{port}/_GET", FailureCode.URI_SCHEME),
        ("data:text/plain,canary", FailureCode.URI_SCHEME),
        ("javascript:alert(1)", FailureCode.URI_SCHEME),
        ("s3://bucket/key", FailureCode.URI_SCHEME),
    ],
)
def test_every_hop_is_judged_anew(
    server: HttpServer, make: Make, listener: Canary, location: str, code: FailureCode
) -> None:
    """Where a public host sends us is believed no more than the row."""
    world = World(server.server_port, public_example=[PUBLIC], private_example=["10.0.0.1"])
    server.pages = {"/a?canary=1": redirect(location.format(port=listener.port)), "/hop": redirect("http://127.1/")}

    outcome = world.source(make).fetch("http://public.example/a?canary=1")

    assert code_of(outcome) is code
    assert isinstance(outcome, Failure)
    assert "canary" not in outcome.message
    assert {address for address, _ in world.dialled} == {PUBLIC}


# Whom a connection goes to


def test_the_address_that_was_judged_is_the_one_that_is_dialled(server: HttpServer, make: Make) -> None:
    """A name that turns to loopback after it was judged gains nothing: it is resolved once for each connection."""
    world = World(server.server_port, rebinding_example=[PUBLIC])
    world.later["rebinding.example"] = ["127.0.0.1"]
    server.pages["/a"] = Page(b"a", headers=(("Connection", "close"),))
    source = world.source(make)

    first, second = source.fetch("http://rebinding.example/a"), source.fetch("http://rebinding.example/a")

    assert first == b"a"
    assert code_of(second) is FailureCode.ADDRESS_FORBIDDEN
    assert world.dialled == [(PUBLIC, 80)]
    assert world.asked == ["rebinding.example"] * 2
    assert server.asked[0].headers["host"] == "rebinding.example"


@pytest.mark.parametrize(
    "answers",
    [
        ["127.0.0.1"],
        [PUBLIC, "127.0.0.1"],
        [PUBLIC, PUBLIC, PUBLIC, PUBLIC, PUBLIC, "10.0.0.1"],
        ["2606:4700:4700::1111", "::1"],
        [PUBLIC, "::ffff:8.8.8.8"],
        [PUBLIC, "64:ff9b::a9fe:a9fe"],
        [PUBLIC, "fe80::1%1"],
        ["169.254.169.254"],
    ],
)
def test_one_address_that_is_not_public_forbids_the_host(make: Make, answers: list[str]) -> None:
    """Every answer must be public, or none is dialled."""
    world = World(9, mixed_example=answers)

    outcome = world.source(make).fetch("https://mixed.example/a")

    assert code_of(outcome) is FailureCode.ADDRESS_FORBIDDEN
    assert world.dialled == []


def test_metadata_is_forbidden_where_private_addresses_are_not(make: Make) -> None:
    """allow_private never opens a cloud's credentials."""
    world = World(9, meta_example=["169.254.169.254"])

    outcomes = [
        world.source(make, allow_private=True).fetch(f"http://{host}/latest")
        for host in ("169.254.169.254", "[fd00:ec2::254]", "168.63.129.16", "[::ffff:169.254.169.254]", "meta.example")
    ]

    assert [code_of(outcome) for outcome in outcomes] == [FailureCode.ADDRESS_FORBIDDEN] * 5
    assert world.dialled == []


def test_the_next_address_is_dialled_where_one_does_not_answer(server: HttpServer, make: Make) -> None:
    """A host without IPv6 here is reached over IPv4."""
    world = World(server.server_port, both_example=["2606:4700:4700::1111", PUBLIC])
    server.pages["/a"] = Page(b"a")

    def dial(family: int, address: tuple[Any, ...], timeout_s: float) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(101, "Network is unreachable")
        return world.dial(family, address, timeout_s)

    assert world.source(make, dial=dial).fetch("http://both.example/a") == b"a"
    assert world.dialled == [(PUBLIC, 80)]


def test_a_process_without_handles_is_unfit(make: Make) -> None:
    """What this process ran out of is no fault of the row."""

    def dial(*_: object) -> socket.socket:
        raise OSError(24, "Too many open files")

    with pytest.raises(WorkerUnfit, match="open files"):
        make(dial=dial).fetch("http://127.0.0.1:9/a")


# Roots


def test_roots_restrict_the_web(server: HttpServer, make: Make) -> None:
    """Where one is named, everything else is outside, redirects included."""
    world = World(server.server_port, cdn_example=[PUBLIC], other_example=[PUBLIC])
    source = world.source(make, roots=("http://cdn.example/set", "http://cdn.example:8080"))
    server.pages = {
        "/set/a": Page(b"a"),
        "/set/out": redirect("http://other.example/set/a"),
        "/set/up": redirect("/a"),
        "/a": Page(b"outside"),
    }

    assert source.fetch("http://cdn.example/set/a") == b"a"
    assert source.fetch("http://cdn.example:8080/a") == b"outside"
    for outside in ("/a", "/settings", "/set/../a", "/set/%2e%2e/a", "/set/out", "/set/up"):
        assert code_of(source.fetch(f"http://cdn.example{outside}")) is FailureCode.OUTSIDE_ROOT, outside
    for host in ("other.example", "cdn.example.evil.example", "xcdn.example", "cdn.example:81"):
        assert code_of(source.fetch(f"http://{host}/set/a")) is FailureCode.OUTSIDE_ROOT, host


@pytest.mark.parametrize(
    "root", ["https://", "https://user:canary@example.org", "https://example.org/?canary", "ftp://a/b"]
)
def test_a_root_that_is_no_address_is_refused(root: str) -> None:
    """A job with such a root never starts, and the message tells no secret."""
    with pytest.raises(Refused) as refusal:
        Fetcher(FetchRules(roots=(root,)))

    assert "canary" not in str(refusal.value)


def test_a_relative_uri_is_read_below_the_base(server: HttpServer) -> None:
    """A base on the web is a folder, with or without its slash."""
    server.pages = {"/set/sub/a.png": Page(b"a"), "/set/b%20c.png?v=1": Page(b"b")}

    for base in (f"{server.url}/set", f"{server.url}/set/"):
        fetcher = Fetcher(FetchRules(base=base, roots=(base,), allow_http=True, allow_private=True))

        assert fetcher.fetch("sub/a.png") == fetcher.fetch("./sub/a.png") == b"a"
        assert fetcher.fetch("b c.png?v=1") == b"b"
        assert code_of(fetcher.fetch("../a.png")) is FailureCode.OUTSIDE_ROOT
        assert code_of(fetcher.fetch("/set/sub/a.png")) is FailureCode.OUTSIDE_ROOT
        assert code_of(fetcher.fetch("//127.0.0.1/set/sub/a.png")) is FailureCode.OUTSIDE_ROOT
        assert code_of(fetcher.fetch("a.tar::b.png")) is FailureCode.URI_SCHEME
        fetcher.close()


def test_plain_http_is_an_option(server: HttpServer, make: Make) -> None:
    """Without it, not even a root makes http:// allowed."""
    source = make(allow_http=False, roots=(server.url,))

    assert code_of(source.fetch(f"{server.url}/a")) is FailureCode.URI_SCHEME
    assert server.connections == 0


def test_a_gzipped_page_is_unpacked_by_its_name(server: HttpServer) -> None:
    """x.gz of a server is a file that is gzip'd; its query is no part of its name."""
    server.pages = {"/a.png.gz?v=1": Page(gzip.compress(b"a")), "/b?x.gz": Page(gzip.compress(b"b"))}
    fetcher = Fetcher(FetchRules(allow_http=True, allow_private=True))

    assert fetcher.fetch(f"{server.url}/a.png.gz?v=1") == b"a"
    assert fetcher.fetch(f"{server.url}/b?x.gz") == gzip.compress(b"b")
    fetcher.close()


# TLS

MakeServer = Callable[[str], HttpServer]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> "Authority":
    return Authority(tmp_path_factory.mktemp("ca"))


class Authority:
    """A certificate authority of the test's own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self._root = self._sign(self._name, self._key.public_key(), ca=True)

    def client(self) -> ssl.SSLContext:
        """The context of a client that trusts this authority, and no other."""
        context = ssl.create_default_context(cadata=self._root.public_bytes(serialization.Encoding.PEM).decode())
        assert context.verify_mode is ssl.CERT_REQUIRED
        return context

    def server(self, host: str) -> ssl.SSLContext:
        """The context of a server that is `host`."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        chain = self._folder / f"{host}.pem"
        chain.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + self._sign(name, key.public_key(), host=host).public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain)
        return context

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, host: str = "", ca: bool = False
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if ca:
            usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(usage, critical=True)
        if host:
            is_ip = host.replace(".", "").isdigit()
            named = x509.IPAddress(ipaddress.ip_address(host)) if is_ip else x509.DNSName(host)
            builder = builder.add_extension(x509.SubjectAlternativeName([named]), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def test_https_is_read_from_the_judged_address_by_the_name(authority: Authority, make: Make) -> None:
    """The certificate is checked against the name, though an address is dialled; connections are used again."""
    with http_server(authority.server("cdn.example")) as server:
        world = World(server.server_port, cdn_example=[PUBLIC])
        server.pages = {f"/{n}": Page(b"secure" * n) for n in range(1, 9)}
        source = world.source(make, tls=authority.client(), allow_http=False)

        outcomes = [source.fetch(f"https://cdn.example/{n}") for n in range(1, 9)]
        source.close()

    assert outcomes == [b"secure" * n for n in range(1, 9)]
    assert set(world.dialled) == {(PUBLIC, 443)}
    assert len(world.dialled) == server.connections == 1
    assert server.asked[0].headers["host"] == "cdn.example"


def test_an_address_with_its_own_certificate_is_read(authority: Authority, make: Make) -> None:
    """https://<ip>/ is checked against the IP."""
    with http_server(authority.server("127.0.0.1")) as server:
        server.pages["/a"] = Page(b"a")
        source = make(tls=authority.client())

        assert source.fetch(f"{server.url}/a") == b"a"
        source.close()


@pytest.mark.parametrize("trusts", [True, False], ids=["another's name", "an unknown authority"])
def test_a_certificate_that_does_not_hold_is_a_failure(
    authority: Authority, make: Make, naps: list[float], trusts: bool
) -> None:
    """Nothing is asked of a host that cannot prove its name, and it is not tried again."""
    with http_server(authority.server("other.example")) as server:
        world = World(server.server_port, cdn_example=[PUBLIC], other_example=[PUBLIC])
        source = world.source(make, tls=authority.client() if trusts else None)
        outcome = source.fetch("https://cdn.example/a" if trusts else "https://other.example/a")

    assert code_of(outcome) is FailureCode.FETCH_FAILED
    assert isinstance(outcome, Failure)
    assert "certificate" in outcome.message
    assert server.paths == []
    assert naps == []


def test_https_never_becomes_http(authority: Authority, make: Make) -> None:
    """A redirect to plain http is refused, even where plain http is allowed."""
    with http_server(authority.server("cdn.example")) as server:
        world = World(server.server_port, cdn_example=[PUBLIC])
        server.pages["/a"] = redirect("http://cdn.example/b")
        outcome = world.source(make, tls=authority.client()).fetch("https://cdn.example/a")

    assert code_of(outcome) is FailureCode.URI_SCHEME
    assert world.dialled == [(PUBLIC, 443)]


def test_a_body_without_a_length_is_refused_over_tls(authority: Authority, make: Make) -> None:
    """A connection that someone cut must not pass for the end of a medium."""
    with http_server(authority.server("cdn.example")) as server:
        world = World(server.server_port, cdn_example=[PUBLIC])
        server.pages["/a"] = Page(raw=lambda _: [HEAD + b"\r\nhalf"])  # the server closes without TLS's farewell
        outcome = world.source(make, tls=authority.client()).fetch("https://cdn.example/a")

    assert code_of(outcome) is FailureCode.FETCH_FAILED


def test_a_host_that_never_finishes_its_handshake_ends_at_the_deadline(make: Make) -> None:
    """TLS has the same deadline as everything else."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        world = World(mute.getsockname()[1], mute_example=[PUBLIC])
        outcome = world.source(make, max_seconds=0.3).fetch("https://mute.example/a")

    assert code_of(outcome) is FailureCode.FETCH_TIMEOUT
