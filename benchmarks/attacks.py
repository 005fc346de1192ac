"""What attacks leave of the accuracy of a network, beside ten lines of plain PyTorch or AutoAttack, and certificates.

    python benchmarks/attacks.py [--run FOLDER ...] [--norm linf] [--eps 0.05 0.1] [--images 100] [--autoattack]
                                 [--signs] [--quick] [--json FILE]

Networks are those of run folders, or that for digits in the package. Rows "NETWORK, NORM EPS": ours is the accuracy
that ``strongest`` leaves on some test images, the reference what ten lines of PGD leave, or with ``--autoattack``
AutoAttack. Smaller is stronger. Rows "certified, l2 EPS", without runs: of a small network that is a contraction up to
a known factor, the share of certified labels; the reference is what ``strongest`` leaves. With ``--signs`` the signs of
masked gradients are printed.
"""

from pathlib import Path
from typing import Any

import timing
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from csc_nets import load
from csc_nets.data import ImageDataModule, create_datamodule
from csc_nets.evaluation.attacks import Budget, auto_attack, masked_gradients, robustness_rows, strongest
from csc_nets.layers import CSC2d
from csc_nets.models import Normalised, create_model
from csc_nets.tasks.run_folder import RunFolder
from csc_nets.theory import label_certificate


def plain(model: nn.Module, x: Tensor, y: Tensor, eps: float, norm: str, steps: int = 20) -> float:
    """The reader's alternative: projected gradient ascent by hand, the last point counts."""
    delta = torch.zeros_like(x)
    for _ in range(steps):
        delta.requires_grad_()
        (g,) = torch.autograd.grad(cross_entropy(model(x + delta), y), delta)
        if norm == "linf":
            delta = (delta.detach() + 2.5 * eps / steps * g.sign()).clamp(-eps, eps)
        else:
            delta = delta.detach() + 2.5 * eps / steps * g / g.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
            delta = delta * (eps / delta.flatten(1).norm(dim=1).clamp_min(eps)).view(-1, 1, 1, 1)
        delta = (x + delta).clamp(0, 1) - x
    with torch.no_grad():
        return (model(x + delta).argmax(1) == y).double().mean().item()


def contraction(count: int) -> tuple[nn.Module, Tensor, Tensor, Any]:
    """A thresholding with random atoms and a ridge regression on its code; test images, labels, their certificate."""
    source = load_digits()
    x, y = torch.from_numpy(source.images)[:, None] / 16, torch.from_numpy(source.target).long()
    torch.manual_seed(0)
    layer, head = (
        CSC2d(1, 32, 5, lam=0.05, pursuit="threshold", dtype=x.dtype).eval(),
        nn.Linear(512, 10, dtype=x.dtype),
    )
    with torch.no_grad():
        code, hot = layer(x[:1200]).flatten(1), one_hot(y[:1200], 10).to(x)
        centre, mean = code.mean(0), hot.mean(0)
        gram = (code - centre).T @ (code - centre) + 100 * torch.eye(512, dtype=x.dtype)
        head.weight.copy_(torch.linalg.solve(gram, (code - centre).T @ (hot - mean)).T)
        head.bias.copy_(mean - head.weight @ centre)
        columns = layer.dictionary.analysis(torch.eye(64, dtype=x.dtype).view(64, 1, 8, 8)).flatten(1)
        lipschitz = torch.linalg.matrix_norm(columns, 2).item()
        network = nn.Sequential(layer, nn.Flatten(), head).eval()
        x, y = x[1200 : 1200 + count], y[1200 : 1200 + count]
        certificate = label_certificate(network(x), head.weight, lambda noise: lipschitz * noise)
    return network, x, y, certificate


def images_of(run: Path | None, count: int) -> tuple[ImageDataModule, Tensor, Tensor]:
    """Test images of a run's data in random order, or the first digits; pixels from 0 to 1."""
    options = {"name": "digits"} if run is None else RunFolder(run).config()["data"]
    data = create_datamodule(**options)
    data.setup("test")
    images, labels = (torch.cat(parts) for parts in zip(*data.test_dataloader(), strict=True))
    if run is not None:  # folders are sorted by class
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        images, labels = images[order], labels[order]
    return data, data.denormalize(images[:count]), labels[:count]


def row(name: str, ours: float, reference: float) -> dict[str, object]:
    return {"name": name, "ours": ours, "reference": reference, "ratio": ours / max(reference, 1e-9), "unit": "share"}


def main() -> None:
    options = timing.parser(__doc__.splitlines()[0])
    options.add_argument("--run", type=Path, nargs="*", default=[], help="run folders of classifiers")
    options.add_argument("--norm", choices=["linf", "l2"], default="linf")
    options.add_argument("--eps", type=float, nargs="+", default=[0.05, 0.1])
    options.add_argument("--images", type=int, default=100)
    options.add_argument("--autoattack", action="store_true")
    options.add_argument("--signs", action="store_true")
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    count = 8 if given.quick else given.images
    budget = Budget(5, 1, 0, 20) if given.quick else Budget(steps=50, restarts=2, targets=3, queries=500)
    networks = {str(folder): load(folder) for folder in given.run} or {
        "csc_small": create_model("csc_small", pretrained=True)
    }
    rows = []
    for name, model in networks.items():
        data, x, y = images_of(Path(name) if given.run else None, count)
        network = Normalised(model, data.mean, data.std).eval()
        with torch.no_grad():
            print(f"{name}: clean {(network(x).argmax(1) == y).double().mean():.3f} of {len(y)} images")
        for eps in given.eps[:1] if given.quick else given.eps:
            found = strongest(network, x, y, eps, norm=given.norm, budget=budget)
            print(f"{given.norm} {eps:g}:", ", ".join(f"{key} {value:.3f}" for key, value in found.left.items()))
            if given.autoattack:
                other = auto_attack(network, x, y, eps, norm=given.norm).accuracy
            else:
                other = plain(network, x, y, eps, given.norm)
            rows.append(row(f"{name}, {given.norm} {eps:g}", found.accuracy, other))
        if given.signs:
            print(masked_gradients(network, x, y, given.eps[-1], norm=given.norm, budget=budget))
    if not given.run:
        network, x, y, certificate = contraction(count)
        sizes = [0.1] if given.quick else [0.02, 0.05, 0.1, 0.2, 0.4, 0.8]
        for found in robustness_rows(network, x, y, sizes, certificate=certificate, norm="l2", budget=budget):
            rows.append(row(f"certified, {found['name']}", found["certified"], found["attacked"]))
    timing.report(rows, given.json, "reference")


if __name__ == "__main__":
    main()
