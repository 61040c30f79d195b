"""`embedmill monitor`: an edge that parses words and calls one function."""

from typing import Annotated

import typer

from producer.broker_options import BrokerUrl, InsecureBroker
from schemas.errors import Refused


def monitor(
    broker_url: BrokerUrl,
    address: Annotated[
        str,
        typer.Option("--address", help="The address to listen on.", envvar="EMBEDMILL_MONITOR_ADDRESS"),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            "--port", min=0, max=65535, help="The port; 0: a free one, which is said.", envvar="EMBEDMILL_MONITOR_PORT"
        ),
    ] = 5555,
    user: Annotated[
        str, typer.Option("--user", help="The name to log in with.", envvar="EMBEDMILL_MONITOR_USER")
    ] = "embedmill",
    password_file: Annotated[
        str,
        typer.Option(
            "--password-file",
            help="A file of mode 0600 with the password; without it: EMBEDMILL_MONITOR_PASSWORD, else a new one.",
            envvar="EMBEDMILL_MONITOR_PASSWORD_FILE",
        ),
    ] = "",
    tasks: Annotated[
        int,
        typer.Option("--tasks", min=100, help="Shards to remember, 5 KB each.", envvar="EMBEDMILL_MONITOR_TASKS"),
    ] = 20_000,
    insecure_broker: InsecureBroker = False,
) -> None:
    """Show workers, queues and shards in Flower, a web page for this machine's browser.

    \b
    embedmill monitor

    Every page but /healthcheck asks for name and password, /metrics (for Prometheus) too; nothing can be changed there.
    Without a password of yours a new one is made and printed here, once. Another address than this machine's own is
    refused without one. It shows job, shard, queue, modality, counts and times, and no row's content. Needs the
    package's extra `monitor`. Ends with Ctrl-C.
    """
    import importlib.util
    import os
    import sys

    if importlib.util.find_spec("flower") is None:
        raise Refused("Flower is not installed: pip install 'embedmill[monitor]'")

    from producer.broker import require_safe
    from producer.interrupts import Interrupted, interruptible
    from producer.monitor import run_monitor
    from producer.monitor_access import read_access

    url = require_safe(broker_url, insecure=insecure_broker)
    on_terminal = sys.stderr.isatty()
    access = read_access(user, password_file, os.environ, address=address, on_terminal=on_terminal)

    def say(bound: int) -> None:
        print(f"Flower listens on http://{address}:{bound}/ for {access.user}; Ctrl-C ends it", file=sys.stderr)
        if access.generated:
            print(f"password, for this time: {access.password}", file=sys.stderr)

    try:
        with interruptible():
            run_monitor(url, access, address=address, port=port, most_tasks=tasks, say=say)
    except Interrupted:
        print("ended", file=sys.stderr)
