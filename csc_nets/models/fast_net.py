"""FastNet: a network of eight layers that learns CIFAR-10 in a few passes, with plain or sparse-coding layers."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.nn.functional import unfold

from csc_nets.layers import CodingOptions, CSC2d
from csc_nets.models.image_classifier import ImageClassifier
from csc_nets.models.registry import register_model
from csc_nets.models.residual import Layer

__all__ = ["FastNet", "principal_patches"]

_PATCH = 2
_RIDGE = 5e-4  # of a variance, for images of unit variance


class FastNet(ImageClassifier):
    r"""Whitened 2 x 2 patches, then three stages of two 3 x 3 layers with pooling and batch norm.

    The design is that of airbench94: Keller Jordan, `94% on CIFAR-10 in 3.29 Seconds on a Single GPU
    <https://arxiv.org/abs/2404.00498>`_, 2024. A stage is

        layer, max-pooling of 2 x 2, batch norm, GELU, layer, batch norm, GELU

    The plain stem does not learn its filters: they are the principal components :math:`e_p` of the patches of training
    images over their standard deviations, each with both signs, so that the GELU loses nothing. That is one step of
    sparse coding: the :math:`e_p` are an orthonormal dictionary of patches, its analysis is the code of lam = 0, and
    the two signs make it non-negative. A coded stem starts with these atoms, adds a threshold, and learns them.

    A coded layer needs no GELU, its codes are non-negative. Plain filters and atoms have Dirac initialisation: the
    first ones pass the channels of the input on, the others are random. A task calls :meth:`fit_images`, which sets
    the stem.

    One departure: images are padded by one pixel on the right and at the bottom and pooling rounds sizes up, so that
    the sizes of the stages are those of other networks here.

    Args:
        num_classes: classes; 0 leaves the pooled features as output.
        in_chans: channels of the image.
        coding: ``"none"``; ``"stem"`` codes the first layer, ``"stages"`` the 3 x 3 layers, ``"all"`` both.
        widths: channels of the stages.
        drop_rate: dropout before the classifier.
        global_pool: ``"max"`` classifies the maxima of the last map, as airbench94 does, ``"avg"`` its means. The
            gradient of means over n positions is smaller by the square root of n, and the rates of airbench94 are too
            low for it.
        bn_momentum: weight of a batch in the running statistics of batch norm, which change fast in a short training.
        **options: of every coding layer, see :class:`~csc_nets.layers.CodingOptions`.

    Shape:
        - input ``(N, in_chans, H, W)``, any size
        - output: logits ``(N, num_classes)``
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        *,
        coding: str = "none",
        widths: Sequence[int] = (64, 256, 256),
        drop_rate: float = 0.0,
        global_pool: str = "avg",
        bn_momentum: float = 0.4,
        **options: Unpack[CodingOptions],
    ) -> None:
        if coding not in ("none", "stem", "stages", "all"):
            raise ValueError(f"coding must be 'none', 'stem', 'stages' or 'all', got {coding!r}")
        if coding == "none" and options:
            raise ValueError(f"coding='none' has no coded layer and takes no {', '.join(sorted(options))}")
        if not widths or min(widths) < 1:
            raise ValueError(f"widths must be at least one positive int, got {list(widths)}")
        if not 0 < bn_momentum <= 1:
            raise ValueError(f"bn_momentum must be above 0 and at most 1, got {bn_momentum}")
        norm = partial(shifted_norm, momentum=bn_momentum)
        csc: Layer = partial(CSC2d, **options)
        coded = coding in ("stages", "all")
        layer: Layer = partial(coded_layer, **options) if coded else plain_layer
        act: Layer = nn.Identity if coded else nn.GELU
        filters = 2 * in_chans * _PATCH**2
        first = [WhiteningConv2d(in_chans), nn.GELU()]
        if coding in ("stem", "all"):
            first = [csc(in_chans, filters, _PATCH), norm(filters)]
        stages: list[nn.Module] = [nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), *first)]
        previous = filters
        for width in widths:
            stages.append(
                nn.Sequential(
                    layer(previous, width, 3, padding=1),
                    nn.MaxPool2d(2, ceil_mode=True),
                    norm(width),
                    act(),
                    layer(width, width, 3, padding=1),
                    norm(width),
                    act(),
                )
            )
            previous = width
        super().__init__(
            stages,
            [filters, *widths],
            [2**i for i in range(len(stages))],
            in_chans=in_chans,
            input_size=32,
            num_classes=num_classes,
            drop_rate=drop_rate,
            global_pool=global_pool,
        )

    @torch.no_grad()
    def fit_images(self, images: Tensor) -> None:
        """Sets the filters, or first atoms, of the stem from training images ``(N, in_chans, H, W)``, normalised."""
        vectors, variances = principal_patches(images, _PATCH)
        stem: Any = self.stages[0]
        if isinstance(stem[1], WhiteningConv2d):
            vectors = vectors / (variances + _RIDGE).sqrt()[:, None, None, None]
            stem[1].weight.copy_(torch.cat([vectors, -vectors]))
        else:
            stem[1].dictionary.set_atoms(torch.cat([vectors, -vectors]).to(stem[1].atoms))

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh last layer; see :meth:`ImageClassifier.reset_classifier`."""
        super().reset_classifier(num_classes, global_pool)
        if isinstance(self.fc, nn.Linear):
            like = self.fc.weight
            self.fc = ScaledLinear(self.num_features, num_classes, device=like.device, dtype=like.dtype)


class ScaledLinear(nn.Linear):
    """A linear layer whose output is divided by 9, so that a training starts with small logits."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 9


class WhiteningConv2d(nn.Conv2d):
    """A convolution of 2 x 2 pixels whose filters are fixed, ``(N, C, H, W)`` to ``(N, 8 C, H - 1, W - 1)``.

    Args:
        in_chans: channels C of the image.
    """

    def __init__(self, in_chans: int) -> None:
        size = in_chans * _PATCH**2
        super().__init__(in_chans, 2 * size, _PATCH)
        del self.weight
        eye = torch.eye(size).view(size, in_chans, _PATCH, _PATCH)  # before images are seen, those of white noise
        self.register_buffer("weight", torch.cat([eye, -eye]))


def shifted_norm(channels: int, momentum: float) -> nn.BatchNorm2d:
    """Batch norm that learns a bias and no scale; ``momentum`` is the weight of a batch in the running statistics."""
    norm = nn.BatchNorm2d(channels, momentum=momentum, affine=False)
    norm.bias = nn.Parameter(torch.zeros(channels))
    return norm


def plain_layer(in_channels: int, out_channels: int, kernel_size: int, padding: int) -> nn.Conv2d:
    """A convolution without bias that starts by handing on its input, as far as it has channels for it."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, bias=False)
    if not conv.weight.is_meta:
        nn.init.dirac_(conv.weight.detach()[:in_channels])
    return conv


def coded_layer(
    in_channels: int, out_channels: int, kernel_size: int, padding: int, **options: Unpack[CodingOptions]
) -> CSC2d:
    """A coding layer whose atoms start as the filters of :func:`plain_layer`, at unit norm."""
    layer = CSC2d(in_channels, out_channels, kernel_size, padding=padding, **options)
    if not layer.atoms.is_meta:
        layer.dictionary.set_atoms(plain_layer(in_channels, out_channels, kernel_size, padding).weight.detach())
    return layer


def principal_patches(images: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Principal components of all square patches, about zero.

    Args:
        images: ``(N, C, H, W)``.
        size: height and width of a patch.

    Returns:
        Orthonormal vectors ``(P, C, size, size)`` with P = C size^2, and the mean squares ``(P,)`` of the patches along
        them, the largest first.
    """
    if min(images.shape[2:]) < size:
        shape = tuple(images.shape)
        raise ValueError(f"patches of {size} x {size} pixels need images of as many or more, got {shape}")
    patches = unfold(images.double(), size).transpose(1, 2).flatten(0, 1)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    components = vectors.T.flip(0).reshape(-1, images.shape[1], size, size)
    return components.to(images.dtype), values.flip(0).clamp_min(0).to(images.dtype)


@register_model
def fastnet(**overrides: Any) -> FastNet:
    """FastNet with plain layers, the baseline."""
    return FastNet(**overrides)


@register_model
def fastnet_stem(**overrides: Any) -> FastNet:
    """FastNet with a coded stem."""
    return FastNet(**{"coding": "stem", **overrides})


@register_model
def fastnet_stages(**overrides: Any) -> FastNet:
    """FastNet with coded 3 x 3 layers, six in all, behind the whitened patches."""
    return FastNet(**{"coding": "stages", **overrides})


@register_model
def fastnet_all(**overrides: Any) -> FastNet:
    """FastNet with every layer coded, seven in all."""
    return FastNet(**{"coding": "all", **overrides})
