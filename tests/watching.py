"""The monitor as its users see it: a process of its own, and what its pages say."""

import base64
import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.mill import started
from tests.servers import wait_for

PASSWORD = "twelve letters at least".replace(" ", "-")


@dataclass(frozen=True)
class Seen:
    """A reply of the monitor."""

    status: int
    body: str

    @property
    def json(self) -> Any:  # whatever the page says
        return json.loads(self.body)


@dataclass(frozen=True)
class Page:
    """Where the monitor listens, and who we say we are."""

    url: str
    user: str = "embedmill"
    password: str = PASSWORD

    def get(self, path: str, *, data: bytes | None = None, auth: str | None = "ours") -> Seen:
        """GET, or with `data` POST; `auth` None leaves the header away, another word is sent as it is."""
        pair = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        header = {} if auth is None else {"Authorization": f"Basic {pair}" if auth == "ours" else auth}
        request = urllib.request.Request(self.url + path, data=data, headers=header)
        try:
            with urllib.request.urlopen(request, timeout=20) as reply:
                return Seen(reply.status, reply.read().decode())
        except urllib.error.HTTPError as err:
            with err:
                return Seen(err.code, err.read().decode())

    def rows(self) -> list[dict[str, Any]]:
        """The list of tasks as its page gets it."""
        return list(self.get("/tasks/datatable?draw=1&start=0&length=100&order[0][column]=0").json["data"])


@contextmanager
def watching(url: str, log: Path, *words: object, env: dict[str, str] | None = None) -> Iterator[Page]:
    """`embedmill monitor` on a free port."""
    told = {"EMBEDMILL_BROKER_URL": url, "EMBEDMILL_MONITOR_PASSWORD": PASSWORD, **(env or {})}
    with started("monitor", "--port", "0", *words, env=told, log=log):
        wait_for(lambda: "listens on" in log.read_text(), timeout_s=60, what="the monitor")
        found = re.search(r"http://\S+:\d+", log.read_text())
        assert found is not None
        yield Page(found[0])
