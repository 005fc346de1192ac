"""Do plug-and-play iterations with a denoiser converge? Two that are proximal operators, beside free networks.

    python benchmarks/plug_and_play.py --run RUN [RUN ...] [--folder FOLDER] [--picture FILE.png] [--json FILE]

Proximal gradient steps x <- denoise(x - A^T (A x - y), sigma) from the observed image y = A x + noise, for two
operators of norm 1: a Gaussian blur, and a mask that takes half of the pixels. A fixed noise level for the denoiser,
no best iteration picked. Proximal denoisers run twice: solved, and with one step of their pursuit for each
iteration. Printed are the PSNR at the best and at the last iteration, and how far the last iteration moved the image,
over its norm. Networks without a run are the ones in the package.
"""

from pathlib import Path
from typing import Any

import timing
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import csc_nets
from csc_nets.data import create_datamodule
from csc_nets.models import ProximalDenoiser
from csc_nets.tasks.image_quality import psnr

SHELF = ("analysis_denoiser", "proximal_denoiser", "cdlnet")
PALETTE = ["#0072B2", "#009E73", "#D55E00", "#CC79A7"]  # Okabe and Ito's


class Blur(nn.Module):
    """Convolution with a Gaussian, circular; its own adjoint."""

    def __init__(self, width: float = 1.6) -> None:
        super().__init__()
        bell = torch.exp(-torch.arange(-5, 6).square() / (2 * width**2))
        self.bell = bell / bell.sum()

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (5,) * 4, mode="circular")
        return F.conv2d(F.conv2d(x, self.bell.view(1, 1, -1, 1)), self.bell.view(1, 1, 1, -1))


class Mask(nn.Module):
    """Half of the pixels; its own adjoint."""

    def forward(self, x: Tensor) -> Tensor:
        seen = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) > 0.5
        return x * seen


def iterate(denoise: Any, operator: nn.Module, y: Tensor, truth: Tensor, count: int) -> list[tuple[float, float]]:
    """PSNR and relative change of each iteration; it ends where the numbers do."""
    x, rows = operator(y), []
    for _ in range(count):
        new = denoise(x - operator(operator(x) - y))
        moved = ((new - x).norm() / new.norm()).item()
        x = new
        rows.append((psnr(x, truth).mean().item(), moved))
        if not x.abs().max() < 1e6:
            break
    return rows


def methods(networks: dict[str, nn.Module], sigma: float) -> dict[str, Any]:
    """Denoisers to iterate with, by name."""
    found: dict[str, Any] = {}
    for name, network in networks.items():
        found[name] = lambda x, network=network: network(x, sigma)
        if isinstance(network, ProximalDenoiser):
            code: list[Tensor | None] = [None]

            def one_step(x: Tensor, network: ProximalDenoiser = network, code: list[Tensor | None] = code) -> Tensor:
                image, code[0] = network.refine(x, sigma, code[0])
                return image

            found[f"{name}, one step"] = one_step
    return found


def image(folder: Path | None, size: int) -> Tensor:
    """The middle of the first test image."""
    place = {} if folder is None else {"root": folder.absolute().parent, "test": folder.absolute().name}
    data = create_datamodule("photographs", **place)
    data.setup("test")
    whole = next(iter(data.test_dataloader()))[0]
    top, left = ((n - size) // 2 for n in whole.shape[2:])
    return whole[..., top : top + size, left : left + size]


def draw(curves: dict[str, dict[str, list[tuple[float, float]]]], file: Path) -> None:
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, len(curves), figsize=(4.2 * len(curves), 6), sharex=True, squeeze=False)
    for (above, below), (task, lines) in zip(panels.T, curves.items(), strict=True):
        networks = list(dict.fromkeys(name.split(",")[0] for name in lines))
        for name, rows in lines.items():
            colour = PALETTE[networks.index(name.split(",")[0]) % len(PALETTE)]
            style = {"color": colour, "label": name, "linestyle": "--" if name.endswith("one step") else "-"}
            above.plot([row[0] for row in rows], **style)
            below.semilogy([max(row[1], 1e-8) for row in rows], **style)
        above.set(title=task, ylabel="PSNR (dB)", ylim=(5, 27))
        below.set(xlabel="iteration", ylabel="change over the norm", ylim=(1e-6, 10))
    panels[0, 0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=120)


@torch.no_grad()
def main() -> None:
    options = timing.parser(__doc__.splitlines()[0])
    options.add_argument("--run", nargs="*", default=[], help="run folders of further denoisers")
    options.add_argument("--folder", type=Path, help="folder of photographs; the embedded ones without")
    options.add_argument("--picture", type=Path, help="where to draw the curves")
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    networks = {name: csc_nets.create_model(name, pretrained=True).eval() for name in SHELF}
    for run in given.run:
        network = csc_nets.load(run).eval()
        networks[network.model_name] = network
    truth, count = image(given.folder, 48 if given.quick else 128), 10 if given.quick else 150
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    rows = []
    print("| observed through | denoiser | observed dB | best dB | last dB | iterations | last change |")
    print("|---|---|---|---|---|---|---|")
    for task, operator, spread, sigma in (("a blur", Blur(), 0.01, 0.004), ("half of the pixels", Mask(), 0.0, 0.05)):
        y = operator(truth) + spread * noise
        curves[task] = {}
        for name, denoise in methods(networks, sigma).items():
            line = curves[task][name] = iterate(denoise, operator, y, truth, count)
            before, best, (last, moved) = psnr(y, truth).mean().item(), max(row[0] for row in line), line[-1]
            print(f"| {task} | {name} | {before:.2f} | {best:.2f} | {last:.2f} | {len(line)} | {moved:.0e} |")
            rows.append(
                {"name": f"{task}, {name}", "ours": last, "reference": best, "ratio": last / best, "unit": "dB"}
            )
    timing.report(rows, given.json, "best")
    if given.picture:
        draw(curves, given.picture)


if __name__ == "__main__":
    main()
