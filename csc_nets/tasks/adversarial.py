"""Training on images that an attack has changed."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from csc_nets.functional import Norm, as_norm, ascend
from csc_nets.functional.checks import as_count, is_number
from csc_nets.functional.norm_balls import Draw
from csc_nets.theory.network.evaluation_mode import evaluation_mode

__all__ = ["Adversary"]


@dataclass(frozen=True)
class Adversary:
    r"""Finds images near to training images for which the loss is large: the inner maximum of adversarial training.

    .. math:: \min_\theta \; \mathbb E_{(x, y)} \max_{\|\delta\| \le \epsilon} \ell(f_\theta(x + \delta), y)

    by projected gradient ascent from random points. Source: Madry, Makelov, Schmidt, Tsipras, Vladu, `Towards Deep
    Learning Models Resistant to Adversarial Attacks <https://arxiv.org/abs/1706.06083>`_, 2018, equation 2.1.

    The network is in evaluation mode while the images are made, and in training mode for the step on them: batch norms
    use their running statistics in the attack, and see the attacked images once, in the step. So does the code of
    TRADES (Zhang et al., `Theoretically Principled Trade-off between Robustness and Accuracy
    <https://arxiv.org/abs/1901.08573>`_, 2019). Pang et al., `Bag of Tricks for Adversarial Training
    <https://arxiv.org/abs/2010.00467>`_, 2021, compare both modes: this one has more clean accuracy at about the same
    robustness.

    Args:
        norm: ``"linf"``, ``"l2"``, or any norm of :func:`csc_nets.functional.register_norm`.
        eps: radius of the ball, in pixels from 0 to 1, above 0.
        steps: gradient steps.
        step_size: length of a step in the norm; None for ``2.5 eps / steps``.

    Raises:
        ValueError: a bad value, which it names as the option of the task.
    """

    norm: Norm
    eps: float
    steps: int
    step_size: float

    @classmethod
    def create(cls, norm: str, eps: float, steps: int, step_size: float | None) -> "Adversary":
        """See the class."""
        as_count(steps, "adversarial_steps")
        length = 2.5 * eps / steps if step_size is None else step_size
        if not is_number(length) or not 0 < length < float("inf"):
            raise ValueError(f"adversarial_step_size must be a finite number above 0, got {step_size!r}")
        return cls(as_norm(norm), eps, steps, length)

    def attack(
        self,
        model: nn.Module,
        images: Tensor,
        targets: Tensor,
        mean: Sequence[float],
        std: Sequence[float],
        draw: Draw,
    ) -> Tensor:
        """Normalised images ``(N, C, H, W)`` within eps, in pixels, of the normalised ``images``.

        Args:
            model: from normalised images to logits. No gradient reaches its parameters.
            images: normalised training images.
            targets: labels ``(N,)``, or shares of classes ``(N, K)``, as for ``cross_entropy``.
            mean, std: of the normalisation, for each channel.
            draw: from ``torch.rand`` or ``torch.randn`` to numbers in the shape of the images.
        """
        centre, scale = (images.new_tensor(values).view(-1, 1, 1) for values in (mean, std))
        pixels = (images * scale + centre).clamp(0, 1)

        def gradient(x: Tensor) -> Tensor:
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                loss = cross_entropy(model((x - centre) / scale), targets, reduction="sum")
                return torch.autograd.grad(loss, x)[0]

        start = self.norm.random(draw)
        with evaluation_mode(model), torch.no_grad():
            found = ascend(
                gradient, pixels, self.norm, self.eps, steps=self.steps, step_size=self.step_size, start=start
            )
        return (found - centre) / scale
