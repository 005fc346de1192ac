"""The commands of ``csc-nets``: train, evaluate, sweeps, the zoo, and what ails an installation."""

from csc_nets.commands.main import main

__all__ = ["main"]
