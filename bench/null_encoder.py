"""What all but the model costs: `python -m bench.null_encoder 1000000` embeds short texts with the model `hash`.

From manifest to published Parquet by `embedmill run`, whole process; rows a second, and where its workers' time went.
With `--broker` the Redis is ours, and what it was asked for each shard is counted too.
"""

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

from bench.plan_rows import in_child, write_manifest
from producer.broker import EmbeddedBroker
from schemas.queues import CLIENT_OPTIONS, client_url

_RUN = "from producer.cli import app; app()"


def main() -> None:
    """Write a manifest, embed it, and print one line of JSON."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("rows", type=int, help="rows of the manifest")
    arguments.add_argument("--workers", type=int, default=2, help="worker processes")
    arguments.add_argument("--shard-seconds", type=float, default=0.0, help="as of `run`; default: its default")
    arguments.add_argument("--broker", action="store_true", help="count the commands of Redis")
    arguments.add_argument(
        "--folder", default=None, help="where manifest and job are written; default: the temp folder"
    )
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="embedmill-bench-", dir=given.folder) as name, _broker(given.broker) as url:
        manifest = Path(name) / "rows.jsonl"
        in_child(write_manifest, manifest, given.rows, 1)
        command = [sys.executable, "-c", _RUN, "run", str(manifest), "--model", "hash", "--out", f"{name}/job"]
        command += ["--workers", str(given.workers), "--json", *(["--broker-url", url] if url else [])]
        command += ["--shard-seconds", str(given.shard_seconds)] if given.shard_seconds else []
        began = time.perf_counter()
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        seconds = time.perf_counter() - began
        if done.returncode:
            raise SystemExit(done.stderr)
        told = _told(json.loads(done.stdout), seconds) | _counted(url)
        sys.stdout.write(json.dumps(told) + "\n")


def _told(summary: dict[str, Any], seconds: float) -> dict[str, Any]:
    whole = summary["receipt"]["total"]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "rows": summary["rows_ok"],
        "shards": summary["shards"],
        "seconds": round(seconds, 1),
        "rows_per_s": round(summary["rows_ok"] / seconds),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "active_s": whole["active_s"],
        "rows_per_s_of_workers": round(whole["rows"] / whole["active_s"]),
        "worker_ms_a_shard": {step: round(1000 * s / summary["shards"], 1) for step, s in whole["seconds"].items()},
    }


@contextlib.contextmanager
def _broker(wanted: bool) -> Iterator[str]:
    if not wanted:
        yield ""
        return
    with EmbeddedBroker() as broker:
        yield broker.url


def _counted(url: str) -> dict[str, Any]:
    """Commands by name, those that came most often first."""
    if not url:
        return {}
    client: Any = redis.Redis.from_url(client_url(url), **CLIENT_OPTIONS)
    calls = {name.removeprefix("cmdstat_"): told["calls"] for name, told in client.info("commandstats").items()}
    return {"all_commands": sum(calls.values()), "commands": dict(sorted(calls.items(), key=lambda item: -item[1]))}


if __name__ == "__main__":
    main()
