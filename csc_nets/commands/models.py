"""``csc-nets models``: the zoo, with the sizes of its networks."""

import argparse
import inspect
import sys
from collections.abc import Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode

from csc_nets.models import create_model, list_models
from csc_nets.models.registry import ENTRIES

__all__ = ["FIGURES", "main", "multiplications", "summary"]

FIGURES = {
    "cdlnet": ("Set12, noise 25", "30.08", "denoising.md"),
    "csc_autoencoder": ("digits", "31.21 dB", "results.md"),
    "csc_ctrl_32": ("MNIST, nearest subspace", "94.9 %", "closed_loop.md"),
    "csc_small": ("digits, seeds 0 to 2", "99.16 %", "results.md"),
    "deep_cnn_mnist": ("MNIST, one pass", "96.57 %", "multi_layer.md"),
    "fastnet": ("CIFAR-10 as JPEG, validation images", "89.56 %", "results.md"),
    "ml_csc_mnist": ("MNIST, one pass", "98.53 %", "multi_layer.md"),
    "scattering": ("MNIST", "99.09 %", "energy.md"),
    "sparse_autoencoder": ("PSNR of two photographs, 5 % of the numbers", "41.13", "autoencoding.md"),
    "sparse_prior_cnn": ("MNIST, two passes", "99.37 %", "multi_layer.md"),
}
"""Data, what a network reaches on their test images (the least of several seeds), and the page that says how."""


def main(arguments: Sequence[str]) -> None:
    """Prints a line for each network.

    Raises:
        SystemExit: no name fits.
    """
    parser = argparse.ArgumentParser(
        prog="csc-nets models",
        description="Networks with their parameters and multiplications of one image (MACs), 10 classes.",
        epilog="How a figure was reached: docs/results.md, and the pages of each system.",
    )
    parser.add_argument("filter", nargs="?", default="", help="part of a name, or a glob such as 'sdnet*'")
    chosen = parser.parse_args(arguments)
    names = list_models(chosen.filter)
    if not names:
        print(f"error: no model fits {chosen.filter!r} (known: {', '.join(list_models())})", file=sys.stderr)
        sys.exit(1)
    rows = [("model", "parameters", "MACs", "image", "reached", "what it is")]
    rows += [(name, *summary(name)) for name in names]
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    for name, parameters, macs, image, reached, text in rows:
        sizes = [parameters.rjust(widths[1]), macs.rjust(widths[2]), image.ljust(widths[3]), reached.ljust(widths[4])]
        print("  ".join([name.ljust(widths[0]), *sizes, text]).rstrip())


def summary(name: str) -> tuple[str, str, str, str, str]:
    """Parameters, multiplications, size of an image, a figure, and the first sentence that describes a network."""
    with torch.device("meta"):
        model = create_model(name).eval()
    size = tuple(int(n) for n in model.pretrained_cfg["input_size"])
    parameters = sum(parameter.numel() for parameter in model.parameters())
    text = " ".join((inspect.getdoc(ENTRIES[name].build) or "").split()).partition(". ")[0].rstrip(".")
    if any(getattr(getattr(module, "pursuit", None), "count", 1) is None for module in model.modules()):
        macs = "varies"  # with the steps that an image takes
    else:
        try:
            macs = _short(multiplications(model, size))
        except RuntimeError:  # it looks at numbers
            macs = _short(multiplications(create_model(name).eval(), size))
    data, figure, _ = FIGURES.get(name, ("", "", ""))
    reached = f"{figure} ({data})" if figure else ""
    return f"{parameters:,}", macs, " x ".join(map(str, size)), reached, text


@torch.no_grad()
def multiplications(model: torch.nn.Module, size: Sequence[int]) -> int:
    """Multiplications of convolutions and matrix products for one image.

    Args:
        model: in eval mode; on the meta device nothing is computed.
        size: of an image, ``(C, H, W)``.
    """
    counter = FlopCounterMode(display=False)
    with counter:
        model(torch.zeros(1, *size, device=next(model.parameters()).device))
    return int(counter.get_total_flops()) // 2


def _short(number: float) -> str:
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= scale:
            return f"{number / scale:.2f} {unit}"
    return f"{number:.0f}"
