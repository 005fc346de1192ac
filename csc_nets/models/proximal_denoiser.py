"""A denoiser that is a proximal operator: convolutional sparse coding with a trained dictionary, solved."""

from collections.abc import Callable
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from csc_nets.functional import FISTA, dct_atoms, estimate_noise_level, unit_norm
from csc_nets.layers import CodingOptions, CSC2d
from csc_nets.layers.leaf import leaf
from csc_nets.layers.options import with_defaults
from csc_nets.models.denoiser import Centre, Denoiser
from csc_nets.models.registry import register_model

__all__ = ["ProximalDenoiser"]

# Weights are those of at least this noise level, a fortieth of a grey level: without weights a code is not unique.
SMALLEST = 1e-4


class LevelledCoder(nn.Module):
    """Codes of images without mean, by a layer whose weights are those of noise of level 1."""

    def __init__(self, coder: CSC2d) -> None:
        super().__init__()
        self.coder = coder

    @leaf
    def forward(self, x: Tensor, level: float | Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        if level is None:
            level = estimate_noise_level(x, mask).view(-1, 1, 1, 1)
        return self.coder(x, lam=self.weights(x, level), mask=mask)  # type: ignore[no-any-return]

    def weights(self, x: Tensor, level: float | Tensor) -> Tensor:
        """Sparsity weights ``(N, M, 1, 1)``."""
        level = torch.as_tensor(level, dtype=self.coder.lam.dtype, device=x.device).clamp_min(SMALLEST)
        return level * self.coder.lam.view(1, -1, 1, 1)


class ProximalDenoiser(Denoiser):
    r"""Denoiser by sparse codes that are solved. It is the proximal operator of a convex function.

    .. math:: \hat x = \bar y + P D z^*, \qquad
              z^* = \arg\min_z \tfrac12 \|P y - D z\|^2 + \sigma \sum_m \tau_m \|z_m\|_1

    where :math:`\bar y` is the mean of the image y and P takes the mean away. Atoms D and weights :math:`\tau` are
    trained with the implicit gradient.

    Derivation: :math:`u \mapsto D z^*(u)` is the proximal operator of the convex function
    :math:`h(u) = \min_{D z = u} \sigma \sum_m \tau_m \|z_m\|_1`, so it is the gradient of a convex function
    :math:`\psi` with Lipschitz constant 1. Then :math:`\hat x` is the gradient of
    :math:`\psi(P y) + \tfrac12 \|\bar y\|^2`, which is convex with Lipschitz constant 1, too. Such gradients are
    exactly the proximal operators (Moreau 1965). So plug-and-play iterations with this denoiser solve a convex problem,
    and converge.

    They also converge with one step of the pursuit in each iteration, from the code of the iteration before
    (:meth:`refine`); Kowalski et al., `"Analysis and Synthesis Denoisers for Forward-Backward Plug-and-Play Algorithms"
    <https://arxiv.org/abs/2411.13276>`_, 2024.

    Stage 0 takes the mean away; stage 1 is the code.

    Args:
        in_chans: channels C of the image.
        atoms: M. They start as the :math:`C P^2` products of two cosines in a smooth window, and others at random.
        kernel_size: side P of an atom in pixels, odd. With twice the stride plus 1, flat images are explained at once.
        stride: pixels between neighbouring shifts of an atom.
        weight: where the weights :math:`\tau` start.
        **options: of the coding layer, see :class:`~csc_nets.layers.CodingOptions`; by default codes are solved to
            ``tol=1e-3``, with the implicit gradient. A pursuit with a number of steps compiles, and is proximal as far
            as it solves.

    Attributes:
        penalty: of the code.
        padding_mode: how images go on beyond their borders.

    Raises:
        ValueError: an even ``kernel_size``, or a stride that leaves pixels without an atom.

    Shape:
        - input ``(N, in_chans, H, W)`` with white at 1, any size
        - output: the same as the input

    Example:
        >>> denoiser = ProximalDenoiser(atoms=25, kernel_size=5, stride=2)
        >>> denoiser(torch.rand(2, 1, 20, 30), sigma=0.1).shape
        torch.Size([2, 1, 20, 30])
    """

    penalty = "l1"
    padding_mode = "zeros"

    def __init__(
        self,
        in_chans: int = 1,
        *,
        atoms: int = 49,
        kernel_size: int = 7,
        stride: int = 3,
        weight: float = 2.0,
        **options: Unpack[CodingOptions],
    ) -> None:
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        if not 1 <= stride <= kernel_size:
            raise ValueError(f"stride must be from 1 to kernel_size = {kernel_size}, got {stride}")
        border = {"padding": kernel_size // 2, "padding_mode": self.padding_mode}
        trained = {"lam": torch.full((atoms,), weight, device="cpu"), "learn_lam": True}
        parts = with_defaults(options, penalty=self.penalty, pursuit="to_tolerance")
        coder = CSC2d(in_chans, atoms, kernel_size, stride, **border, **trained, **parts)  # type: ignore[arg-type]
        super().__init__(
            [Centre(), LevelledCoder(coder)], [in_chans, atoms], [1, stride], in_chans=in_chans, input_size=128
        )
        if not coder.atoms.is_meta:
            self._start(in_chans, kernel_size)

    @torch.no_grad()
    def _start(self, in_chans: int, kernel_size: int) -> None:
        # Squared sines, whose shifts by half their width sum to 1.
        window = torch.hann_window(kernel_size, periodic=False).clamp_min(1e-3)
        cosines = unit_norm(dct_atoms(torch.eye(in_chans), kernel_size) * window[:, None] * window)
        weight, tau = self.coder.atoms.clone(), self.coder.lam.clone()
        weight[: len(cosines)] = cosines[: len(weight)]
        tau[:in_chans] /= 20  # flat patches are no noise
        self.coder.atoms, self.coder.lam = weight, tau

    @property
    def _levelled(self) -> LevelledCoder:
        return self.stages[1]  # type: ignore[return-value]

    @property
    def coder(self) -> CSC2d:
        """The layer that computes the code; its ``lam`` holds the weights of the atoms at noise level 1."""
        return self._levelled.coder

    def prepare(
        self, x: Tensor, sigma: float | Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, float | Tensor, Tensor | None, Callable[[Tensor], Tensor]]:
        """Takes the mean of the observed pixels away."""
        x, level, mask, _ = super().prepare(x, sigma, mask)
        centre: Any = self.stages[0]
        mean = centre.mean(x, mask)
        x = x - mean if mask is None else (x - mean).masked_fill(~mask, 0)
        return x, level, mask, lambda clean: centre(clean) + mean

    def restore(self, x: Tensor, level: float | Tensor, mask: Tensor | None) -> Tensor:
        """Clean images without mean."""
        return self.image(self._levelled(x, level, mask), x)

    def image(self, z: Tensor, x: Tensor) -> Tensor:
        """The image that a code of ``x`` says: ``D z``."""
        return self.coder.synthesize(z, x.shape[2:])

    def refine(
        self, x: Tensor, sigma: float | Tensor, z: Tensor | None = None, *, steps: int = 1
    ) -> tuple[Tensor, Tensor]:
        """An approximate denoiser: some steps of FISTA from a code (one step is one of ISTA).

        Args:
            x: noisy images ``(N, in_chans, H, W)``.
            sigma: as for :meth:`forward`.
            z: code to start from, of an image nearby; None for zero.
            steps: number of steps.

        Returns:
            Images, and their code for the next call.
        """
        x, level, _, finish = self.prepare(x, sigma, None)
        problem = self.coder.problem(x, self._levelled.weights(x, level))
        z = FISTA(steps).run(problem, z)
        return finish(self.image(z, x)), z

    @torch.no_grad()
    def certificate(self, x: Tensor, sigma: float | Tensor, z: Tensor) -> Tensor:
        r"""A bound of the distance :math:`\|\hat x - \hat x^*\|` of an image from the exact denoiser's, ``(N,)``.

        It is :math:`\sqrt{2 G}` with the duality gap G of the code: the objective is 1-strongly convex in D z.

        Args:
            x, sigma: as for :meth:`refine`.
            z: code of :meth:`refine`.
        """
        x, level, _, _ = self.prepare(x, sigma, None)
        return (2 * self.coder.problem(x, self._levelled.weights(x, level)).duality_gap(z).clamp_min(0)).sqrt()

    def tiled(self, *args: Any, **kwargs: Any) -> Tensor:
        """Not possible.

        Raises:
            ValueError: always: each pixel depends on the whole image.
        """
        raise ValueError(f"{self._label}: a solved code depends on the whole image: call the network itself")


@register_model
def proximal_denoiser(*, in_chans: int = 1, **overrides: Any) -> ProximalDenoiser:
    """49 atoms of 7 x 7 pixels at stride 3: 2,450 parameters for grey images."""
    return ProximalDenoiser(in_chans, **overrides)
