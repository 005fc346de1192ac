"""DnCNN: the plain convolutional baseline of denoising."""

from typing import Any

from torch import Tensor, nn

from csc_nets.models.denoiser import Denoiser
from csc_nets.models.registry import register_model

__all__ = ["DnCNN"]


class DnCNN(Denoiser):
    r"""A chain of convolutions that predicts the noise, :math:`\hat x = x - f(x)`.

    Zhang, Zuo, Chen, Meng, Zhang, `Beyond a Gaussian Denoiser: Residual Learning of Deep CNN for Image Denoising
    <https://arxiv.org/abs/1608.03981>`_. The first convolution has a bias and a ReLU, the last one a bias. Those
    between have batch norm and a ReLU. A network is trained for one range of noise levels; ``sigma`` is accepted and
    does not count. Missing pixels are read as 0.

    Args:
        in_chans: channels of the image.
        depth: number of convolutions, at least 2.
        width: channels between them.

    Shape:
        - input ``(N, in_chans, H, W)``, any size
        - output: the same as the input
    """

    def __init__(self, in_chans: int = 1, *, depth: int = 17, width: int = 64) -> None:
        if depth < 2 or width < 1:
            raise ValueError(f"depth must be at least 2 and width at least 1, got {depth}, {width}")
        stages = [nn.Sequential(nn.Conv2d(in_chans, width, 3, padding=1), nn.ReLU(inplace=True))]
        for _ in range(depth - 2):
            convolution = nn.Conv2d(width, width, 3, padding=1, bias=False)
            stages.append(nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)))
        super().__init__(stages, [width] * (depth - 1), [1] * (depth - 1), in_chans=in_chans, input_size=64)
        self.last = nn.Conv2d(width, in_chans, 3, padding=1)
        self.reach = depth

    def level(self, x: Tensor, sigma: float | Tensor | None, mask: Tensor | None = None) -> float | Tensor:
        """Checks a noise level, which does not count."""
        return 0.0 if sigma is None else super().level(x, sigma, mask)

    def restore(self, x: Tensor, level: float | Tensor, mask: Tensor | None) -> Tensor:
        """The image less what the network takes for noise."""
        noise: Tensor = self.last(self.forward_features(x))
        return x - noise


@register_model
def dncnn(*, in_chans: int = 1, **overrides: Any) -> DnCNN:
    """17 convolutions of 64 channels: 556,097 parameters for grey images."""
    return DnCNN(in_chans, **overrides)
