"""What attacks leave of the accuracy of methods."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from csc_nets.evaluation.attacks import Budget, robustness_rows
from csc_nets.evaluation.robustness.measure import CLEAN, Accuracies
from csc_nets.evaluation.robustness.methods import Method

__all__ = ["BUDGET", "attacked_accuracies"]

BUDGET = {"steps": 50, "restarts": 2, "targets": 3, "queries": 500}


def attacked_accuracies(
    model: nn.Module,
    methods: Sequence[Method],
    pixels: Tensor,
    labels: Tensor,
    normalize: Callable[[Tensor], Tensor],
    *,
    eps: Sequence[float],
    norm: str = "linf",
    budget: Mapping[str, int] = BUDGET,
    seed: int = 0,
) -> Accuracies:
    """Upper bounds of the robust accuracy of each method that answers for an image by this image alone.

    The attacker knows the method: gradients go through the choice of lam.

    Args:
        model, methods, normalize, seed: as for :func:`~csc_nets.evaluation.robustness.measure.accuracies`.
        pixels: ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``.
        eps, norm: of the perturbation of pixels, see :func:`~csc_nets.evaluation.attacks.robustness_rows`.
        budget: arguments of :class:`~csc_nets.evaluation.attacks.Budget`.

    Returns:
        By method, then by ``"NORM EPS"``; ``"clean"`` is the accuracy on the same images without an attack.

    Raises:
        ValueError: a size or a norm that no attack takes.
    """
    found: Accuracies = {}
    for method in methods:
        if method.is_attackable:
            with method.around():
                rows = robustness_rows(
                    lambda x: model(normalize(x)),
                    pixels,
                    labels,
                    [0.0, *eps],
                    norm=norm,
                    budget=Budget(**budget),
                    seed=seed,
                )
            found[method.name] = {CLEAN if row["eps"] == 0 else row["name"]: row["attacked"] for row in rows}
    return found
