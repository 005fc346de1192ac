"""A network that takes pixels in [0, 1], where its training normalised them outside."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["Normalised"]


class Normalised(nn.Module):
    r"""A network with the normalisation of its training images in front: :math:`f((x - m) / s)`.

    Attacks and corruptions are stated in pixels. Networks of the zoo take normalised images.

    Args:
        model: any network of images; it is kept as ``model``.
        mean: mean of each channel, on the scale from black 0 to white 1; None for that of ``model.pretrained_cfg``.
        std: standard deviation of each channel on that scale, above 0; None as for ``mean``.

    Shape:
        - input: pixels ``(N, C, H, W)`` in [0, 1]
        - output: that of the network

    Raises:
        ValueError: mean or std are not given and the network does not know them; they are not finite, or std is not
            above 0.

    Example:
        >>> network = Normalised(nn.Identity(), mean=[0.5], std=[0.25])
        >>> network(torch.tensor([[[[0.0, 0.5, 1.0]]]]))
        tensor([[[[-2.,  0.,  2.]]]])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, model: nn.Module, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        known = getattr(model, "pretrained_cfg", {})
        for name, given in (("mean", mean), ("std", std)):
            values = known.get(name) if given is None else given
            if values is None:
                raise ValueError(f"{name} must be given: {type(model).__name__} does not say what it was trained with")
            kept = torch.tensor([float(value) for value in values]).view(-1, 1, 1)
            if not bool(kept.isfinite().all()) or (name == "std" and not bool((kept > 0).all())):
                raise ValueError(f"{name} must be finite numbers{' above 0' * (name == 'std')}, got {list(values)}")
            self.register_buffer(name, kept, persistent=False)
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """The network's output for pixels in [0, 1]."""
        output: Tensor = self.model((x - self.mean) / self.std)
        return output
