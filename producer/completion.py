"""Completion: what shells are given, and the values that only embedmill knows.

A shell asks by running the program with a variable set; Typer's own classes answer. The scripts are ours, since Typer
prints them only for the shell that it finds itself in, and its zsh one does not wait for `compinit`.
"""

import os

#: The variable that asks, as Typer names it after the program.
VARIABLE = "_EMBEDMILL_COMPLETE"

_SCRIPTS = {
    "bash": """\
_embedmill_completion() {
    local IFS=$'\\n'
    COMPREPLY=($(COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD %(variable)s=complete_bash "$1" 2>/dev/null))
}
complete -o default -F _embedmill_completion embedmill
""",
    "zsh": """\
#compdef embedmill
_embedmill_completion() {
    eval "$(_TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" %(variable)s=complete_zsh embedmill 2>/dev/null)"
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }
compdef _embedmill_completion embedmill
""",
    "fish": """\
function _embedmill_ask
    env %(variable)s=complete_fish _TYPER_COMPLETE_FISH_ACTION=$argv[1] \\
        _TYPER_COMPLETE_ARGS=(commandline -cp | string collect) embedmill 2>/dev/null
end
complete --command embedmill --no-files --condition '_embedmill_ask is-args' --arguments '(_embedmill_ask get-args)'
""",
}


def script(shell: str) -> str:
    """What `shell` is to run, once."""
    return _SCRIPTS[shell] % {"variable": VARIABLE}


def is_asked() -> bool:
    """Whether a shell asks; if so Typer is ready to answer, in place of any command."""
    if VARIABLE not in os.environ:
        return False
    from typer.completion import completion_init  # type: ignore[attr-defined]  # Typer names it nowhere else

    completion_init()
    return True


def model_names(incomplete: str) -> list[tuple[str, str]]:
    """Short names of models that begin so, and what each is."""
    from storage.model_files import describe_models

    shown = [model for model in describe_models() if model.name.startswith(incomplete)]
    return [(model.name, f"{model.dim} dimensions") for model in shown]
