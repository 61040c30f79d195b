"""`embedmill completion`: what a shell needs to complete commands, options and their values."""

from enum import StrEnum
from typing import Annotated

import typer

from producer.completion import script


class ShellName(StrEnum):
    """The shells that can be told."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(shell: Annotated[ShellName, typer.Argument(help="The shell to print it for.")]) -> None:
    """Print what makes a shell complete commands, options, models and other values; nothing is installed.

    \b
    source <(embedmill completion bash)                                          # now; in ~/.bashrc: always
    source <(embedmill completion zsh)                                           # after compinit, in ~/.zshrc
    embedmill completion fish > ~/.config/fish/completions/embedmill.fish

    Where there is nothing to choose from, files are completed.
    """
    print(script(shell.value), end="")
