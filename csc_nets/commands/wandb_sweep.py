"""``csc-nets wandb-sweep``: the file that ``wandb sweep`` takes, from the search space of a sweep of ours."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from csc_nets.commands.config_folder import config_folder
from csc_nets.sweeps.launching import register_launchers

__all__ = ["main", "sweep_file"]


def main(arguments: Sequence[str]) -> None:
    """Prints the file.

    Raises:
        SystemExit: the sweep cannot be written down.
    """
    parser = argparse.ArgumentParser(
        prog="csc-nets wandb-sweep",
        description="Prints a sweep for Weights & Biases: csc-nets wandb-sweep sweep=optuna > sweep.yaml, then wandb "
        "sweep sweep.yaml, and wandb agent on every machine.",
    )
    parser.add_argument("overrides", nargs="*", help="options as those of csc-nets train -m")
    parser.add_argument("--method", choices=("bayes", "random", "grid"), help="default: bayes, grid for lists alone")
    parser.add_argument("--program", help="default: python -m csc_nets train")
    chosen = parser.parse_args(arguments)
    try:
        print(yaml.safe_dump(sweep_file(chosen.overrides, chosen.method, chosen.program), sort_keys=False), end="")
    except Exception as error:  # Hydra's, of many types
        print(f"error: {str(error).splitlines()[0]}", file=sys.stderr)
        sys.exit(1)


def sweep_file(overrides: Sequence[str], method: str | None = None, program: str | None = None) -> dict[str, Any]:
    """The sweep as plain values.

    Args:
        overrides: options as those of ``train.py -m``; what varies becomes a parameter, the rest part of the command.
        method: ``"bayes"``, ``"random"`` or ``"grid"``; None for ``"grid"`` where all parameters are lists, else
            ``"bayes"``.
        program: a file such as ``train.py``; None for the installed command.

    Raises:
        ValueError: nothing varies, several objectives, or a grid over an interval.
    """
    register_launchers()
    with initialize_config_dir(str(config_folder())):
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        fixed = [override for override in parsed if not override.is_sweep_override()]
        config = compose("train", overrides=[str(override.input_line) for override in fixed], return_hydra_config=True)
    sweeper = config.hydra.sweeper
    params = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
    space = {
        str(override.key_or_group): _parameter(override)
        for override in [*OverridesParser.create().parse_overrides(params), *parsed]
        if override.is_sweep_override()
    }
    for override in fixed:  # the command line wins
        space.pop(str(override.key_or_group), None)
    if not space:
        raise ValueError("nothing varies: name a sweep, such as sweep=lam, or several values of an option")
    if not isinstance(config.objective, str):
        raise ValueError(f"Weights & Biases optimises one number, objective has {len(config.objective)}")
    lists = all("values" in parameter for parameter in space.values())
    method = method or ("grid" if lists else "bayes")
    if method == "grid" and not lists:
        raise ValueError("method=grid needs lists of values: choose bayes or random")
    start = [program] if program else ["-m", "csc_nets", "train"]
    kept = [str(override.input_line) for override in fixed if override.key_or_group not in ("sweep", "logger")]
    return {
        "method": method,
        "metric": {"name": config.objective, "goal": _goal(sweeper)},
        "parameters": space,
        "command": ["${env}", "${interpreter}", *start, "logger=wandb", *kept, "${args_no_hyphens}"],
        **({"program": program} if program else {"program": "csc_nets"}),
    }


def _goal(sweeper: Mapping[str, Any]) -> str:
    direction = str(sweeper.get("direction") or "maximize")
    return "minimize" if direction.endswith("minimize") else "maximize"


def _parameter(override: Override) -> dict[str, Any]:
    """The values of an option, in the words of Weights & Biases."""
    value = override.value()
    if isinstance(value, IntervalSweep):
        low, high = value.start, value.end
        assert low is not None and high is not None
        whole = isinstance(low, int) and isinstance(high, int)
        if "log" in value.tags:
            kind = "q_log_uniform_values" if whole else "log_uniform_values"
            return {"distribution": kind, "min": low, "max": high, **({"q": 1} if whole else {})}
        return {"distribution": "int_uniform" if whole else "uniform", "min": low, "max": high}
    if isinstance(value, RangeSweep) and not isinstance(value.start, int | type(None)):
        return {"values": [float(text) for text in override.sweep_string_iterator()]}
    return {"values": [yaml.safe_load(text) for text in override.sweep_string_iterator()]}
