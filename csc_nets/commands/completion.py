"""Completion in a shell: the commands are ours, options of the configurations are Hydra's."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence

__all__ = ["complete", "install_completion"]

SHELLS = ("bash", "zsh", "fish")
_HYDRA = ("train", "evaluate")


def install_completion(arguments: Sequence[str]) -> None:
    """Prints what a shell has to evaluate."""
    parser = argparse.ArgumentParser(prog="csc-nets completion", description='eval "$(csc-nets completion bash)"')
    parser.add_argument("shell", choices=SHELLS)
    _ask_hydra("train", f"install={parser.parse_args(arguments).shell}")


def complete(given: Sequence[str], commands: Mapping[str, str]) -> bool:
    """Answers a shell that asks what may come next, as Hydra's scripts ask: ``-sc query=bash`` and ``COMP_LINE``.

    Args:
        given: arguments of the command line.
        commands: names of all commands.

    Returns:
        Whether it was such a question.
    """
    if len(given) != 2 or given[0] not in ("-sc", "--shell-completion") or not given[1].startswith("query="):
        return False
    line = os.environ.get("COMP_LINE", "")
    words = line.split()
    if len(words) > 2 or (len(words) == 2 and line.endswith(" ")):
        if words[1] in _HYDRA:
            os.environ["COMP_LINE"] = line.replace(f" {words[1]}", "", 1)
            _ask_hydra(words[1], given[1])
    else:
        begun = words[1] if len(words) == 2 else ""
        print(*(name for name in commands if name.startswith(begun)))
    return True


def _ask_hydra(name: str, question: str) -> None:
    import hydra

    from csc_nets.commands.config_folder import config_folder

    sys.argv = ["csc-nets", "-sc", question]
    hydra.main(config_path=str(config_folder()), config_name=name)(_nothing)()


def _nothing(cfg: object) -> None:
    """What Hydra would run, if it did not only answer."""
