"""The parsers: what each reads, what of it is sound, and what each may raise for the rest."""

import contextlib
import gzip
import io
import json
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from producer.broker import require_safe
from producer.error_limit import ErrorLimit
from producer.estimate import Estimate
from producer.manifest import open_manifest
from producer.pair_manifest import open_pairs, pair_columns
from producer.parsing import RowParser
from producer.receipt import read_receipt
from producer.records import Record
from producer.spending import SpendLimit
from schemas.dedup import DedupRecord
from schemas.errors import EmbedmillError
from schemas.failures import Reject, one_line
from schemas.job import JobRecord, KeptColumn, plan_from_json, plan_to_json
from schemas.join import JoinRecord, PanelFooter
from schemas.message import ShardMessage
from schemas.parsed_json import parsed_json
from schemas.presence import WorkerPresence
from schemas.rates import Rates
from schemas.sealed import sealed
from schemas.settings import ENVIRON, Settings
from schemas.shard import FOOTER_KEY, Footer, ShardReport
from similarity.record_files import find_files
from storage.memory_file import MemoryFile
from storage.model_catalog import read_cards
from storage.parquet import vector_file, vectors_to_arrow
from storage.ranges import Ranges
from storage.shards import footer_of, unpack
from storage.store import canonical_location, memory_store
from tests.jobs import planned_job, text_rows
from workers.archive import read_index
from workers.decoder_reply import NotBelieved, Reply, films_of, image_of, sound_of
from workers.fetch import Fetcher, FetchRules, gunzip
from workers.fetch_failure import shown_uri
from workers.gate import fault_of
from workers.http_url import parse_http_url

#: What a parser of hints on Redis may raise: whoever reads hints passes over them.
HINTS = (ValueError, TypeError, LookupError)


@dataclass(frozen=True)
class Target:
    """One parser."""

    parse: Callable[[bytes], object]
    seeds: tuple[bytes, ...]  # sound ones
    refused: tuple[type[Exception], ...] = (EmbedmillError,)  # what it may raise
    is_own_words: bool = False  # a user's own: the command line makes messages with them safe to print
    is_sealed: bool = False  # JSON with a seal, which a careful forger makes good again


def targets() -> dict[str, Target]:
    """All of them, by name."""
    return {**_of_messages(), **_of_jobs(), **_of_manifests(), **_of_places(), **_of_media(), **_of_machines()}


def _of_messages() -> dict[str, Target]:
    kwargs = ShardMessage(job="job-12345678", shard=3, plan="f" * 64).to_kwargs("k" * 24)
    body = json.dumps([[], kwargs, {"callbacks": None}]).encode()
    report = ShardReport(shard=1, plan="f", outcome="published", worker="w", seconds={"read": 1.0}).to_json().encode()
    presence = WorkerPresence(name="w", host="h", pid=1, device="cpu", queues=("a",)).to_json().encode()
    return {
        "message": Target(_message, (json.dumps(kwargs).encode(),), (EmbedmillError, ValueError)),
        "gate": Target(_gate, (body,), ()),
        "report": Target(ShardReport.from_json, (report,), HINTS),
        "presence": Target(WorkerPresence.from_json, (presence,), (*HINTS, AttributeError)),
    }


def _message(data: bytes) -> object:
    told = parsed_json(data)  # Celery's part
    return ShardMessage.from_kwargs(told, "k" * 24) if isinstance(told, dict) else None


def _gate(data: bytes) -> object:
    headers = {"task": "embed.text", "id": "a"}
    message = SimpleNamespace(content_type="application/json", content_encoding="utf-8", headers=headers, body=data)
    return fault_of(message, {"embed.text"})


def _of_jobs() -> dict[str, Target]:
    job = planned_job(memory_store(), [text_rows(3)])
    record, footer = job.record, Footer(
        job=job.id, plan="f" * 64, shard=0, attempt="a" * 16, space="s", modality="text", model="hash", rows_planned=3,
        rows_ok=3, vectors=3, failures={}, content_sha256="0" * 64, worker="w", versions={},
    )  # fmt: skip
    ranges = Ranges(np.zeros(2, np.float32), np.ones(2, np.float32))
    receipt = sealed({"kind": "embedmill receipt", "v": 1, "job": "j", "files": [], "plans": []})
    return {
        "job.json": Target(JobRecord.from_json, (record.to_json(),), is_sealed=True),
        "retry.json": Target(plan_from_json, (plan_to_json(record.plan),), is_sealed=True),
        "ranges": Target(Ranges.from_json, (ranges.to_json(),), is_sealed=True),
        "join.json": Target(JoinRecord.from_json, (sealed({"v": 1, "id": "j", "spec": {}}),), is_sealed=True),
        "dedup.json": Target(DedupRecord.from_json, (sealed({"v": 1, "id": "j", "spec": {}}),), is_sealed=True),
        "receipt": Target(partial(_from_file, "receipt.json", read_receipt), (receipt,), is_sealed=True),
        "submitted": Target(_submitted, (ErrorLimit().to_json(spend_limit=SpendLimit().to_dict()),), ()),
        "estimate": Target(lambda data: Estimate.from_dict(parsed_json(data)), (b'{"queues": []}',), HINTS),
        "footer": Target(_footer, (footer.to_json(),)),
        "shard": Target(lambda data: unpack(data, "data/modality=text/part-000000.parquet"), (_shard(footer),)),
        "panel": Target(PanelFooter.from_json, (b'{"join": "j", "forced": []}',), (ValueError, LookupError)),
    }


def _shard(footer: Footer) -> bytes:
    vectors = vectors_to_arrow(np.ones((3, 4), np.float32))
    fields = [pa.field("id", pa.string(), nullable=False), pa.field("embedding", vectors.type, nullable=False)]
    table = pa.table([pa.array(["a", "b", "c"]), vectors], schema=pa.schema(fields))
    return vector_file(table, dim=4, metadata={FOOTER_KEY: footer.to_json()})


def _footer(data: bytes) -> object:
    """A file of ours whose footer says anything."""
    store, sink = memory_store(), io.BytesIO()
    pq.write_table(pa.table({"id": ["a"]}).replace_schema_metadata({FOOTER_KEY: data}), sink)
    store.create("part", sink.getvalue())
    return footer_of(store, "part")


def _submitted(data: bytes) -> object:
    return ErrorLimit.from_json(data), SpendLimit.from_json(data)


def _of_manifests() -> dict[str, Target]:
    rows = [{"id": "a", "text": "b", "n": 1}, {"id": "c", "uri": "d.png", "parts": [{"text": "x"}]}]
    jsonl = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    table = b'id,text,n\na,"b ""c""",1\nd,"e\nf",2\n'
    pairs = b'{"query_id": "a", "item_id": "b", "score": 0.5}\n'
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{"id": "a", "text": "b", "n": 1}]), sink)
    texts = {"jsonl": jsonl, "csv": table, "tsv": table.replace(b",", b"\t")}
    found = {ending: Target(partial(_rows, ending), (seed, gzip.compress(seed))) for ending, seed in texts.items()}
    return found | {
        "parquet": Target(partial(_rows, "parquet"), (sink.getvalue(),)),
        "tar": Target(partial(_rows, "tar"), (_tar(),)),
        "pairs": Target(partial(_pairs, "jsonl"), (pairs,)),
        "pairs.csv": Target(partial(_pairs, "csv"), (b"query_id,item_id\na,b\n",)),
        "records": Target(partial(_records, "jsonl"), (pairs,)),
        "records.csv": Target(partial(_records, "csv"), (b"query_id,item_id\na,b\n",)),
    }


def _tar() -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in (("a.txt", b"text"), ("a.json", b'{"n": 1}'), (f"{'b' * 120}.png", b"png")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return sink.getvalue()


@contextlib.contextmanager
def _as_file(name: str, data: bytes) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        yield str(path)


def _from_file(name: str, read: Callable[[str], object], data: bytes) -> object:
    with _as_file(name, data) as path:
        return read(path)


def _rows(ending: str, data: bytes) -> None:
    """Each record becomes a row or a reject whose message is one line."""
    parser = RowParser(keep=[KeptColumn(name="n", type="int64")])
    with _as_file(f"any.{ending}", data) as path:
        for line, record in open_manifest(path).records():
            found: object = record if isinstance(record, Reject) else parser.parse(line, _record(record))
            if isinstance(found, Reject):
                assert found.message == one_line(found.message)


def _record(record: Record) -> Record:
    return record


def _pairs(ending: str, data: bytes) -> None:
    with _as_file(f"any.{ending}", data) as path:
        pairs = open_pairs(path)
        list(pairs.records(pair_columns(pairs)))


def _records(ending: str, data: bytes) -> None:
    with _as_file(f"any.{ending}", data) as path:
        for file in find_files(path):
            list(file.records())


def _of_places() -> dict[str, Target]:
    uris = (b"https://host/a?b#c", b"s3://bucket/key", b"a.tar::b", b"../a", b"data:x,y", b"[::1]", b"a\xff")
    brokers = (b"redis://:p@host:6379/0", b"redis+socket:///a?virtual_host=0", b"rediss://u:p@[::1]:1/2")
    return {
        "uri": Target(_uri, uris, ()),
        "location": Target(
            lambda data: canonical_location(_text(data)), (b"s3://b/k", b"/a/../b", b"~x"), is_own_words=True
        ),
        "broker": Target(lambda data: require_safe(_text(data)), brokers, is_own_words=True),
    }


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape").replace("\0", "")  # arguments have no NUL


def _uri(data: bytes) -> None:
    """Nothing that a uri may be raises, touches the network, or is shown in more than a line."""
    uri = data.decode("utf-8", "surrogatepass") if _decodes(data) else data.decode("latin-1")
    shown = one_line(shown_uri(uri))
    assert shown.isprintable()
    url = parse_http_url(uri)
    if isinstance(url, tuple):
        Fetcher(FetchRules(base="/nowhere", roots=("/nowhere",))).fetch(uri)


def _decodes(data: bytes) -> bool:
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


def _of_media() -> dict[str, Target]:
    reply = json.dumps({"arrays": [{"shape": [2, 2, 3], "dtype": "uint8"}]}).encode()
    failure = json.dumps({"arrays": [], "failure": {"code": "no_stream", "message": "m"}}).encode()
    return {
        "archive": Target(_archive, (_tar(),), ()),
        "gzip": Target(lambda data: gunzip(data, 10_000), (gzip.compress(b"a" * 100),), ()),
        "decoder": Target(_reply, (reply, failure), (NotBelieved,)),
    }


def _archive(data: bytes) -> None:
    index = read_index(lambda at, length: data[at : at + length], len(data), 1, 512)
    index.find("a.txt", 1000)


def _reply(data: bytes) -> None:
    for kind, made in (("image", image_of), ("sound", partial(sound_of, rate=8000)), ("film", films_of)):
        with contextlib.suppress(NotBelieved):
            reply = Reply.parse(data, kind, 10_000)
            if reply.failure is None:
                made(reply, [np.zeros(array.shape, array.dtype) for array in reply.arrays])


def _of_machines() -> dict[str, Target]:
    cards = b'[[model]]\nname = "a"\nkind = "embed"\npath = "/nowhere"\n'
    rates = b'{"source": "bench", "points": {"text": [[1, 2]]}, "load_s": 1, "device": "cpu", "at": "x"}'
    environ = json.dumps(dict(Settings().to_environ())).encode()
    return {
        "settings": Target(_settings, (environ,)),
        "cards": Target(partial(_from_file, "cards.toml", lambda path: read_cards(Path(path))), (cards,)),
        "remembered": Target(_remembered, (b'{"v": 1, "entries": {"a": 1}}',), ()),
        "rates": Target(lambda data: Rates.from_dict(parsed_json(data)), (rates,), (*HINTS, AttributeError)),
    }


def _settings(data: bytes) -> object:
    """Any text in any variable."""
    try:
        told = parsed_json(data)
    except ValueError:
        told = {name: _text(data) for name in ENVIRON.values()}
    return Settings.from_environ({str(k): str(v) for k, v in told.items()} if isinstance(told, dict) else {})


def _remembered(data: bytes) -> object:
    with _as_file("budgets.json", data) as path:
        return MemoryFile(str(Path(path).parent), "budgets.json").entries()
