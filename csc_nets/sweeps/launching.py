"""What Hydra may start a sweep with, beside its own plugins."""

from importlib.util import find_spec

from hydra.core.plugins import Plugins

from csc_nets.sweeps.launcher import ProcessLauncher

__all__ = ["register_launchers"]


def register_launchers() -> None:
    """Makes ``hydra/launcher=processes`` known to Hydra, and ``sweep=optuna`` where Optuna's sweeper is installed."""
    plugins = Plugins.instance()
    plugins.register(ProcessLauncher)
    if find_spec("hydra_plugins") and find_spec("hydra_plugins.hydra_optuna_sweeper") and find_spec("optuna"):
        from csc_nets.sweeps.study import StudySweeper

        plugins.register(StudySweeper)
