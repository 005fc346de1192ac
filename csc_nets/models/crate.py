"""CRATE: a transformer of which each block compresses tokens and then takes a step of sparse coding."""

from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from csc_nets.layers import CodingOptions, SparseCoding
from csc_nets.layers.leaf import leaf
from csc_nets.layers.options import with_defaults
from csc_nets.models.image_classifier import ImageClassifier
from csc_nets.models.registry import register_model

__all__ = ["CRATE", "CRATEBlock", "PatchEmbedding", "SubspaceAttention"]


class PatchEmbedding(nn.Module):
    """Tokens of the patches of an image, behind a class token, with a position each.

    Args:
        in_chans: channels of the image.
        width: length of a token.
        patch_size: side of a patch, in pixels. An image is padded with zeros to whole patches.
        grid: patches a side that there are positions for; those of other grids are interpolated.

    Shape:
        ``(N, in_chans, H, W)`` to ``(N, 1 + ceil(H / patch_size) * ceil(W / patch_size), width)``.
    """

    def __init__(self, in_chans: int, width: int, patch_size: int, grid: int) -> None:
        super().__init__()
        pixels = in_chans * patch_size**2
        self.patch_size, self.grid = patch_size, grid
        self.norm, self.project, self.token_norm = nn.LayerNorm(pixels), nn.Linear(pixels, width), nn.LayerNorm(width)
        self.class_token = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 1 + grid**2, width))

    @leaf
    def forward(self, x: Tensor) -> Tensor:
        """Tokens of images."""
        p, (height, width) = self.patch_size, x.shape[2:]
        if height % p or width % p:
            x = F.pad(x, (0, -width % p, 0, -height % p))
        grid = (x.shape[2] // p, x.shape[3] // p)
        # The values of a patch are ordered as in the published code: row, column, channel.
        patches = x.unflatten(3, (grid[1], p)).unflatten(2, (grid[0], p)).permute(0, 2, 4, 3, 5, 1)
        tokens = self.token_norm(self.project(self.norm(patches.flatten(3).flatten(1, 2))))
        tokens = torch.cat([self.class_token.expand(x.shape[0], -1, -1), tokens], 1)
        return tokens + self.positions(grid)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Positions ``(1, 1 + height * width, width)`` of a grid of patches."""
        if grid == (self.grid, self.grid):
            return self.position
        first, others = self.position[:, :1], self.position[:, 1:]
        image = others.transpose(1, 2).unflatten(2, (self.grid, self.grid))
        exact = image.to(torch.promote_types(image.dtype, torch.float32))  # half precision has no such interpolation
        resized = F.interpolate(exact, grid, mode="bicubic", antialias=True).to(image)
        return torch.cat([first, resized.flatten(2).transpose(1, 2)], 1)


class SubspaceAttention(nn.Module):
    r"""Multi-head subspace self-attention, MSSA: queries, keys and values of a head are one and the same projection.

    .. math:: \mathrm{MSSA}(Z) = \sum_k V_k \, W_k \, \mathrm{softmax}(W_k^T W_k / \sqrt p), \qquad W_k = U_k^T Z

    A step of gradient descent on the coding rate of the tokens in the subspaces :math:`U_k`, to first order (Yu et al.
    2023, eq. 11 and 12). As in the published code the maps :math:`V_k` back are learned by themselves.

    Args:
        width: length of a token.
        heads: number of subspaces; each has ``width / heads`` dimensions.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"heads must divide width={width}, got {heads}")
        self.heads = heads
        self.subspaces = nn.Linear(width, width, bias=False)
        self.back = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, L, width)`` to the same shape."""
        projected = self.subspaces(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(projected, projected, projected)
        output: Tensor = self.back(mixed.transpose(1, 2).flatten(2))
        return output


class CRATEBlock(nn.Module):
    r"""Compression, then sparse coding.

    .. math:: Y = \mathrm{norm}(Z + \mathrm{MSSA}(\mathrm{norm}(Z))), \qquad
              Z_+ = \mathrm{relu}(Y + \eta D^T (Y - D Y) - \eta \lambda)

    The second is one step of ISTA for the signal Y that starts at the code Y. More steps, and other pursuits, go on
    from there. With an ``expansion`` the dictionary has more atoms than a token has entries; then the code starts at
    zero and comes back through a linear map of its own, as in CRATE-alpha: :math:`Z_+ = Z' + \hat D A`.

    Args:
        width: length of a token.
        heads: of the attention.
        expansion: atoms over ``width``.
        **options: of the coding layer.
    """

    def __init__(self, width: int, heads: int, expansion: int = 1, **options: Unpack[CodingOptions]) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(width), SubspaceAttention(width, heads)
        self.coder_norm = nn.LayerNorm(width)
        self.coder = SparseCoding(width, expansion * width, unit_norm=False, **options)
        self.decoder = nn.Linear(expansion * width, width, bias=False) if expansion > 1 else None
        with torch.no_grad():
            nn.init.kaiming_uniform_(self.coder.dictionary.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens ``(N, L, width)`` to the same shape."""
        x = x + self.attention(self.attention_norm(x))
        y = self.coder_norm(x)
        if self.decoder is None:
            code: Tensor = self.coder(y, init=y)
            return code
        output: Tensor = x + self.decoder(self.coder(y))
        return output


class CRATE(ImageClassifier):
    r"""A classifier of image patches in which every layer is a step of a known objective, the sparse rate reduction.

    Yu et al., `White-Box Transformers via Sparse Rate Reduction <https://arxiv.org/abs/2306.01129>`_, 2023. The ISTA
    block is a :class:`~csc_nets.layers.SparseCoding` layer: plain weights, as many atoms as a token has entries, one
    step of size 0.1 with ``lam=0.1`` from the token itself. Of a code with more atoms, ``expansion``: Yang et al.,
    `Scaling White-Box Transformers for Vision <https://arxiv.org/abs/2405.20299>`_, 2024. Weights of the published code
    come in by :func:`~csc_nets.models.import_crate`.

    Args:
        num_classes: classes; 0 leaves the pooled features as output.
        in_chans: channels of the image.
        width: length of a token.
        depth: blocks.
        heads: of each attention.
        patch_size: side of a patch, in pixels.
        input_size: height and width of the images that there are positions for, in pixels.
        expansion: atoms over ``width``.
        global_pool: ``"token"`` classifies the class token, ``"avg"`` the mean of all tokens.
        drop_rate: dropout before the classifier.
        **options: of every coding layer, see :class:`~csc_nets.layers.CodingOptions`; one step of ISTA, two where
            ``expansion`` is above 1, with ``step_size=0.1``. Free atoms of any norm may need a smaller one;
            ``step_size=None`` follows them.

    Shape:
        - input ``(N, in_chans, H, W)``, any size
        - features: tokens ``(N, 1 + h * w, width)``, the class token first; intermediates are maps ``(N, width, h, w)``
        - output: logits ``(N, num_classes)``
    """

    poolings = ("token", "avg")

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        *,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        patch_size: int = 16,
        input_size: int = 224,
        expansion: int = 1,
        global_pool: str = "token",
        drop_rate: float = 0.0,
        **options: Unpack[CodingOptions],
    ) -> None:
        counts = {"width": width, "depth": depth, "heads": heads, "patch_size": patch_size, "expansion": expansion}
        for name, count in counts.items():
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ValueError(f"{name} must be an int >= 1, got {count!r}")
        if input_size < 1 or input_size % patch_size:
            raise ValueError(f"input_size must be a multiple of patch_size={patch_size}, got {input_size!r}")
        chosen = with_defaults(options, pursuit="ista", steps=1 if expansion == 1 else 2, step_size=0.1)
        blocks = [CRATEBlock(width, heads, expansion, **chosen) for _ in range(depth)]
        super().__init__(
            [PatchEmbedding(in_chans, width, patch_size, input_size // patch_size), *blocks],
            [width] * (1 + depth),
            [patch_size] * (1 + depth),
            in_chans=in_chans,
            input_size=input_size,
            num_classes=num_classes,
            drop_rate=drop_rate,
            global_pool=global_pool,
        )
        self.patch_size = patch_size
        self.norm = nn.LayerNorm(width)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits of tokens ``(N, L, width)``; with ``pre_logits`` the pooled and normed ``(N, width)``."""
        pooled = features[:, 0] if self.global_pool == "token" else features.mean(1)
        output: Tensor = self.dropout(self.norm(pooled))
        if not pre_logits:
            output = self.fc(output)
        return output

    def no_weight_decay(self) -> set[str]:
        """As for every network, and the positions and the class token."""
        return super().no_weight_decay() | {"stages.0.position", "stages.0.class_token"}

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """As :attr:`ImageClassifier.pretrained_cfg`; the layer that takes the image is linear."""
        return {**super().pretrained_cfg, "first_conv": "stages.0.project"}


@register_model
def crate_tiny(**overrides: Any) -> CRATE:
    """Tokens of length 384, 12 blocks; 6.09 M parameters with 1,000 classes."""
    return CRATE(**overrides)


@register_model
def crate_small(**overrides: Any) -> CRATE:
    """Tokens of length 576, 12 blocks; 13.12 M parameters with 1,000 classes."""
    return CRATE(**{"width": 576, "heads": 12, **overrides})


@register_model
def crate_base(**overrides: Any) -> CRATE:
    """Tokens of length 768, 12 blocks; 22.80 M parameters with 1,000 classes."""
    return CRATE(**{"width": 768, "heads": 12, **overrides})


@register_model
def crate_large(**overrides: Any) -> CRATE:
    """Tokens of length 1,024, 24 blocks; 77.64 M parameters with 1,000 classes."""
    return CRATE(**{"width": 1024, "depth": 24, "heads": 16, **overrides})


@register_model
def crate_cifar(**overrides: Any) -> CRATE:
    """For images of 32 x 32 pixels: patches of 4 pixels, tokens of length 96, 6 blocks; 0.18 M parameters."""
    return CRATE(**{"width": 96, "depth": 6, "heads": 6, "patch_size": 4, "input_size": 32, **overrides})
