"""Real servers on loopback for tests: Redis (or Valkey), and one that speaks S3."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from producer.broker import EmbeddedBroker, find_server
from schemas.errors import BrokerError


@contextmanager
def redis_server() -> Iterator[EmbeddedBroker]:
    """A Redis of the test's own; skips at home and fails in CI where there is no server."""
    try:
        find_server()
    except BrokerError as err:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(err))
    with EmbeddedBroker() as broker:
        yield broker


@dataclass(frozen=True)
class S3Server:
    """Where the server listens, and a bucket that exists."""

    endpoint: str
    bucket: str

    def environ(self) -> dict[str, str]:
        """The variables by which a process finds the server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """A moto server in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        endpoint = f"http://127.0.0.1:{port}"
        wait_for(lambda: _listens(port), timeout_s=60, what="the S3 server")
        server = S3Server(endpoint, "bucket")
        request = urllib.request.Request(f"{server.endpoint}/{server.bucket}", method="PUT")
        urllib.request.urlopen(request).close()
        yield server
    finally:
        process.kill()  # it holds nothing of worth, and takes its time to end on a busy machine
        process.wait(60)


def wait_for(condition: object, *, timeout_s: float, what: str) -> None:
    """Return as soon as `condition()` is true; fail naming `what` when the time is over."""
    assert callable(condition)
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout_s:.0f} s in vain for {what}")
        time.sleep(0.02)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0
