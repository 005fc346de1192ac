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

__all__ = ["Linearization", "activation", "invert", "relative_error"]


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
        handle = module.register_forward_pre_hook(
            lambda module, args, kwargs: keep(args[0] if args else next(iter(kwargs.values()))), with_kwargs=True
        )
    else:
        handle = module.register_forward_hook(lambda module, args, output: keep(output))
    try:
        model(x.clone())  # the first layer may work in place
    except _Reached:
        return found[0]
    finally:
        handle.remove()
    raise ValueError(f"layer {layer!r} of {type(model).__name__} is not called for this input")


class Linearization:
    r"""A network down to a layer, with the switches of some images: :math:`f(v) = A v + c`.

    Args:
        model: a network in evaluation mode, so that samples do not see one another.
        images: where the switches come from, ``(N, C, H, W)``.
        layer: name of a submodule.
        inputs: take what the layer is given, not what it returns.

    Attributes:
        activation: :math:`f(x)` of the images themselves.
        offset: :math:`c = f(x) - A x`.

    Raises:
        ValueError: a model in training mode, a layer that is not there, images that are not finite.
    """

    def __init__(self, model: nn.Module, images: Tensor, layer: str, *, inputs: bool = False) -> None:
        if any(module.training for module in model.modules()):
            raise ValueError("the model must be in evaluation mode to be inverted: model.eval()")
        if not bool(images.isfinite().all()):
            raise ValueError("images to invert must be finite, got NaN or infinite pixels")
        self.images = images.detach()
        self._run = lambda x: activation(model, layer, x, inputs=inputs)
        with torch.no_grad():
            self.activation, self._transposed = vjp(self._run, self.images)[:2]
            self._of_images = self.forward(self.images)
            self.offset = self.activation - self._of_images

    def forward(self, v: Tensor) -> Tensor:
        """``A v`` of images ``(N, C, H, W)``."""
        with torch.no_grad():
            return jvp(self._run, (self.images,), (v,))[1]

    def adjoint(self, h: Tensor) -> Tensor:
        """``A^T h`` of activations."""
        with torch.no_grad():
            return self._transposed(h)[0]

    def solve(
        self, target: Tensor | None = None, *, steps: int = 10, trace: Callable[[Tensor], Any] | None = None
    ) -> Tensor:
        """Images with activations nearest to ``target``; arguments and errors as for :func:`invert`."""
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ValueError(f"invert: steps must be an int >= 1, got {steps!r}")
        if target is not None and (target.shape != self.activation.shape or not bool(target.isfinite().all())):
            raise ValueError(
                f"invert: target must be finite and of shape {tuple(self.activation.shape)}, got {tuple(target.shape)}"
            )
        # A deep network without norms may shrink its input by many orders of magnitude: A is taken to keep its energy.
        scale = _ratio(_energy(self._of_images), _energy(self.images)).sqrt()
        scale = 1 / torch.where((scale > 0) & scale.isfinite(), scale, 1.0)
        residual = _scale(scale, self._of_images if target is None else target - self.offset)
        result = torch.zeros_like(self.images)
        direction = gradient = _scale(scale, self.adjoint(residual))
        size = _energy(gradient)
        for step in range(steps):
            ahead = _scale(scale, self.forward(direction))
            alpha = _ratio(size, _energy(ahead))
            result = result + _scale(alpha, direction)
            if trace is not None:
                trace(result)
            if step == steps - 1:
                break
            residual = residual - _scale(alpha, ahead)
            gradient = _scale(scale, self.adjoint(residual))
            before, size = size, _energy(gradient)
            direction = gradient + _scale(_ratio(size, before), direction)
        return result


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
    network that is not piecewise affine it is the same with its linearisation at ``images``. Several targets share a
    :class:`Linearization`.

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
        ValueError: ``steps`` below 1, a model in training mode, a layer that is not there, images or a target that are
            not finite, a target of another shape.
    """
    return Linearization(model, images, layer, inputs=inputs).solve(target, steps=steps, trace=trace)


def relative_error(estimate: Tensor, truth: Tensor) -> Tensor:
    r""":math:`\|\hat x - x\| / \|x\|` of each sample, ``(N,)`` in float64; 0 where both are zero.

    The ``estimate`` and the ``truth`` have any shape ``(N, ...)``.
    """
    return _ratio(_energy(estimate.double() - truth.double()), _energy(truth)).sqrt()


def _energy(x: Tensor) -> Tensor:
    """Squared norm of each sample, ``(N,)``, in float64: the squares of small activations underflow in float32."""
    return x.double().square().flatten(1).sum(1)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b, where 0 / 0 is 0: a sample that is solved stays."""
    return torch.where((a == 0) & (b == 0), 0.0, a / b)


def _scale(factor: Tensor, x: Tensor) -> Tensor:
    return factor.to(x.dtype).view(-1, *(1,) * (x.ndim - 1)) * x
