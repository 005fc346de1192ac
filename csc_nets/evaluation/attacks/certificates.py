"""What is certified beside what an attack leaves: the robust accuracy lies between the two."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from csc_nets.evaluation.attacks.search import Classifier, attacked, check_inputs
from csc_nets.evaluation.attacks.strongest import Budget, strongest
from csc_nets.functional.norm_balls import Norm, Range, as_norm
from csc_nets.theory import LabelCertificate

__all__ = ["robustness_rows"]


def robustness_rows(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    eps: Sequence[float],
    *,
    certificate: LabelCertificate | None = None,
    norm: str | Mapping[str, Any] | Norm = "linf",
    budget: Budget | None = None,
    seed: int = 0,
    bounds: Range = (0.0, 1.0),
) -> list[dict[str, Any]]:
    r"""Bounds of the robust accuracy for growing perturbations: certified from below, attacked from above.

    What falls at a smaller eps counts at every larger one, because its perturbation is allowed there. So the accuracy
    under attack never rises with eps.

    A certificate of :func:`~csc_nets.theory.label_certificate` is about the local noise
    :math:`\|E\|^P_{2,\infty}` where its error bound is of :mod:`csc_nets.theory.sparse.theorems`: attack it with
    ``norm={"name": "local", "window": kernel}``. It holds for l2, too, since no patch has a larger norm than the whole.
    A bound by a Lipschitz constant is about l2.

    Args:
        model, images, labels, seed, bounds: as for :func:`~csc_nets.evaluation.attacks.pgd`.
        eps: sizes of the perturbation.
        certificate: of the same images, with its ``noise``; None for attacks alone.
        norm: of the attack; the certificate must be about a ball that holds this one.
        budget: see :func:`~csc_nets.evaluation.attacks.strongest`.

    Returns:
        For each eps, in rising order, ``name``, ``eps``, ``attacked`` (an upper bound of the robust accuracy), and with
        a certificate ``certified`` (a lower bound) and ``contradictions``: images that are certified and fell. A true
        certificate has none.

    Raises:
        ValueError, FloatingPointError: as for :func:`~csc_nets.evaluation.attacks.strongest`; a certificate of other
            images, or whose error bound is no function of the noise.
    """
    if certificate is not None and (certificate.noise is None or len(certificate.label) != len(labels)):
        raise ValueError(
            f"certificate must be of {len(labels)} images, from an error bound that is a function of noise"
        )
    ball, rows = as_norm(norm), []
    check_inputs(images, labels, 0.0, bounds)
    with attacked(model) as network, torch.no_grad():
        standing = network(images).argmax(1) == labels
    for size in sorted(eps):
        left = standing.nonzero()[:, 0]
        if len(left):
            options: dict[str, Any] = {"norm": ball, "budget": budget, "seed": seed, "bounds": bounds}
            standing[left] = ~strongest(model, images[left], labels[left], size, **options).success
        row: dict[str, Any] = {"name": f"{ball.registered_name} {size:g}", "eps": float(size)}
        row["attacked"] = standing.double().mean().item()
        if certificate is not None and certificate.noise is not None:
            safe = (certificate.noise >= size) & (certificate.noise > 0) & (certificate.label == labels)
            row["certified"] = safe.double().mean().item()
            row["contradictions"] = int((safe & ~standing).sum())
        rows.append(row)
    return rows
