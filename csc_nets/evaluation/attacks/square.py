"""A random search by squares: an attack that asks for logits alone, so that no masked gradient can stop it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from csc_nets.evaluation.attacks.losses import margin
from csc_nets.evaluation.attacks.search import Adversarial, Best, Classifier, check_inputs, drawn, search
from csc_nets.functional.checks import as_count
from csc_nets.functional.norm_balls import Norm, Range, as_norm, nearby

__all__ = ["square"]

_FIRST_SHARE = 0.8
_HALVED_AT = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)  # of the queries; 10, 50, 200, ... of 10,000


def square(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    eps: float,
    *,
    norm: str | Mapping[str, Any] | Norm = "linf",
    queries: int = 1000,
    restarts: int = 1,
    seed: int = 0,
    bounds: Range = (0.0, 1.0),
) -> Adversarial:
    r"""Random search: squares of one sign a channel are added, and stay where the margin of the label falls.

    The search starts with stripes. Squares cover 0.8 of the image at first, and half as much at nine times on the way.

    Source: Andriushchenko, Croce, Flammarion, Hein, `Square Attack: a query-efficient black-box adversarial attack via
    random search <https://arxiv.org/abs/1912.00049>`_, 2020. For l-inf it is algorithm 2: a square puts its pixels at
    the border of the ball. For other norms it is simpler than the paper: the same squares, scaled so that one over the
    whole image has size 2 eps, and back into the ball. It is weaker there than the paper's.

    Args:
        model, images, labels, eps, norm, restarts, seed, bounds: as for
            :func:`~csc_nets.evaluation.attacks.pgd`. The network needs no gradient.
        queries: points looked at for each image.

    Raises:
        ValueError: as for :func:`~csc_nets.evaluation.attacks.search.check_inputs`; ``queries`` below 1.
    """
    check_inputs(images, labels, eps, bounds)
    ball, generator = as_norm(norm), torch.Generator(images.device).manual_seed(seed)
    as_count(queries, "queries")

    @torch.no_grad()
    def attempt(x: Tensor, y: Tensor) -> Tensor:
        draw, best = drawn(x, generator), Best(x, y)

        def look(point: Tensor) -> None:
            logits = model(point)
            best.see(point, logits, margin(logits, y))

        def signs() -> Tensor:
            """One sign for each image and channel, ``(N, C, 1, ...)``."""
            first = draw(torch.rand).flatten(2)[..., 0]
            return torch.where(first < 0.5, -1.0, 1.0).to(x.dtype).view(*x.shape[:2], *[1] * (x.ndim - 2))

        # Of a flat perturbation of size 1; for l-inf this is 1.
        flat = eps / ball.size(torch.ones_like(x[:1])).item()
        stripes = torch.where(draw(torch.rand)[..., :1, :] < 0.5, -1.0, 1.0).to(x.dtype)
        look(nearby(x + flat * stripes, x, ball, eps, bounds))
        for query in range(1, queries):
            share = _FIRST_SHARE / 2 ** sum(query > at * queries for at in _HALVED_AT)
            window = _windows(x, share, draw(torch.rand).flatten(1))
            look(nearby(best.images + 2 * flat * signs() * window, x, ball, eps, bounds))
            if bool(best.success.all()):
                break
        return best.images

    return search(model, images, labels, {f"start {k + 1}": attempt for k in range(as_count(restarts, "restarts"))})


def _windows(x: Tensor, share: float, draws: Tensor) -> Tensor:
    """For each image 1 in a square at a random place, and 0 outside, ``(N, 1, *S)``."""
    dims = x.ndim - 2
    inside = torch.ones_like(x[:, :1])
    for axis in range(dims):
        size = x.shape[2 + axis]
        side = min(size, max(1, round(share ** (1 / dims) * size)))
        first = (draws[:, axis % draws.shape[1]] * (size - side + 1)).long().clamp(max=size - side)
        place = torch.arange(size, device=x.device)
        along = (place >= first[:, None]) & (place < first[:, None] + side)
        inside = inside * along.view(len(x), 1, *[size if k == axis else 1 for k in range(dims)])
    return inside
