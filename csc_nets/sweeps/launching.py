"""What Hydra may start a sweep with, beside its own plugins."""

from hydra.core.plugins import Plugins

from csc_nets.sweeps.launcher import ProcessLauncher

__all__ = ["register_launchers"]


def register_launchers() -> None:
    """Makes ``hydra/launcher=processes`` known to Hydra."""
    Plugins.instance().register(ProcessLauncher)
