"""Settings: where and how fast a process works; nothing here changes a vector."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from schemas.errors import Refused
from schemas.parsed_json import parsed_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One process' settings, passed to workers in the environment and never on a command line."""

    broker_url: str = ""  # where Redis is; secret where it holds a password
    message_key: str = ""  # secret of 24 characters or more: messages are signed with it, others are dropped
    roots: tuple[str, ...] = ()  # folders and s3:// prefixes that jobs and media may lie in
    allow_private: bool = False  # jobs may read media from hosts with private addresses
    remote_control: bool = False  # workers obey Celery's broadcasts: whoever reaches Redis can stop them
    lease_s: float = 20.0  # a worker silent for so long has lost its shard
    batch_tokens: int = 0  # padded tokens in one forward pass; 0: what was learned of model and device, else 2048
    batch_items: int = 256  # rows in one forward pass
    load_threads: int = 2  # threads that fetch, and processes that decode, in front of the device
    model_cache: str = ""  # where packaged models are built; default: the user's cache folder
    hash_delay_ms: float = 0.0  # what the model `hash` waits a row, to stand in for a slow one
    memory_dir: str = ""  # where budgets and rates are remembered; default: the user's cache folder
    worker_name: str = ""  # leases and presences are held by it
    device: str = "cpu"  # that models are loaded on
    size: str = "cpu"  # of the device
    memory_mb: int = 0  # that models may take up on the device, MiB; 0: by the device
    decode_memory_mb: int = 1024  # that a decoder may take up, MiB
    queues: tuple[str, ...] = ()  # the queues that a worker serves, the one it prefers first
    crumb_dir: str = ""  # where each worker leaves its breadcrumb; "": nowhere
    step_limit_s: float = 600.0  # a batch that takes longer hangs: its process is killed, its rows are tried alone
    process_memory_mb: int = 0  # a process that takes up more, MiB, is killed likewise; 0: most of the machine's memory
    canary_s: float = 5.0  # before a shard is published the model is tried again, if that is longer ago; 0: always
    stuck_s: float = 60.0  # a worker that gets nothing for so long, with shards on its queues, starts anew
    hash_faults: str = ""  # how the model `hash` fails, to stand in for bad rows and sick devices; see hash_encoder.py
    store_faults: str = ""  # a file that says how jobs' stores fail on purpose (chaos); "": they do not
    hash_memory_tokens: int = 0  # what a batch of the model `hash` may hold, as if on a small device; 0: no limit

    def to_environ(self) -> dict[str, str]:
        """The environment variables that make an equal Settings in a child process."""
        return {ENVIRON[f.name]: _text(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> "Settings":
        """The settings that EMBEDMILL_* variables name, else defaults; raises Refused for a word that is none."""
        given = {f.name: environ[ENVIRON[f.name]] for f in fields(cls) if ENVIRON[f.name] in environ}
        default = cls()
        return replace(default, **{name: _checked(name, text, getattr(default, name)) for name, text in given.items()})


#: The environment variable of each setting.
ENVIRON: dict[str, str] = {f.name: f"EMBEDMILL_{f.name.upper()}" for f in fields(Settings)}


_KINDS = {int: "a whole number", float: "a number", tuple: "a list, with commas between or of JSON"}


def _text(value: object) -> str:
    return json.dumps(value) if isinstance(value, tuple) else str(value)


def _checked(name: str, text: str, like: object) -> Any:  # Any: as _parsed
    """What `text` says; a number is finite and not below 0."""
    try:
        value = _parsed(text, like)
    except ValueError:
        raise Refused(f"{ENVIRON[name]} is not {_KINDS[type(like)]}, as {_text(like)}") from None
    if isinstance(value, int | float) and not 0 <= value < math.inf:
        raise Refused(f"{ENVIRON[name]} is {value}; give a number that is not below 0")
    return value


def _parsed(text: str, like: object) -> Any:  # Any: the setting's own type, known by `like` alone
    if isinstance(like, tuple):
        return tuple(map(str, parsed_json(text))) if text.startswith("[") else tuple(p for p in text.split(",") if p)
    if isinstance(like, bool):
        return text.lower() in ("1", "true", "yes", "on")
    constructor: type[Any] = type(like)
    return constructor(text)  # str, int or float by construction
