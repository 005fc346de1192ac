"""Time of the unfolded MNIST networks over that of their authors' code, and how far their logits differ.

    python benchmarks/multi_layer.py --peer PATH [--quick] [--json FILE] [--threads N] [--device cuda]

PATH is a clone of github.com/jsulam/ml-ista. Without it the reference is torch's convolutions: per
unfolding and layer one synthesis and one analysis, and nothing else. (The package multiplies matrices in the third
layer, where an atom covers the signal, and may be faster than that.)
Same weights, same batch of 128 images, six unfoldings; training is one forward and backward pass.
"""

import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path

import timing
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import csc_nets

PEERS = {
    "ml_ista": "ML_ISTA_NET",
    "ml_fista": "ML_FISTA_NET",
    "ml_lista": "ML_LISTA_NET",
    "layered_basis_pursuit": "LBP_NET",
}
STRIDES = (2, 2, 1)
STEPS = 6


def authors_network(folder: Path, pursuit: str, model: nn.Module) -> nn.Module:
    """The authors' network with the weights of ours."""
    for missing in ("matplotlib", "matplotlib.pyplot", "matplotlib.cm"):  # their file imports it and does not need it
        sys.modules.setdefault(missing, types.ModuleType(missing))
    sys.modules["matplotlib"].cm = sys.modules["matplotlib.cm"]  # type: ignore[attr-defined]
    spec = importlib.util.spec_from_file_location("authors", folder / "MNIST" / "Models.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    theirs: nn.Module = getattr(module, PEERS[pursuit])(32, 64, 512, STEPS)
    layer = model.stages[0]  # type: ignore[index, union-attr]
    state = {"Wclass.weight": model.fc.weight, "Wclass.bias": model.fc.bias}  # type: ignore[union-attr]
    for i, dictionary in enumerate(layer.dictionaries, start=1):
        state[f"W{i}"] = dictionary.weight
        state[f"b{i}"] = layer.biases[i - 1].view(1, -1, 1, 1)
        if pursuit == "ml_lista":
            state[f"B{i}"] = layer.feedforward[i - 1].weight
        else:
            state[f"c{i}"] = getattr(layer, f"step_size_{i - 1}").view(1, 1, 1, 1)
    theirs.load_state_dict(state)
    return theirs


def convolutions(x: Tensor, weights: list[Tensor]) -> Tensor:
    """The convolutions of one thresholding and ``STEPS`` unfoldings."""
    codes, below = [], x
    for weight, stride in zip(weights, STRIDES, strict=True):
        below = F.conv2d(below, weight, None, stride)
        codes.append(below)
    for _ in range(STEPS):
        z = codes[-1]
        for weight, stride in zip(weights[::-1], STRIDES[::-1], strict=True):
            z = F.conv_transpose2d(z, weight, None, stride)
        for i, (weight, stride) in enumerate(zip(weights, STRIDES, strict=True)):
            z = codes[i] = F.conv2d(z, weight, None, stride)
    return codes[-1]


def case(pursuit: str, train: bool, peer: Path | None, device: str, rounds: int) -> dict[str, object]:
    torch.manual_seed(0)
    model = csc_nets.create_model("ml_csc_mnist", pursuit=pursuit, steps=STEPS)
    with torch.no_grad():  # weights as large as trained ones, or all codes are next to zero
        for name, parameter in model.named_parameters():
            if name.endswith("weight") and parameter.ndim == 4:
                parameter.mul_(4)
    model = model.to(device).train(train)
    x = torch.rand(128, 1, 28, 28, device=device)
    reference: Callable[[], Tensor]
    if peer is None:
        weights = [d.weight.detach().clone().requires_grad_(train) for d in model.stages[0].dictionaries]
        reference = lambda: convolutions(x, weights)  # noqa: E731
    else:
        theirs = authors_network(peer, pursuit, model).to(device).train(train)
        reference = lambda: theirs(x)  # noqa: E731
    difference = ""
    if peer is not None:
        with torch.no_grad():
            ours = model(x).log_softmax(1)
            difference = f", log-probabilities differ by {(ours - theirs(x)).abs().max().item():.0e}"
    candidates: list[Callable[[], object]] = [lambda: model(x), reference]
    if train:
        candidates = [lambda: model(x).sum().backward(), lambda: reference().sum().backward()]
        seconds = timing.interleaved(candidates, rounds, device)
    else:
        with torch.no_grad():
            seconds = timing.interleaved(candidates, rounds, device)
    return timing.row(f"{pursuit}, {'train' if train else 'eval'}{difference}", *seconds)


def main() -> None:
    options = timing.parser(__doc__.splitlines()[0])
    options.add_argument("--peer", type=Path, help="clone of github.com/jsulam/ml-ista")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    pursuits = ["ml_fista"] if chosen.quick else list(PEERS) if chosen.peer else ["ml_fista", "layered_basis_pursuit"]
    rows = [
        case(pursuit, train, chosen.peer, chosen.device, 3 if chosen.quick else 9)
        for pursuit in pursuits
        for train in (False, True)
    ]
    timing.report(rows, chosen.json, "authors" if chosen.peer else "convs")


if __name__ == "__main__":
    main()
