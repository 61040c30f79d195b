"""A plain Celery app, as one would write it in an afternoon: a task a shard, its rows appended to a file.

It acknowledges late, which is what Celery's documentation recommends for work that must not be lost.
`celery -A tests.bare_celery_app worker` finds its broker in BARE_BROKER_URL.
"""

import json
import os
import time
from pathlib import Path

from celery import Celery

ROWS = 10

app = Celery("bare", broker=os.environ.get("BARE_BROKER_URL"), set_as_current=False)
app.conf.update(task_acks_late=True, worker_prefetch_multiplier=1, broker_connection_retry_on_startup=True)


@app.task(name="bare.embed")
def embed(shard: int, folder: str) -> None:
    """Say that the shard is begun, wait until the test lets it go on, and write its rows."""
    place = Path(folder)
    (place / f"begun-{shard}-{os.getpid()}").touch()
    while not (place / "gate").exists():
        time.sleep(0.02)  # what stands in for the work: it lasts until the test has done its harm
    with (place / "rows.jsonl").open("a") as out:
        out.write("".join(json.dumps({"id": f"{shard}-{n}"}) + "\n" for n in range(ROWS)))
