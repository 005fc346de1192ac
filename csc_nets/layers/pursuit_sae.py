"""Sparse autoencoders of the activations of a network, whose codes come from a pursuit."""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from csc_nets.functional import refit
from csc_nets.functional.checks import check_flag, errors_of
from csc_nets.functional.inputs import check_like
from csc_nets.functional.operators.protocol import read
from csc_nets.functional.penalties import TopK
from csc_nets.layers.coding import CSC
from csc_nets.layers.csc import CSC2d
from csc_nets.layers.encoders import build_encoder
from csc_nets.layers.leaf import leaf
from csc_nets.layers.options import CodingOptions, with_defaults
from csc_nets.layers.sparse_coding import SparseCoding

__all__ = ["ActivationCoder", "PursuitSAE", "PursuitSAE2d"]


class ActivationCoder(nn.Module):
    r"""An encoder gives the first code, a pursuit improves it, least squares fits its values.

    .. math:: z_0 = \mathrm{rule}(W_e \tilde x + b_e), \qquad z = \mathrm{pursuit}(\tilde x; z_0), \qquad
              \hat x = s (D z) + b, \qquad \tilde x = (x - b) / s

    with unit atoms D, a mean b and a scale s, both set by :meth:`start_from`.

    Args:
        coder: the layer that holds the atoms and the pursuit.
        signal_shape: of b, which broadcasts against signals.
        k: atoms a position, for the encoder.
        encoder: a registered name, or a mapping with ``name`` and arguments; None starts at the zero code.
        pursues: False leaves the code of the encoder as it is.
        fit: fit the values of the code by least squares on its support. No gradient passes through this fit: the
            atoms get that of the squared error at the code, the encoder one of its own reconstruction
            (:meth:`loss`).
    """

    scale: Tensor

    def __init__(
        self,
        coder: CSC,
        signal_shape: Sequence[int],
        k: int,
        encoder: str | Mapping[str, Any] | None,
        pursues: bool,
        fit: bool,
    ) -> None:
        super().__init__()
        with errors_of(type(self).__name__):
            check_flag(fit, "fit")
        self.coder, self.pursues, self.fit = coder, pursues, fit
        if encoder is None and not pursues:
            raise ValueError(f"{type(self).__name__}: give an encoder or a pursuit, got None for both")
        self.encoder = None if encoder is None else build_encoder(encoder, coder.atoms, k)
        like = coder.atoms.detach()
        self.bias = nn.Parameter(like.new_zeros(*signal_shape))
        self.register_buffer("scale", like.new_ones(()))

    @property
    def dictionary(self) -> Any:
        """The atoms."""
        return self.coder.dictionary

    def _rows(self, x: Tensor) -> Tensor:
        """Signals as one batch with the channels in the second axis; others are refused."""
        channels, like = len(self.bias), self.bias
        check_like(type(self).__name__, "x", x, like)
        if x.ndim != like.ndim + 1 or x.shape[1] != channels:
            raise ValueError(f"{type(self).__name__}: expected maps (N, {channels}, H, W), got {tuple(x.shape)}")
        return x

    def _centred(self, x: Tensor) -> Tensor:
        """Rows without mean and scale."""
        return (self._rows(x) - self.bias) / self.scale

    def samples(self, x: Tensor) -> Tensor:
        """Signals as samples that may be mixed with those of others: vectors, where an atom is one."""
        return self._rows(x)

    @leaf
    def forward(self, x: Tensor) -> Tensor:
        """Codes of signals."""
        y = self._centred(x)
        return self._improved(y, self._start(y))

    def _start(self, y: Tensor) -> Tensor | None:
        """The code of the encoder, of signals without mean and scale."""
        return None if self.encoder is None else self.encoder(y, self.dictionary.analysis)

    def _improved(self, y: Tensor, start: Tensor | None) -> Tensor:
        z: Any = self.coder(y, init=start) if self.pursues else start
        return refit(read(self.dictionary), y, z, nonneg=self.coder.penalty.nonneg) if self.fit else z

    def synthesize(self, z: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Signals of codes, with scale and mean."""
        return self.coder.synthesize(z, output_size) * self.scale + self.bias

    def reconstruct(self, x: Tensor) -> Tensor:
        """What the code says of signals, of their shape."""
        return self.synthesize(self(x), x.shape[2:])

    def loss(self, x: Tensor, sparsity: float = 1.0) -> tuple[Tensor, Tensor]:
        r"""What training minimises, and the code.

        .. math:: \bigl(\|x - \hat x(z)\|^2 + \|x - \hat x(z_0)\|^2\bigr) / \|x - \bar x\|^2 +
                  \text{sparsity} \cdot \text{that of the encoder}

        The second term trains the encoder, for atoms as they are; it is left out where the code is that of the encoder.

        Args:
            x: signals; the code of tokens is that of all of them in one batch.
            sparsity: weight of :meth:`Encoder.sparsity <csc_nets.layers.encoders.Encoder.sparsity>`.
        """
        y = self._centred(x)
        encoder, start, extra = self.encoder, None, y.new_zeros(())
        if encoder is not None:
            scores = self.dictionary.analysis(y, encoder.weight, encoder.bias)
            start, extra = encoder.rule(scores), encoder.sparsity(scores)
        z, axes = self._improved(y, start), (0, *range(2, y.ndim))
        spread = (y - y.mean(axes, keepdim=True)).detach().square().sum().clamp_min(torch.finfo(y.dtype).tiny)
        error = (y - self.coder.synthesize(z, y.shape[2:])).square().sum()
        if start is not None and z is not start:
            atoms = self.coder.atoms.detach()
            error = error + (y - self.dictionary.synthesis(start, y.shape[2:], weight=atoms)).square().sum()
        return error / spread + sparsity * extra, z

    @torch.no_grad()
    def start_from(self, x: Tensor) -> None:
        """Takes mean and scale of signals, and random ones of them as atoms.

        Afterwards signals have norm 1 on average at each position. The encoder starts with the same atoms, times the
        factor with which its code explains most.
        """
        x = self._rows(x)
        if not x.numel():
            raise ValueError(f"{type(self).__name__}: start_from needs signals, got {tuple(x.shape)}")
        axes = (0, *range(2, x.ndim))
        self.bias.copy_(x.mean(axes).view_as(self.bias))
        centred = x - self.bias
        self.scale.copy_(centred.norm(dim=1).mean().clamp_min(torch.finfo(x.dtype).tiny))
        patches = self._patches(centred / self.scale)
        count = len(self.coder.atoms)
        atoms = patches[torch.randint(len(patches), (count,), device=x.device)]
        atoms = atoms + 1e-2 * atoms.norm(dim=1, keepdim=True) * torch.randn_like(atoms) / atoms.shape[1] ** 0.5
        self._put(torch.arange(count, device=x.device), atoms)
        if self.encoder is not None:
            self.encoder.weight.copy_(self.coder.atoms)
            y = centred[:4096] / self.scale
            said = self.coder.synthesize(self.encoder(y, self.dictionary.analysis), y.shape[2:])
            factor = (y * said).sum() / said.square().sum().clamp_min(torch.finfo(x.dtype).tiny)
            self.encoder.weight.mul_(factor.clamp(0.01, 1.0))

    @torch.no_grad()
    def revive(self, x: Tensor, idle: Tensor) -> int:
        """Gives atoms to the signals that are explained worst.

        Args:
            x: signals.
            idle: which atoms to move, booleans ``(M,)``.

        Returns:
            How many were moved.
        """
        count = len(self.coder.atoms)
        if not isinstance(idle, Tensor) or idle.dtype != torch.bool:
            seen = idle.dtype if isinstance(idle, Tensor) else type(idle).__name__
            raise ValueError(f"{type(self).__name__}: idle must be a tensor of booleans, got {seen}")
        if idle.shape != (count,):
            raise ValueError(f"{type(self).__name__}: idle must be ({count},), got {tuple(idle.shape)}")
        y = self._centred(x)
        residual = self._patches(y - self.coder.synthesize(self._improved(y, self._start(y)), y.shape[2:]))
        which = idle.nonzero().flatten()[: len(residual)]
        worst = residual.square().sum(1).topk(len(which)).indices
        self._put(which, residual[worst])
        return len(which)

    def _patches(self, y: Tensor) -> Tensor:
        """Parts of signals that have the shape of an atom, flattened, ``(P, size)``."""
        return y

    def _put(self, which: Tensor, atoms: Tensor) -> None:
        new = self.coder.atoms.clone()
        new[which] = nn.functional.normalize(atoms, dim=1).view(-1, *new.shape[1:])
        self.coder.atoms = new
        if self.encoder is not None:
            length = self.encoder.weight.flatten(1).norm(dim=1).mean()  # that of the other rows
            self.encoder.weight[which] = length * new[which]
            self.encoder.bias[which] = 0.0

    @torch.no_grad()
    def certificate(self, x: Tensor) -> Tensor:
        """Duality gap of each code over half the squared norm of its signal: 0 is the solution of a convex problem.

        Raises:
            NotImplementedError: the penalty has no dual, as a number of atoms has none.
        """
        y = self._centred(x)
        problem = self.coder.problem(y)
        gap: Tensor = problem.duality_gap(self._improved(y, self._start(y)))
        return gap / problem.energy().clamp_min(torch.finfo(y.dtype).tiny)


class PursuitSAE(ActivationCoder):
    """A sparse autoencoder of vectors and tokens; see :class:`ActivationCoder`.

    Args:
        in_features: length F of a vector.
        atoms: number M of atoms.
        k: atoms of a code.
        encoder: ``"top_k"``, ``"batch_top_k"``, ``"jump_relu"``, ``"linear"``, a registered name, or a mapping;
            None starts the pursuit at the zero code.
        fit: fit the values of the code by least squares.
        **options: of the coding, see :class:`~csc_nets.layers.CodingOptions`. ``pursuit=None`` takes the encoder
            alone; the penalty is a number of atoms, ``TopK(k, nonneg=True)``.

    Shape:
        ``(..., F)`` to ``(..., M)``.

    Example:
        >>> sae = PursuitSAE(64, 512, k=8, pursuit="omp", steps=4)
        >>> z = sae(torch.randn(100, 64))
        >>> z.shape, bool(((z != 0).sum(1) <= 8).all())
        (torch.Size([100, 512]), True)
    """

    def __init__(
        self,
        in_features: int,
        atoms: int,
        *,
        k: int = 32,
        encoder: str | Mapping[str, Any] | None = "top_k",
        fit: bool = True,
        **options: Unpack[CodingOptions],
    ) -> None:
        pursues, given = _chosen(options, k)
        coder = SparseCoding(in_features, atoms, **given)
        super().__init__(coder, (in_features,), k, encoder, pursues, fit)

    @leaf
    def forward(self, x: Tensor) -> Tensor:
        """Codes ``(..., M)`` of ``x (..., F)``."""
        code = super().forward(x)
        return code.view(*x.shape[:-1], code.shape[-1])

    def reconstruct(self, x: Tensor) -> Tensor:
        """What the codes say of ``x (..., F)``."""
        return self.synthesize(self(x))

    def _rows(self, x: Tensor) -> Tensor:
        features = len(self.bias)
        check_like("PursuitSAE", "x", x, self.bias)
        if not x.ndim or x.shape[-1] != features:
            raise ValueError(f"PursuitSAE: expected vectors (..., {features}), got {tuple(x.shape)}")
        return x.reshape(-1, features)


class PursuitSAE2d(ActivationCoder):
    """A sparse autoencoder of feature maps; see :class:`ActivationCoder`.

    Args:
        in_channels: channels C of the map.
        atoms: number M of atoms.
        kernel_size, stride, padding: of the atoms; the default has one vector for each position.
        k, encoder, fit, options: see :class:`PursuitSAE`; k is the number of atoms at each position of the code.

    Shape:
        ``(N, C, H, W)`` to ``(N, M, H', W')``.
    """

    def __init__(
        self,
        in_channels: int,
        atoms: int,
        kernel_size: int | Sequence[int] = 1,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = 0,
        *,
        k: int = 32,
        encoder: str | Mapping[str, Any] | None = "top_k",
        fit: bool = True,
        **options: Unpack[CodingOptions],
    ) -> None:
        pursues, given = _chosen(options, k)
        coder = CSC2d(in_channels, atoms, kernel_size, stride, padding, **given)
        super().__init__(coder, (in_channels, 1, 1), k, encoder, pursues, fit)

    def samples(self, x: Tensor) -> Tensor:
        """Vectors ``(N H W, C, 1, 1)`` where an atom is one; else maps as they are."""
        geometry = self.dictionary.geometry
        alone = all(n == 1 for n in (*geometry.kernel_size, *geometry.stride))
        return x.movedim(1, -1).reshape(-1, x.shape[1], 1, 1) if alone else x

    def _patches(self, y: Tensor) -> Tensor:
        geometry = self.dictionary.geometry
        return nn.functional.unfold(y, geometry.kernel_size).movedim(1, 2).flatten(0, 1)


def _chosen(options: CodingOptions, k: int) -> tuple[bool, dict[str, Any]]:
    """Whether there is a pursuit, and the options of the coding layer."""
    given: dict[str, Any] = dict(options)
    pursues = given.get("pursuit", "fista") is not None
    if not pursues:
        given |= {"pursuit": "threshold"}
    plain = given.get("nonneg") is not None or given.get("penalty") is not None
    return pursues, with_defaults(given, steps=4, **({} if plain else {"penalty": TopK(k, True, True)}))
