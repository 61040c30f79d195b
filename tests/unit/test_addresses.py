"""Addresses: which of them a row may make a worker connect to, and how URLs spell them."""

import ipaddress
import random

import pytest

from schemas.failures import FailureCode
from workers.addresses import may_connect
from workers.http_url import HttpUrl, parse_http_url

METADATA = [
    "169.254.169.254",
    "169.254.170.2",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "fd00:ec2::254",
    "fd20:ce::254",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a9fe:a9fe",
    "2002:a9fe:a9fe::",
    "2001:0:a9fe:a9fe::1",
]


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:4700:4700::1111", "2a00:1450:4001::200e"])
def test_public_addresses_may_be_connected_to(address: str) -> None:
    """The internet is open."""
    assert may_connect(address)


@pytest.mark.parametrize(
    "address",
    [
        *METADATA,
        *("0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.255.255.254", "172.31.0.1", "192.168.1.1"),
        *("169.254.1.1", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.51.100.1", "203.0.113.1"),
        *("224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "::127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::808:808", "fe80::1", "fe80::1%eth0", "fec0::1"),
        *("fc00::1", "fd12::1", "ff02::1", "100::1", "2001::1", "2001:db8::1", "2002:808:808::1", "3fff::1"),
        *("", "localhost", "0177.0.0.1", "1.2.3"),
    ],
)
def test_all_others_may_not(address: str) -> None:
    """Private, special, embedded and misspelt addresses are closed."""
    assert not may_connect(address)


def test_nothing_that_python_calls_not_global_is_open() -> None:
    """The list of special networks is never laxer than the standard library's."""
    chance = random.Random(7)

    for _ in range(20_000):
        v4 = ipaddress.IPv4Address(chance.getrandbits(32))
        v6 = ipaddress.IPv6Address(chance.getrandbits(128))
        assert not may_connect(str(v4)) or v4.is_global, v4
        assert not may_connect(str(v6)) or v6.is_global, v6


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.0.0.1", "192.168.0.1", "169.254.1.1", "::1", "fd12::1", "fe80::1"]
)
def test_private_addresses_are_open_on_request(address: str) -> None:
    """allow_private opens the intranet."""
    assert may_connect(address, allow_private=True)


@pytest.mark.parametrize("address", [*METADATA, "0.0.0.0", "::", "::ffff:127.0.0.1", "224.0.0.1", "255.255.255.255"])
def test_metadata_is_never_open(address: str) -> None:
    """No flag opens the places where clouds hand out credentials, whatever their spelling."""
    assert not may_connect(address, allow_private=True)


@pytest.mark.parametrize(
    ("text", "server", "target"),
    [
        ("https://Example.ORG", "example.org", "/"),
        ("https://example.org.:443/a", "example.org", "/a"),
        ("HTTPS://example.org:8443/a/b.png?x=1#part", "example.org:8443", "/a/b.png?x=1"),
        ("http://example.org:443/", "example.org:443", "/"),
        ("https://b\u00fccher.example/\u56f3 1.png?q=\u00e9", "xn--bcher-kva.example", "/%E5%9B%B3%201.png?q=%C3%A9"),
        ("https://example.org/100%25/50%/a'b", "example.org", "/100%25/50%25/a'b"),
        ("https://[2606:4700:4700:0::1111]:8443/", "[2606:4700:4700::1111]:8443", "/"),
        ("https://8.8.8.8/", "8.8.8.8", "/"),
        ("https://my_bucket.example.org/", "my_bucket.example.org", "/"),
        ("https://example.org?x", "example.org", "/?x"),
    ],
)
def test_a_url_has_one_spelling(text: str, server: str, target: str) -> None:
    """Hosts become lower-case ASCII, paths percent-encoded, fragments go."""
    url = parse_http_url(text)

    assert isinstance(url, HttpUrl)
    assert (url.server, url.target) == (server, target)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("https://", FailureCode.URI_INVALID),
        ("https:///a", FailureCode.URI_INVALID),
        ("https://user@example.org/", FailureCode.URI_INVALID),
        ("https://example.org@127.0.0.1/", FailureCode.URI_INVALID),
        ("https://example.org:80:80/", FailureCode.URI_INVALID),
        ("https://example.org:0/", FailureCode.URI_INVALID),
        ("https://example.org:65536/", FailureCode.URI_INVALID),
        ("https://example.org:\u0661/", FailureCode.URI_INVALID),
        ("https://example.org\\@127.0.0.1/", FailureCode.URI_INVALID),
        ("https://exa mple.org/", FailureCode.URI_INVALID),
        ("https://example.org/\r\nHost: evil", FailureCode.URI_INVALID),
        ("https://%31%32%37.0.0.1/", FailureCode.URI_INVALID),
        ("https://[fe80::1%25eth0]/", FailureCode.URI_INVALID),
        ("https://[::1/", FailureCode.URI_INVALID),
        ("https://[v1.a]/", FailureCode.URI_INVALID),
        ("https://a..b/", FailureCode.URI_INVALID),
        ("https://stra\u00dfe.example/", FailureCode.URI_INVALID),
        ("http\u017f://example.org/", FailureCode.URI_INVALID),
        (f"https://{'a' * 64}.org/", FailureCode.URI_INVALID),
        (f"https://example.org/{'a' * 10_000}", FailureCode.URI_INVALID),
        ("https://0x7f.1/", FailureCode.ADDRESS_FORBIDDEN),
        ("https://0X7F000001/", FailureCode.ADDRESS_FORBIDDEN),
        ("https://2130706433/", FailureCode.ADDRESS_FORBIDDEN),
        ("https://0177.0.0.1/", FailureCode.ADDRESS_FORBIDDEN),
        ("https://127.1/", FailureCode.ADDRESS_FORBIDDEN),
        ("https://134744072/", FailureCode.ADDRESS_FORBIDDEN),
        ("https://example.org/a/../b", FailureCode.OUTSIDE_ROOT),
        ("https://example.org/a/%2e%2E/b", FailureCode.OUTSIDE_ROOT),
        ("https://example.org/a/..%2fb", FailureCode.OUTSIDE_ROOT),
        ("https://example.org/a/%252e%252e/b", FailureCode.OUTSIDE_ROOT),
        ("https://example.org/a/..;x/b", FailureCode.OUTSIDE_ROOT),
        ("https://example.org/a%5c..%5cb", FailureCode.OUTSIDE_ROOT),
    ],
)
def test_a_url_that_may_mean_two_things_is_none(text: str, code: FailureCode) -> None:
    """What parsers and resolvers read differently is refused before anyone is asked."""
    problem = parse_http_url(text)

    assert not isinstance(problem, HttpUrl)
    assert problem[0] is code


@pytest.mark.parametrize(
    "host", ["\uff11\uff12\uff17.\uff10.\uff10.\uff11", "127\u30020\u30020\u30021", "\u2460\u2461\u2466.0.0.1"]
)
def test_digits_beyond_ascii_are_the_address_that_they_become(host: str) -> None:
    """A host is judged in the spelling in which it would be dialled."""
    url = parse_http_url(f"https://{host}/")

    assert isinstance(url, HttpUrl)
    assert url.host == "127.0.0.1"
    assert not may_connect(url.host)


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("https://example.org/set", True),
        ("https://example.org/set/", True),
        ("https://EXAMPLE.org:443/set/a.png", True),
        ("https://example.org/s%65t/a.png", True),
        ("https://example.org/settings", False),
        ("https://example.org/se", False),
        ("https://example.org//set/a.png", False),
        ("https://example.org/set%2Fa.png", False),
        ("https://example.org:8443/set/a.png", False),
        ("http://example.org/set/a.png", False),
        ("https://example.org.evil.example/set/a.png", False),
        ("https://sub.example.org/set/a.png", False),
    ],
)
def test_a_root_is_an_origin_and_whole_names(text: str, inside: bool) -> None:
    """Scheme, host, port and the names of the path are compared, not their letters."""
    root, url = parse_http_url("https://example.org/set/"), parse_http_url(text)

    assert isinstance(root, HttpUrl)
    assert isinstance(url, HttpUrl)
    assert url.within(root) is inside
