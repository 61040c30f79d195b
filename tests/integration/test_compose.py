"""docker-compose.yml works as it is written: a job goes through its services, and is seen in Flower by a browser."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.browser import page_in_browser
from tests.compose import ROOT, Compose, compose_file, composed, example_variables, wait_until_healthy
from tests.mill import command_of
from tests.servers import wait_for
from tests.watching import Page

VARIABLES = example_variables() | {"EMBEDMILL_CPU_WORKERS": "1"}
OURS = ("redis", "coordinator", "worker-cpu", "flower")
GPU_SIZES = ("gpu8", "gpu16", "gpu24", "gpu48", "gpu80")


@pytest.fixture(scope="module")
def compose() -> Iterator[Compose]:
    """The services, healthy."""
    with composed(VARIABLES) as compose:
        compose.start("redis")
        wait_for((compose.folder / "run" / "redis.sock").exists, timeout_s=30, what="Redis")
        for name in OURS[1:]:
            compose.start(name)
        wait_until_healthy(compose, *OURS[1:])
        _take_from_demo(compose.data)
        yield compose


def _take_from_demo(folder: Path) -> None:
    """Forty texts in one manifest, six images and three sounds in another, with an image that is not there."""
    demo = ROOT / "examples" / "demo"
    rows = [json.loads(line) for line in (demo / "manifest.jsonl").read_text().splitlines()]
    texts = [row for row in rows if row["modality"] == "text"][:40]
    media = [row for row in rows if row["modality"] == "image"][:6]
    media += [row for row in rows if row["modality"] == "audio"][:3]
    for row in media:
        (folder / row["uri"]).parent.mkdir(exist_ok=True)
        (folder / row["uri"]).write_bytes((demo / row["uri"]).read_bytes())
    lost = {"id": "img-lost", "modality": "image", "uri": "images/lost.png"}
    for name, chosen in (("texts", texts), ("media", [*media, lost])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen))


@pytest.fixture(scope="module")
def page(compose: Compose) -> Page:
    """Flower, once two jobs are done: one of texts, one of images and sounds."""
    page = Page(f"http://127.0.0.1:{compose.port('5555')}", password=VARIABLES["EMBEDMILL_MONITOR_PASSWORD"])
    for name, model, code in (("texts", "minilm", 0), ("media", "hash", 1)):
        words = ("submit", f"/data/{name}.jsonl", "--model", model, "--out", f"/data/{name}")
        submitted = compose.run("coordinator", *words)
        watched = compose.run("coordinator", "watch", f"/data/{name}")
        verified = compose.run("coordinator", "verify", f"/data/{name}")
        codes = (submitted.returncode, watched.returncode, verified.returncode)
        assert codes == (0, code, 0), submitted.stderr + watched.stdout + compose.log("worker-cpu")
    wait_for(lambda: len(_published(page)) == 3, timeout_s=30, what="the end in Flower")
    return page


def _published(page: Page) -> dict[str, dict[str, Any]]:
    """The tasks that published a shard, by modality; of what was sent twice the other says `skipped`."""
    return {row["modality"]: row for row in page.rows() if row["outcome"] == "published"}


def test_a_job_goes_through_the_services_as_nobody(compose: Compose, page: Page) -> None:
    """Redis with its roles, coordinator, worker and Flower, each by its own command, on code that they cannot write."""
    users = {name: Path(f"/proc/{compose.processes[name].pid}").stat().st_uid for name in OURS}

    assert set(users.values()) == ({65534} if os.geteuid() == 0 else {os.geteuid()})
    told = {modality: (row["rows"], row["failures"]) for modality, row in _published(page).items()}
    assert told == {"text": (40, 0), "image": (6, 1), "audio": (3, 0)}
    assert not [name for name in OURS if "permission" in compose.log(name).lower()]
    assert not list(compose.code.rglob("__pycache__"))


def test_no_secret_is_in_an_argument_or_a_log(compose: Compose, page: Page) -> None:
    """Passwords, key and token of .env are in no command line of any process, and in no log."""
    secrets = [value for name, value in VARIABLES.items() if re.search("PASSWORD|KEY|TOKEN", name)]
    lines = [command_of(int(path.name)) for path in Path("/proc").glob("[0-9]*")]
    told = [*lines, *(compose.log(name) for name in OURS)]

    assert len(secrets) == 7
    assert not [line for line in told for secret in secrets if secret in line]


def test_metrics_need_their_token(compose: Compose, page: Page) -> None:
    """Coordinator and worker say rows and shards to Prometheus, and nothing to anybody else."""
    token = VARIABLES["EMBEDMILL_METRICS_TOKEN"]
    doors = [Page(f"http://127.0.0.1:{compose.port(port)}") for port in ("9108", "9109")]

    assert [door.get("/metrics", auth=None).status for door in doors] == [401, 401]
    assert 'embedmill_rows_total{outcome="ok"} 49.0' in doors[1].get("/metrics", auth=f"Bearer {token}").body


def test_a_browser_shows_the_jobs_shards(page: Page, tmp_path: Path) -> None:
    """Job, shard, queue, modality and rows stand in the list of tasks that chromium draws."""
    with_name = page.url.replace("http://", f"http://{page.user}:{page.password}@")

    drawn = page_in_browser(f"{with_name}/tasks", tmp_path / "browser")
    if place := os.environ.get("EMBEDMILL_TEST_SCREENSHOT"):
        page_in_browser(f"{with_name}/tasks", tmp_path / "browser", screenshot=Path(place))

    body = drawn.partition("<tbody>")[2]
    lines = [re.findall(r"<td[^>]*>(.*?)</td>", line, re.DOTALL) for line in body.split("</tr>")]
    cells = [[re.sub("<[^>]+>", "", cell).strip() for cell in line] for line in lines]
    shown = {line[4]: line[:9] for line in cells if "published" in line}
    job = _published(page)["image"]["job"]
    told = ["embed.image", job, "0", "embed.image.cpu", "image", "6", "1", "published", "SUCCESS"]
    assert shown["image"] == told
    assert sorted(shown) == ["audio", "image", "text"]


def test_the_health_check_says_what_is_wrong(compose: Compose) -> None:
    """A page that is not there, and a metric that is not above zero, are unhealthy, in one line."""
    script = [sys.executable, str(ROOT / "deploy" / "healthy.py")]
    here = f"http://127.0.0.1:{compose.port('5555')}"
    done = [
        subprocess.run([*script, *words], capture_output=True, text=True, check=False)
        for words in ([f"{here}/metrics"], [f"{here}/healthcheck", "embedmill_workers"], ["http://127.0.0.1:1/"])
    ]

    assert [one.returncode for one in done] == [1, 1, 1]
    assert all(one.stderr.count("\n") == 1 for one in done)


def test_gpu_services_without_a_gpu_say_so_in_a_line(compose: Compose) -> None:
    """The five commands as they are written, on a machine that has none: refused, and nothing is started."""
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine may have a GPU")
    names = [f"worker-{size}" for size in GPU_SIZES]
    done = [compose.run(name, *compose.services[name]["command"]) for name in names]

    assert [one.returncode for one in done] == [2] * 5
    assert {one.stderr.count("\n") for one in done} == {1}
    assert all("--device cuda is not there" in one.stderr for one in done)


def test_services_end_within_their_grace(compose: Compose, page: Page) -> None:
    """SIGTERM to the main process, as `docker compose stop` does: each ends by itself, in time."""
    for name in reversed(OURS):
        grace = float(str(compose.services[name].get("stop_grace_period", "10s")).removesuffix("s"))
        compose.processes[name].send_signal(signal.SIGTERM)

        assert compose.processes[name].wait(grace) == 0, name


@pytest.mark.parametrize("size", GPU_SIZES)
def test_a_gpu_service_is_one_of_its_size(size: str) -> None:
    """It asks for the machine's GPUs, is started by its profile alone, and names its size."""
    service = compose_file(VARIABLES)["services"][f"worker-{size}"]
    devices = service["deploy"]["resources"]["reservations"]["devices"]

    assert service["profiles"] == [size]
    assert service["command"][:7] == ["worker", "--root", "/data", "--device", "cuda", "--size", size]
    assert devices == [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]


def test_every_service_is_locked_down() -> None:
    """Read-only, no capabilities, no new privileges, no root, a health check, nothing published beyond loopback."""
    services = compose_file(VARIABLES)["services"]

    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert int(service["user"].split(":")[0]) > 0, name
        assert service["healthcheck"]["test"], name
        assert "privileged" not in service, name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert not any("docker.sock" in str(volume) for volume in service.get("volumes", [])), name
    assert services["redis"]["network_mode"] == "none"
    assert all(int(services[name]["stop_grace_period"][:-1]) >= 60 for name in services if name.startswith("worker"))


def test_each_secret_is_asked_for() -> None:
    """Without a value in .env nothing is started, rather than started with an empty password."""
    for name in [name for name in VARIABLES if re.search("PASSWORD|KEY|TOKEN", name)]:
        with pytest.raises(AssertionError, match=name):
            compose_file(VARIABLES | {name: ""})


def test_no_service_has_a_secret_that_compose_would_copy_into_it() -> None:
    """Compose refuses such a one in a read-only service (docker/compose #12031), and nothing starts."""
    composition = compose_file(VARIABLES)
    copied = [
        name for kind in ("secrets", "configs") for name, of in composition.get(kind, {}).items() if "file" not in of
    ]

    assert copied == []


def test_prometheus_finds_its_secrets_in_files_of_its_own(tmp_path: Path) -> None:
    """The entry point writes them as they are, for nobody else; arguments and the server's environment have none."""
    service = compose_file(VARIABLES)["services"]["prometheus"]
    server = tmp_path / "prometheus"
    server.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"; env\n")
    server.chmod(0o755)
    (tmp_path / "secrets").mkdir()
    entry = [word.replace("/etc/prometheus", str(ROOT / "deploy" / "prometheus")) for word in service["entrypoint"]]
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SECRETS_DIR": str(tmp_path / "secrets")}

    told = subprocess.run(
        [*entry, *service["command"]], env=environ | service["environment"], capture_output=True, text=True, check=True
    ).stdout

    files = {path.name: path for path in (tmp_path / "secrets").iterdir()}
    values = {"metrics_token": "EMBEDMILL_METRICS_TOKEN", "monitor_password": "EMBEDMILL_MONITOR_PASSWORD"}
    assert {name: path.read_text() for name, path in files.items()} == {k: VARIABLES[v] for k, v in values.items()}
    assert all(path.stat().st_mode & 0o077 == 0 for path in files.values())
    assert told.splitlines()[: len(service["command"])] == service["command"]
    assert not [name for name in values.values() if VARIABLES[name] in told]
    assert any(mount.startswith("/run/secrets:") and "uid=65534" in mount for mount in service["tmpfs"])


def test_prometheus_asks_the_doors_that_there_are() -> None:
    """Each name and port that it looks for is a service's, and each secret one that the service is given."""
    services = compose_file(VARIABLES)["services"]
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    asked = {job["job_name"]: job["dns_sd_configs"][0] for job in config["scrape_configs"]}
    secrets = set(re.findall(r"/run/secrets/(\w+)", str(config)))

    assert {name: found["port"] for name, found in asked.items()} == {
        "coordinator": 9108,
        "worker": 9109,
        "flower": 5555,
    }
    entry = (ROOT / "deploy" / "prometheus" / "entry.sh").read_text()
    assert secrets == set(re.findall(r'> "\$folder/(\w+)"', entry))
    assert "0.0.0.0:9108" in services["coordinator"]["command"]
    workers = [service for name, service in services.items() if name.startswith("worker-")]
    assert all(service["networks"]["default"]["aliases"] == ["worker"] for service in workers)
    assert all("0.0.0.0:9109" in service["command"] for service in workers)


def test_what_an_image_is_made_of_is_there() -> None:
    """Each path that the Dockerfile copies exists and is let in by .dockerignore; secrets are not."""
    lines = (ROOT / "deploy" / "Dockerfile").read_text().splitlines()
    copied = [word for line in lines if re.match("COPY (?!--from)", line) for word in line.split()[1:-1]]
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}

    assert len(copied) > 8
    assert all((ROOT / path).exists() for path in copied)
    assert set(copied) == let_in
