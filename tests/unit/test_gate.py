"""The gate: embedmill's own messages pass, and whatever differs from them in anything does not."""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import Refused
from schemas.message import ShardMessage
from workers.gate import fault_of

TASKS = {"embed.text"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KWARGS = ShardMessage(job="texts-01234567", shard=3, plan="f" * 64).to_kwargs("k" * 24)
HEADERS: dict[str, Any] = {
    "lang": "py", "task": "embed.text", "id": "texts-01234567.3.9", "root_id": "texts-01234567.3.9", "retries": 0,
    "timelimit": [None, None], "ignore_result": True, "eta": None, "expires": None, "stamps": {}, "argsrepr": "()",
}  # fmt: skip


BODY = json.dumps([[], KWARGS, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])


@dataclass
class Message:
    """A message as kombu hands it over."""

    body: Any = BODY
    headers: Any = field(default_factory=lambda: dict(HEADERS))
    content_type: Any = "application/json"
    content_encoding: Any = "utf-8"


def test_our_own_pass() -> None:
    """As the coordinator sends them, and as they come back from a process that died."""
    assert fault_of(Message(), TASKS) == ""
    assert fault_of(Message(body=BODY.encode(), headers={**HEADERS, "redelivered": True}), TASKS) == ""


@given(name=st.sampled_from([*HEADERS, "group", "shadow", "compression", "chord", "x"]), value=JSON)
def test_a_header_that_says_anything_else_does_not(name: str, value: Any) -> None:
    """Any value of any header: none raises, and those that mean something to Celery do not pass."""
    fault = fault_of(Message(headers={**HEADERS, name: value}), TASKS)

    meant = name not in ("id", "root_id", "argsrepr", "ignore_result")
    assert bool(fault) or not meant or value == HEADERS.get(name)


@given(
    body=st.binary(max_size=50)
    | JSON.map(json.dumps)
    | st.lists(JSON, min_size=3, max_size=3).map(json.dumps)
    | JSON.map(lambda value: json.dumps([[], {}, {"callbacks": value}])),
    kind=st.sampled_from(["application/json", "application/x-yaml", "", None, 3]),
    encoding=st.sampled_from(["utf-8", "binary", None, 3]),
    headers=st.just(HEADERS) | JSON,
)
def test_nothing_raises(body: Any, kind: Any, encoding: Any, headers: Any) -> None:
    """Whatever stands in a message: it passes, or it has a fault that can be said in a line."""
    message = Message(body=body, headers=headers, content_type=kind, content_encoding=encoding)

    fault = fault_of(message, TASKS)

    assert "\n" not in fault
    if not fault:
        args, kwargs, rest = json.loads(body)
        assert (args, type(kwargs), any(rest.values())) == ([], dict, False)


@pytest.mark.parametrize("size", [4096, 4097])
def test_a_long_body_is_not_parsed(size: int) -> None:
    """Ours have about 200 bytes."""
    padded = BODY[:-1].ljust(size - 1) + "]"

    assert bool(fault_of(Message(body=padded), TASKS)) is (size > 4096)


@pytest.mark.parametrize("key", ["", "k" * 24])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mac", "\ud800"), ("mac", None), ("plan", "\ud800" * 64), ("plan", " " * 64), ("plan", "F" * 64),
        ("job", "texts-01234567\n"), ("job", "../texts-01234567"), ("shard", True), ("v", "1"),
    ],
)  # fmt: skip
def test_whatever_else_a_message_says_is_refused_in_a_line(name: str, value: object, key: str) -> None:
    """What passes the gate is JSON, and that may hold half a letter: none of it ends in anything but a refusal."""
    told = {**KWARGS, name: value}
    assert ShardMessage.from_kwargs(KWARGS, key).shard == 3

    if name == "mac" and not key:
        assert ShardMessage.from_kwargs(told, key).shard == 3  # nobody looks at it
        return
    with pytest.raises(Refused, match="dropped"):
        ShardMessage.from_kwargs(told, key)
