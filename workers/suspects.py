"""Suspects: rows in whose middle a process died, and what became of those that were tried alone. All of it is hints:
a wipe costs at most one more death.
"""

import json
from collections import defaultdict
from collections.abc import Iterable
from typing import Protocol

import redis

from schemas.failures import Failure, FailureCode, Stage
from schemas.parsed_json import parsed_json
from schemas.queues import KEY_TTL_S, condemned_key, suspects_key


class SuspectBoard(Protocol):
    """Where suspects are kept; rows are indices in their shard."""

    def suspect(self, job: str, shard: int, rows: Iterable[int]) -> None:
        """Note that a process died while it worked on `rows`."""

    def suspects(self, job: str, shard: int) -> set[int]: ...

    def condemn(self, job: str, shard: int, row: int, failure: Failure) -> None:
        """Note that `row` was tried alone, and what came of it."""

    def condemned(self, job: str, shard: int) -> dict[int, Failure]: ...


class RedisSuspects:
    """Suspects on Redis; raises redis.RedisError when it cannot be reached."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def suspect(self, job: str, shard: int, rows: Iterable[int]) -> None:
        numbers = sorted(set(rows))
        if numbers:
            self._client.sadd(suspects_key(job, shard), *numbers)
            self._client.expire(suspects_key(job, shard), KEY_TTL_S)

    def suspects(self, job: str, shard: int) -> set[int]:
        return {int(row) for row in self._client.smembers(suspects_key(job, shard))}

    def condemn(self, job: str, shard: int, row: int, failure: Failure) -> None:
        told = json.dumps([failure.code, failure.stage, failure.message])
        self._client.hset(condemned_key(job, shard), str(row), told)
        self._client.expire(condemned_key(job, shard), KEY_TTL_S)

    def condemned(self, job: str, shard: int) -> dict[int, Failure]:
        return {int(row): _failure(str(told)) for row, told in self._client.hgetall(condemned_key(job, shard)).items()}


class MemorySuspects:
    """Suspects in this process, for tests; held to RedisSuspects by tests/contract."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, int], set[int]] = defaultdict(set)
        self._condemned: dict[tuple[str, int], dict[int, Failure]] = defaultdict(dict)

    def suspect(self, job: str, shard: int, rows: Iterable[int]) -> None:
        self._rows[job, shard] |= set(rows)

    def suspects(self, job: str, shard: int) -> set[int]:
        return set(self._rows[job, shard])

    def condemn(self, job: str, shard: int, row: int, failure: Failure) -> None:
        self._condemned[job, shard][row] = failure

    def condemned(self, job: str, shard: int) -> dict[int, Failure]:
        return dict(self._condemned[job, shard])


def _failure(told: str) -> Failure:
    code, stage, message = parsed_json(told)
    return Failure(code=FailureCode(code), stage=Stage(stage), message=str(message))
