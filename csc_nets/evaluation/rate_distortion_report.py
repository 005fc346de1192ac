"""The report ``rate_distortion``: what an autoencoder's code costs and keeps, beside transforms and JPEG."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.utils import save_image

from csc_nets.evaluation.rate_distortion import RatePoint, entropy_bits, measure, psnr_of_all, quantise
from csc_nets.evaluation.reconstruction import scaled_lam
from csc_nets.evaluation.report_input import ReportInput, Result
from csc_nets.evaluation.transform_coding import BlockTransform, jpeg, keep_largest
from csc_nets.tasks import csc_layers

__all__ = ["FACTORS", "rate_distortion"]

FACTORS = (0.02, 0.1, 0.3, 1.0, 3.0, 10.0)
"""By what the network's own sparsity weights are multiplied, a point of the curve each."""

TEST_IMAGES = 256
TRAINING_IMAGES = 2000
LOSS = 0.3
"""dB of the PSNR of all that the quantiser of a code may cost."""


@torch.no_grad()
def rate_distortion(given: ReportInput) -> Result:
    """Both PSNRs, SSIM, non-zeros and bits of the network's code, and of other methods at as many.

    Raises:
        ValueError: the network has no code to count, or makes no image of it.
    """
    if not hasattr(given.model, "encode") or not (hasattr(given.model, "decode") or hasattr(given.model, "residual")):
        raise ValueError(
            "report=rate_distortion needs a network with encode and decode, such as sparse_autoencoder, got "
            f"{type(given.model).__name__}"
        )
    reference = torch.cat([given.data.denormalize(x).cpu() for x in _test_images(given)])
    train = torch.cat([p.cpu() for p in given.pixels("train")])[:TRAINING_IMAGES]
    factors = FACTORS if csc_layers(given.model) else (1.0,)
    others = _transforms(train, reference)
    rows: list[dict[str, Any]] = []
    shown: list[Tensor] = []
    for factor in factors:
        with scaled_lam(given.model, factor):
            point, back = network_point(given, reference, f"network, lam x {factor:g}")
        rows.append(point.row() | {"factor": factor, "of": "network"})
        assert point.nonzeros is not None and point.bits is not None
        count = max(1, round(point.nonzeros * reference[0].numel()))
        beside = _beside(others, reference, count, point.bits)
        rows += [other.row() | {"factor": factor, "of": other.name} for other, _ in beside]
        if factor == 1.0 or len(factors) == 1:
            shown = [reference, back, *(images for _, images in beside)]
    # Neighbours look alike where images are patches of a photograph.
    spread = torch.linspace(0, len(reference) - 1, min(given.images, len(reference))).round().long()
    _save(given.picture, rows, [tiles[spread] for tiles in shown])
    return _text(rows, f"{len(reference)} {given.tested} images of {given.data.name}"), rows


def network_point(given: ReportInput, reference: Tensor, name: str) -> tuple[RatePoint, Tensor]:
    """The code of a network with its present weights, and the images that come back without a quantiser.

    The quantiser for the bits is the coarsest of :func:`coarsest_step`.
    """
    model: Any = given.model
    images = _test_images(given)
    codes = [model.encode(x).float() for x in images]

    def decoded(codes: Sequence[Tensor]) -> Tensor:
        back = [_decode(model, x, z.to(x)) for x, z in zip(images, codes, strict=True)]
        return torch.cat([given.data.denormalize(y.float()).cpu() for y in back])

    back = decoded(codes)
    flat = torch.cat([z.flatten() for z in codes])
    lengths = [z.numel() for z in codes]
    shaped = lambda values: [v.view(z.shape) for v, z in zip(values.split(lengths), codes, strict=True)]  # noqa: E731
    step = coarsest_step(flat, lambda values: psnr_of_all(decoded(shaped(values)), reference))
    bits = entropy_bits(quantise(flat, step)[0])
    return measure(name, back, reference, codes=codes, bits=bits), back


def coarsest_step(code: Tensor, quality: Callable[[Tensor], float], loss: float = LOSS) -> float:
    """The largest of the steps max|z| / 2^k, k = 1, 2, ..., 12, whose quantiser costs at most ``loss`` dB.

    Args:
        code: any shape.
        quality: dB of a code.
        loss: dB.
    """
    top, whole = float(code.abs().amax().clamp_min(1e-12)), quality(code)
    for k in range(1, 12):
        if quality(quantise(code, top / 2**k)[1]) >= whole - loss:
            return top / 2**k
    return top / 2**12


def _test_images(given: ReportInput) -> list[Tensor]:
    """Batches of the first test images that have the size of the first one, as the network is fed."""
    found: list[Tensor] = []
    for x, _ in given.batches("test"):
        room = TEST_IMAGES - sum(map(len, found))
        if room and (not found or x.shape[1:] == found[0].shape[1:]):
            found.append(x[:room])
    return found


def _decode(model: Any, x: Tensor, code: Tensor) -> Tensor:
    """Images of a code; a network behind a high-pass gets back what that took away, which is not counted."""
    return model.reconstruct(x, code) if hasattr(model, "residual") else model.decode(code, x.shape[2:])  # type: ignore[no-any-return]


def _transforms(train: Tensor, reference: Tensor) -> dict[str, tuple[BlockTransform, Tensor]]:
    """Transforms and the coefficients of the test images, by name."""
    side = max(reference.shape[2:])
    block = min(8, side)
    found = {f"DCT {block}x{block}": BlockTransform.dct(train, block)}
    if side > block and side <= 64:
        found[f"DCT {side}x{side}"] = BlockTransform.dct(train, side)
    found[f"PCA {block}x{block}"] = BlockTransform.principal_components(train, block)
    return {name: (transform, transform.analysis(reference)) for name, transform in found.items()}


def _beside(
    transforms: dict[str, tuple[BlockTransform, Tensor]], reference: Tensor, count: int, bits: float
) -> list[tuple[RatePoint, Tensor]]:
    size: Any = tuple(reference.shape[2:])
    pixels = len(reference) * math.prod(size)
    found = []
    for name, (transform, code) in transforms.items():
        for each in (False, True):
            kept = keep_largest(code, count, each=each)
            back = transform.synthesis(kept, size).clamp(0, 1)
            title = f"{name}, {'largest of each image' if each else 'one threshold'}"
            found.append((measure(title, back, reference, codes=[kept]), back))
        step = _least(partial(_costs_at_most, code, bits * pixels), 1e-4, 20.0)
        indices, values = quantise(code, step)
        back = transform.synthesis(values, size).clamp(0, 1)
        found.append((measure(f"{name}, quantised", back, reference, codes=[values], bits=entropy_bits(indices)), back))
    if reference.shape[1] in (1, 3):
        low, high = 1, 95
        while low < high:  # the best quality with as many bits, or the worst there is
            middle = (low + high + 1) // 2
            low, high = (middle, high) if jpeg(reference, middle)[1] <= bits * pixels else (low, middle - 1)
        back, total = jpeg(reference, low)
        found.append((measure("JPEG", back, reference, bits=total), back))
    return found


def _costs_at_most(code: Tensor, bits: float, step: float) -> bool:
    return entropy_bits(quantise(code, step)[0]) <= bits


def _least(fits: Callable[[float], bool], low: float, high: float) -> float:
    """The least number between two, to half a percent, from which on ``fits`` holds."""
    while high / low > 1.005:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _text(rows: Sequence[dict[str, Any]], images: str) -> str:
    width = max(len(row["name"]) for row in rows) + 2
    lines = [f"{'':{width}}{'non-zeros':>11}{'bits':>8}{'mean PSNR':>11}{'PSNR of all':>13}{'SSIM':>8}"]
    for row in rows:
        if row["of"] == "network":
            lines.append("")
        share = "" if row["nonzeros"] is None else f"{row['nonzeros']:.2%}"
        bits = "" if row["bits"] is None else f"{row['bits']:.3f}"
        lines.append(
            f"{row['name']:{width}}{share:>11}{bits:>8}{row['psnr_mean']:>11.2f}{row['psnr_of_all']:>13.2f}"
            f"{row['ssim']:>8.4f}"
        )
    lines += ["", f"{images}. Non-zeros for each pixel and channel; bits for each pixel, uniform"]
    lines += [f"quantiser that costs the network at most {LOSS} dB, entropy of the indices (an ideal coder, no table)."]
    lines += ["Transforms have as many non-zeros as the network, or, quantised, at most as many bits. So has JPEG,"]
    lines += [
        "without headers and tables. PSNR in dB: mean over images, and of the mean squared error over all images."
    ]
    return "\n".join(lines)


def _save(file: Path, rows: Sequence[dict[str, Any]], shown: Sequence[Tensor]) -> None:
    """The curve to ``file``, and a picture with a row a method beside it: images, network, others, lam x 1."""
    if shown:
        wide = torch.cat([tiles.float() for tiles in shown])
        wide = interpolate(wide, scale_factor=max(1, -(-64 // wide.shape[-1])))
        save_image(wide, file.with_name(f"{file.stem}_images.png"), nrow=len(shown[0]), padding=2, pad_value=1)
    if not find_spec("matplotlib"):
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    axes = figure.subplots(2, 2)
    for i, (rate, label) in enumerate((("nonzeros", "non-zeros a pixel and channel"), ("bits", "bits a pixel"))):
        for j, (value, title) in enumerate((("psnr_mean", "PSNR, mean (dB)"), ("psnr_of_all", "PSNR of all (dB)"))):
            for name in dict.fromkeys(row["of"] for row in rows):
                found = sorted((r[rate], r[value]) for r in rows if r["of"] == name and r[rate])
                if found and not (rate == "nonzeros" and name.endswith("quantised")):
                    style = {"lw": 2.5, "color": "black"} if name == "network" else {"lw": 1}
                    axes[i][j].plot(*zip(*found, strict=True), marker=".", label=name, **style)
            axes[i][j].set(xscale="log", xlabel=label, ylabel=title)
            axes[i][j].grid(alpha=0.3)
            axes[i][j].legend(fontsize=7)
    figure.savefig(file, dpi=110)
