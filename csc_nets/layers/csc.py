"""Convolutional sparse coding layers in one, two and three dimensions."""

from collections.abc import Sequence
from typing import Unpack

import torch

from csc_nets.functional import ConvGeometry
from csc_nets.layers.coding import CSC
from csc_nets.layers.dictionary import ConvDictionary, Dictionary1d, Dictionary2d, Dictionary3d
from csc_nets.layers.like_conv import LikeConv
from csc_nets.layers.options import CodingOptions

__all__ = ["CSC1d", "CSC2d", "CSC3d", "ConvCSC"]


class ConvCSC(LikeConv, CSC):
    r"""Convolutional sparse coding, which takes the place of a convolution and its ReLU.

    Build it like ``nn.Conv``, ``CSC2d(3, 64, 3, padding=1, lam=0.1)``; then ``z = layer(x)`` is a code that is mostly
    0, ``layer.synthesize(z, x.shape[2:])`` what the code says about ``x``, and ``layer.lam = 0.3`` makes it sparser.

    .. math:: z(x) = \arg\min_z \tfrac12 \|x - D z\|^2 + \lambda \|z\|_1 + \tfrac{\mu}{2} \|z\|^2, \quad z \ge 0

    by ``steps`` steps of FISTA from zero, with :math:`D z` the transposed convolution with unit atoms and
    :math:`\eta = 0.9 / \|D\|^2`:

    .. math:: z \leftarrow \max\bigl(y + \eta D^T (x - D y) - \eta \lambda, 0\bigr)

    One step is a convolution with bias and a ReLU. The gradient is that of the unrolled steps, with a constant step
    size. Xili Dai et al., `"Revisiting Sparse Convolutional Model for Visual Recognition"
    <https://arxiv.org/abs/2210.12945>`_, use two steps (where FISTA and ISTA agree).

    Args:
        in_channels: channels C of the signal.
        out_channels: number M of atoms.
        kernel_size, stride, padding, dilation, padding_mode: as for ``nn.Conv``; ``padding_mode`` is ``"zeros"``,
            ``"circular"`` or ``"reflect"``.
        **options: ``lam``, ``pursuit``, ``steps``, ``penalty``, ``gradient``, ...: see
            :class:`~csc_nets.layers.CodingOptions`.
        groups: groups of channels, as for ``nn.Conv``: each is coded by its own atoms.
        unit_norm: keep the atoms on the unit sphere; False trains plain filters, as a CNN does.
        device, dtype: of the atoms.

    ``pursuit``, ``steps``, ``tol``, ``penalty``, ``gradient``, ``step_size``, ``ridge`` and ``lam`` may be assigned
    later; values that do not fit the others are refused. A layer that becomes ``"calibrated"`` starts with steps of
    ISTA: :meth:`calibrate` it, or train.

    Shape:
        ``(N, C, *S)`` to ``(N, M, *S')``, or ``(C, *S)`` to ``(M, *S')``, sizes as ``nn.Conv``; any ``S``.

    Example:
        >>> layer = CSC2d(3, 16, kernel_size=3, padding=1, lam=0.1, steps=4)
        >>> z = layer(torch.randn(8, 3, 32, 32))
        >>> z.shape, bool((z >= 0).all()), layer.synthesize(z, (32, 32)).shape
        (torch.Size([8, 16, 32, 32]), True, torch.Size([8, 3, 32, 32]))
    """

    dictionary: ConvDictionary
    dictionary_class: type[ConvDictionary]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = 0,
        dilation: int | Sequence[int] = 1,
        padding_mode: str = "zeros",
        *,
        groups: int = 1,
        unit_norm: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[CodingOptions],
    ) -> None:
        geometry = (kernel_size, stride, padding, dilation, padding_mode)
        dictionary = self.dictionary_class(
            in_channels, out_channels, *geometry, device=device, dtype=dtype, groups=groups, unit_norm=unit_norm
        )
        super().__init__(dictionary, **options)

    @property
    def geometry(self) -> ConvGeometry:
        """Sizes of the dictionary."""
        return self.dictionary.geometry

    @property
    def in_channels(self) -> int:
        """Channels of the signal."""
        return self.dictionary.in_channels

    @property
    def out_channels(self) -> int:
        """Number of atoms."""
        return self.dictionary.out_channels


class CSC1d(ConvCSC):
    __doc__ = ConvCSC.__doc__
    dictionary_class = Dictionary1d


class CSC2d(ConvCSC):
    __doc__ = ConvCSC.__doc__
    dictionary_class = Dictionary2d


class CSC3d(ConvCSC):
    __doc__ = ConvCSC.__doc__
    dictionary_class = Dictionary3d
