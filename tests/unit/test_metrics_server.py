"""The metrics server answers who asks, whoever else has a connection open."""

import socket
import urllib.request

from prometheus_client.registry import CollectorRegistry

from producer.metrics_server import MetricsServer


def test_a_client_that_never_ends_its_request_keeps_nobody_waiting() -> None:
    """A byte now and then would hold a server of one thread for good, and needs no token."""
    server = MetricsServer(CollectorRegistry(), host="127.0.0.1", port=0, token="t" * 20)
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}/metrics", headers={"Authorization": f"Bearer {'t' * 20}"}
    )
    try:
        with socket.create_connection(("127.0.0.1", server.port)) as slow:
            slow.sendall(b"GET /metrics HTTP/1.1\r\nX: ")

            with urllib.request.urlopen(request, timeout=8) as reply:  # the slow one is given 10 seconds
                assert reply.status == 200
    finally:
        server.close()
