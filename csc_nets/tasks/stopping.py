"""What a program that was told to stop says, to its user and to a scheduler."""

from lightning.pytorch.utilities.exceptions import SIGTERMException

__all__ = ["exit_status"]


def exit_status(stop: BaseException) -> int:
    """The exit status of a program that a signal has ended, as a shell gives it: 128 and the number of the signal.

    130 after Ctrl-C (SIGINT) and 143 after SIGTERM. A scheduler that stops a job must not take it for a finished one.

    Args:
        stop: what ended the program. Lightning raises an exception of its own after SIGTERM, and exits with status 1
            after Ctrl-C.
    """
    if isinstance(stop, SIGTERMException):
        return 143
    if isinstance(stop, KeyboardInterrupt) or isinstance(stop.__context__, KeyboardInterrupt):
        return 130
    code = getattr(stop, "code", 1)
    return code if isinstance(code, int) else 1
