"""An object store that loses replies, refuses, breaks bodies off, or does not keep its promise."""

import io
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from schemas.errors import StoreError
from schemas.shard import FOOTER_KEY, Footer
from storage.jobs import Job, add_round
from storage.model_files import resolve_model
from storage.shards import Published, ShardOutput, publish, published_shards, read_failures, read_shard
from storage.store import Store, open_store, require_create_only
from tests.inline import InlineMill
from tests.jobs import planned_job, text_rows
from tests.mill import embedmill, write_jsonl
from tests.publisher import expected_rows, output_of
from tests.s3_proxy import Fault, S3Proxy
from tests.servers import s3_server

LOST = 100
AT_ONCE = 4


@pytest.fixture(scope="module")
def proxy() -> Iterator[S3Proxy]:
    with s3_server() as server, S3Proxy(server) as between:
        yield between


@pytest.fixture
def store(proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A prefix of the test's own, reached through the proxy."""
    for name, value in proxy.server.environ().items():
        monkeypatch.setenv(name, value)
    proxy.choose = lambda method, key: Fault.NONE
    proxy.seen.clear()
    return open_store(f"s3://{proxy.server.bucket}/{uuid.uuid4().hex}")


class First:
    """Meets the first request of a method to each key that holds `part`; lets the others pass."""

    def __init__(self, fault: Fault, method: str, part: str, times: int = 1) -> None:
        self._fault, self._method, self._part, self._times = fault, method, part, times
        self.met: Counter[str] = Counter()

    def __call__(self, method: str, key: str) -> Fault:
        if method != self._method or self._part not in key or self.met[key] >= self._times:
            return Fault.NONE
        self.met[key] += 1
        return self._fault


@pytest.mark.parametrize("fault", [Fault.LOST_REPLY, Fault.ERROR_AFTER], ids=["cut", "500"])
def test_a_lost_reply_is_recognised(proxy: S3Proxy, store: Store, fault: Fault) -> None:
    """Carried out, and not answered: each attempt finds its own commit, writes once, deletes nothing."""
    proxy.choose = choose = First(fault, "PUT", "/data/")

    with ThreadPoolExecutor(AT_ONCE) as pool:
        outcomes = list(pool.map(lambda n: publish(store, _without_failures(_attempt(n)))[0], range(LOST // 2)))

    print(f"{sum(choose.met.values())} of {LOST // 2} replies lost ({fault.name})")
    assert outcomes == [Published.WON] * (LOST // 2)
    assert len(choose.met) == LOST // 2
    assert len(proxy.stored("PUT", "/data/")) == LOST // 2
    assert not [seen for seen in proxy.seen if seen.method == "DELETE"]
    attempts = {shard: _attempt_in(store.get(key)) for shard, key, _ in published_shards(store)}
    assert attempts == {n: _attempt(n).footer.attempt for n in range(LOST // 2)}


@pytest.mark.parametrize("fault", [Fault.SLOW_DOWN, Fault.CONFLICT])
def test_a_refusal_that_passes_is_waited_for(proxy: S3Proxy, store: Store, fault: Fault) -> None:
    """503 and 409, three times in a row: nothing was written yet, and the fourth is the commit."""
    proxy.choose = First(fault, "PUT", "/data/", times=3)

    outcome, _ = publish(store, _attempt(1))

    assert outcome is Published.WON
    assert len(proxy.stored("PUT", "/data/")) == 1


@pytest.mark.parametrize("fault", [Fault.NONE, Fault.LOST_REPLY, Fault.ERROR_AFTER])
def test_another_writers_shard_is_not_ours(proxy: S3Proxy, store: Store, fault: Fault) -> None:
    """412 for what another attempt wrote: ours is lost, its failures go, and not a byte of the other's is touched."""
    publish(store, _attempt(1))
    key = "data/modality=text/part-000001.parquet"
    before = store.get(key)
    proxy.choose = First(fault, "PUT", "/data/")
    ours = output_of("f" * 16, shard=1)

    outcome, _ = publish(store, ours)

    assert outcome is Published.LOST
    assert store.get(key) == before
    assert read_failures(store, 1, _attempt(1).footer.attempt).num_rows == 1
    assert read_failures(store, 1, ours.footer.attempt).num_rows == 0


def test_a_body_that_breaks_off_once_is_read_again(proxy: S3Proxy, store: Store) -> None:
    """Half of a published shard never counts for the whole."""
    publish(store, _attempt(1))
    proxy.choose = choose = First(Fault.CUT_BODY, "GET", "/data/", times=1)

    _, ids, _, _ = read_shard(store, "data/modality=text/part-000001.parquet")

    assert ids == list(expected_rows())
    assert sum(choose.met.values()) == 1


def test_rows_that_break_off_are_never_committed(proxy: S3Proxy, store: Store) -> None:
    """A plan of which only half can be read is an error of the store; read whole again, its shard is published."""
    digest = resolve_model("hash").card.digest
    mill = InlineMill(planned_job(store, [text_rows(20)], model_digest=digest))
    proxy.choose = lambda method, key: Fault.CUT_BODY if method == "GET" and "/rows-" in key else Fault.NONE

    with pytest.raises(StoreError):
        mill.work(mill.message(0))
    seen = list(published_shards(store))
    proxy.choose = lambda method, key: Fault.NONE
    outcome = mill.work(mill.message(0))

    assert seen == []
    assert outcome == "published"


def test_a_store_without_create_only_is_refused(proxy: S3Proxy, store: Store, tmp_path: Path) -> None:
    """A server that does not know If-None-Match: the job does not begin, exit code 2, and says why."""
    proxy.choose = lambda method, key: Fault.UNCONDITIONAL
    manifest = write_jsonl(tmp_path / "rows.jsonl", [{"id": "a", "text": "a"}])

    done = embedmill("run", manifest, "--model", "hash", "--out", f"{store.url}/out")

    assert done.returncode == 2
    assert "use a store with conditional writes (If-None-Match)" in done.stderr
    assert proxy.stored("PUT", "job.json") == []


@pytest.mark.parametrize("fault", [Fault.LOST_REPLY, Fault.ERROR_AFTER, Fault.SLOW_DOWN, Fault.CONFLICT])
def test_a_good_store_is_not_refused_for_a_lost_reply(proxy: S3Proxy, store: Store, fault: Fault) -> None:
    """The probe's own key, found there already, is the probe's."""
    proxy.choose = choose = First(fault, "PUT", ".probe")

    require_create_only(store)

    assert sum(choose.met.values()) == 1


@pytest.mark.parametrize("fault", [Fault.LOST_REPLY, Fault.ERROR_AFTER])
def test_a_job_and_a_retry_are_recognised_as_our_own(proxy: S3Proxy, store: Store, fault: Fault) -> None:
    """Pinned, and the reply lost: it is the same job, and no other retry's number."""
    proxy.choose = choose = First(fault, "PUT", ".json")

    job = planned_job(store, [text_rows(3)])
    add_round(Job(store, job.record), replace(job.record.plan, round=1, first_shard=1))

    assert [plan.round for plan in job.rounds()] == [0, 1]
    assert len(choose.met) == 2


def _attempt(shard: int) -> ShardOutput:
    """The attempt that shard is named by."""
    return output_of(f"{shard:016x}", shard=shard)


def _without_failures(output: ShardOutput) -> ShardOutput:
    return replace(output, failures=output.failures.slice(0, 0))


def _attempt_in(data: bytes) -> str:
    """The attempt that a published file names."""
    return Footer.from_json(pq.read_metadata(io.BytesIO(data)).metadata[FOOTER_KEY]).attempt
