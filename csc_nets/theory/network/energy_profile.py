"""Where a network loses the energy of its input: a table of all operations that can lose energy, in order."""

import math
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from csc_nets.theory.network.energy_rows import EnergyRow, Listener, Recorder
from csc_nets.theory.network.evaluation_mode import evaluation_mode

__all__ = ["EnergyProfile", "energy_profile"]


@dataclass(frozen=True)
class EnergyProfile:
    """The result of :func:`energy_profile`; ``print`` gives a table.

    Attributes:
        rows: operations, in order of execution.
        samples: number of images in the means.
    """

    rows: list[EnergyRow]
    samples: int

    @property
    def layers(self) -> dict[int, float]:
        """The share that is left at each depth, outside of branches.

        That is after each layer of a chain, and after a residual block, but not inside of the block.
        """
        last = {row.depth: row.share for row in self.rows if row.on_path}
        return {depth: last[depth] for depth in sorted(last) if depth > 0}

    @property
    def shares(self) -> list[float]:
        """The shares of :attr:`layers`."""
        return list(self.layers.values())

    @property
    def causes(self) -> dict[str, float]:
        """The product of ``kept`` for each cause, outside of branches. Their product is the share at the end."""
        product: dict[str, float] = {}
        for row in self.rows:
            if row.on_path:
                product[row.cause] = product.get(row.cause, 1.0) * row.kept
        return product

    @property
    def decay(self) -> tuple[float, float]:
        r"""``(a, r_squared)`` of the least-squares line :math:`\log(\mathrm{share}_n) = c - n \log a` over the depths n
        of :attr:`layers`.

        A layer keeps the share 1 / a of the energy that the layer before left. ``r_squared`` is the share of the
        variance of the logarithms that the line explains. It is near 1 for an exponential decay.

        Raises:
            ValueError: there are fewer than 3 depths, or nothing is left at one of them.
        """
        depths, shares = list(self.layers), self.shares
        if len(shares) < 3:
            raise ValueError(f"decay: a line through {len(shares)} layers says nothing, at least 3 are needed")
        if min(shares) <= 0:
            raise ValueError(
                f"decay: nothing is left behind layer {depths[shares.index(min(shares))]}, log 0 is no number"
            )
        y = torch.tensor(shares, dtype=torch.float64).log()
        n = torch.tensor(depths, dtype=torch.float64)
        n, y = n - n.mean(), y - y.mean()
        slope = (n @ y) / (n @ n)
        explained = slope.square() * (n @ n) / (y @ y) if y @ y > 0 else torch.ones(())
        return math.exp(-slope.item()), explained.item()

    def plot(self, axes: Any) -> None:
        """Draws the share behind each operation on a logarithmic matplotlib ``Axes``, coloured by cause."""
        rows = [row for row in self.rows if row.on_path]
        axes.plot(range(len(rows) + 1), [1.0, *(row.share for row in rows)], color="0.6", linewidth=1, zorder=1)
        for i, cause in enumerate(dict.fromkeys(row.cause for row in rows)):
            points = [(n, row.share) for n, row in enumerate(rows, start=1) if row.cause == cause]
            axes.scatter(*zip(*points, strict=True), s=18, color=f"C{i}", label=cause, zorder=2)
        axes.set_yscale("log")
        axes.set_xlabel("operation")
        axes.set_ylabel("share of the energy")
        axes.legend()

    def __str__(self) -> str:
        head = ["operation", "kind", "cause", "layer", "energy in", "energy out", "gain", "kept", "share"]
        cells = [head]
        for row in self.rows:
            gain = row.energy_out / row.energy_in if row.energy_in else math.nan
            numbers = [f"{row.energy_in:.4g}", f"{row.energy_out:.4g}", f"{gain:.3g}", f"{row.kept:.3f}"]
            share = f"{row.share:.2e}" + ("" if row.on_path else " *")
            cells.append([row.name, row.kind, row.cause, str(row.depth), *numbers, share])
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(c.ljust(w) if i < 3 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
            for line in cells
        ]
        causes = ", ".join(f"{cause} {kept:.3g}" for cause, kept in self.causes.items() if cause != "scale")
        summary = f"{self.samples} samples. Kept by cause: {causes or 'all in branches'}."
        text = [lines[0], "-" * len(lines[0]), *lines[1:], "", summary]
        if not all(row.on_path for row in self.rows):
            text.append("* in a branch")
        try:
            a, r_squared = self.decay
            text.append(f"A layer keeps 1 / {a:.3g} of what the one before left (R^2 {r_squared:.3f}).")
        except ValueError:
            pass
        return "\n".join(line.rstrip() for line in text)


def energy_profile(model: nn.Module, images: Tensor) -> EnergyProfile:
    r"""Energy of the signal after every operation of any network, and the share that each operation removes.

    The scale of weights is arbitrary. So the energy after an operation A is divided by the largest possible one,

    .. math:: \mathrm{kept} = \frac{\sum_i \|A x_i\|^2}{B \sum_i \|x_i\|^2} \in [0, 1],
              \qquad B = \sup_{x \ne 0} \|A x\|^2 / \|x\|^2

    for the samples i. The product of these numbers along the network is the share of the input's energy that would
    arrive if every operation had norm 1, as the frames of a scattering network have. Derivation: kept does not change
    when A is multiplied by a number, and a product of such ratios telescopes.

    The operations, which are found in modules and in functional form:

    - **filters**: a convolution at stride 1, or a matrix, without its bias. B is the square of the largest singular
      value for images of this size (Lanczos, within 1 %).
    - **stride**: the loss of the positions that a strided convolution does not visit,
      :math:`\|W_s x\|^2 / \|W_1 x\|^2`. White noise keeps :math:`s^{-d}`. If the stride is the kernel size, the
      convolution is a matrix on patches, and has a row for filters only.
    - **rectification**, **shrinkage**: ReLU and similar functions, and thresholds, :math:`\|\rho(v)\|^2 / \|v\|^2`,
      where v includes the bias. B = 1, or the square of the largest slope above 1. Noise that is symmetric about 0
      loses half of its energy in a ReLU.
    - **pooling**: an average is a sampled filter with its own B. A constant passes; white noise in 2 x 2 windows keeps
      1/4. A maximum has :math:`B = \prod \lceil k / s \rceil`, the largest number of windows that one number is in.
    - **residual**: a sparse coding layer keeps the share that its code explains, :math:`1 - \|x - D z\|^2 / \|x\|^2`,
      at least 0. A stack has one such row per layer. A single thresholding has rows for filters and shrinkage.
    - **paths**: a scattering keeps the energy of its features times :math:`4^J`, the number of pixels per position. The
      rest is in paths that it does not compute, and in the aliasing of the subsampling. This is approximate, because
      the image is reflected at its border.
    - **scale**: batch norm and RMS norm change scales and lose nothing.
    - **centring**: layer, group and instance norm subtract means, :math:`\|x - \bar x\|^2 / \|x\|^2`.
    - **branches**: branches meet in a sum, a concatenation or a product. The share there is the mean of the shares of
      the branches, weighted with their energies, and the depth is the largest one. ``kept`` is this share divided by
      the share where the branches began.

    Rows inside of branches are listed, but they are not ``on_path``: some path from the input to the output does not
    visit them. The decay and the products by cause use the rows on the path, along which the shares telescope.

    All other operations (masks, reshapes, products of a signal with itself) have no row and keep the share. Attention
    counts as two layers: the projection of queries, keys and values together, and the projection of the output. Its
    averages over tokens have no row. The matrices inside of recurrent layers (``nn.RNN``, ``nn.LSTM``, ``nn.GRU``), and
    products that are written as ``x @ weight``, are not seen.

    Args:
        model: any module that takes ``images``. It runs in evaluation mode without gradients, and is not changed.
        images: input ``(N, ...)``.

    Returns:
        The rows, their :attr:`~EnergyProfile.decay` over depth, and their products by cause.

    Raises:
        ValueError: ``images`` is not a tensor of finite floats with at least one sample and some energy, or ``model``
            is not a module, has none of these operations, hides them (a ScriptModule), or was made in inference mode.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.ReLU())
        >>> [(row.name, row.cause) for row in energy_profile(model, torch.randn(2, 1, 8, 8)).rows]
        [('0', 'filters'), ('0', 'stride'), ('1', 'rectification')]
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"energy_profile: model must be a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(images, Tensor) or not images.is_floating_point() or images.ndim < 2 or len(images) == 0:
        seen = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"energy_profile: images must be a tensor of floats (N, ...), N >= 1, got {seen}")
    if not bool(images.isfinite().all()) or not bool(images.any()):
        raise ValueError("energy_profile: images must be finite and not all zero")
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise ValueError(
            "energy_profile: model is or holds a ScriptModule, which hides its operations; pass the original"
        )
    if any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers())):
        raise ValueError(
            "energy_profile: model has parameters or buffers that were made under torch.inference_mode(), of which "
            "no norm can be computed; make it outside, or pass a copy.deepcopy"
        )
    recorder = Recorder(len(images))
    with ExitStack() as stack:
        stack.enter_context(evaluation_mode(model))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        for name, module in model.named_modules():
            stack.enter_context(recorder.watch(name or type(module).__name__, module))
        x = recorder.begin(images)
        stack.enter_context(Listener(recorder))
        output = model(x)
    if not recorder.rows:
        raise ValueError(f"energy_profile: {type(model).__name__} ran no operation that can lose energy")
    return EnergyProfile(recorder.finish(output), len(images))
