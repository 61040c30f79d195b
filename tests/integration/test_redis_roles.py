"""The shipped Redis: everything works with the little that each role may do, and nothing else does."""

import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import redis
from redis.exceptions import AuthenticationError, AuthorizationError, NoPermissionError

from producer.board import RedisBoard
from producer.cancelling import cancel_job
from storage.jobs import open_job
from storage.store import LocalStore
from tests.floor import main_of, worker
from tests.guarded import ENTRY, ROLES, GuardedRedis, guarded_redis
from tests.integration.test_distributed import JOIN_QUEUE, dataset
from tests.mill import children, embedmill, kill, started, texts, write_jsonl
from tests.servers import wait_for
from tests.watching import Page, watching

PICTURE = Path(__file__).parents[2] / "examples" / "demo" / "images" / "acorn.png"
QUEUES = f"embed.text.cpu,embed.image.cpu,{JOIN_QUEUE}"


@pytest.fixture(scope="module")
def guarded() -> Iterator[GuardedRedis]:
    with guarded_redis() as server:
        yield server


@dataclass(frozen=True)
class Mill:
    """Coordinator, worker and monitor, each as its own user."""

    folder: Path
    page: Page
    worker: int  # the supervisor's pid
    env: dict[str, str]  # whoever submits, cancels or joins is the coordinator's user

    @property
    def url(self) -> str:
        return self.env["EMBEDMILL_BROKER_URL"]

    def log(self, name: str) -> str:
        return (self.folder / "logs" / name).read_text()


@pytest.fixture(scope="module")
def mill(guarded: GuardedRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mill]:
    folder = tmp_path_factory.mktemp("mill")
    logs, env = folder / "logs", {"EMBEDMILL_BROKER_URL": guarded.url("coordinator")}
    logs.mkdir()
    with (
        watching(guarded.url("monitor"), logs / "monitor") as page,
        started("coordinate", "--root", folder, env=env, log=logs / "coordinator"),
        worker(guarded.url("worker"), folder, queue=QUEUES, delay_ms=25, log=logs / "worker") as supervisor,
    ):
        yield Mill(folder, page, supervisor.pid, env)


def test_a_job_is_submitted_cancelled_killed_finished_and_retried(mill: Mill) -> None:
    """All that a job may go through, a process killed in the middle included, is seen by the monitor."""
    rows = [*texts(200), {"id": "p", "uri": "late.png"}]
    manifest, out = write_jsonl(mill.folder / "rows.jsonl", rows), mill.folder / "out"
    words = ("submit", manifest, "-m", "hash", "-o", out, "--max-error-rate", "1")

    submitted = _submit(mill, words)
    still_in_work = cancel_job(open_job(LocalStore(out)), RedisBoard(mill.url), timeout_s=60)
    again = _submit(mill, words)
    kill(children(main_of(mill.worker))[0])
    watched = embedmill("watch", out, env=mill.env)
    (mill.folder / "late.png").write_bytes(PICTURE.read_bytes())
    retried = embedmill("retry", out)

    assert (submitted, still_in_work, again) == (0, 0, 0)
    assert (watched.returncode, retried.returncode) == (1, 0), watched.stdout + retried.stderr
    assert embedmill("verify", out).returncode == 0
    assert {row["rows"] for row in mill.page.rows()} >= {0, 200}
    assert not [name for name in ("monitor", "coordinator", "worker") if "permission" in mill.log(name).lower()]


def test_a_join_is_computed_by_workers(mill: Mill) -> None:
    """Panels of a join on the queue of their own. Seed 31."""
    rows = np.random.default_rng(31).normal(size=(1200, 16)).astype(np.float32)
    data = dataset(mill.folder / "rows.parquet", rows, "r")

    words = ("join", data, data, "-k", "3", "-o", mill.folder / "pairs", "--distributed", "--quiet")
    done = embedmill(*words, env=mill.env)

    assert done.returncode == 0, done.stderr
    assert "3,600 pairs" in done.stdout
    assert "join" in {row["name"] for row in mill.page.rows()}


@pytest.mark.parametrize("role", ROLES)
def test_no_role_may_do_more(guarded: GuardedRedis, role: str) -> None:
    """Wiping, configuring, debugging, listening in, other programs' keys, another database: refused to each role."""
    client = guarded.client(role)
    refused = [
        "FLUSHALL", "FLUSHDB", "CONFIG GET *", "CONFIG SET maxmemory 1", "KEYS *", "DEBUG SLEEP 0", "SHUTDOWN NOSAVE",
        "MONITOR", "ACL LIST", "SAVE", "BGSAVE", "MODULE LIST", "CLIENT LIST", "CLIENT KILL TYPE normal", "SELECT 1",
        "REPLICAOF h 1", "SWAPDB 0 1", "RENAME embedmill:jobs x", "EVAL return(1) 0", "GET theirs", "SET theirs x",
        "DEL theirs", "LPUSH theirs x", "LLEN theirs", "PUBLISH theirs x", "PUBLISH embedmill:/0.celery.pidbox x",
        "SUBSCRIBE theirs", "PSUBSCRIBE *", "FUNCTION LIST", "SCRIPT FLUSH", "GET embedmill:x", "DUMP embedmill:jobs",
    ]  # fmt: skip

    allowed = [command for command in refused if not _is_refused(client, *command.split())]

    assert allowed == []


@pytest.mark.parametrize(
    ("role", "commands"),
    [
        ("coordinator", ["SET embedmill:lease:j:0 x", "SET embedmill:worker:w x", "BRPOP embedmill:embed.text.cpu 1"]),
        ("worker", ["HGETALL embedmill:jobs", "HSET embedmill:job:j location /etc", "SET embedmill:cancel:j 1"]),
        ("monitor", ["LPUSH embedmill:embed.text.cpu x", "HGET embedmill:job:j location", "SET embedmill:worker:w x"]),
        ("monitor", ["LRANGE embedmill:embed.text.cpu 0 1", "SADD embedmill:_kombu.binding.join.cpu x"]),
    ],
)
def test_no_role_may_do_anothers(guarded: GuardedRedis, role: str, commands: list[str]) -> None:
    """A worker submits no job and says not where one lives; a monitor sends nothing and reads no message."""
    client = guarded.client(role)

    assert [command for command in commands if not _is_refused(client, *command.split())] == []


def test_a_stranger_is_refused(guarded: GuardedRedis) -> None:
    """Without a user, with a wrong password, and as the default user."""
    for words in ("", ":wrong@", "worker:wrong@", "default:@", f":{guarded.passwords['worker']}@"):
        client = redis.Redis.from_url(f"unix://{words}{guarded.socket}")

        with pytest.raises((AuthenticationError, AuthorizationError)):
            client.ping()


def test_over_tcp_the_same_users_are_asked_for() -> None:
    """As on Kubernetes: a port where the environment names one, and nobody without a password of theirs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with guarded_redis(REDIS_PORT=str(port)) as server:
        clients = [redis.Redis(port=port, username=role, password=server.passwords[role]) for role in ROLES]
        answers = [client.ping() for client in clients]
        stranger = redis.Redis(port=port)

        with pytest.raises(AuthenticationError):
            stranger.ping()
        with pytest.raises(NoPermissionError):
            clients[1].config_get("*")

    assert answers == [True] * 3


def test_it_does_not_start_with_a_password_that_could_be_guessed() -> None:
    """Missing and short ones are named, and the server is not started."""
    short = {"EMBEDMILL_REDIS_COORDINATOR_PASSWORD": "x" * 16, "EMBEDMILL_REDIS_WORKER_PASSWORD": "short"}

    done = subprocess.run([ENTRY], env=short | {"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert "EMBEDMILL_REDIS_WORKER_PASSWORD has 5 characters" in done.stderr


def _submit(mill: Mill, words: tuple[object, ...]) -> int:
    """Submit a job; returns the command's exit code while the first shard of texts is in work."""
    with started(*words, env=mill.env) as command:
        wait_for(lambda: _in_work(mill), timeout_s=90, what="a shard in work")
        return command.wait(60)


def _in_work(mill: Mill) -> bool:
    return any(row["state"] == "STARTED" and row["modality"] == "text" for row in mill.page.rows())


def _is_refused(client: redis.Redis, *words: str) -> bool:
    """Whether the server says that this user may not."""
    try:
        client.execute_command(*words)  # type: ignore[no-untyped-call]
    except NoPermissionError:
        return True
    except redis.RedisError as err:
        return "DEBUG command not allowed" in str(err)  # off for everybody, before rights are looked at
    return False
