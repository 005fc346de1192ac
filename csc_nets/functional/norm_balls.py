r"""Balls of perturbations, and gradient ascent in them: what an attack and an adversarial training share.

An attack looks for a perturbation :math:`\delta` with :math:`\|\delta\| \le \epsilon` for which a loss is
large. A norm says three things about its ball: the nearest point of it (or, where that is costly, a point of it), the
direction in which a linear function rises fastest, and how to draw a point of it at random.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from csc_nets.functional.checks import as_count
from csc_nets.registry import Part, Registry

__all__ = ["L2Norm", "LInfNorm", "LocalNorm", "Norm", "Range", "as_norm", "ascend", "nearby", "register_norm"]

Draw = Callable[[Callable[..., Tensor]], Tensor]
"""From ``torch.rand`` or ``torch.randn`` to such numbers in the shape of the images."""

Range = tuple[float, float]
"""The least and the largest value of a pixel."""

_TINY = 1e-30


def _each(values: Tensor, like: Tensor) -> Tensor:
    """One number a sample, in the shape that multiplies images."""
    return values.view(-1, *[1] * (like.ndim - 1))


class Norm(Part):
    """A norm of perturbations ``(N, C, H, W)``, each sample by itself. A subclass gives the four methods."""

    def size(self, delta: Tensor) -> Tensor:
        """The norm of each sample, ``(N,)``."""
        raise NotImplementedError

    def project(self, delta: Tensor, eps: float) -> Tensor:
        """Perturbations in the ball of radius ``eps``; those that are in it already stay."""
        raise NotImplementedError

    def steepest(self, gradient: Tensor) -> Tensor:
        """The perturbation of norm 1 along which a function with this gradient rises fastest; 0 where it is 0."""
        raise NotImplementedError

    def random(self, draw: Draw) -> Tensor:
        """A random point of the ball of radius 1."""
        raise NotImplementedError


def _scaled(gradient: Tensor) -> Tensor:
    """A gradient whose largest entry is 1: the squares of a tiny one would underflow."""
    return gradient / _each(gradient.abs().flatten(1).amax(1), gradient).clamp_min(_TINY)


def _shrink(size: Tensor, eps: float) -> Tensor:
    """What brings sizes down to eps, and is 1 for those that are not above."""
    return torch.where(size > eps, eps / size, 1.0)


_NORMS: Registry[Any] = Registry("norm")
register_norm = _NORMS.decorator


def as_norm(norm: str | Mapping[str, Any] | Norm) -> Norm:
    """A norm from an object, a registered name (``"linf"``, ``"l2"``), or a mapping with ``name`` and arguments.

    Raises:
        ValueError: an unknown name, bad arguments.
    """
    built: Norm = _NORMS.build(norm, Norm)
    return built


@register_norm("linf")
@dataclass(frozen=True)
class LInfNorm(Norm):
    """The largest change of a pixel. Its steepest direction is the sign of the gradient (Goodfellow et al., 2015)."""

    def size(self, delta: Tensor) -> Tensor:
        """The norm of each sample, ``(N,)``."""
        return delta.abs().flatten(1).amax(1)

    def project(self, delta: Tensor, eps: float) -> Tensor:
        """Each pixel by itself, the nearest point."""
        return delta.clamp(-eps, eps)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The sign of the gradient."""
        return gradient.sign()

    def random(self, draw: Draw) -> Tensor:
        """Uniform in the cube."""
        return 2 * draw(torch.rand) - 1


@register_norm("l2")
@dataclass(frozen=True)
class L2Norm(Norm):
    """The Euclidean norm of the whole image."""

    def size(self, delta: Tensor) -> Tensor:
        """The norm of each sample, ``(N,)``."""
        length: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
        return length

    def project(self, delta: Tensor, eps: float) -> Tensor:
        """The nearest point: shorter, in the same direction."""
        return delta * _shrink(_each(self.size(delta), delta), eps)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The gradient over its norm."""
        scaled = _scaled(gradient)
        return scaled / _each(self.size(scaled), scaled).clamp_min(_TINY)

    def random(self, draw: Draw) -> Tensor:
        """Uniform in the ball: a normal direction, and the root of a uniform number for its length."""
        direction = self.steepest(draw(torch.randn))
        length = draw(torch.rand).flatten(1)[:, 0] ** (1 / max(1, direction[0].numel()))
        return direction * _each(length, direction)


@register_norm("local")
@dataclass(frozen=True)
class LocalNorm(Norm):
    r"""The largest l2 norm of a patch, :math:`\|\delta\|^P_{2,\infty}`, in which local certificates are stated.

    Source of the norm: Papyan, Romano, Elad, `Convolutional Neural Networks Analyzed via Convolutional Sparse Coding
    <https://arxiv.org/abs/1607.08194>`_, 2017. Patches go around the border, as in
    :func:`csc_nets.theory.patch_norm`: this counts more patches, so the ball is no larger than that of inner patches.

    ``project`` gives a point of the ball that is not the nearest one: each pixel is divided by the largest norm, over
    eps, of the patches that it is in, where this is above 1. Each patch is then within eps, because all its pixels are
    divided by at least its own norm over eps. ``steepest`` does the same with the gradient. So an attack with this norm
    is a lower bound of what is possible, as any attack is.

    Args:
        window: pixels of a patch for each axis.
    """

    window: int = 3

    def __post_init__(self) -> None:
        if isinstance(self.window, bool) or not isinstance(self.window, int) or self.window < 1:
            raise ValueError(f"window must be an int >= 1, got {self.window!r}")

    def size(self, delta: Tensor) -> Tensor:
        """The norm of each sample, ``(N,)``."""
        return self._patches(delta).flatten(1).amax(1)

    def project(self, delta: Tensor, eps: float) -> Tensor:
        """A point of the ball, see above."""
        return delta * _shrink(self._around(delta), eps)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The gradient, over the largest norm of the patches around each pixel."""
        scaled = _scaled(gradient)
        return scaled / self._around(scaled).clamp_min(_TINY)

    def random(self, draw: Draw) -> Tensor:
        """A normal direction, whose patches are all as long as they may be, and a length."""
        direction = self.steepest(draw(torch.randn))
        return direction * _each(draw(torch.rand).flatten(1)[:, 0], direction)

    def _patches(self, delta: Tensor) -> Tensor:
        """The norm of the patch that begins at each pixel, ``(N, 1, *S)``."""
        total = delta.square().sum(1, keepdim=True)
        for axis in range(2, delta.ndim):
            reach = min(self.window, delta.shape[axis])
            total = torch.stack([total.roll(-k, axis) for k in range(reach)]).sum(0)
        return total.sqrt()

    def _around(self, delta: Tensor) -> Tensor:
        """The largest norm of the patches that each pixel is in, ``(N, 1, *S)``."""
        largest = self._patches(delta)
        for axis in range(2, delta.ndim):
            reach = min(self.window, delta.shape[axis])
            largest = torch.stack([largest.roll(k, axis) for k in range(reach)]).amax(0)
        return largest


def nearby(x: Tensor, images: Tensor, norm: Norm, eps: float, bounds: Range = (0.0, 1.0)) -> Tensor:
    """Images with pixels in ``bounds`` and within ``eps`` of ``images`` in a ``norm``, made from any ``x``.

    Both are ``(N, C, H, W)``. The ball comes first. Where ``images`` are within the bounds, clipping brings each pixel
    nearer to them, so that the result is still in the ball.
    """
    return (images + norm.project(x - images, eps)).clamp(*bounds)


def ascend(
    gradient: Callable[[Tensor], Tensor],
    images: Tensor,
    norm: Norm,
    eps: float,
    *,
    steps: int,
    step_size: float,
    start: Tensor | None = None,
    bounds: Range = (0.0, 1.0),
) -> Tensor:
    r"""Projected gradient ascent around images: steps along the steepest direction of a norm, back into its ball.

    .. math:: x_{k+1} = P\bigl(x_k + \alpha \, \arg\max_{\|d\| \le 1} \langle \nabla \ell(x_k), d \rangle\bigr)

    Source: Madry, Makelov, Schmidt, Tsipras, Vladu, `Towards Deep Learning Models Resistant to Adversarial Attacks
    <https://arxiv.org/abs/1706.06083>`_, 2018, section 2.1. One step of size eps from the image itself is the fast
    gradient sign method, Goodfellow, Shlens, Szegedy, `Explaining and Harnessing Adversarial Examples
    <https://arxiv.org/abs/1412.6572>`_, 2015.

    Args:
        gradient: from images ``(N, C, H, W)`` to the gradient of what is to rise.
        images: centres of the balls, with pixels in ``bounds``.
        norm, eps: of the balls.
        steps: calls of ``gradient``, >= 1.
        step_size: length of a step in the norm.
        start: points of the ball of radius 1, as from :meth:`Norm.random`; None for the images themselves.
        bounds: least and largest value of a pixel.

    Returns:
        The last point, ``(N, C, H, W)``.
    """
    x = images if start is None else nearby(images + eps * start, images, norm, eps, bounds)
    for _ in range(as_count(steps)):
        x = nearby(x + step_size * norm.steepest(gradient(x)), images, norm, eps, bounds)
    return x
