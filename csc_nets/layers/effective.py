"""Sparse coding over the effective dictionary of several layers."""

from collections.abc import Sequence
from typing import NoReturn, Unpack

import torch
from torch import Tensor, nn

from csc_nets.functional import Cascade, ConvGeometry, unit_norm
from csc_nets.functional.checks import full_precision
from csc_nets.functional.operators.fingerprint import fingerprint, moved
from csc_nets.layers.coding import CSC
from csc_nets.layers.csc import CSC2d
from csc_nets.layers.dictionary import Dictionary2d
from csc_nets.layers.options import CodingOptions
from csc_nets.layers.read_only import read_only
from csc_nets.layers.spectral_bound import SAME, watch_loading

__all__ = ["EffectiveCSC2d", "EffectiveDictionary2d", "effective_atoms"]


def effective_atoms(dictionaries: Sequence[Dictionary2d]) -> Tensor:
    r"""Effective atoms ``(M_K, C, *E)``: atoms of :math:`D_1 D_2 \cdots D_K`, one for each deepest atom.

    The extent is :math:`E = k_1 + \sum_{i \ge 2} (k_i - 1) s_1 \cdots s_{i-1}` per axis.

    Args:
        dictionaries: from the signal to the deepest code; padding is left out of account.

    Raises:
        ValueError: a dictionary is dilated: atoms of the product would have holes.
    """
    for i, dictionary in enumerate(dictionaries):
        if any(d != 1 for d in dictionary.geometry.dilation):
            raise ValueError(f"dictionaries[{i}] must have dilation 1, got {dictionary.geometry.dilation}")
    *shallower, deepest = dictionaries
    atoms = deepest._atoms
    for dictionary in shallower[::-1]:
        whole = ConvGeometry.create(2, dictionary.geometry.kernel_size, dictionary.geometry.stride)
        size = [(n - 1) * s + k for n, s, k in zip(atoms.shape[2:], whole.stride, whole.kernel_size, strict=True)]
        atoms = whole.synthesis(atoms, dictionary._atoms, size)
    return atoms


class EffectiveDictionary2d(Dictionary2d):
    r"""The product :math:`D_1 D_2 \cdots D_K` as one convolutional dictionary of unit atoms.

    The product of convolutions without padding is a convolution: its atoms are :func:`effective_atoms`, its stride is
    the product of the strides. Padding of the first factor is padding of the product. With few channels in the signal
    that convolution costs far less than the chain: on MNIST with 32, 64 and 256 atoms of 7, 5 and 7 pixels a tenth.

    The product of dictionaries with unit atoms does not have unit atoms. The l1 norm of a code becomes smaller with
    longer atoms, and shallow atoms that resemble their own shifts make long effective atoms. So the effective atoms are
    scaled here: with :math:`N` the diagonal matrix of their norms

    .. math:: D = D_1 D_2 \cdots D_K N^{-1}, \qquad \Gamma_K = N^{-1} z

    Args:
        dictionaries: the factors, from the signal to the deepest code. They are trained; this module computes the
            spectral bounds of the product and of each factor.

    Attributes:
        lipschitz: :math:`\|D\|^2` on signals of every size, 0-d buffer.
        lipschitz_single: the same for codes of one position. It is far smaller, because no atoms overlap.

    Raises:
        ValueError: neighbours do not fit, or the product is no convolution: padding beyond the first factor, dilation,
            or borders other than zeros.
    """

    lipschitz_single: Tensor

    def __init__(self, dictionaries: Sequence[Dictionary2d]) -> None:
        Cascade(dictionaries)  # refuses neighbours that do not fit
        stride, extent = [1, 1], [1, 1]
        for i, dictionary in enumerate(dictionaries):
            g = dictionary.geometry
            padded = i > 0 and any(p != (0, 0) for p in g.padding)
            if padded or g.padding_mode != "zeros" or any(d != 1 for d in g.dilation):
                raise ValueError(
                    f"dictionaries[{i}] must have dilation 1 and zero padding (none beyond the first), "
                    f"got Dictionary2d({dictionary.extra_repr()})"
                )
            extent = [e + (k - 1) * s for e, k, s in zip(extent, g.kernel_size, stride, strict=True)]
            stride = [a * b for a, b in zip(stride, g.stride, strict=True)]
        nn.Module.__init__(self)
        self.dictionaries = nn.ModuleList(dictionaries)
        self.in_channels, self.out_channels = dictionaries[0].in_channels, dictionaries[-1].out_channels
        first = dictionaries[0].geometry
        self.geometry = ConvGeometry(tuple(extent), tuple(stride), first.padding, first.dilation, first.padding_mode)
        like = dictionaries[0].lipschitz
        self.register_buffer("lipschitz", like.new_ones(()))
        self.register_buffer("lipschitz_single", like.new_ones(()))
        wide = torch.promote_types(like.dtype, torch.float32)
        self.register_buffer("seen", like.new_full((self.out_channels,), torch.nan, dtype=wide), persistent=False)
        watch_loading(self)
        self.refresh()

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """Effective atoms ``(M_K, C, *E)``, scaled to unit norm. They follow from those of the factors."""
        return read_only(self._atoms)

    @property
    def _atoms(self) -> Tensor:
        return unit_norm(self._products())

    def set_atoms(self, atoms: Tensor) -> NoReturn:
        """Refused: products have no atoms of their own.

        Raises:
            ValueError: always.
        """
        raise ValueError("EffectiveDictionary2d: atoms are products of those of the factors: set these")

    def deepest_code(self, z: Tensor) -> Tensor:
        """The code of the last factor that a code ``z (N, M_K, H, W)`` of unit atoms stands for, of the same shape."""
        norms: Tensor = torch.linalg.vector_norm(self._products().flatten(1), dim=1)
        return z / norms.clamp_min(torch.finfo(norms.dtype).tiny ** 0.5).view(-1, 1, 1)

    def _products(self) -> Tensor:
        # In full precision, as plain atoms are: half would be kept as the filters of every step.
        with full_precision(self.lipschitz):
            return effective_atoms(list(self.dictionaries))  # type: ignore[arg-type]

    def reset_parameters(self) -> None:
        """Draws the factors' atoms and computes the spectral bound afresh."""
        for dictionary in self.dictionaries:
            dictionary.reset_parameters()  # type: ignore[operator]
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Computes the bounds of the product and of its factors from scratch."""
        super().refresh()
        if self.lipschitz.is_meta:
            return
        for factor in self.dictionaries:
            if all(bool(p.isfinite().all()) for p in factor.parameters()):  # atoms with NaN keep the last bound
                factor.refresh()  # type: ignore[operator]

    def _measure(self, weight: Tensor) -> None:
        self._keep_bounds(weight)

    def _values(self) -> tuple[Tensor, ...]:
        return self.lipschitz, self.lipschitz_single

    def _keep_up(self, weight: Tensor, training: bool, known: bool = False) -> None:
        now = fingerprint(weight)
        if training or not bool(moved(now, self.seen.to(now)) <= SAME):
            self._follow(weight, now)
        for factor in self.dictionaries:  # other pursuits may take them on their own
            factor.update_lipschitz(factor._atoms, training)  # type: ignore[operator]

    def _keep_up_compiled(self, weight: Tensor, training: bool) -> tuple[Tensor, ...]:
        return self._keep_up_blindly(weight, training)

    def _keep_up_blindly(self, weight: Tensor, training: bool) -> tuple[Tensor, ...]:
        now = fingerprint(weight)
        if training:
            self._follow(weight, now)
            for factor in self.dictionaries:
                factor.update_lipschitz(factor._atoms, training)  # type: ignore[operator]
            return self._values()
        known, square = moved(now, self.seen.to(now)) <= SAME, weight.square().sum()
        loose = square * self.geometry.crowding(), square
        return tuple(torch.where(known, *pair) for pair in zip(self._values(), loose, strict=True))

    def _follow(self, weight: Tensor, now: Tensor) -> None:
        """Computes the bounds afresh, in training too: a product of sparse factors can change much in one step, which a
        power step would lag behind."""
        self._keep_bounds(weight)
        self._remember(torch.where(now.isfinite(), now, self.seen.to(now)))

    def _keep_bounds(self, weight: Tensor) -> None:
        # Half precision has no eigenvalue solver.
        weight = weight.float() if weight.dtype in (torch.float16, torch.bfloat16) else weight
        for buffer, value in (
            (self.lipschitz, self._norm(weight)),
            (self.lipschitz_single, _squared_norm(weight.flatten(1))),
        ):
            buffer.copy_(torch.where(value > 0, value, buffer))

    def _sized(self, values: tuple[Tensor, ...], signal_size: Sequence[int]) -> Tensor:
        single = all(n == 1 for n in self.geometry.code_size(signal_size))
        return values[single].clamp_min(torch.finfo(values[0].dtype).tiny)

    def _norm(self, weight: Tensor) -> Tensor:
        r"""Squared norm of the product on periodic signals of four atoms' extent.

        There the analysis maps the :math:`s_1 s_2` frequencies that a stride folds into one, of all channels, to that
        frequency of the code: one small matrix for each, and the norm is the largest of theirs (derivation: the
        polyphase form). As for every dictionary it is an estimate, by samples of the spectrum, as
        dense as those of :meth:`csc_nets.functional.ConvGeometry.probe`: atoms that are all one wave, between two
        samples, are 10 % below, which the safety of the step size covers.
        """
        stride = self.geometry.stride
        # Even, so that the highest frequency is among the samples, as the lowest is.
        folded = [2 * max(4, -(-4 * n // (2 * s))) for n, s in zip(self.geometry.kernel_size, stride, strict=True)]
        spectrum = torch.fft.fft2(weight, s=[q * s for q, s in zip(folded, stride, strict=True)])
        spectrum = spectrum.view(*weight.shape[:2], stride[0], folded[0], stride[1], folded[1])
        half = spectrum[..., : folded[1] // 2 + 1]  # the rest is conjugate: atoms are real
        matrices = half.permute(3, 5, 0, 1, 2, 4).flatten(3)  # (frequency, frequency, M, C * s * s)
        return _squared_norm(matrices) / (stride[0] * stride[1])


def _squared_norm(matrices: Tensor) -> Tensor:
    """The largest squared norm of the matrices ``(..., m, n)``, 0-d, by the smaller of their two Gram matrices."""
    rows, columns = matrices.shape[-2:]
    gram = matrices @ matrices.mH if rows < columns else matrices.mH @ matrices
    # The solver refuses NaN and infinity, so they are replaced by 0.
    values: Tensor = torch.linalg.eigvalsh(torch.where(gram.isfinite(), gram, 0))
    return values.max()


class EffectiveCSC2d(CSC2d):
    r"""Sparse coding over the effective dictionary of several layers: the deepest code alone is sparse.

    .. math:: z(x) = \arg\min_z \tfrac12 \|x - D z\|^2 + \lambda \|z\|_1

    with :math:`D` the unit atoms of the product, see :class:`EffectiveDictionary2d`. It is the pursuit half of the
    projection pursuit of Sulam, Papyan, Romano and Elad, `Multi-Layer Convolutional Sparse Modeling: Pursuit and
    Dictionary Learning <https://arxiv.org/abs/1708.08705>`_; the other half, :math:`\Gamma_{i-1} = D_i \Gamma_i`, is
    :meth:`codes`.

    Args:
        dictionaries: from the signal to the deepest code; see :class:`EffectiveDictionary2d`.
        **options: see :class:`~csc_nets.layers.CodingOptions`.

    Shape:
        ``(N, C, H, W)`` to ``(N, M_K, H', W')``.

    Example:
        >>> layer = EffectiveCSC2d([Dictionary2d(1, 8, 5, stride=2), Dictionary2d(8, 16, 3)], lam=0.1, steps=10)
        >>> layer(torch.randn(2, 1, 28, 28)).shape, layer.atoms.shape
        (torch.Size([2, 16, 10, 10]), torch.Size([16, 1, 9, 9]))
    """

    dictionary: EffectiveDictionary2d

    def __init__(self, dictionaries: Sequence[Dictionary2d], **options: Unpack[CodingOptions]) -> None:
        CSC.__init__(self, EffectiveDictionary2d(dictionaries), **options)

    def codes(self, z: Tensor, output_size: Sequence[int] | None = None) -> list[Tensor]:
        """Codes :math:`\\Gamma_1` to :math:`\\Gamma_K` of all factors for a code ``z`` of unit atoms.

        Args:
            z: ``(N, M_K, H', W')``.
            output_size: height and width of the signal that it came from; None takes the usual one.
        """
        first, *deeper = list(self.dictionary.dictionaries)
        top = self.dictionary.deepest_code(z)
        if not deeper:
            return [top]
        size = None if output_size is None else first.geometry.code_size(output_size)  # type: ignore[operator, union-attr]
        return Cascade(deeper).codes(top, size)
