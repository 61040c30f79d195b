"""Whoever can write to a queue can make a worker do shards, and nothing else: what else a message says is not heard."""

import base64
import bz2
import json
import pickle
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from producer.broker import EmbeddedBroker
from schemas.message import ShardMessage
from schemas.queues import PREFIX, depth_key
from storage.jobs import Job
from tests.floor import QUEUE, Floor, hash_job, main_of, worker
from tests.mill import children
from tests.servers import redis_server, wait_for

Envelope = dict[str, Any]  # as JSON

KEY = "k" * 32
CALLED: Envelope = {
    "task": "embed.text",
    "args": [],
    "kwargs": {},
    "options": {"queue": "theirs"},
    "subtask_type": None,
}
PLAIN_EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


class Touch:
    """Touches a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> tuple[object, ...]:
        return (open, (self._path, "w"))


class Forger:
    """Messages as they lie on the queue, each wrong in one thing."""

    def __init__(self, job: Job, touched: Path) -> None:
        self._job, self._touched, self._sent = job, touched, 0

    def kwargs(self, shard: int) -> dict[str, Any]:
        return ShardMessage(job=self._job.id, shard=shard, plan=self._job.record.plan.digest).to_kwargs(KEY)

    def envelope(
        self, shard: int = 0, *, embed: object = PLAIN_EMBED, args: object = (), **headers: object
    ) -> Envelope:
        """A message whose MAC is right, for a shard that nobody has done."""
        self._sent += 1
        id_ = f"{self._job.id}.{shard}.{self._sent}"
        plain = {"lang": "py", "task": "embed.text", "id": id_, "root_id": id_, "retries": 0, "ignore_result": True}
        body = json.dumps([args, self.kwargs(shard), embed])
        return self.carrying(body.encode(), {**plain, **headers})

    def carrying(self, body: bytes, headers: object, *, kind: str = "application/json", **more: object) -> Envelope:
        self._sent += 1
        delivery = {"exchange": "", "routing_key": QUEUE}
        properties = {"delivery_tag": f"tag-{self._sent}", "delivery_mode": 2, "delivery_info": delivery, "priority": 0}
        properties |= {"body_encoding": "base64", "correlation_id": "c", "reply_to": ""}
        told = {"content-type": kind, "content-encoding": "utf-8", "headers": headers, "properties": properties}
        return {"body": base64.b64encode(body).decode(), **told, **more}

    def all(self) -> dict[str, str | Envelope]:
        """By what is wrong with each."""
        headers = self.envelope()["headers"]
        well = json.dumps([[], self.kwargs(0), PLAIN_EMBED]).encode()
        bomb = zlib.compress(b" " * 2**28, 9)
        opened = pickle.dumps(Touch(self._touched))
        yaml = f"!!python/object/apply:builtins.open ['{self._touched}', 'w']".encode()
        deep = b"[" * 100_000 + b"]" * 100_000
        no_tag = self.envelope()
        del no_tag["properties"]["delivery_tag"]
        return {
            "no JSON": "{",
            "JSON of no message": "[1, 2, 3]",
            "nothing": "null",
            "no properties": json.dumps({"body": "x"}),
            "no delivery tag": no_tag,
            "a body that is no base64": {**self.envelope(), "body": "§"},
            "an encoding of the body that nobody knows": self._with_properties(body_encoding="rot13"),
            "pickle": self.carrying(opened, headers, kind="application/x-python-serialize"),
            "pickle that is said to be JSON": self.carrying(opened, headers),
            "YAML": self.carrying(yaml, headers, kind="application/x-yaml"),
            "msgpack": self.carrying(b"\x93\x90\x80\x80", headers, kind="application/x-msgpack"),
            "no type at all": self.carrying(well, headers, kind=""),
            "a bomb of zlib": self.carrying(bomb, {**headers, "compression": "application/x-gzip"}),
            "a bomb of bz2": self.carrying(bz2.compress(b" " * 2**28), {**headers, "compression": "bzip2"}),
            "100,000 brackets": self.carrying(deep, headers),
            "10 MiB": self.carrying(well[:-1] + b" " * 10 * 2**20 + b"]", headers),
            "a callback to another queue": self.envelope(embed={**PLAIN_EMBED, "callbacks": [CALLED]}),
            "an errback": self.envelope(embed={**PLAIN_EMBED, "errbacks": [CALLED]}),
            "a chain": self.envelope(embed={**PLAIN_EMBED, "chain": [CALLED]}),
            "a chord": self.envelope(embed={**PLAIN_EMBED, "chord": CALLED}),
            "a task of Celery's that runs others": self.carrying(
                json.dumps([[CALLED, [{}]], {}, PLAIN_EMBED]).encode(), {**headers, "task": "celery.map"}
            ),
            "a group of Celery's": self.carrying(
                json.dumps([[[CALLED], "r", "g", []], {}, PLAIN_EMBED]).encode(), {**headers, "task": "celery.group"}
            ),
            "a task that nobody has": self.envelope(task="os.system"),
            "a task that is a list": self.envelope(task=["embed.text"]),
            "headers that are a list": self.carrying(well, ["task", "embed.text"]),
            "an id that is a dict": self.envelope(id={"a": 1}),
            "an id of 1 MB": self.envelope(id="x" * 10**6),
            "an id that is a path": self.envelope(id="../../etc/passwd"),
            "a time in the year 9999": self.envelope(eta="9999-12-31T23:59:59"),
            "a time that is none": self.envelope(eta={"when": "now"}),
            "an end that is none": self.envelope(expires=[1]),
            "limits of time that kill": self.envelope(timelimit=[0.001, 0.001]),
            "limits of time that are none": self.envelope(timelimit="abc"),
            "a name of its own": self.envelope(shadow="<script>alert(1)</script>"),
            "stamps": self.envelope(stamps={"a": "b"}, stamped_headers=["a"]),
            "a group that it is one of": self.envelope(group="g", group_index=0),
            "arguments by position": self.envelope(args=["x"]),
            "NaN for a shard": self.carrying(well.replace(b'"shard": 0', b'"shard": NaN'), headers),
            "a shard twice": self.carrying(well.replace(b'"shard": 0', b'"shard": 0, "shard": 1'), headers),
            "Celery's first protocol": self.carrying(
                json.dumps({"task": "embed.text", "id": "a", "kwargs": self.kwargs(0), "callbacks": [CALLED]}).encode(),
                {},
            ),
        }

    def _with_properties(self, **more: object) -> Envelope:
        envelope = self.envelope()
        return {**envelope, "properties": {**envelope["properties"], **more}}


@pytest.fixture(scope="module")
def broker() -> Iterator[EmbeddedBroker]:
    with redis_server() as server:
        yield server


def memory_peak(pid: int) -> int:
    """Bytes that a process had in memory at most."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def test_40_hostile_messages_have_no_effect(broker: EmbeddedBroker, tmp_path: Path) -> None:
    """After each the same two processes do the next shard; no file, no message elsewhere, no memory filled, no code."""
    touched, log = tmp_path / "touched", tmp_path / "log"
    job = hash_job(tmp_path / "job", [1] * 60)
    floor, forger = Floor(job, broker.url), Forger(job, touched)
    key = depth_key(QUEUE)
    forged = forger.all()
    with worker(broker.url, tmp_path, env={"EMBEDMILL_MESSAGE_KEY": KEY}, log=log) as supervisor:
        floor.wait_for_workers(1)
        main = main_of(supervisor.pid)
        processes = [main, *children(main)]
        for at, (name, message) in enumerate(forged.items(), start=10):
            told = [message if isinstance(message, str) else json.dumps(message), json.dumps(forger.envelope(at))]
            for line in told:
                floor.client.lpush(key, line)
            wait_for(lambda at=at: at in floor.published(), timeout_s=20, what=f"a shard after {name}")
            assert [main_of(supervisor.pid), *children(main)] == processes, name
        peak = memory_peak(main)

    assert floor.published() == set(range(10, 10 + len(forged)))
    assert len(forged) == 40
    assert not touched.exists()
    assert not floor.client.exists(f"{PREFIX}theirs", f"{PREFIX}unacked")
    assert peak < 250 * 2**20
    assert KEY not in log.read_text()
