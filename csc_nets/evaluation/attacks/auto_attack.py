"""The attack that most papers report, by its public program."""

from torch import Tensor, nn

from csc_nets.evaluation.attacks.search import Adversarial, check_inputs, search

__all__ = ["auto_attack"]

_NORMS = {"linf": "Linf", "l2": "L2"}


def auto_attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    eps: float,
    *,
    norm: str = "linf",
    attacks: list[str] | None = None,
    seed: int = 0,
    batch_size: int = 250,
) -> Adversarial:
    """AutoAttack of Croce and Hein, run by ``pyautoattack`` (``pip install pyautoattack``).

    It is there so that figures can be held against those of others. Its program checks whether the network is random or
    changes at test time, and says so in the log ``auto-attack``.

    Source: Croce and Hein, `Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
    attacks <https://arxiv.org/abs/2003.01690>`_, 2020.

    Args:
        model, images, labels, eps: as for :func:`~csc_nets.evaluation.attacks.pgd`, for pixels in [0, 1].
        norm: ``"linf"`` or ``"l2"``.
        attacks: some of ``apgd-ce``, ``apgd-t``, ``fab-t``, ``square``, ``apgd-dlr``, ``fab``; None for the standard
            version, which are the first four.
        seed: of its random numbers.
        batch_size: images at a time.

    Raises:
        ModuleNotFoundError: ``pyautoattack`` is not installed.
        ValueError: as for :func:`~csc_nets.evaluation.attacks.pgd`; another norm.
    """
    check_inputs(images, labels, eps, (0.0, 1.0))
    if norm not in _NORMS:
        raise ValueError(f"norm must be one of {', '.join(_NORMS)}, got {norm!r}")
    try:
        from pyautoattack import AutoAttack
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("auto_attack needs pyautoattack: pip install pyautoattack") from error
    options = {} if attacks is None else {"attacks": list(attacks), "version": "custom"}

    def attempt(x: Tensor, y: Tensor) -> Tensor:
        theirs = AutoAttack(model, norm=_NORMS[norm], eps=eps, seed=seed, device=str(x.device), **options)
        theirs.verbose = False
        found: Tensor = theirs.run_standard_evaluation(x, y, batch_size=batch_size)[0]
        return found

    return search(model, images, labels, {"autoattack": attempt})
