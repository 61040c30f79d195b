"""Whatever bytes come: each parser takes them, or refuses them in a line of its own; `python -m tests.fuzz` goes on."""

import json
import logging
import math
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.errors import EmbedmillError
from schemas.failures import one_line
from schemas.sealed import SEAL, sealed
from tests.fuzz.targets import Target, targets

TARGETS = targets()
EXAMPLES = int(os.environ.get("EMBEDMILL_TEST_FUZZ", "40"))
_DEEP = "[" * 3000 + "]" * 3000
_LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
    | st.sampled_from([math.inf, -math.inf, math.nan, 10**400, "\ud800", "../..", "\n", "\0", "{}"])
)  # fmt: skip
VALUES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def noise(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """Bytes, a sound one with some of its bytes changed or left out, or brackets without end."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(st.binary(max_size=60))
    if kind == 1:
        return draw(st.sampled_from([_DEEP.encode(), b'{"a":' * 3000, b"", b"null", b"[]", b"{}", b"1e999", b"NaN"]))
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(data)


@st.composite
def altered(draw: st.DrawFn, seed: dict[str, Any]) -> dict[str, Any]:
    """A sound object in which one value, at any depth, is another one, or gone."""
    copy: dict[str, Any] = json.loads(json.dumps(seed))
    place: Any = copy
    key = draw(st.sampled_from(sorted(place)))
    while isinstance(place[key], dict) and place[key] and draw(st.booleans()):
        place = place[key]
        key = draw(st.sampled_from(sorted(place)))
    if draw(st.integers(0, 4)) == 0:
        del place[key]
    else:
        place[key] = draw(VALUES)
    return copy


def objects(target: Target) -> st.SearchStrategy[bytes]:
    """The target's seeds that are JSON objects, altered; sealed again where they are sealed."""
    found = [json.loads(seed) for seed in target.seeds if seed[:1] == b"{"]
    plain = [{name: value for name, value in content.items() if name != SEAL} for content in found]
    changed = st.one_of([altered(content) for content in plain])
    return changed.map(sealed if target.is_sealed else lambda content: json.dumps(content).encode())


def inputs(target: Target) -> st.SearchStrategy[bytes]:
    is_json = any(seed[:1] == b"{" and seed.count(b'"id"') < 2 for seed in target.seeds)
    return noise(target.seeds) | objects(target) if is_json else noise(target.seeds)


def refusal(target: Target, data: bytes) -> str:
    """What embedmill says of `data`; "" where it is taken, or is no more than a hint."""
    try:
        target.parse(data)
    except target.refused as err:
        return str(err)[:500] if isinstance(err, EmbedmillError) else ""
    return ""


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_are_taken_or_refused(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing but what the parser says that it raises, and an error of embedmill's own is one line."""
    target = TARGETS[name]
    caplog.set_level(logging.CRITICAL)

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(inputs(target))
    def each(data: bytes) -> None:
        said = refusal(target, data)
        assert target.is_own_words or said == one_line(said)

    each()


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_what_the_parsers_read(name: str) -> None:
    """Else their neighbours would tell nothing."""
    unread = {"join.json", "dedup.json", "panel", "estimate", "cards", "uri", "location", "broker", "receipt"}
    for seed in TARGETS[name].seeds if name not in unread else ():
        TARGETS[name].parse(seed)
