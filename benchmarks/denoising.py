"""The 64,000-parameter denoiser beside its equation in ten lines of torch: time of a training step and of an image.

    python benchmarks/denoising.py [--quick] [--json FILE] [--threads N] [--device cuda]
    python benchmarks/denoising.py --run RUN [--folder FOLDER]

With ``--run``, the quality of a trained network instead: PSNR at noise of 15, 25 and 50 grey levels on photographs
of a folder, or on the embedded test strips, beside a Gaussian blur and a soft-thresholded Haar transform (three
scales, all shifts), each with its best setting for the mean over the images.
"""

from pathlib import Path

import timing
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import csc_nets
from csc_nets.data import create_datamodule
from csc_nets.tasks.image_quality import psnr

NOISE = (15, 25, 50)


class Plain(nn.Module):
    """CDLNet as its equation reads."""

    def __init__(self, steps: int = 20, atoms: int = 32) -> None:
        super().__init__()
        weight = 0.03 * torch.randn(atoms, 1, 7, 7)
        self.a = nn.ParameterList(weight.clone() for _ in range(steps))
        self.b = nn.ParameterList(weight.clone() for _ in range(steps))
        self.t = nn.Parameter(torch.zeros(steps, 2, atoms, 1, 1))

    def forward(self, y: Tensor, sigma: float) -> Tensor:
        mean = y.mean((1, 2, 3), keepdim=True)
        y, z = y - mean, None
        for k, a in enumerate(self.a):
            residual = y if z is None else y - F.conv_transpose2d(z, self.b[k], padding=3)
            v = F.conv2d(residual, a, padding=3)
            v = v if z is None else z + v
            z = v.sign() * (v.abs() - self.t[k, 0] - sigma * self.t[k, 1]).relu()
        return F.conv_transpose2d(z, self.b[0], padding=3) + mean


def speed(quick: bool, device: str, rounds: int) -> list[dict[str, object]]:
    ours, plain = csc_nets.create_model("cdlnet").to(device), Plain().to(device)
    rows = []
    for count, size in ((2, 32),) if quick else ((8, 64),):
        x = torch.rand(count, 1, size, size, device=device)

        def step(model: nn.Module, x: Tensor = x) -> None:
            model.zero_grad()
            (model(x, 0.1) - x).square().mean().backward()

        seconds = timing.interleaved([lambda: step(ours), lambda: step(plain)], rounds, device)
        rows.append(timing.row(f"training step, {count} crops of {size} x {size}", *seconds))
    for size in (64,) if quick else (256, 512):
        x = torch.rand(1, 1, size, size, device=device)
        with torch.no_grad():
            seconds = timing.interleaved([lambda x=x: ours(x, 0.1), lambda x=x: plain(x, 0.1)], rounds, device)
        rows.append(timing.row(f"image of {size} x {size}", *seconds))
    return rows


def blur(x: Tensor, width: float) -> Tensor:
    reach = max(1, round(3 * width))
    bell = torch.exp(-torch.arange(-reach, reach + 1).square() / (2 * width**2))
    bell = bell / bell.sum()
    x = F.pad(x, (reach,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(x, bell.view(1, 1, -1, 1)), bell.view(1, 1, 1, -1))


def haar(x: Tensor, threshold: float) -> Tensor:
    """Undecimated Haar transform, soft threshold, back; borders are circular."""
    low, details = x, []
    for scale in range(3):
        step = 2**scale
        right = low.roll(-step, 3)
        sums, differences = (low + right) / 2, (low - right) / 2
        parts = []
        for half in (sums, differences):
            below = half.roll(-step, 2)
            parts += [(half + below) / 2, (half - below) / 2]
        # The noise of a mean of four pixels at each scale is half of that of the scale before.
        t = threshold / 2 / 2**scale
        details.append([d - d.clamp(-t, t) for d in parts[1:]])
        low = parts[0]
    for scale in reversed(range(3)):
        step = 2**scale
        vertical, horizontal, diagonal = details[scale]
        halves = []
        for mean, difference in ((low, vertical), (horizontal, diagonal)):
            halves.append(((mean + difference) + (mean - difference).roll(step, 2)) / 2)
        low = ((halves[0] + halves[1]) + (halves[0] - halves[1]).roll(step, 3)) / 2
    return low


@torch.no_grad()
def quality(run: str, folder: Path | None) -> None:
    model = csc_nets.load(run)
    place = {} if folder is None else {"root": folder.absolute().parent, "test": folder.absolute().name}
    data = create_datamodule("photographs", **place)
    data.setup("test")
    images = [image for image, _ in data.test_dataloader()]
    print("| noise | noisy | Gaussian blur | Haar wavelets | network | network, blind |")
    print("|---|---|---|---|---|---|")
    for level in NOISE:
        sigma = level / 255
        generator = torch.Generator().manual_seed(0)
        noisy = [image + sigma * torch.randn(image.shape, generator=generator) for image in images]

        def score(method, noisy=noisy) -> float:  # type: ignore[no-untyped-def]
            values = [psnr(method(y), x) for y, x in zip(noisy, images, strict=True)]
            return torch.cat(values).mean().item()

        blurred = max(score(lambda y, w=w: blur(y, w)) for w in (0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.2, 1.5))
        shrunk = max(score(lambda y, t=c * sigma: haar(y, t)) for c in (0.8, 1.0, 1.2, 1.5, 1.8, 2.2))
        columns = [score(lambda y: y), blurred, shrunk, score(lambda y, s=sigma: model(y, s)), score(model)]
        print(f"| {level} | " + " | ".join(f"{value:.2f}" for value in columns) + " |")


def main() -> None:
    parser = timing.parser(__doc__.splitlines()[0])
    parser.add_argument("--run", help="run folder or checkpoint: measure its quality")
    parser.add_argument("--folder", type=Path, help="photographs for --run")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.run:
        quality(options.run, options.folder)
        return
    rows = speed(options.quick, options.device, 3)
    timing.report(rows, options.json, "torch")


if __name__ == "__main__":
    main()
