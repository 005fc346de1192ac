"""Dictionaries learned from images alone: an autoencoder whose decoder is the dictionary of its own code."""

import math
from collections.abc import Sequence
from typing import Any, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csc_nets.layers import CodingOptions, Dictionary2d
from csc_nets.layers.effective import EffectiveCSC2d, effective_atoms
from csc_nets.layers.options import with_defaults
from csc_nets.layers.sparse_atoms import LargestEntries, sparsify_atoms
from csc_nets.models.csc_autoencoder import per_stage
from csc_nets.models.registry import register_model
from csc_nets.models.staged_encoder import StagedEncoder

__all__ = ["CSCDictionary", "HighPass"]


class HighPass(nn.Module):
    r"""An image less its Gaussian blur, :math:`x - G_\sigma x / G_\sigma 1`: a constant image becomes zero.

    Args:
        sigma: standard deviation of the blur in pixels; the kernel reaches three of them far.

    Shape:
        ``(N, C, H, W)`` to the same.
    """

    def __init__(self, sigma: float) -> None:
        super().__init__()
        if not 0 < sigma < math.inf:
            raise ValueError(f"highpass must be None or a number of pixels > 0, got {sigma!r}")
        self.sigma = sigma
        reach = math.ceil(3 * sigma)
        bell = torch.exp(-torch.arange(-reach, reach + 1).square() / (2 * sigma**2))
        self.bell: Tensor
        self.register_buffer("bell", bell / bell.sum(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        # Near the border the weights that lie inside the image are scaled to sum 1, which any image size allows.
        inside = self._blur(torch.ones_like(x[:1, :1]))
        blurred = self._blur(x.flatten(0, 1)[:, None]).view(x.shape)
        return x - blurred / inside

    def _blur(self, x: Tensor) -> Tensor:
        reach = len(self.bell) // 2
        x = F.conv2d(x, self.bell[None, None, :, None].to(x.dtype), padding=(reach, 0))
        return F.conv2d(x, self.bell[None, None, None, :].to(x.dtype), padding=(0, reach))

    def extra_repr(self) -> str:
        return f"sigma={self.sigma}"


class CSCDictionary(StagedEncoder):
    r"""Sparse code over one dictionary, or over the product of several, and back by synthesis with the same.

    .. math:: z(x) = \arg\min_z \tfrac12 \|x - D z\|^2 + \lambda \|z\|_1, \qquad \hat x = D z, \qquad
              D = D_1 \cdots D_K N^{-1}

    where N holds the norms of the effective atoms, so that those of D have unit norm.

    It is what :class:`csc_nets.tasks.DictionaryLearningTask` trains. With one dictionary that is convolutional
    dictionary learning; with several the multi-layer model of Sulam, Papyan, Romano and Elad, `Multi-Layer
    Convolutional Sparse Modeling: Pursuit and Dictionary Learning <https://arxiv.org/abs/1708.08705>`_, where the
    deepest code is found on the effective dictionary and the others follow by projection,
    :math:`\Gamma_{i-1} = D_i \Gamma_i` (:meth:`codes`). Their penalty on :math:`\|D_i\|_0` is a fixed number of
    non-zeros in each atom here (:class:`csc_nets.layers.sparse_atoms.LargestEntries`); their ridge on
    :math:`\|D_i\|_F^2` would be a constant, because atoms have unit norm.

    Stage 0 is the fixed high-pass, or nothing; stage 1 the pursuit. What the high-pass takes away is added back in the
    reconstruction, so that the atoms need not explain it.

    Args:
        in_chans: channels of the image.
        widths: atoms of each dictionary, the one of the image first.
        kernel_size, stride: of each dictionary, or one for all.
        padding: zeros around the image; None for half the extent of an effective atom.
        nonzeros: non-zeros in an atom of each deeper dictionary; one for all, or a list; None leaves them dense.
        highpass: standard deviation in pixels of the Gaussian blur that is taken away; None for no high-pass.
        **options: of the coding layer, see :class:`~csc_nets.layers.CodingOptions`; twenty steps and codes of any sign.

    Shape:
        - input ``(N, in_chans, H, W)``, any size; without padding at least the extent of an effective atom
        - output: the same as the input
    """

    def __init__(
        self,
        in_chans: int = 3,
        *,
        widths: Sequence[int] = (64,),
        kernel_size: int | Sequence[int] = 9,
        stride: int | Sequence[int] = 1,
        padding: int | None = None,
        nonzeros: int | Sequence[int] | None = None,
        highpass: float | None = None,
        **options: Unpack[CodingOptions],
    ) -> None:
        if not widths or min(widths) < 1:
            raise ValueError(f"widths must be at least one positive int, got {list(widths)}")
        depth = len(widths)
        kernels, strides = per_stage("kernel_size", kernel_size, depth), per_stage("stride", stride, depth)
        counts = [] if nonzeros is None else per_stage("nonzeros", nonzeros, depth - 1)
        extent = 1 + sum((k - 1) * math.prod(strides[:i]) for i, k in enumerate(kernels))
        border = extent // 2 if padding is None else padding
        channels, borders = [in_chans, *widths], [border] + [0] * (depth - 1)
        dictionaries = [
            Dictionary2d(channels[i], channels[i + 1], kernels[i], strides[i], borders[i]) for i in range(depth)
        ]
        for dictionary, count in zip(dictionaries[1:], counts, strict=False):
            sparsify_atoms(dictionary, count)
        # Also for one dictionary: its bound does not lag behind, and learning moves atoms far in a step. Codes from a
        # step size that was too large would spoil what the optimiser remembers of the gradients.
        coder = EffectiveCSC2d(dictionaries, **with_defaults(options, steps=20, nonneg=False))
        filtered: nn.Module = nn.Identity() if highpass is None else HighPass(highpass)
        super().__init__(
            [filtered, coder],
            [in_chans, widths[-1]],
            [1, math.prod(strides)],
            in_chans=in_chans,
            input_size=32,
        )

    @property
    def coder(self) -> EffectiveCSC2d:
        """The layer that computes the code."""
        return self.stages[1]  # type: ignore[return-value]

    @property
    def dictionaries(self) -> list[Dictionary2d]:
        """The dictionaries, the one of the image first."""
        return list(self.coder.dictionary.dictionaries)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruction of images ``(N, in_chans, H, W)``, of the same shape."""
        return self.reconstruct(x, self.encode(x))

    def encode(self, x: Tensor) -> Tensor:
        """Deepest code ``(N, num_features, H', W')``; the same as ``forward_features``."""
        return self.forward_features(x)

    def decode(self, z: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Synthesis of a deepest code, ``(N, in_chans, *output_size)``, without what the high-pass took away."""
        return self.coder.synthesize(z, output_size)

    def reconstruct(self, x: Tensor, z: Tensor) -> Tensor:
        """What a code says about the image that it came from, and with it what the high-pass took away."""
        passed: Tensor = self.stages[0](x)
        return self.decode(z, x.shape[2:]) + (x - passed)

    def codes(self, z: Tensor, output_size: Sequence[int] | None = None) -> list[Tensor]:
        """Codes of all layers that the deepest one implies, shallow to deep, for an image of ``output_size``."""
        return self.coder.codes(z, output_size)

    def residual(self, x: Tensor, z: Tensor) -> Tensor:
        """What a code leaves unexplained of the image that it came from, behind the high-pass."""
        passed: Tensor = self.stages[0](x)
        return passed - self.decode(z, x.shape[2:])

    def objective(self, x: Tensor, z: Tensor) -> Tensor:
        """What the pursuit minimises over z, per image ``(N,)``; differentiable in the dictionaries for a fixed code.

        At the optimal code that gradient is the gradient of the minimum itself (Danskin's theorem), which is what
        online dictionary learning descends on.
        """
        return self.coder.objective(self.stages[0](x), z)

    def effective_atoms(self, layer: int = -1) -> Tensor:
        """What one non-zero of the code of ``layer`` looks like in the image, ``(M, in_chans, *E)``."""
        depth = range(1, len(self.dictionaries) + 1)[layer]
        return effective_atoms(self.dictionaries[:depth])

    @torch.no_grad()
    def project(self, progress: float = 1.0) -> None:
        """Prepares the trained tensors for the next step; to be called after each step of an optimiser.

        They are scaled so that the atoms they stand for have unit norm there too, which changes no atom: a gradient
        along the sphere makes the tensor longer, and with its length the share of a step in it would fall.

        Args:
            progress: how far atoms with few non-zeros have come from dense ones (0) to the wanted number (1) in
                training mode; in between the number falls geometrically. In evaluation mode it is the wanted one.
        """
        for dictionary in self.dictionaries:
            dense = dictionary.get_parameter("parametrizations.weight.original")
            for entries in dictionary.modules():
                if isinstance(entries, LargestEntries):
                    more = max(1.0, dense[0].numel() / entries.count) ** (1 - min(1.0, max(0.0, progress)))
                    entries.used.fill_(round(entries.count * more))
            used = dense * (dictionary.weight != 0)
            norm = torch.linalg.vector_norm(used.flatten(1), dim=1)
            dense.div_(torch.where(norm > 0, norm, 1).view(-1, 1, 1, 1))


@register_model
def csc_dictionary(**overrides: Any) -> CSCDictionary:
    """One dictionary of 64 atoms, 9 x 9 pixels."""
    return CSCDictionary(**overrides)


@register_model
def ml_csc_dictionary(**overrides: Any) -> CSCDictionary:
    """Three dictionaries of 32, 64 and 128 atoms; those of the deeper two have 9 non-zeros."""
    return CSCDictionary(
        **{"widths": [32, 64, 128], "kernel_size": [5, 3, 3], "stride": [2, 1, 1], "nonzeros": 9, **overrides}
    )
