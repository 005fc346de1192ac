"""An autoencoder whose code is sparse and whose decoder is the dictionary of that code."""

import copy
from collections.abc import Sequence
from typing import Any, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csc_nets.functional import colour_axes, dct_atoms, fill, refit
from csc_nets.functional.checks import as_count
from csc_nets.functional.operators.protocol import read
from csc_nets.layers import CSC, CodingOptions, MultiScaleDictionary2d, TwoStageDictionary2d
from csc_nets.layers.options import with_defaults
from csc_nets.models.registry import register_model
from csc_nets.models.staged_encoder import StagedEncoder

__all__ = ["SparseAutoencoder"]


class SparseAutoencoder(StagedEncoder):
    r"""Few numbers for an image: a sparse code over atoms of several sizes, and back by synthesis with the same.

    .. math:: z(x) = \arg\min_z \tfrac12 \|x - D z\|^2 + \lambda \|z\|_0, \qquad \hat x = D z, \qquad
              D = [D_1 \; D_2 \; \cdots]

    The pursuit is :class:`~csc_nets.functional.BlockCoordinate`, one size after the other. Every :math:`D_i` starts as
    an orthonormal DCT along the principal axes of the colours, so with one size and no training this is the thresholded
    block DCT (the least objective in closed form: :math:`|d^T x| > \sqrt{2 \lambda}` is kept), and each further size
    can only lower the least objective. ``lam`` is the rate: one network serves all.

    Args:
        in_chans: channels of the image.
        sizes: side in pixels of the atoms of each dictionary.
        strides: of each dictionary; None for blocks that do not overlap. The largest is a multiple of every other one.
        frequencies: each dictionary starts with so many frequencies an axis, which is the root of its number of atoms
            a channel; None for all, a basis.
        patches: further atoms of each size, which start as patches of training images; None for none. They are
            coherent, so the pursuit should let few in at once.
        above: frequencies an axis of a second stage, whose atoms are combinations of those of the first of sizes; 0 for
            none.
        below: frequencies an axis of the first of sizes that they are combinations of, the lowest ones.
        reach: side of an atom of the second stage, in blocks of the first of sizes.
        tied: the decoder is the dictionary of the code; False gives it atoms of its own, which training moves while the
            code's stay as they are.
        refit: steps of conjugate gradients that fit the values anew on the support of the code; 0 for none.
        **options: of the coding layer, see :class:`~csc_nets.layers.CodingOptions`; 20 sweeps of
            :class:`~csc_nets.functional.BlockCoordinate`, l0 penalty. Fewer sweeps are cheaper and a little worse.

    Shape:
        - input ``(N, in_chans, H, W)``, any size
        - code ``(N, num_features, ceil(H / s), ceil(W / s))`` with the largest stride s
        - output: as the input
    """

    def __init__(
        self,
        in_chans: int = 3,
        *,
        sizes: Sequence[int] = (8, 16, 32),
        strides: Sequence[int] | None = None,
        frequencies: Sequence[int] | None = None,
        patches: Sequence[int] | None = None,
        above: int = 0,
        below: int = 3,
        reach: int = 4,
        tied: bool = True,
        refit: int = 0,
        **options: Unpack[CodingOptions],
    ) -> None:
        self.sizes = list(sizes)
        self.frequencies = list(sizes if frequencies is None else frequencies)
        if not self.sizes or len(self.frequencies) != len(self.sizes):
            raise ValueError(f"frequencies must be one for each of sizes {self.sizes}, got {self.frequencies}")
        if any(not 1 <= f <= k for f, k in zip(self.frequencies, self.sizes, strict=True)):
            raise ValueError(f"frequencies must be from 1 to sizes {self.sizes}, got {self.frequencies}")
        as_count(refit, "refit", 0)
        as_count(above, "above", 0)
        if above:
            as_count(below, "below")
            as_count(reach, "reach")
        self.patches = [0] * len(self.sizes) if patches is None else list(patches)
        if len(self.patches) != len(self.sizes) or any(n < 0 for n in self.patches):
            raise ValueError(f"patches must be numbers >= 0, one for each of sizes {self.sizes}, got {self.patches}")
        atoms = [in_chans * f * f + n for f, n in zip(self.frequencies, self.patches, strict=True)]
        layout = (in_chans, atoms, self.sizes, self.sizes if strides is None else strides)
        self.above, self.reach = above, reach
        if above:
            counts = {"above": in_chans * above**2, "below": in_chans * below**2, "reach": reach}
            dictionary: MultiScaleDictionary2d = TwoStageDictionary2d(*layout, **counts)  # type: ignore[arg-type]
        else:
            dictionary = MultiScaleDictionary2d(*layout)
        plain = {"lam": 0.02, "pursuit": "block_coordinate", "steps": 20}
        plain |= {} if "nonneg" in options else {"penalty": "l0"}
        coder = CSC(dictionary, **with_defaults(options, **plain))
        super().__init__(
            [nn.Identity(), coder],
            [in_chans, dictionary.out_channels],
            [1, dictionary.stride],
            in_chans=in_chans,
            input_size=max(32, *sizes),
        )
        self.refit = refit
        self.decoder = None if tied else copy.deepcopy(dictionary)
        self.start_with(torch.eye(in_chans))

    @property
    def coder(self) -> CSC:
        """The layer that computes the code."""
        return self.stages[1]  # type: ignore[return-value]

    @property
    def dictionary(self) -> MultiScaleDictionary2d:
        """The atoms of all sizes."""
        return self.coder.dictionary  # type: ignore[no-any-return]

    @torch.no_grad()
    def start_with(self, axes: Tensor) -> None:
        """Atoms of the DCT with the colours ``axes (C, C)``, a row each."""
        scales = list(self.dictionary.scales)
        starts = [dct_atoms(axes, size, count) for size, count in zip(self.sizes, self.frequencies, strict=True)]
        if self.above:  # what the first stage can say of cosines of the whole reach
            (last,), wide = scales[-1:], self.sizes[0] * self.reach
            waves = dct_atoms(axes, wide, self.above)
            blocks = F.conv2d(waves, starts[0], stride=self.sizes[0])
            starts.append(blocks[:, : last.in_channels])
        for scale, atoms in zip(scales, starts, strict=True):
            weight: Any = scale.get_parameter("parametrizations.weight.original")
            weight[: len(atoms)] = atoms
        self._started()

    def start_from(self, images: Tensor) -> None:
        """Atoms of the DCT along the principal axes of the colours of images ``(N, in_chans, H, W)``, and patches of
        these images, at places drawn at random by a generator of its own."""
        self.start_with(colour_axes(images)[1])
        generator = torch.Generator().manual_seed(0)
        for scale, size, count in zip(self.dictionary.scales, self.sizes, self.patches, strict=False):
            weight: Any = scale.get_parameter("parametrizations.weight.original")
            cut = images.unfold(2, size, size).unfold(3, size, size).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
            norms = cut.flatten(1).norm(dim=1)
            cut, norms = cut[norms > 0.1 * norms.amax()], norms[norms > 0.1 * norms.amax()]
            chosen = torch.randperm(len(cut), generator=generator)[:count].to(cut.device)
            if len(chosen) < count:
                raise ValueError(f"patches: {count} atoms of {size} pixels, but the images have {len(chosen)} patches")
            with torch.no_grad():
                weight[len(weight) - count :] = cut[chosen] / norms[chosen].view(-1, 1, 1, 1)
        self._started()

    def _started(self) -> None:
        """After atoms were set by hand."""
        self.dictionary.refresh()
        if self.decoder is not None:
            self.decoder.load_state_dict(self.dictionary.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruction of images ``(N, in_chans, H, W)``, of the same shape."""
        return self.decode(self.encode(x), x.shape[2:])

    def encode(self, x: Tensor, *, lam: float | Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Sparse code ``(N, num_features, H', W')``.

        Args:
            x: images.
            lam: in place of the network's own: the rate, a number or one an image ``(N, 1, 1, 1)``.
            mask: 0 where pixels are missing; broadcasts against ``x``.
        """
        plain = lam is None and mask is None
        z: Tensor = self.forward_features(x) if plain else self.coder(x, lam=lam, mask=mask)
        return refit(read(self.dictionary), x, z, self.refit, mask) if self.refit else z

    def decode(self, z: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Synthesis of a code, ``(N, in_chans, *output_size)``."""
        return self.coder.synthesize(z, output_size) if self.decoder is None else self.decoder.synthesis(z, output_size)

    def fill(self, x: Tensor, mask: Tensor, **options: Any) -> Tensor:
        """Images ``(N, in_chans, H, W)`` with their missing pixels filled from several grids; better, and slower, than
        to decode a code of ``encode(x, mask=mask)``.

        Args:
            x: images.
            mask: 0 where pixels are missing; broadcasts against ``(N, 1, H, W)``.
            **options: of :func:`csc_nets.functional.fill`.
        """
        return fill(read(self.dictionary), x, mask, stride=self.dictionary.stride, **options)

    def by_scale(self, z: Tensor, output_size: Sequence[int] | None = None) -> list[Tensor]:
        """What the atoms of each size say of an image; the sum is the reconstruction."""
        parts = z.split(self.dictionary.widths, 1)
        return [
            self.decode(torch.cat([p if i == j else torch.zeros_like(p) for j, p in enumerate(parts)], 1), output_size)
            for i in range(len(parts))
        ]


@register_model
def sparse_autoencoder(**overrides: Any) -> SparseAutoencoder:
    """Blocks of 8, 16 and 32 pixels, twice overcomplete for colour images; about 1.2 M numbers in its atoms."""
    return SparseAutoencoder(**{"frequencies": (8, 16, 8) if "sizes" not in overrides else None, **overrides})
