"""Metrics of coordinators and workers, as Prometheus scrapes them."""

import re
import signal
import urllib.error
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from producer.metrics_server import address_of
from schemas.errors import Refused
from tests.floor import main_of
from tests.mill import children, embedmill, kill, started, texts, write_jsonl
from tests.servers import redis_server, wait_for

#: A job's name, a queue's, an outcome, a stage: what labels may be.
LABELS = {"job", "queue", "outcome", "stage"}


def address(log: Path) -> str:
    """Where a command said that its metrics are."""
    found: list[str] = []

    def said() -> bool:
        found[:] = re.findall(r"metrics at (http://\S+)", log.read_text() if log.exists() else "")
        return bool(found)

    wait_for(said, timeout_s=60, what="the address")
    return found[0]


def scrape(url: str, token: str = "") -> dict[str, float]:
    """Each sample by its name and label values."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    with urllib.request.urlopen(request, timeout=30) as reply:
        families = list(text_string_to_metric_families(reply.read().decode()))
    samples = [sample for family in families for sample in family.samples]
    assert {label for sample in samples for label in sample.labels} <= LABELS
    return {" ".join([s.name, *s.labels.values()]): s.value for s in samples}


def status_of(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=30) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as err:
        return err.code


def test_what_a_fleet_did_is_counted(tmp_path: Path) -> None:
    """Rows by outcome, shards, stages and processes, of a job with failures; a process that dies takes none away."""
    rows = texts(300)
    rows[7]["text"] = ""
    manifest = write_jsonl(tmp_path / "rows.jsonl", rows)
    with redis_server() as broker:
        env = {"EMBEDMILL_BROKER_URL": broker.url}
        out, log = tmp_path / "out", tmp_path / "worker.log"
        embedmill("submit", manifest, "-m", "hash", "-o", out, "--shard-seconds", "0.05", env=env)
        words = ("worker", "--root", tmp_path, "--workers", "2", "--metrics", "0")
        with started(*words, env=env, log=log) as fleet:
            url = address(log)
            done = embedmill("coordinate", "--root", tmp_path, "--until-idle", env=env)
            before = scrape(url)
            killed = children(main_of(fleet.pid))[0]
            kill(killed, signal.SIGKILL)
            wait_for(lambda: scrape(url).get("embedmill_workers") == 2, timeout_s=60, what="another process")
            after = scrape(url)
            other = status_of(url.replace("/metrics", "/"))

    assert done.returncode == 0, done.stderr
    assert before["embedmill_rows_total ok"] == 299
    assert before["embedmill_rows_total failed"] == 1
    assert before["embedmill_shards_total published"] == len(list(out.glob("data/**/*.parquet")))
    assert before["embedmill_stage_seconds_total encode"] > 0
    assert after["embedmill_rows_total ok"] == 299
    assert after["embedmill_resident_bytes"] > 10**7
    assert other == 404


def test_a_coordinator_tells_of_its_jobs_and_queues(tmp_path: Path) -> None:
    """With no worker: what waits, since when, and that nobody serves the queue."""
    manifest = write_jsonl(tmp_path / "rows.jsonl", texts(300))
    with redis_server() as broker:
        env = {"EMBEDMILL_BROKER_URL": broker.url}
        log, out = tmp_path / "log", tmp_path / "out"
        embedmill("submit", manifest, "-m", "hash", "-o", out, "--shard-seconds", "0.05", env=env)
        with started("coordinate", "--root", tmp_path, "--metrics", "127.0.0.1:0", env=env, log=log):
            url = address(log)
            told: dict[str, float] = {}

            def waiting() -> bool:
                told.update(scrape(url))
                return told.get("embedmill_queue_oldest_seconds embed.text.cpu", 0) > 0.5

            wait_for(waiting, timeout_s=60, what="a message that waits")

    assert told["embedmill_jobs"] == 1
    assert told["embedmill_queue_messages embed.text.cpu"] == 4  # a window
    assert "embedmill_queue_workers embed.text.cpu" not in told
    job = next(name.split()[1] for name in told if name.startswith("embedmill_job_rows "))
    assert (told[f"embedmill_job_rows {job}"], told[f"embedmill_job_rows_done {job}"]) == (300, 0)
    assert told[f"embedmill_job_silent_seconds {job}"] > 0


def test_beyond_loopback_only_with_a_token(tmp_path: Path) -> None:
    """Without one the command is refused in a line; with one, whoever does not have it gets nothing."""
    token, log = "t" * 20, tmp_path / "log"
    with redis_server() as broker:
        env = {"EMBEDMILL_BROKER_URL": broker.url}
        words = ("worker", "--root", tmp_path, "--workers", "1", "--metrics", "0.0.0.0:0")
        refused = embedmill(*words, env=env)
        with started(*words, env=env | {"EMBEDMILL_METRICS_TOKEN": token}, log=log):
            url = address(log).replace("0.0.0.0", "127.0.0.1")
            nobody = [status_of(url), status_of(url.replace("/metrics", "/"))]
            wait_for(lambda: "embedmill_workers" in scrape(url, token), timeout_s=60, what="a process")

    assert refused.returncode == 2
    assert "EMBEDMILL_METRICS_TOKEN" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert nobody == [401, 401]
    assert token not in log.read_text()


def test_addresses() -> None:
    """A port alone is one of loopback; what is none is refused."""
    good = [address_of(text) for text in ("9108", "127.0.0.1:9108", "[::1]:9108")]
    bad = []
    for text in ("", "host", "host:", "1:70000", "a:b"):
        try:
            address_of(text)
        except Refused:
            bad.append(text)

    assert good == [("127.0.0.1", 9108), ("127.0.0.1", 9108), ("::1", 9108)]
    assert bad == ["", "host", "host:", "1:70000", "a:b"]
