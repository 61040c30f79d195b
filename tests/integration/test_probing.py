"""Who looks from another machine finds nothing, or a door that asks who they are."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.http_server import Page as Answer
from tests.http_server import http_server
from tests.integration.test_metrics import address
from tests.integration.test_monitor import ROUTES
from tests.mill import started
from tests.netns import Neighbour, neighbour
from tests.servers import redis_server
from tests.watching import watching

TOKEN = "t" * 20


@pytest.fixture(scope="module")
def machine() -> Iterator[Neighbour]:
    with neighbour() as other:
        yield other


def doors(stack: ExitStack, folder: Path, *, host: str = "") -> list[str]:
    """Ports of Flower, a coordinator's metrics and a worker's, where they listen by default, or at `host`."""
    broker = stack.enter_context(redis_server())
    env = {"EMBEDMILL_BROKER_URL": broker.url, "EMBEDMILL_METRICS_TOKEN": TOKEN}
    page = stack.enter_context(
        watching(broker.url, folder / "monitor", *(("--address", host) if host else ()), env=env)
    )
    ports = [str(urlsplit(page.url).port)]
    metrics = f"{host}:0" if host else "0"
    for name, words in (("coordinate", ()), ("worker", ("--workers", "1"))):
        log = folder / name
        stack.enter_context(started(name, "--root", folder, *words, "--metrics", metrics, env=env, log=log))
        ports.append(str(urlsplit(address(log)).port))
    return ports


def urls(machine: Neighbour, ports: list[str]) -> list[str]:
    """12 routes of Flower, and the metrics of both others."""
    flower, *metrics = (f"http://{machine.here}:{port}" for port in ports)
    return [*(flower + route for route in ROUTES), *(f"{door}/metrics" for door in metrics)]


def test_nothing_listens_for_other_machines(machine: Neighbour, tmp_path: Path) -> None:
    """12 routes of Flower and two metrics ports as they are by default: the connection is refused, while one to a
    server that does listen is not."""
    with ExitStack() as stack:
        server = stack.enter_context(http_server(host="0.0.0.0"))
        server.pages = {"/seen": Answer(b"x")}
        asked = urls(machine, doors(stack, tmp_path))

        refused = machine.ask(asked)
        seen = machine.ask([f"http://{machine.here}:{server.server_port}/seen"])

    assert refused == ["ConnectionRefusedError"] * 14
    assert seen == [200]


def test_whoever_has_no_password_is_refused_everywhere(machine: Neighbour, tmp_path: Path) -> None:
    """The same 14 opened to the network, as in containers: 401 with nothing, or with another's password or token."""
    wrong = {"Authorization": "Basic ZW1iZWRtaWxsOndyb25n"}
    with ExitStack() as stack:
        asked = urls(machine, doors(stack, tmp_path, host="0.0.0.0"))

        answers = [machine.ask(asked), machine.ask(asked, wrong), machine.ask(asked, {"Authorization": "Bearer x"})]
        known = machine.ask(asked[-2:], {"Authorization": f"Bearer {TOKEN}"})

    assert answers == [[401] * 14] * 3
    assert known == [200, 200]
