"""What a program says on stderr: one line for an error, and nothing that a user cannot act on."""

import logging
import sys
import warnings

from hydra.errors import HydraException

__all__ = ["complain", "leave_out_noise"]

_NOISE = (
    ".*does not have many workers.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*is smaller than the logging interval.*",
    ".*GPU available but not used.*",
    ".*You requested to overfit but enabled .* shuffling.*",
    ".*could not find the monitored key.*",  # in an epoch without validation
    ".*torch.jit.script.* is deprecated.*",
    ".*isinstance\\(treespec, LeafSpec\\).*",
)


def complain(error: Exception, where: str = "") -> None:
    """Prints the message of an error, and its type where that is not one that bad input causes."""
    text = " ".join(str(error).split("Config search path")[0].split())
    if not isinstance(error, ValueError | OSError | FloatingPointError | HydraException):
        text = f"{type(error).__name__}: {text} (HYDRA_FULL_ERROR=1 shows where)"
    sys.stdout.flush()
    print(f"error: {text}{where}", file=sys.stderr)


def leave_out_noise() -> None:
    """Leaves out what the libraries say and a user cannot act on."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _NOISE:
        warnings.filterwarnings("ignore", message)
