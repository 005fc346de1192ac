"""How well one layer's input comes back from its pooled code, for every convolution of a network."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from csc_nets.evaluation.inversion import Linearization, relative_error
from csc_nets.functional.operators.geometry import PADDING_MODES, ConvGeometry
from csc_nets.layers import Coder, Dictionary2d, PooledCSC2d
from csc_nets.theory import evaluation_mode, mutual_coherence

__all__ = ["LayerInversions", "invert_layers"]

CASES = ("learned", "random", "noise")
LEGEND = """\
size: of the layer's input; dens.: its share of non-zeros; coherence: largest absolute inner product of two flattened
unit filters, the network's and Gaussian ones. Errors |x^ - x| / |x|, means over samples, of the layer's input from its
pooled code and of the image from that: with the network's own filters, with Gaussian ones in their place, and with
noise of the same norm for the input (sqrt 2 in activations). A layer whose activation is mostly made of biases tells
little of the image, and the error of its image may be far above 1."""


@dataclass(frozen=True)
class LayerInversions:
    """Errors of inversion, one row a convolution; print it.

    Attributes:
        rows: ``name``, ``filters``, ``channels``, ``kernel_size``, ``size``, ``density``, ``coherence_learned``,
            ``coherence_random``, and ``activation_*`` and ``image_*`` for ``learned``, ``random`` and ``noise``.
        pictures: the images that came back, by layer and by ``learned``, ``random`` and ``noise``, ``(N, C, H, W)``.
        images: those that went in.
    """

    rows: list[dict[str, Any]]
    pictures: dict[str, dict[str, Tensor]]
    images: Tensor

    def __str__(self) -> str:
        head = ["layer", "filters", "size", "dens.", "coherence", "random", "activation: learned", "random", "noise"]
        cells = [[*head, "image: learned", "random", "noise"]]
        for row in self.rows:
            kernel = "x".join(map(str, row["kernel_size"]))
            cells.append(
                [
                    row["name"],
                    f"{row['filters']}x{row['channels']}x{kernel}",
                    "x".join(map(str, row["size"])),
                    f"{row['density']:.1%}",
                    *(f"{row[f'coherence_{case}']:.3f}" for case in CASES[:2]),
                    *(f"{row[f'{what}_{case}']:.3f}" for what in ("activation", "image") for case in CASES),
                ]
            )
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
            for line in cells
        ]
        return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], "", LEGEND])

    def grid(self, samples: int = 4) -> Tensor:
        """Rows of tiles ``(R, 1 + 3 * layers, C, H, W)``: an image, then for each layer what came back of it."""
        back = [pictures[case][:samples] for pictures in self.pictures.values() for case in CASES]
        return torch.stack([self.images[:samples], *back], 1)


@torch.no_grad()
def invert_layers(
    model: nn.Module,
    images: Tensor,
    *,
    layers: Sequence[str] | None = None,
    window: int = 2,
    density: float = 1.0,
    steps: int = 1,
    decoder_steps: int = 2,
    rescale: bool = True,
    seed: int = 0,
) -> LayerInversions:
    r"""Inverts the layers of a CNN one by one, and each of them back to the image.

    Tables 2 to 4 of Gilbert et al., `Towards Understanding the Invertibility of Convolutional Neural Networks
    <https://arxiv.org/abs/1705.08664>`_, for any network. A layer's input h is coded over the layer's unit filters, one
    coefficient a window kept, and decoded with the same filters:

    .. math:: z = \mathcal M(W h), \qquad \hat h = W^T z \cdot \|h\| / \|W^T z\|

    by ``steps`` steps of model-based iterative hard thresholding; the layer's own bias and rectifier have no part in
    it. Then comes the image for which the network, with the switches of the true one, gives :math:`\hat h`
    (:func:`~csc_nets.evaluation.inversion.invert`; the paper has a decoding network trained on ImageNet in its place,
    so that its image errors compare with ours in their order only).

    Args:
        model: any CNN; evaluated in evaluation mode and left as it was.
        images: ``(N, C, H, W)``, a few.
        layers: names of the convolutions; None for all that run.
        window: positions of a block per axis.
        density: share of the blocks that are kept.
        steps: of iterative hard thresholding.
        decoder_steps: conjugate gradient steps from the layer to the image; few, because the later ones fit the
            image to what is wrong with the activation.
        rescale: give :math:`\hat h` the norm of h, as the paper does; one step leaves the scale open.
        seed: of the random filters and of the noise.

    Raises:
        ValueError: a name that is no convolution with one group, or none found.
    """
    if len(images) == 0:
        raise ValueError("invert_layers: images must be at least one, got none")
    found = {name: coder for name, m in model.named_modules() if (coder := _coder(m)) is not None}
    rows: list[dict[str, Any]] = []
    pictures: dict[str, dict[str, Tensor]] = {}
    with evaluation_mode(model):
        chosen = _called(model, images, found) if layers is None else list(layers)
        if not chosen or any(name not in found for name in chosen):
            wrong = [name for name in chosen if name not in found]
            known = ", ".join(found) or "none"
            raise ValueError(f"layers must be convolutions with one group among {known}, got {wrong}")
        generator = torch.Generator().manual_seed(seed)
        for name in chosen:
            network = Linearization(model, images, name, inputs=True)
            h = network.activation
            own, geometry = found[name]
            random = torch.randn(own.shape, generator=generator, dtype=torch.float64).to(own)
            noise = torch.randn(h.shape, generator=generator, dtype=torch.float64).to(h)
            options: dict[str, Any] = {"window": window, "density": density, "steps": steps}
            estimates = {
                "learned": _there_and_back(h, own, geometry, **options),
                "random": _there_and_back(h, random, geometry, **options),
                "noise": noise,
            }
            row: dict[str, Any] = {
                "name": name,
                "filters": own.shape[0],
                "channels": own.shape[1],
                "kernel_size": geometry.kernel_size,
                "size": tuple(h.shape[2:]),
                "density": (h != 0).double().mean().item(),
                "coherence_learned": mutual_coherence(own, shifts=False),
                "coherence_random": mutual_coherence(random, shifts=False),
            }
            pictures[name] = {}
            for case, estimate in estimates.items():
                if rescale or case == "noise":
                    estimate = _as_large_as(h, estimate)
                back = network.solve(estimate, steps=decoder_steps)
                row[f"activation_{case}"] = relative_error(estimate, h).mean().item()
                row[f"image_{case}"] = relative_error(back, images).mean().item()
                pictures[name][case] = back
            rows.append(row)
    return LayerInversions(rows, pictures, images)


def _called(model: nn.Module, images: Tensor, names: Iterable[str]) -> list[str]:
    """Those of some layers that the network calls in evaluation, in the order of its calls."""
    called: dict[str, None] = {}
    with ExitStack() as stack:
        for name in names:
            hook = model.get_submodule(name).register_forward_pre_hook(
                lambda module, args, name=name: called.setdefault(name)
            )
            stack.callback(hook.remove)
        model(images[:1].clone())
    return list(called)


def _coder(module: nn.Module) -> tuple[Tensor, ConvGeometry] | None:
    """Filters and geometry of a layer that correlates its input with filters."""
    dictionary: Any = getattr(module, "dictionary", None)
    if isinstance(module, Coder) and isinstance(dictionary, Dictionary2d):
        return dictionary.weight.detach(), dictionary.geometry
    if type(module) is nn.Conv2d and module.groups == 1 and module.padding_mode in PADDING_MODES:
        shape = (module.kernel_size, module.stride, module.padding, module.dilation, module.padding_mode)
        return module.weight.detach(), ConvGeometry.create(2, *shape)
    return None


def _there_and_back(h: Tensor, weight: Tensor, geometry: ConvGeometry, **options: Any) -> Tensor:
    pads = geometry.padding
    coder = PooledCSC2d(
        weight.shape[1],
        weight.shape[0],
        geometry.kernel_size,
        geometry.stride,
        [before for before, _ in pads] if all(before == after for before, after in pads) else "same",
        geometry.dilation,
        geometry.padding_mode,
        sign="signed",
        device="meta",  # no random filters are drawn
        dtype=h.dtype,
        **options,
    )
    coder = coder.to_empty(device=h.device).eval()
    coder.dictionary.weight = weight
    coder.dictionary.refresh()
    return coder.synthesize(*coder.pooled(h), h.shape[2:])


def _as_large_as(h: Tensor, estimate: Tensor) -> Tensor:
    norms = [torch.linalg.vector_norm(t.flatten(1), dim=1) for t in (h, estimate)]
    scale = norms[0] / norms[1].clamp_min(torch.finfo(h.dtype).tiny)
    return estimate * scale.view(-1, 1, 1, 1)
