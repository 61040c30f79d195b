"""What plain Celery on Redis loses or doubles, and that embedmill under the same fault does not.

Each test does the same harm to both: first to tests/bare_celery_app.py, then to a submitted job.
"""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import redis
from celery import Celery

from chaos.proxy import Proxy
from producer.broker import EmbeddedBroker
from schemas.queues import CLIENT_OPTIONS, PREFIX, celery_settings, client_url
from tests.bare_celery_app import ROWS
from tests.mill import children, embedmill, kill, started, texts, write_jsonl
from tests.servers import redis_server, wait_for

MILL_ROWS = 40
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with redis_server() as server:
        yield server


class Bare:
    """The plain app on a Redis, and what it wrote."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        folder.mkdir()
        self.client = redis.Redis.from_url(client_url(url), **CLIENT_OPTIONS)
        self._app = Celery(broker=url, set_as_current=False)

    def send(self, shard: int) -> None:
        self._app.send_task("bare.embed", args=[shard, str(self.folder)])

    @contextmanager
    def worker(self, url: str = "") -> Iterator[subprocess.Popen[bytes]]:
        """A worker with one child; both are gone at the end of the `with`."""
        words = ["-A", "tests.bare_celery_app", "worker", "-c", "1", "--without-gossip", "--without-mingle"]
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "celery", *words],
                cwd=REPOSITORY,
                env={**os.environ, "BARE_BROKER_URL": url or self.url},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            kill_group(process)

    def begun(self, shard: int) -> list[int]:
        """The processes that began the shard."""
        return [int(path.name.rpartition("-")[2]) for path in self.folder.glob(f"begun-{shard}-*")]

    def wait_until_begun(self, shard: int, times: int = 1) -> None:
        wait_for(lambda: len(self.begun(shard)) >= times, timeout_s=60, what=f"shard {shard} to be begun")

    def let_go(self) -> None:
        (self.folder / "gate").touch()

    def rows(self) -> Counter[str]:
        """How often each row was written."""
        written = self.folder / "rows.jsonl"
        lines = written.read_text().splitlines() if written.exists() else []
        return Counter(json.loads(line)["id"] for line in lines)

    def of(self, shard: int) -> int:
        """Rows of a shard that were written."""
        return sum(count for item, count in self.rows().items() if item.startswith(f"{shard}-"))

    def settle(self) -> None:
        """Let a last task through; what Redis then no longer knows of will never be done."""
        self.let_go()
        self.send(99)
        wait_for(lambda: self.of(99) == ROWS, timeout_s=60, what="the last task")
        wait_for(lambda: not self.client.exists("unacked", "celery"), timeout_s=60, what="Redis to be empty")


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL a process and its children, which are of its group."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)


class Mill:
    """A submitted job on a Redis."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.root, self.out = url, folder, folder / "out"
        folder.mkdir()
        self.client = redis.Redis.from_url(client_url(url), **CLIENT_OPTIONS)
        self.env = {"EMBEDMILL_BROKER_URL": url, "EMBEDMILL_LEASE_S": "2", "EMBEDMILL_HASH_DELAY_MS": "60"}
        manifest = write_jsonl(folder / "rows.jsonl", texts(MILL_ROWS))
        words = ("submit", manifest, "--model", "hash", "--out", self.out, "--shard-seconds", "0.01")
        done = embedmill(*words, env=self.env)
        assert done.returncode == 0, done.stderr

    @contextmanager
    def worker(self, url: str = "") -> Iterator[subprocess.Popen[bytes]]:
        env = self.env | {"EMBEDMILL_BROKER_URL": url or self.url}
        with started("worker", "--root", self.root, "--workers", "1", env=env, log=self.root / "worker.log") as process:
            yield process

    @contextmanager
    def coordinator(self) -> Iterator[None]:
        with started("coordinate", "--root", self.root, env=self.env, log=self.root / "coordinator.log"):
            yield

    def wait_for_work(self) -> None:
        pattern = f"{PREFIX}lease:*"
        wait_for(lambda: any(self.client.scan_iter(pattern)), timeout_s=60, what="a shard to be in work")

    def require_all_rows_once(self) -> None:
        """The job ends, `verify` finds it complete, and each row is there once."""
        wait_for((self.out / "manifest.json").exists, timeout_s=120, what="the job's end")
        verdict = json.loads(embedmill("verify", self.out, "--json").stdout)
        files = (self.out / "data").rglob("*.parquet")
        ids = Counter(item for path in files for item in pq.read_table(path)["id"].to_pylist())
        assert verdict["complete"], verdict
        assert ids == Counter(row["id"] for row in texts(MILL_ROWS))


def test_a_killed_child_loses_the_plain_apps_shard(broker: EmbeddedBroker, tmp_path: Path) -> None:
    """Late acknowledgement acknowledges what a killed child had in hand (Celery's default): nobody does it again."""
    bare, mill = Bare(broker.url, tmp_path / "bare"), Mill(broker.url, tmp_path / "mill")

    with mill.coordinator(), mill.worker() as supervisor, bare.worker():
        bare.send(0)
        mill.wait_for_work()
        for child in [child for main in children(supervisor.pid) for child in children(main)]:
            kill(child)
        bare.wait_until_begun(0)
        kill(bare.begun(0)[0])
        bare.settle()
        mill.require_all_rows_once()

    assert (bare.of(0), bare.of(99)) == (0, ROWS)


class Tripwire(Proxy):
    """Kills whoever is about to get its first message: popped from the queue, and written down nowhere yet."""

    def __init__(self, target: Path) -> None:
        super().__init__(target)
        self.harm: Callable[[], None] | None = None
        self.struck = False

    def overhear(self, data: bytes) -> None:
        if self.harm is not None and not self.struck and b'"body"' in data:  # the reply to BRPOP
            self.harm()
            self.struck = True
            self.doom()


def test_a_death_right_after_the_pop_loses_the_plain_apps_shard(broker: EmbeddedBroker, tmp_path: Path) -> None:
    """BRPOP takes a message, a second command writes it to `unacked`: who dies between takes it along (kombu #305)."""
    password = broker.url.partition("://:")[2].partition("@")[0]
    bare = Bare(broker.url, tmp_path / "bare")
    wire = Tripwire(broker.folder / "broker.sock")
    with wire:
        with bare.worker(f"redis://:{password}@127.0.0.1:{wire.port}/0") as worker:
            wire.harm = lambda: os.killpg(worker.pid, signal.SIGKILL)
            bare.send(0)
            wait_for(lambda: wire.struck, timeout_s=60, what="the message to be popped")
        with bare.worker():
            bare.settle()

    mill = Mill(broker.url, tmp_path / "mill")
    wire = Tripwire(broker.folder / "broker.sock")
    with wire, mill.coordinator():
        with mill.worker(f"redis://:{password}@127.0.0.1:{wire.port}/0") as supervisor:
            wire.harm = lambda: kill(supervisor.pid)  # its worker dies with it
            wait_for(lambda: wire.struck, timeout_s=60, what="a message to be popped")
        with mill.worker():
            mill.require_all_rows_once()

    assert (bare.begun(0), bare.of(0), bare.of(99)) == ([], 0, ROWS)


def redeliver_all(url: str, **settings: object) -> None:
    """What a worker does whose clock is ahead, or an app on the same Redis with a shorter visibility timeout."""
    other = Celery(broker=url, set_as_current=False)
    other.conf.update(settings)
    other.conf.broker_transport_options = {**other.conf.broker_transport_options, "visibility_timeout": 0}
    with other.connection_for_read() as connection:
        channel: Any = connection.default_channel  # kombu's Redis channel, which is not typed
        in_work = dict(channel.client.zrange(channel.unacked_index_key, 0, -1, withscores=True))
        assert in_work

        def redelivered() -> bool:  # nothing happens while another worker looks for the same
            channel.qos.restore_visible(interval=1)
            scores = channel.client.zmscore(channel.unacked_index_key, list(in_work))
            return all(now != before for now, before in zip(scores, in_work.values(), strict=True))

        wait_for(redelivered, timeout_s=30, what="what is in work to be redelivered")


def test_another_apps_visibility_timeout_doubles_the_plain_apps_rows(broker: EmbeddedBroker, tmp_path: Path) -> None:
    """What is in work is delivered again when anyone's timeout or clock says so: two workers write the same rows."""
    bare = Bare(broker.url, tmp_path / "bare")
    with bare.worker(), bare.worker():
        bare.send(0)
        bare.wait_until_begun(0)
        redeliver_all(broker.url)
        bare.wait_until_begun(0, times=2)
        bare.settle()

    mill = Mill(broker.url, tmp_path / "mill")
    with mill.coordinator(), mill.worker(), mill.worker():
        mill.wait_for_work()
        wait_for(lambda: mill.client.exists(f"{PREFIX}unacked"), timeout_s=60, what="a message in work")
        redeliver_all(broker.url, **celery_settings(broker.url))
        mill.require_all_rows_once()

    assert bare.of(0) == 2 * ROWS


def test_a_redis_that_comes_back_empty_loses_the_plain_apps_shards(broker: EmbeddedBroker, tmp_path: Path) -> None:
    """What waited in the queue is nowhere else; embedmill's coordinator looks into the store and sends it again."""
    bare, mill = Bare(broker.url, tmp_path / "bare"), Mill(broker.url, tmp_path / "mill")
    for shard in range(3):
        bare.send(shard)
    with mill.coordinator():
        queue = f"{PREFIX}embed.text.cpu"
        wait_for(lambda: mill.client.llen(queue), timeout_s=60, what="shards to be sent")
        broker.stop()
        assert broker.watch()
        with bare.worker(), mill.worker():
            bare.settle()
            mill.require_all_rows_once()

    assert [bare.of(shard) for shard in (0, 1, 2, 99)] == [0, 0, 0, ROWS]
