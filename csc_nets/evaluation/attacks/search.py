"""What all attacks share: how a network is treated, what is checked, which of the points found is kept."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from csc_nets.evaluation.attacks.losses import Loss
from csc_nets.functional.norm_balls import Draw, Range
from csc_nets.theory.network.evaluation_mode import evaluation_mode

__all__ = ["Adversarial", "Attempt", "Best", "Classifier", "attacked", "check_inputs", "climb", "drawn", "search"]

Classifier = Callable[[Tensor], Tensor]
"""From pixels ``(N, C, H, W)`` to logits ``(N, K)``: a module, or any function that autograd can differentiate."""

Attempt = Callable[[Tensor, Tensor], Tensor]
"""One try: from images and labels to images in the ball around them."""


@dataclass(frozen=True)
class Adversarial:
    """What an attack has found.

    Attributes:
        images: ``(N, C, H, W)``, each within eps of its image and within the bounds of pixels. An image that the
            network has wrong anyway is left as it is.
        success: whether the network gives another class than the label, ``(N,)``. It is read off a last pass over all
            ``images`` together, so that anybody can repeat it.
        left: the accuracy after each attempt, by its name, each on the images that the ones before it have left;
            ``"clean"`` is that without an attack.
    """

    images: Tensor
    success: Tensor
    left: dict[str, float] = field(default_factory=dict)

    @property
    def accuracy(self) -> float:
        """Share of images that the attack leaves right: an upper bound of the robust accuracy, never the accuracy."""
        return 1 - self.success.double().mean().item()


class Best:
    """The best point of each image so far: one of another class stays, otherwise the one with the largest loss."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images.clone(), labels
        self.loss = images.new_full((len(images),), -math.inf)
        self.success = torch.zeros(len(images), dtype=torch.bool, device=images.device)

    def see(self, x: Tensor, logits: Tensor, loss: Tensor) -> None:
        """Takes points into account, ``(N, C, H, W)``, with their logits and losses."""
        wrong = logits.argmax(1) != self.labels
        better = ~self.success & (wrong | (loss > self.loss))
        self.images[better], self.loss[better] = x[better], loss[better].to(self.loss.dtype)
        self.success |= wrong


@contextmanager
def attacked(model: Classifier) -> Iterator[Classifier]:
    """A network as attacks call it: in evaluation mode, with gradients of images only; afterwards it is as it was.

    The modes of all modules, ``requires_grad`` and ``grad`` of all parameters are what they were, after an error too.
    A function that is no module is called as it is.
    """
    if not isinstance(model, nn.Module):
        with torch.inference_mode(False), torch.enable_grad():
            yield model
        return
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.inference_mode(False), torch.enable_grad(), evaluation_mode(model):
        try:
            for parameter in trained:
                parameter.requires_grad_(False)
            yield model
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)


def climb(model: Classifier, x: Tensor, labels: Tensor, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, losses and the gradient of each loss by its own image; samples do not see one another.

    Raises:
        ValueError: the logits are no differentiable function of the images.
        FloatingPointError: a gradient holds NaN or infinite values: an attack that went on would be too weak.
    """
    x = x.detach().requires_grad_()
    logits = model(x)
    values = loss(logits, labels)
    if not values.requires_grad:
        raise ValueError(
            "the logits have no gradient by the images: the network detaches them. Attack it with StraightThrough, or "
            "without gradients (square)"
        )
    (gradient,) = torch.autograd.grad(values.sum(), x)
    broken = int((~gradient.isfinite()).flatten(1).any(1).sum())
    if broken:
        raise FloatingPointError(f"the gradients of {broken} of {len(x)} images hold NaN or infinite values")
    return logits.detach(), values.detach(), gradient


def drawn(like: Tensor, generator: torch.Generator) -> Draw:
    """Random numbers in the shape of images."""
    return lambda random: random(like.shape, generator=generator, device=like.device, dtype=like.dtype)


def check_inputs(images: Tensor, labels: Tensor, eps: float, bounds: Range) -> None:
    """Refuses what no attack can work on.

    Raises:
        ValueError: images that are not ``(N, C, *S)`` floats within ``bounds``, labels that are not ``(N,)`` whole
            numbers, a negative or infinite eps.
    """
    if images.ndim < 3 or not images.is_floating_point():
        raise ValueError(f"images must be (N, C, *S) floats, got {images.dtype} of shape {tuple(images.shape)}")
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(f"labels must be {len(images)} of int64, got {labels.dtype} of shape {tuple(labels.shape)}")
    low, high = bounds
    if not low < high:
        raise ValueError(f"bounds must be the least and the largest value of a pixel, got {bounds!r}")
    if images.numel() and not bool(((images >= low) & (images <= high)).all()):
        raise ValueError(
            f"images must have pixels in [{low:g}, {high:g}], got {images.min():.4g} to {images.max():.4g}. Are they "
            "normalised? Give the network its normalisation: csc_nets.models.Normalised(network)"
        )
    if isinstance(eps, bool) or not isinstance(eps, float | int) or not 0 <= eps < math.inf:
        raise ValueError(f"eps must be a finite number >= 0, got {eps!r}")


def search(model: Classifier, images: Tensor, labels: Tensor, attempts: Mapping[str, Attempt]) -> Adversarial:
    """Tries on, image by image, until an image falls or no attempt is left.

    Each attempt sees the images that have stood so far, so any success counts.
    """
    with attacked(model) as network:
        found, labels = images.detach().clone(), labels.clone()
        standing = _right(network, found, labels)
        left = {"clean": _share(standing)}
        for name, attempt in attempts.items():
            rest = standing.nonzero()[:, 0]
            if len(rest):
                # Images that stand come back as the last attempt leaves them: near to falling.
                found[rest] = attempt(images[rest].detach().clone(), labels[rest])
                standing[rest] = _right(network, found[rest], labels[rest])
            left[name] = _share(standing)
        return Adversarial(found, ~_right(network, found, labels), left)


def _share(standing: Tensor) -> float:
    return standing.double().mean().item()


@torch.no_grad()
def _right(model: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    if not len(images):
        return torch.zeros(0, dtype=torch.bool, device=images.device)
    logits = model(images)
    if logits.ndim != 2 or len(logits) != len(images):
        raise ValueError(f"the network must return logits (N, K), got {tuple(logits.shape)} for {len(images)} images")
    if not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise ValueError(f"labels must be 0 to {logits.shape[1] - 1}, got {int(labels.min())} to {int(labels.max())}")
    # A network that breaks down on an image has it wrong.
    return (logits.argmax(1) == labels) & logits.isfinite().all(1)
