"""Broker options: the words of the command line that name a Redis, and who works for it."""

from typing import Annotated

import typer

from producer.job_options import SizeName

BrokerUrl = Annotated[
    str,
    typer.Option(
        "--broker-url",
        help="Redis: redis://, rediss:// or redis+socket://. A password belongs into the environment variable.",
        envvar="EMBEDMILL_BROKER_URL",
        show_envvar=True,
    ),
]
InsecureBroker = Annotated[
    bool,
    typer.Option(
        "--insecure-broker",
        help="Allow a Redis off this machine without TLS and password.",
        envvar="EMBEDMILL_INSECURE_BROKER",
    ),
]
Distributed = Annotated[
    bool,
    typer.Option("--distributed", help="Have the workers on --broker-url that serve join.<size> compute the panels."),
]
PanelSize = Annotated[
    SizeName | None, typer.Option("--size", help="With --distributed: the class of device; default: cpu.")
]
