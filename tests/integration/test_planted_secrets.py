"""The canary run: secrets planted in rows, servers and environments are in nothing that a job leaves or shows."""

import io
import json
import os
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow.parquet as pq
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from chaos.processes import command_of, family
from storage.store import open_store
from tests.http_server import HttpServer, http_server, redirect
from tests.http_server import Page as Answer
from tests.integration.test_metrics import address
from tests.integration.test_monitor import ROUTES
from tests.mill import embedmill, started, texts
from tests.planted import Search, command_lines, environ_of, open_files, overheard, planted, redis_words
from tests.servers import S3Server, redis_server, s3_server, wait_for
from tests.watching import Page, watching

#: In the manifest, by the row or line that holds it.
IN_ROWS = (
    "text-good", "text-quoted", "text-nul", "column", "broken-line", "bad-value", "uri-user", "uri-query",
    "uri-query-404", "uri-fragment", "uri-space", "uri-data", "uri-scheme-less", "uri-s3", "uri-one-slash",
)  # fmt: skip
#: In what servers answer and media hold.
IN_ANSWERS = ("redirect", "reason", "header", "body", "png-comment", "png-broken")
#: In the environment of the processes, and in the home folder that it names.
IN_ENVIRON = (
    "EMBEDMILL_MESSAGE_KEY", "EMBEDMILL_METRICS_TOKEN", "EMBEDMILL_MONITOR_PASSWORD", "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN", "HF_TOKEN", "HTTPS_PROXY", "netrc",
)  # fmt: skip


def png(**more: Any) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (8, 8), "teal").save(sink, "PNG", **more)
    return sink.getvalue()


def commented(secret: str) -> bytes:
    told = PngInfo()
    told.add_text("Comment", secret)
    return png(pnginfo=told)


def raw(head: str, body: bytes = b"") -> Answer:
    return Answer(raw=lambda server: [head.encode(), b"\r\n\r\n", body])


def serve_secrets(server: HttpServer) -> None:
    """Pages that say secrets in each part of an answer."""
    server.pages = {
        f"/good.png?X-Amz-Signature={planted('uri-query')}": Answer(png()),
        "/moved.png": redirect(f"/gone.png?token={planted('redirect')}"),
        "/reason.png": raw(f"HTTP/1.1 403 {planted('reason')}\r\nContent-Length: 0"),
        "/header.png": raw(f'HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm="{planted("header")}"'),
        "/body.png": Answer(planted("body").encode(), status=404),
        "/comment.png": Answer(commented(planted("png-comment"))),
        "/broken.png": Answer(commented(planted("png-broken"))[:-30]),
    }


def manifest_lines(server: HttpServer, bucket: str) -> Iterator[str]:
    """40 plain rows, and a row or line for each secret that is a manifest's or a server's."""
    host = f"127.0.0.1:{server.server_port}"
    uris = {
        "uri-user": f"http://me:{planted('uri-user')}@{host}/a.png",
        "uri-query": f"http://{host}/good.png?X-Amz-Signature={planted('uri-query')}",
        "uri-query-404": f"http://{host}/lost.png?sig={planted('uri-query-404')}&b=c",
        "uri-fragment": f"http://{host}/lost.png#{planted('uri-fragment')}",
        "uri-space": f"http://{host}/lost.png?token=a b {planted('uri-space')}",
        "uri-data": f"data:image/png;base64,{planted('uri-data')}",
        "uri-scheme-less": f"{host}/lost.png?X-Amz-Security-Token={planted('uri-scheme-less')}",
        "uri-s3": f"s3://{bucket}/media/lost.png?X-Amz-Credential={planted('uri-s3')}",
        "uri-one-slash": f"https:/{host}/lost.png?signature={planted('uri-one-slash')}",
        **{name: f"http://{host}/{name}.png" for name in ("moved", "reason", "header", "body", "comment", "broken")},
        "s3-good": f"s3://{bucket}/media/good.png",
        "s3-lost": f"s3://{bucket}/media/lost.png",
    }
    rows: list[dict[str, object]] = [
        *texts(40),
        {"id": "text-good", "text": f"the code is {planted('text-good')}", "number": 7},
        {"id": "text-quoted", "text": f"!quote {planted('text-quoted')}"},
        {"id": "text-nul", "text": f"{planted('text-nul')}\0"},
        {"id": "column", "text": "plain", "email": planted("column")},
        {"id": "bad-value", "text": "plain", "number": planted("bad-value")},
    ]
    rows += [{"id": name, "uri": uri, "modality": "image"} for name, uri in uris.items()]
    yield from (json.dumps(row) + "\n" for row in rows)
    yield f'{{"id": "broken", "text": "{planted("broken-line")}\n'


@contextmanager
def noted_command_lines(search: Search) -> Iterator[None]:
    """What stands in the command line of any process at any moment, looked at five times a second."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            for line in command_lines():
                search.look("command lines", line)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


@contextmanager
def everything_allowed() -> Iterator[None]:
    """A umask that takes nothing away: what files are opened with is what they get."""
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


@dataclass(frozen=True)
class Run:
    """A job that met the secrets, what was found of them, and its folder."""

    search: Search
    out: Path
    web: HttpServer


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A job through coordinator, worker and monitor, each sink looked at."""
    folder = tmp_path_factory.mktemp("planted")
    search = Search({name: planted(name) for name in (*IN_ROWS, *IN_ANSWERS, *IN_ENVIRON)})
    with everything_allowed(), redis_server() as broker, s3_server() as s3, http_server() as web:
        password = urlsplit(broker.url).password
        assert password
        search.add("Redis password", password)
        env = s3.environ() | {name: planted(name) for name in IN_ENVIRON if name.isupper()}
        env |= {"HTTPS_PROXY": f"http://me:{planted('HTTPS_PROXY')}@127.0.0.1:9", "EMBEDMILL_HASH_FAULTS": "poison"}
        env |= {"EMBEDMILL_BROKER_URL": broker.url, "EMBEDMILL_MEMORY_DIR": str(folder / "memory")}
        serve_secrets(web)
        with noted_command_lines(search), overheard(broker.url, search):
            _go_through(folder, env, s3, web, search)
        search.look_at_files("Redis' log and files", _files(broker.folder, but={"broker.conf"}))
        for asked in web.asked:  # the signature of its own uri is for the server
            search.look("what the web server was asked", json.dumps(asked.headers))
    return Run(search, folder / "out", web)


def _go_through(folder: Path, env: dict[str, str], s3: S3Server, web: HttpServer, search: Search) -> None:
    """Submit, work, watch, ask, prove; everything that is said on the way is looked at."""
    logs, private, bucket = folder / "logs", folder / "tmp", f"s3://{s3.bucket}/media"
    for made in (logs, private, private / "home"):
        made.mkdir()
    (private / "home" / ".netrc").write_text(f"machine 127.0.0.1 login me password {planted('netrc')}\n")
    env |= {"TMPDIR": str(private), "HOME": str(private / "home")}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3.environ().items():
            patch.setenv(name, value)
        open_store(bucket).create("good.png", png())
    manifest = folder / "rows.jsonl"
    manifest.write_text("".join(manifest_lines(web, s3.bucket)))
    workers = ("--root", folder, "--root", bucket, "--workers", "1", "--allow-private-hosts", "--metrics", "0")
    with (
        watching(env["EMBEDMILL_BROKER_URL"], logs / "monitor", env=env) as page,
        started("worker", *workers, env=env, log=logs / "worker") as worker,
        started("coordinate", "--root", folder, "--metrics", "0", env=env, log=logs / "coordinator"),
    ):
        _commands(folder, manifest, bucket, env, search)
        monitor = replace(page, password=env["EMBEDMILL_MONITOR_PASSWORD"])
        wait_for(lambda: {row["state"] for row in monitor.rows()} == {"SUCCESS"}, timeout_s=30, what="Flower")
        _look_at_pages(monitor, [address(logs / name) for name in ("worker", "coordinator")], env, search)
        for word in redis_words(env["EMBEDMILL_BROKER_URL"]):
            search.look("Redis' keys", word)
        _look_at_processes(worker.pid, search)
        search.look_at_files("temporary files", _files(private, but={".netrc"}))
    search.look_at_files("temporary files", _files(private, but={".netrc"}))
    search.look_at_files("logs of coordinator, worker and monitor", _files(logs))
    search.look_at_files("what is remembered of models", _files(folder / "memory"))
    _look_at_job(folder / "out", search)


def _commands(folder: Path, manifest: Path, bucket: str, env: dict[str, str], search: Search) -> None:
    """What a user calls, to the job's end and after it."""
    job = ("-m", "hash", "-o", folder / "out", "--keep", "label", "--keep", "number:int64", "--max-error-rate", "1")
    media = ("--media-root", folder, "--media-root", bucket)
    calls: list[tuple[object, ...]] = [
        ("submit", manifest, *job, *media, "--allow-http", "--allow-private-hosts", "--shard-seconds", "0.05"),
        ("watch", folder / "out"),
        ("status", folder / "out", "--json"),
        ("verify", folder / "out", "--receipt", folder / "kept.json"),
        ("gc", folder / "out"),
        ("report", folder / "out"),
        ("doctor", "--out", folder / "out"),
    ]
    for words in calls:
        done = embedmill(*words, env=env)
        assert done.returncode in (0, 1), done.stderr
        search.look("what commands say", done.stdout + done.stderr)
    search.look("receipt of verify", (folder / "kept.json").read_bytes())


def _look_at_pages(monitor: Page, metrics: list[str], env: dict[str, str], search: Search) -> None:
    task = monitor.rows()[0]
    pages = [*ROUTES, f"/task/{task['uuid']}", f"/api/task/info/{task['uuid']}", f"/worker/{task['worker']}"]
    for path in pages:
        search.look("Flower's pages", monitor.get(path).body)
    for url in metrics:
        door = Page(url.removesuffix("/metrics"))
        search.look("metrics", door.get("/metrics", auth=f"Bearer {env['EMBEDMILL_METRICS_TOKEN']}").body)


def _look_at_processes(worker: int, search: Search) -> None:
    """The environment of whoever reads hostile bytes, and whether a dump of memory could be left."""
    decoders = [pid for pid in family(worker) if "workers.decode_child" in command_of(pid)]
    assert decoders
    for pid in decoders:
        search.look("environment of decoders", environ_of(pid))


def _look_at_job(out: Path, search: Search) -> None:
    """The job's files, by what they are."""
    for kind in ("data", "failures", "control"):
        search.look_at_files(f"{kind}/", _files(out / kind))
    for path in _files(out / "plan"):
        kind = "plan/rows" if path.name.startswith("rows-") else "rest of plan/"
        search.look_at_files(kind, [path])
    for path in out.glob("*.*"):
        search.look_at_files(path.name, [path])


def _files(folder: Path, *, but: Collection[str] = ()) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.name not in but]


def failures(out: Path) -> list[dict[str, Any]]:
    return [row for path in _files(out / "failures") for row in pq.read_table(path).to_pylist()]


def test_30_planted_secrets_are_in_none_of_22_sinks(run: Run) -> None:
    """Rows' texts and columns, uris, answers, media, keys and passwords: nowhere but in the plan, which has the rows'
    texts and uris, and in the report, which shows texts (not with --no-content)."""
    allowed = {("plan/rows", name) for name in IN_ROWS if name.startswith(("text-", "uri-"))}
    allowed |= {("report.html", name) for name in IN_ROWS if name.startswith("text-")}

    assert sorted(run.search.found - allowed) == []
    assert (len(run.search.secrets), len(run.search.sinks)) == (30, 22), sorted(run.search.sinks)
    assert [sink for sink, size in run.search.sinks.items() if size == 0] == []


def test_the_secrets_were_met(run: Run) -> None:
    """Silence means something: the plan has the texts, each answer was asked for, and each bad row failed."""
    seen = {name for sink, name in run.search.found if sink == "plan/rows"}
    codes = {str(row["id"]): str(row["code"]) for row in failures(run.out)}

    assert seen >= {"text-good", "text-quoted", "uri-query", "uri-s3", "uri-data"}
    assert set(run.web.paths) >= set(run.web.pages)
    assert codes == {
        **dict.fromkeys(("moved", "body", "s3-lost", "uri-query-404", "uri-fragment", "uri-space"), "not_found"),
        **dict.fromkeys(("uri-s3", "uri-scheme-less"), "not_found"),
        **dict.fromkeys(("reason", "header"), "access_denied"),
        **dict.fromkeys(("uri-data", "uri-one-slash"), "uri_scheme"),
        "broken": "decode_failed",
        "text-nul": "text_nul",
        "text-quoted": "forward_failed",
        "uri-user": "uri_invalid",
    }


def test_files_are_their_owners_and_groups_alone(run: Run) -> None:
    """With a umask that takes nothing away: 0640 at most."""
    assert open_files(run.out) == []
