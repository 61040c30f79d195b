"""`embedmill run` and its neighbours, as a user runs them, with the model `hash`: real Redis, real workers."""

import json
import signal
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from storage.jobs import open_job
from storage.shards import published_shards, read_shard
from storage.store import LocalStore
from tests.mill import alive, children, embedmill, server_pids, started, texts, worker_pids, write_jsonl
from tests.servers import wait_for


def vectors_of(out: Path) -> dict[str, np.ndarray]:
    """Every published vector by id; fails on an id that is there twice."""
    store = LocalStore(out)
    found: dict[str, np.ndarray] = {}
    for _, key, _ in published_shards(store):
        _, ids, vectors, _ = read_shard(store, key)
        for item, vector in zip(ids, vectors["embedding"], strict=True):
            assert item not in found
            found[item] = vector
    return found


def test_a_manifest_becomes_vectors(tmp_path: Path) -> None:
    """Each row has a vector, kept columns are kept, the summary says so, and the exit code is 0."""
    rows = texts(300)
    manifest = write_jsonl(tmp_path / "rows.jsonl", rows)

    done = embedmill("run", manifest, "--model", "hash", "--out", tmp_path / "out", "--keep", "label")

    assert done.returncode == 0, done.stderr
    assert "every row has a vector" in done.stdout
    table = pq.read_table(tmp_path / "out" / "data")
    assert dict(zip(table["id"].to_pylist(), table["label"].to_pylist(), strict=True)) == {
        row["id"]: row["label"] for row in rows
    }


def test_a_finished_job_is_not_done_again(tmp_path: Path) -> None:
    """The same command again starts nothing and says the same."""
    manifest = write_jsonl(tmp_path / "rows.jsonl", texts(20))
    words = ("run", manifest, "--model", "hash", "--out", tmp_path / "out")
    embedmill(*words)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}

    again = embedmill(*words)

    assert again.returncode == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


def test_other_arguments_are_refused_by_name(tmp_path: Path) -> None:
    """A folder that holds a job refuses another one, and names the field that differs."""
    manifest = write_jsonl(tmp_path / "rows.jsonl", texts(20))
    embedmill("run", manifest, "--model", "hash", "--out", tmp_path / "out")

    other = embedmill("run", manifest, "--model", "hash", "--out", tmp_path / "out", "--keep", "label")

    assert other.returncode == 2
    assert "keep: (none) / label:string" in other.stderr
    assert "Traceback" not in other.stderr


def test_a_changed_manifest_is_refused(tmp_path: Path) -> None:
    """A job is of the manifest that it was planned with."""
    manifest = write_jsonl(tmp_path / "rows.jsonl", texts(20))
    embedmill("run", manifest, "--model", "hash", "--out", tmp_path / "out")
    write_jsonl(manifest, texts(21))

    other = embedmill("run", manifest, "--model", "hash", "--out", tmp_path / "out")

    assert other.returncode == 2
    assert "manifest_sha256" in other.stderr


def test_bad_rows_are_failures_and_bad_lines_rejects(tmp_path: Path) -> None:
    """Exit code 1, one failure for the bad row, one reject for the bad line, and a vector for every other."""
    rows = [*texts(10), {"id": "bad", "text": "  "}]
    manifest = write_jsonl(tmp_path / "rows.jsonl", rows)
    with manifest.open("a") as file:
        file.write("{broken\n")

    done = embedmill("run", manifest, "--model", "hash", "--out", tmp_path / "out", "--json")

    told = json.loads(done.stdout)
    assert done.returncode == 1
    assert (told["vectors"], told["failures"], told["rejects"]) == (10, {"text_empty": 1}, 1)


def test_retry_does_only_what_failed(tmp_path: Path) -> None:
    """A row whose file turned up gets its vector; the rows that had one keep theirs, untouched."""
    from PIL import Image

    manifest = write_jsonl(
        tmp_path / "rows.jsonl",
        [*texts(5), {"id": "late", "uri": "late.png"}, {"id": "empty", "text": "", "modality": "text"}],
    )
    out = tmp_path / "out"
    embedmill("run", manifest, "--model", "hash", "--out", out)
    before = {path: path.read_bytes() for path in (out / "data").rglob("*.parquet")}
    Image.new("RGB", (8, 8), "red").save(tmp_path / "late.png")

    done = embedmill("retry", out, "--code", "not_found", "--json")

    told = json.loads(done.stdout)
    assert (told["vectors"], told["failures"]) == (6, {"text_empty": 1})
    assert {path: path.read_bytes() for path in before} == before
    assert "late" in vectors_of(out)
    assert embedmill("verify", out).returncode == 0


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    """SIGKILL of the whole command leaves no process behind, and the next call finishes the job."""
    manifest = write_jsonl(tmp_path / "rows.jsonl", texts(400))
    out = tmp_path / "out"
    words = ("run", manifest, "--model", "hash", "--out", out, "--shard-seconds", "0.1")
    with started(*words, env={"EMBEDMILL_HASH_DELAY_MS": "5"}) as process:
        wait_for(lambda: len(list(out.glob("data/*/*"))) >= 3, timeout_s=60, what="the first shards")
        below = [*worker_pids(process.pid), *server_pids(process.pid)]
        process.kill()
        process.wait()
    wait_for(lambda: not any(alive(pid) for pid in below), timeout_s=30, what="the workers' end")

    done = embedmill(*words)

    assert below
    assert done.returncode == 0, done.stderr
    assert len(vectors_of(out)) == 400
    assert embedmill("verify", out).returncode == 0


def test_ctrl_c_leaves_a_job_that_can_be_resumed(tmp_path: Path) -> None:
    """SIGINT ends with exit code 3, no process behind, and the command that goes on."""
    manifest = write_jsonl(tmp_path / "rows.jsonl", texts(400))
    out, log = tmp_path / "out", tmp_path / "log"
    words = ("run", manifest, "--model", "hash", "--out", out, "--shard-seconds", "0.1")
    with started(*words, env={"EMBEDMILL_HASH_DELAY_MS": "5"}, log=log) as process:
        wait_for(lambda: list(out.glob("data/*/*")), timeout_s=60, what="the first shard")
        below = children(process.pid)
        process.send_signal(signal.SIGINT)
        code = process.wait(60)

    assert code == 3
    assert "to go on: " in log.read_text()
    assert "Traceback" not in log.read_text()
    assert not any(alive(pid) for pid in below)
    assert embedmill(*words).returncode == 0
    assert len(vectors_of(out)) == 400


def test_the_main_process_of_a_worker_never_imports_torch(tmp_path: Path) -> None:
    """A model that is loaded before the child starts deadlocks it: the parent must not know torch at all."""
    manifest = write_jsonl(tmp_path / "rows.jsonl", texts(200))
    out = tmp_path / "out"
    words = ("run", manifest, "--model", "minilm", "--out", out, "--workers", "1", "--shard-seconds", "0.3")
    with started(*words) as process:
        wait_for(lambda: list(out.glob("data/*/*")), timeout_s=120, what="the first shard")
        main, *children_of_main = worker_pids(process.pid)

        with_torch = [pid for pid in (main, *children_of_main) if "libtorch" in Path(f"/proc/{pid}/maps").read_text()]

    assert main not in with_torch
    assert len(with_torch) == 1


def test_the_password_of_the_server_is_in_no_command_line(tmp_path: Path) -> None:
    """Arguments are everyone's to read: the broker's password is handed on in files and environments."""
    manifest = write_jsonl(tmp_path / "rows.jsonl", texts(200))
    out = tmp_path / "out"
    words = ("run", manifest, "--model", "hash", "--out", out, "--shard-seconds", "0.1")
    with started(*words, env={"EMBEDMILL_HASH_DELAY_MS": "5"}) as process:
        wait_for(lambda: list(out.glob("data/*/*")), timeout_s=60, what="the first shard")
        server = server_pids(process.pid)[0]
        pids = [process.pid, server, *worker_pids(process.pid)]
        lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids]
        password = _password(process.pid)

    assert password
    assert not any(password.encode() in line for line in lines)


def _password(run: int) -> str:
    environ = Path(f"/proc/{worker_pids(run)[0]}/environ").read_bytes().split(b"\0")
    url = next(line for line in environ if line.startswith(b"EMBEDMILL_BROKER_URL=")).decode()
    return url.partition("://:")[2].partition("@")[0]


def test_wrong_words_get_one_clear_line(tmp_path: Path) -> None:
    """A missing manifest, an unknown model, a folder without a job: exit 2, one line, no traceback."""
    manifest = write_jsonl(tmp_path / "rows.jsonl", texts(3))
    wrong = [
        ("run", tmp_path / "none.jsonl", "--model", "hash", "--out", tmp_path / "o"),
        ("run", manifest, "--model", "no-such-model", "--out", tmp_path / "o"),
        ("run", manifest, "--model", "org/name", "--out", tmp_path / "o"),
        ("status", tmp_path / "o"),
        ("verify", tmp_path / "o"),
        ("worker", "--root", tmp_path, "--broker-url", "redis://10.0.0.1:6379/0"),
        ("submit", manifest, "--model", "hash", "--out", tmp_path / "o", "--broker-url", "redis://127.0.0.1:1/0"),
    ]

    for words in wrong:
        done = embedmill(*words)

        assert done.returncode == 2, words
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert done.stderr.startswith("embedmill: ")


def test_the_plan_is_the_same_twice(tmp_path: Path) -> None:
    """Planning is a function of manifest and arguments."""
    manifest = write_jsonl(tmp_path / "rows.jsonl", texts(500))

    digests = []
    for name in ("one", "two"):
        embedmill("plan", manifest, "--model", "hash", "--out", tmp_path / name)
        digests.append(open_job(LocalStore(tmp_path / name)).record.plan.digest)

    assert digests[0] == digests[1]


def test_verify_finds_a_flipped_bit(tmp_path: Path) -> None:
    """One bit changed in a published file, anywhere, is found."""
    manifest = write_jsonl(tmp_path / "rows.jsonl", texts(50))
    out = tmp_path / "out"
    embedmill("run", manifest, "--model", "hash", "--out", out)
    victim = next((out / "data").rglob("*.parquet"))
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)

    found = embedmill("verify", out)

    assert found.returncode == 1
    assert victim.name in found.stdout


def test_what_a_killed_run_left_is_swept(tmp_path: Path) -> None:
    """The private folder of a killed run goes when the next one starts; that of a live one stays."""
    manifest = write_jsonl(tmp_path / "rows.jsonl", texts(200))
    slow = {"EMBEDMILL_HASH_DELAY_MS": "50", "TMPDIR": str(tmp_path)}
    left = tmp_path / "embedmill-run-killed"
    left.mkdir()
    (left / "lock").touch()

    with started("run", manifest, "--model", "hash", "--out", tmp_path / "one", env=slow):
        wait_for(lambda: live_folders(tmp_path), timeout_s=30, what="the first run")
        live = live_folders(tmp_path)[0]
        embedmill("run", manifest, "--model", "hash", "--out", tmp_path / "two", env={"TMPDIR": str(tmp_path)})

        assert not left.exists()
        assert live.exists()


def live_folders(temporary: Path) -> list[Path]:
    return [folder for folder in temporary.glob("embedmill-run-*") if folder.name != "embedmill-run-killed"]


def test_sigterm_while_planning_ends_with_one_line(tmp_path: Path) -> None:
    """Nothing is published yet: exit code 3, no traceback, and no temporary plan left behind."""
    manifest = write_jsonl(tmp_path / "rows.jsonl", texts(300_000, longest=3))
    log, env = tmp_path / "log", {"TMPDIR": str(tmp_path)}
    with started("plan", manifest, "--model", "hash", "--out", tmp_path / "out", env=env, log=log) as process:
        wait_for(lambda: list(tmp_path.glob("embedmill-plan-*")), timeout_s=30, what="the plan to begin")
        process.send_signal(signal.SIGTERM)
        code = process.wait(30)

    assert code == 3
    assert "Traceback" not in log.read_text()
    assert list(tmp_path.glob("embedmill-plan-*")) == []
