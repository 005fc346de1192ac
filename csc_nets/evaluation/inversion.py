r"""From the activations of any CNN back to the image, with the network's switches and without training.

With the switches of an image held fixed, a network of convolutions, ReLUs, max poolings and batch norms is affine: down
to a layer it is :math:`f(v) = A v + c`, with :math:`A` its Jacobian at the image. :math:`A^T` is the decoder of Gilbert
et al., `Towards Understanding the Invertibility of Convolutional Neural Networks <https://arxiv.org/abs/1705.08664>`_,
unpooling to the switches and transposed convolutions with the same filters, from layer to layer; conjugate gradients
start with it and go on to the least-squares image.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import jvp, vjp

__all__ = ["activation", "invert", "relative_error"]


class _Reached(Exception):
    """Ends a forward pass at the layer that was asked for."""


def activation(model: nn.Module, layer: str, x: Tensor, *, inputs: bool = False) -> Tensor:
    """What a layer of a network returns, or is given, when the network first calls it; what comes behind does not run.

    Args:
        model: any module that takes ``x``, in the mode that it is in.
        layer: name of a submodule, as in ``model.named_modules()``.
        x: input of the network.
        inputs: the layer's first argument in place of its output.

    Raises:
        ValueError: there is no such layer, or the network does not call it.
    """
    if layer not in dict(model.named_modules()):
        raise ValueError(f"layer must be the name of a submodule of {type(model).__name__}, got {layer!r}")
    module, found = model.get_submodule(layer), []

    def keep(tensor: Tensor) -> None:
        found.append(tensor)
        raise _Reached

    if inputs:
        handle = module.register_forward_pre_hook(lambda module, args: keep(args[0]))
    else:
        handle = module.register_forward_hook(lambda module, args, output: keep(output))
    try:
        model(x)
    except _Reached:
        return found[0]
    finally:
        handle.remove()
    raise ValueError(f"layer {layer!r} of {type(model).__name__} is not called for this input")


def invert(
    model: nn.Module,
    images: Tensor,
    layer: str,
    target: Tensor | None = None,
    *,
    inputs: bool = False,
    steps: int = 10,
    trace: Callable[[Tensor], Any] | None = None,
) -> Tensor:
    r"""Images whose activation, with the switches of ``images``, is as near to ``target`` as it gets.

    .. math:: \hat x = \arg\min_v \|A v + c - h\|^2, \qquad A = \frac{\partial f}{\partial x}(x), \quad c = f(x) - A x

    by conjugate gradients on the normal equations (CGLS: Hestenes and Stiefel 1952), from zero, each sample by itself.
    The first step is :math:`\alpha A^T (h - c)` with the best :math:`\alpha`: the decoder with tied weights. For a
    network that is not piecewise affine it is the same with its linearisation at ``images``.

    Args:
        model: a network in evaluation mode, so that samples do not see one another.
        images: where the switches come from, ``(N, C, H, W)``.
        layer: name of a submodule.
        target: :math:`h`, shaped as the activation; None for the activation of ``images`` itself.
        inputs: invert what the layer is given, not what it returns.
        steps: conjugate gradient steps, two passes through the network each.
        trace: called with the images after every step.

    Returns:
        ``(N, C, H, W)``.

    Raises:
        ValueError: ``steps`` below 1, a model in training mode, a layer that is not there, a target of another shape.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"invert: steps must be an int >= 1, got {steps!r}")
    if any(module.training for module in model.modules()):
        raise ValueError("invert: the model must be in evaluation mode: model.eval()")

    def f(x: Tensor) -> Tensor:
        return activation(model, layer, x, inputs=inputs)

    with torch.no_grad():
        images = images.detach()
        h, transposed = vjp(f, images)[:2]
        if target is not None and target.shape != h.shape:
            raise ValueError(f"invert: target must be of shape {tuple(h.shape)}, got {tuple(target.shape)}")

        def forward(v: Tensor) -> Tensor:
            return jvp(f, (images,), (v,))[1]

        residual = forward(images)  # h - c of the images themselves
        residual = residual if target is None else target - (h - residual)
        result = torch.zeros_like(images)
        gradient = transposed(residual)[0]
        direction, size = gradient, _dot(gradient, gradient)
        for _ in range(steps):
            ahead = forward(direction)
            alpha = _ratio(size, _dot(ahead, ahead))
            result = result + _scale(alpha, direction)
            residual = residual - _scale(alpha, ahead)
            gradient = transposed(residual)[0]
            before, size = size, _dot(gradient, gradient)
            direction = gradient + _scale(_ratio(size, before), direction)
            if trace is not None:
                trace(result)
    return result


def relative_error(estimate: Tensor, truth: Tensor) -> Tensor:
    r""":math:`\|\hat x - x\| / \|x\|` of each sample, ``(N,)``; 0 where both are zero."""
    return _ratio(_dot(estimate - truth, estimate - truth), _dot(truth, truth)).sqrt()


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each sample, ``(N,)``."""
    return (a * b).flatten(1).sum(1)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """0 / 0 is 0: a sample that is solved stays."""
    return torch.where(b > 0, a / torch.where(b > 0, b, 1), torch.where(a > 0, torch.inf, 0.0).to(a))


def _scale(factor: Tensor, x: Tensor) -> Tensor:
    return factor.view(-1, *(1,) * (x.ndim - 1)) * x
