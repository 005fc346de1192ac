"""A command line, checked before Hydra reads it: each option exists, and each value is of its type.

Hydra knows the files of a configuration and not what they are for. So it refuses an option that a network takes and its
file does not list, and advises to add one that nobody takes.
"""

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from csc_nets.plugins import import_installed, import_plugins
from csc_nets.signature import nearest, shown
from csc_nets.tasks.options import known_options, plain, refuse_unknown
from csc_nets.tasks.run_folder import folder_option
from csc_nets.tasks.schema import check_options

__all__ = ["checked_command"]

_MULTIRUN = {"-m", "--multirun"}
_ELSEWHERE = {"-h", "--help", "--hydra-help", "--version", "-sc", "--shell-completion", "-i", "--info"}
_ELSEWHERE |= {"-cp", "--config-path", "-cn", "--config-name", "-cd", "--config-dir", "--experimental-rerun"}
_FOLDERS = ("run", "resume", "run_dir")
_MOST_CHOICES = 100


def checked_command(arguments: Sequence[str], config_dir: Path, config_name: str, top: type) -> list[str]:
    """The arguments of a program as Hydra takes them: with a ``++`` where an option is in no file.

    Args:
        arguments: of the command line.
        config_dir: folder of the tree.
        config_name: its root, without ``.yaml``.
        top: the options at its top, a ``TypedDict``.

    Raises:
        ValueError: In one line: an option, a group, a choice or a value that is none, with what may be meant; or a
            sweep that is asked for without ``-m``.
    """
    given = list(arguments)
    texts = [text for text in given if not text.startswith("-") and ("=" in text or text.startswith("~"))]
    try:
        overrides = OverridesParser.create().parse_overrides(texts)
    except HydraException:
        return given  # Hydra says where its grammar ends
    if _ELSEWHERE & set(given):
        return given
    modes = _MULTIRUN & set(given) or any(o.key_or_group == "hydra.mode" for o in overrides)
    if modes and os.environ.get("WORLD_SIZE", "1") != "1":
        raise ValueError("-m: start a sweep once, not with torchrun: its jobs start processes, with trainer.devices=2")
    command = _Command(config_dir, config_name, top, [o for o in overrides if not o.key_or_group.startswith("hydra")])
    for override in command.groups:
        if override.key_or_group == "sweep" and not modes and override.value() is not None:
            text = f"sweep={override.value()}"
            raise ValueError(f"{text} varies options, one run for each value: add -m, as in python train.py -m {text}")
    return command.complete(given)


class _Command:
    """Choices of groups, such as ``model=sdnet18``, and values of options, such as ``model.lam=0.1``."""

    def __init__(self, config_dir: Path, config_name: str, top: type, overrides: Sequence[Override]) -> None:
        self.config_dir, self.config_name, self.top = config_dir, config_name, top
        kept = [o for o in overrides if not o.is_delete() and "@" not in str(o.input_line)]
        self.groups = [o for o in kept if (config_dir / o.key_or_group).is_dir()]
        self.values = [o for o in kept if o not in self.groups]
        self.known = known_options(config_dir, config_name)
        for group in (str(o.key_or_group) for o in overrides if o.is_delete()):
            if (config_dir / group).is_dir() and group in self.known:
                raise ValueError(f"~{group}: nothing runs without it; choose another with {group}=NAME")
        self.check_choices()

    def check_choices(self) -> None:
        """Refuses choices that no file is for."""
        for override in self.groups:
            files = [file.stem for file in (self.config_dir / override.key_or_group).glob("*.yaml")]
            for choice in _choices(override):
                group, name = override.key_or_group, str(choice)
                known = f"Available options in {group!r}: {', '.join(sorted(files))}"
                if isinstance(choice, str) and choice not in files:
                    near = nearest(name, files)
                    hint = f", did you mean {group}={near[0]}?" if near else ""
                    raise ValueError(f"Could not find '{group}/{name}'{hint} {known}")
                if not isinstance(choice, str | list) and (choice is not None or group in self.known):
                    raise ValueError(f"{group} must be the name of a file, got {shown(choice)}. {known}")

    def complete(self, given: list[str]) -> list[str]:
        """Checks all values, and adds what Hydra wants before an option that is in no file."""
        first = [f"{o.key_or_group}={_first(o)}" for o in self.groups]
        try:
            listed, swept = self.tree(first)
        except Exception:  # Hydra says what is wrong with its files
            return given
        groups = {folder.name for folder in self.config_dir.iterdir() if folder.is_dir()}
        varied = [OverridesParser.create().parse_override(f"{key}={value}") for key, value in swept.items()]
        values = [*self.values, *(o for o in varied if not (self.config_dir / o.key_or_group).is_dir())]
        for override in values:
            head, _, rest = override.key_or_group.partition(".")
            if (
                head not in self.known
                and head not in listed
                and (near := nearest(head, {*groups, *self.known} - {head}))
            ):
                meant = f"{near[0]}.{rest}" if rest else near[0]
                raise ValueError(f"unknown option {override.key_or_group}, did you mean {meant}?")
        forced = [f"++{o.key_or_group}={_first(o)}" for o in self.values]
        try:
            config, _ = self.tree([*first, *forced])
        except HydraException:
            return given
        for override in self.values:
            if override.key_or_group in _FOLDERS and override.value() is None:
                folder_option(override.key_or_group, None)  # says what it takes
        import_installed()
        import_plugins(config.get("plugins", []))
        self.check(config)
        for override in values:
            for choice in list(_choices(override))[:_MOST_CHOICES] if override.is_sweep_override() else ():
                self.check(_with(config, override.key_or_group, choice))
        for override in self.groups:
            for choice in list(_choices(override))[1:]:
                self.check(self.tree([*first, f"{override.key_or_group}={choice}", *forced])[0])
        changed = {o.input_line: f"++{str(o.input_line).lstrip('+')}" for o in self.values if _needs_force(o, listed)}
        room = [f"++{o.key_or_group}=null" for o in varied if o in values and not _holds(listed, o.key_or_group)]
        return [*(changed.get(text, text) for text in given), *room]

    def check(self, config: Mapping[str, Any]) -> None:
        """Refuses options that nobody takes and values of a wrong type."""
        refuse_unknown(config, self.known)
        check_options(config, self.top)

    def tree(self, overrides: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
        """The configuration, and what a sweep of its files varies."""
        with initialize_config_dir(str(self.config_dir.absolute())):
            composed = compose(self.config_name, overrides, return_hydra_config=True)
        sweeper = composed.hydra.sweeper
        swept = {str(key): str(value) for key, value in (sweeper.get("params") or {}).items()}
        return {str(key): _plain(composed, key) for key in composed if key != "hydra"}, swept


def _plain(composed: Any, key: Any) -> Any:
    """A part of a configuration; None where it is missing or cannot be resolved, which its reader says."""
    try:
        return plain(composed[key])
    except Exception:
        return None


def _choices(override: Override) -> Iterator[Any]:
    """The values that an override takes, one after another; none where an interval or a pattern has them."""
    if not override.is_sweep_override():
        yield override.value()
    elif override.is_choice_sweep() or override.is_range_sweep():
        for text in override.sweep_string_iterator():
            yield OverridesParser.create().parse_override(f"{override.key_or_group}={text}").value()


def _first(override: Override) -> str:
    if not override.is_sweep_override():
        return override.get_value_string()
    if override.is_choice_sweep() or override.is_range_sweep():
        return next(iter(override.sweep_string_iterator()))
    return "0"


def _needs_force(override: Override, listed: Mapping[str, Any]) -> bool:
    """Whether Hydra would refuse an option for being in no file, or for being in one."""
    holds = _holds(listed, override.key_or_group)
    return holds if override.is_add() else not holds and not override.is_force_add()


def _holds(tree: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(tree, Mapping) or part not in tree:
            return False
        tree = tree[part]
    return True


def _with(config: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A configuration with another value."""
    changed: dict[str, Any] = copy.deepcopy(dict(config))
    *groups, last = key.split(".")
    inside = changed
    for group in groups:
        inside = inside.setdefault(group, {})
    inside[last] = value
    return changed
