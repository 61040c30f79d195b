"""Where Redis may be, and which servers are known to have holes."""

import pytest

from producer.broker import require_safe
from producer.doctor import known_hole
from schemas.errors import BrokerError


@pytest.mark.parametrize(
    "url",
    [
        "redis://redis.example.com:6379/0",
        "redis://:secret@redis.example.com:6379/0",
        "rediss://redis.example.com:6379/0",
        "redis://127.0.0.1.example.com/0",
        "redis://:p@10.0.0.1/0",
        "redis://:p@[2001:db8::1]/0",
        "rediss://:secret@redis.example.com/0?ssl_cert_reqs=none",
        "rediss://:secret@redis.example.com/0?ssl_cert_reqs=CERT_NONE",
    ],
)
def test_what_leads_off_this_machine_needs_password_and_tls(url: str) -> None:
    """Neither alone will do, unless a flag says so; the password is not told."""
    with pytest.raises(BrokerError, match="--insecure-broker") as refused:
        require_safe(url)

    assert "secret" not in str(refused.value)
    assert require_safe(url, insecure=True) == url


@pytest.mark.parametrize(
    "url",
    ["redis://127.0.0.1:6379/0", "redis://localhost", "redis+socket:///a?virtual_host=0", "rediss://:p@example.com/0"],
)
def test_what_stays_here_or_is_locked_is_taken(url: str) -> None:
    """Loopback, a socket, TLS with a password."""
    assert require_safe(url) == url


def test_one_url_names_one_broker() -> None:
    """Celery takes what follows a semicolon for another address, which nobody has judged."""
    with pytest.raises(BrokerError, match="one broker"):
        require_safe("redis://localhost:6379/0;redis://:secret@redis.example.com:6379/0", insecure=True)


@pytest.mark.parametrize(
    ("server", "version", "hole"),
    [
        ("redis", "7.2.4", "CVE-2026-23479"),
        ("redis", "8.6.2", "CVE-2026-23479"),
        ("redis", "8.6.3", ""),
        ("redis", "8.8.0", ""),
        ("redis", "7.0.15", "CVE-2025-49844"),
        ("redis", "6.2.19", "CVE-2025-49844"),
        ("redis", "6.2.20", ""),
        ("valkey", "8.1.6", "CVE-2026-23479"),
        ("valkey", "8.1.7", ""),
        ("valkey", "9.1.2", ""),
        ("redis", "unknown", ""),
    ],
)
def test_servers_with_known_holes_are_named(server: str, version: str, hole: str) -> None:
    """By the version that the server tells."""
    assert known_hole(server, version).startswith(hole)
    assert bool(known_hole(server, version)) is bool(hole)
