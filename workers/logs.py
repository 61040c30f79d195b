"""Logging of a worker process: one line an event, on stderr, redacted."""

import json
import logging
import sys
import time
import warnings

from schemas.redaction import redact

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "data", "hostname"}

_KINDS = (str, int, float, dict)


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the event's own fields."""

    def __init__(self, worker: str) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "worker": self._worker,
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        line |= {k: _field(v) for k, v in vars(record).items() if k not in _STANDARD and isinstance(v, _KINDS)}
        if record.exc_info:
            line["exception"] = redact(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=True, default=str)


def _field(value: object) -> object:
    """A field of an event; dicts are of numbers."""
    return redact(value) if isinstance(value, str) else value


def configure(worker: str) -> None:
    """Send every logger of this process to stderr; only our own say more than warnings."""
    warnings.filterwarnings("ignore", module=r"PIL\.")  # odd metadata of a user's image is no event
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(worker))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for ours in ("workers", "storage", "embedmill"):
        logging.getLogger(ours).setLevel(logging.INFO)
