"""`embedmill chaos`: everything is broken at any moment, and nothing is lost, doubled, torn or wrong."""

import json
import os
import random
import shutil
import signal
from pathlib import Path

import redis

from chaos.processes import family
from chaos.server import GivenServer
from schemas.queues import CLIENT_OPTIONS, client_url
from tests.mill import alive, command_of, embedmill, kill, started
from tests.servers import redis_server, wait_for

SEED = int(os.environ.get("EMBEDMILL_TEST_SEED", random.randrange(10**6)))
#: What the long run of docs/reliability.md does too, in small.
FAULTS = {
    "--kills": 20,
    "--restarts": 3,
    "--wipes": 1,
    "--partitions": 3,
    "--pauses": 1,
    "--terms": 2,
    "--coordinators": 1,
    "--store-faults": 2,
    "--repeats": 2,
}


def test_faults_at_any_moment_lose_and_double_nothing() -> None:
    """Workers, Redis with its data and the coordinator killed, paused, cut off; the store failing: promises kept."""
    words = [str(word) for option in FAULTS.items() for word in option]
    print(f"seed {SEED}")

    done = embedmill("chaos", *words, "--rows", "800", "--seed", SEED, "--json", timeout_s=500)

    told = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr + done.stdout
    assert told["ok"]
    assert [promise["promise"] for promise in told["promises"] if not promise["kept"]] == []
    assert (told["faults"], told["faults_left"]) == (sum(FAULTS.values()), 0)
    assert told["published"] <= told["shards"] == told["files"]
    assert told["vectors"] + told["failures"] == told["rows"] == told["verified_rows"] > 800
    assert told["looks"] > 20
    assert not Path(told["kept"] or "/nonexistent").exists()


def test_a_redis_and_a_store_of_the_user_are_left_as_they_were(tmp_path: Path) -> None:
    """Nothing of ours stays and nothing of theirs goes; a Redis in use is refused, and so is a wipe nobody allowed."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("theirs")
    theirs = {"cache:1": "x", "embedmill:lease:other-job-1:3": "w0@elsewhere"}
    with redis_server() as broker:
        client = redis.Redis.from_url(client_url(broker.url), **CLIENT_OPTIONS)
        for key, value in theirs.items():
            client.set(key, value)
        env = {"EMBEDMILL_BROKER_URL": broker.url}
        words = ("chaos", "--out", tmp_path / "out", "--rows", "100", "--workers", "1", "--kills", "1")

        unasked = embedmill(*words, "--wipes", "1", env=env)
        done = embedmill(*words, "--report", tmp_path / "report.md", env=env)
        after = {str(key): str(client.get(key)) for key in client.scan_iter("*")}
        client.hset("embedmill:jobs", "another-12345678", "/elsewhere")
        in_use = embedmill("chaos", "--kills", "1", env=env)

    assert (unasked.returncode, in_use.returncode) == (2, 2)
    assert "--wipe" in unasked.stderr
    assert "name another database" in in_use.stderr
    assert done.returncode == 0, done.stderr + done.stdout
    assert after == theirs
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["precious.txt"]
    assert "embedmill chaos --out" in (tmp_path / "report.md").read_text()


def test_a_wipe_of_a_given_redis_takes_what_came_since() -> None:
    """Keys of other programs and of jobs before stay; what the run made is gone."""
    with redis_server() as broker:
        client = redis.Redis.from_url(client_url(broker.url), **CLIENT_OPTIONS)
        client.mset({"cache:1": "x", "embedmill:reports:other-job-1": "y"})
        with GivenServer(broker.url) as given:
            client.mset({"embedmill:reports:chaos-job-1": "z", "cache:2": "x"})

            given.wipe()

            assert set(client.scan_iter("*")) == {"cache:1", "cache:2", "embedmill:reports:other-job-1"}


def test_no_process_outlives_the_command(tmp_path: Path) -> None:
    """Ctrl-C ends everything with exit code 3; SIGKILL too, even a worker that is stopped at that moment."""
    for number, code in ((signal.SIGINT, 3), (signal.SIGKILL, -signal.SIGKILL)):
        log = tmp_path / f"log-{number}"
        words = ("chaos", "--pauses", "9", "--workers", "1", "--rows", "400", "--seed", "1")
        with started(*words, log=log) as process:
            wait_for(lambda log=log: "pause_" in log.read_text(), timeout_s=60, what="the first fault")
            below = family(process.pid)[1:]
            assert any("celery" in command_of(pid) for pid in below)

            kill(process.pid, number)
            assert process.wait(60) == code

        wait_for(lambda pids=below: not any(map(alive, pids)), timeout_s=30, what="the end of all processes")
        folder = Path(log.read_text().partition("logs in ")[2].split()[0])
        assert folder.exists() == (number == signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def test_a_wrong_word_is_refused() -> None:
    """A count that is none, and a Redis that is not ours to kill: exit 2, one line, nothing started."""
    count = embedmill("chaos", "--kills", "many")
    away = embedmill("chaos", "--kills", "1", "--broker-url", "redis://127.0.0.1:1/0")
    theirs = embedmill("chaos", "--restarts", "1", "--broker-url", "redis://127.0.0.1:1/0")

    assert (count.returncode, away.returncode, theirs.returncode) == (2, 2, 2)
    assert "cannot be used" in away.stderr
    assert not Path(away.stderr.partition("logs in ")[2].split()[0]).exists()
    assert "--kills" in count.stderr
    assert "is not killed" in theirs.stderr
