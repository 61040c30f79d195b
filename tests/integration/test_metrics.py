"""Metrics of coordinators and workers, as Prometheus scrapes them."""

import json
import re
import signal
import urllib.error
import urllib.request
from pathlib import Path

import yaml
from prometheus_client.parser import text_string_to_metric_families

from producer.metrics_server import address_of
from schemas.errors import Refused
from tests.floor import main_of
from tests.mill import children, embedmill, kill, started, texts, write_jsonl
from tests.servers import redis_server, wait_for

#: A job's name, a queue's, an outcome, a stage: what labels may be.
LABELS = {"job_id", "queue", "outcome", "stage"}


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


def scaling_query() -> str:
    """What KEDA asks of Prometheus for processors."""
    path = Path(__file__).parents[2] / "deploy" / "kubernetes" / "scaling.yaml"
    return str(next(yaml.safe_load_all(path.read_text()))["spec"]["triggers"][0]["metadata"]["query"])


def answer(query: str, samples: dict[str, float]) -> float | None:
    """The value of `sum(NAME{queue=~"PATTERN"}) or (0 * sum(OTHER))`; None where there is none."""
    parts = re.fullmatch(r'sum\((\w+)\{queue=~"(.+)"\}\) or \(0 \* sum\((\w+)\)\)', query)
    assert parts is not None
    name, pattern, other = parts.groups()
    found = [v for key, v in samples.items() if key.startswith(f"{name} ") and re.fullmatch(pattern, key.split()[1])]
    return sum(found) if found else (0.0 if other in samples else None)


def test_workers_are_scaled_by_what_is_left(tmp_path: Path) -> None:
    """The right number where there is nothing to do, a backlog, and one shard in work with nothing on the queue."""
    query, log = scaling_query(), tmp_path / "log"
    one, six = (write_jsonl(tmp_path / f"{n}.jsonl", texts(n)) for n in (40, 240))
    with redis_server() as broker:
        env = {"EMBEDMILL_BROKER_URL": broker.url, "EMBEDMILL_HASH_DELAY_MS": "300", "EMBEDMILL_LEASE_S": "2"}
        embedmill("plan", six, "-m", "hash", "-o", tmp_path / "six", "--shard-seconds", "0.02", env=env)
        shards = json.loads((tmp_path / "six" / "job.json").read_bytes())["plan"]["shards"]
        with started("coordinate", "--root", tmp_path, "--metrics", "0", env=env, log=log):
            url = address(log)
            nothing = answer(query, scrape(url))
            embedmill("submit", six, "-m", "hash", "-o", tmp_path / "six", "--shard-seconds", "0.02", env=env)
            wait_for(lambda: answer(query, scrape(url)) == shards, timeout_s=60, what="the backlog")
            embedmill("cancel", tmp_path / "six", env=env)
            wait_for(lambda: answer(query, scrape(url)) == 0, timeout_s=60, what="an empty queue")
            with started("worker", "--root", tmp_path, "--workers", "1", env=env):
                embedmill("submit", one, "-m", "hash", "-o", tmp_path / "one", "--shard-seconds", "100", env=env)

                def leased_only() -> bool:
                    told = scrape(url)
                    held = sum(value for name, value in told.items() if name.startswith("embedmill_job_shards_leased "))
                    waiting = sum(v for name, v in told.items() if name.startswith("embedmill_queue_messages "))
                    return held == 1 and waiting == 0 and answer(query, told) == 1

                wait_for(leased_only, timeout_s=60, what="a shard in work")

    assert nothing == 0
    assert shards > 4  # more than the coordinator puts on the queue while nobody serves it
    assert answer(query, {}) is None
