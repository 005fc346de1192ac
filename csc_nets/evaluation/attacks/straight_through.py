"""A network attacked through the gradient of another one: for steps that have no gradient of their own."""

from torch import Tensor, nn

from csc_nets.evaluation.attacks.search import Classifier

__all__ = ["StraightThrough"]


class StraightThrough(nn.Module):
    """The logits of one network with the gradient of another: backward pass differentiable approximation (BPDA).

    For networks with a step that has no useful gradient, such as a quantised input, or a sparsity weight that is chosen
    under ``torch.no_grad``. The surrogate is the same network with this step left out, made smooth, or with a gradient.

    Source: Athalye, Carlini, Wagner, `Obfuscated Gradients Give a False Sense of Security
    <https://arxiv.org/abs/1802.00420>`_, 2018, section 4.1.

    Args:
        model: gives the logits.
        surrogate: gives their gradient.
    """

    def __init__(self, model: Classifier, surrogate: Classifier) -> None:
        super().__init__()
        self.model, self.surrogate = model, surrogate

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, K)`` of images ``(N, C, H, W)``."""
        smooth = self.surrogate(x)
        return self.model(x).detach() + smooth - smooth.detach()
