"""Whole networks against the public code of SDNet and against ResNet-18 of the same memory layout.

    python benchmarks/networks.py [--public PATH] [--batch 32] [--quick] [--json FILE] [--threads N] [--modes train]
                                  [--networks sdnet18_all sdnet18] [--once calibrated threshold]
    python benchmarks/networks.py --device cuda --batch 128 --compile [--public PATH] [--json FILE]

PATH is a clone of github.com/Delay-Xili/SDNet (it needs ``pip install yacs``). Images of 32 x 32, two steps, blocks
with shortcuts, same weights; how far the logits differ is printed first. Public code runs as published, in float32 and
torch's default layout; ours and ResNet-18 in channels_last, in float32 and under bfloat16 autocast. A training step is
forward, loss, backward and SGD with momentum, with the public code's ``update_stepsize`` before it as its training loop
has it. Its evaluation loop calls that too, but here evaluation is the forward pass alone. "Saved" are the bytes that
the forward pass keeps for the backward pass, in distinct storages that are no parameters. "Once" is our network with
``steps=1`` of another pursuit, one convolution a layer.

JSON rows of times also tell images a second and the arithmetic of ours, in TFLOP/s, for a share of the machine's peak.
``--compile`` compiles ours and ResNet-18 with CUDA graphs (``mode="reduce-overhead"``).
"""

import contextlib
import io
import re
import statistics
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

import timing
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import csc_nets
from csc_nets.functional.problem import SAFETY
from csc_nets.layers import CSC2d

# Names of our parameters and buffers, and of theirs. The networks with all layers coded nest their blocks once more.
NAMES = [
    (r"dictionary\.parametrizations\.weight\.original", "dn.weight"),
    (r"stages\.(\d)\.", r"layer\1."),
    (r"(layer[1-9]\.)", r"\1layers."),
    (r"body\.0\.", "conv1."),
    (r"body\.1\.", "bn1."),
    (r"body\.3\.", "conv2."),
    (r"body\.4\.", "bn2."),
    (r"^fc\.", "linear."),
]


def public_network(folder: Path, name: str, ours: nn.Module, device: str) -> nn.Module:
    """The public network of this name with the weights of ours, and its step sizes in ours."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    from Lib.config import config
    from Lib.models import sdnet, sdnet_inverse

    config.DATASET.DATASET = "cifar10"
    config.MODEL.NUM_LAYERS = 2
    everywhere = name.endswith("_all")
    theirs = (sdnet_inverse.SDNet18_all if everywhere else sdnet.SDNet18)(10, config).to(device)
    with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        theirs(torch.zeros(1, 3, 32, 32, device=device))  # layers remember the size of their signals
    state = theirs.state_dict()
    for key, value in ours.state_dict().items():
        for mine, public in NAMES:
            if everywhere or "layers" not in public:
                key = re.sub(mine, public, key)
        if key in state:
            state[key] = value
        elif not key.endswith((".lam", ".direction", ".lipschitz")):
            raise KeyError(f"{key} is not in the public network")
    theirs.load_state_dict(state)
    theirs.update_stepsize()
    steps = [module.step_size for module in theirs.modules() if hasattr(module, "update_stepsize") and module != theirs]
    layers = [module for module in ours.modules() if isinstance(module, CSC2d)]
    for layer, step in zip(layers, steps, strict=True):
        layer.dictionary.lipschitz.copy_(SAFETY / step)
    return theirs


def logits(model: nn.Module, x: Tensor) -> Tensor:
    """Public networks return a pair."""
    out = model(x)
    return out[0] if isinstance(out, tuple) else out


def training(model: nn.Module, x: Tensor, target: Tensor, precision: torch.dtype) -> Callable[[], None]:
    """One step of training."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4, nesterov=True)
    update_step_sizes = getattr(model, "update_stepsize", lambda: None)

    def step() -> None:
        model.train()
        update_step_sizes()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
            out = logits(model, x)
        loss = F.cross_entropy(out.float(), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def evaluation(model: nn.Module, x: Tensor, precision: torch.dtype) -> Callable[[], Tensor]:
    """One forward pass."""

    @torch.inference_mode()
    def step() -> Tensor:
        model.eval()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
            return logits(model, x)

    return step


def saved(model: nn.Module, x: Tensor, precision: torch.dtype) -> int:
    """Bytes that a forward pass keeps for its backward pass."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    model.train()
    autocast = torch.autocast(x.device.type, torch.bfloat16, enabled=precision == torch.bfloat16)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast:
        out = logits(model, x)  # keeps all of it alive, so that no address is used twice
    del out
    return sum(size for address, size in kept.items() if address not in parameters)


def operations(step: Callable[[], object]) -> int:
    """Floating point operations of a step, of its convolutions and products of matrices."""
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def rows(name: str, options: Namespace) -> Iterator[dict[str, object]]:
    """One of our networks against the public one in float32 and against ResNet-18 in the same precision."""
    batch, rounds = (2, 1) if options.quick else (options.batch, options.rounds)
    device, single, half = options.device, torch.float32, torch.bfloat16
    torch.manual_seed(0)
    x, target = torch.randn(batch, 3, 32, 32, device=device), torch.randint(10, (batch,), device=device)
    channels_last = x.contiguous(memory_format=torch.channels_last)

    def create(model: str, **settings: object) -> nn.Module:
        return csc_nets.create_model(model, **settings).to(device, memory_format=torch.channels_last)

    ours = create(name)
    public = None if options.public is None else public_network(options.public, name, ours, device)
    if public is not None:
        a, b = evaluation(ours, channels_last, single)(), evaluation(public, x, single)()
        print(f"{name}: logits differ from those of the public code by {(a - b).norm() / b.norm():.1e} of their norm")

    runs = {}
    models = {name: ours}
    for pursuit in options.once if name.endswith("_all") else ():  # one step less in one layer is nothing to see
        models[f"{name} {pursuit} once"] = create(name, pursuit=pursuit, steps=1)
    models["resnet18"] = create("resnet18")
    for label, model in models.items():
        for precision in (single, half):
            runs[label, precision] = (model, channels_last, precision)
    if public is not None:
        runs["public", single] = (public, x, single)
    kept = {key: saved(*run) / 2**20 for key, run in runs.items()}
    work = {key: operations(training(run[0], run[1], target, run[2])) for key, run in runs.items() if name in key[0]}
    if options.compile:
        for key, (model, images, precision) in runs.items():
            if key[0] != "public":
                runs[key] = (torch.compile(model, mode="reduce-overhead"), images, precision)
    modes = {
        "train": [training(model, images, target, precision) for model, images, precision in runs.values()],
        "eval": [evaluation(*run) for run in runs.values()],
    }
    pairs = [
        ((label, precision), rival)
        for label in models
        for rival_of in (lambda precision: ("public", single), lambda precision: ("resnet18", precision))
        for precision in (single, half)
        if label != "resnet18" and (rival := rival_of(precision)) in runs
    ]
    for mode in (mode for mode in modes if mode in options.modes):
        candidates = modes[mode]
        seconds = dict(zip(runs, timing.interleaved(candidates, rounds, device), strict=True))
        for mine, rival in pairs:
            row = timing.row(title(mine, rival, mode), seconds[mine], seconds[rival])
            rate = batch / statistics.median(seconds[mine])
            # A backward pass is two convolutions for each of the forward pass.
            tera = work[mine] / (1 if mode == "train" else 3) * rate / batch / 1e12
            yield row | {"images_per_second": rate, "tflops": tera}
    for mine, rival in pairs if "saved" in options.modes else ():
        ratio = kept[mine] / kept[rival]
        row = {"name": title(mine, rival, "saved"), "ours": kept[mine], "reference": kept[rival], "ratio": ratio}
        yield row | {"unit": "MiB"}


def title(mine: tuple[str, torch.dtype], rival: tuple[str, torch.dtype], what: str) -> str:
    """Such as ``sdnet18 bf16 / public, train``."""
    precision = {torch.float32: "", torch.bfloat16: " bf16"}
    return f"{mine[0]}{precision[mine[1]]} / {rival[0]}{precision[rival[1]]}, {what}"


def main() -> None:
    parser = timing.parser(__doc__.splitlines()[0])
    parser.add_argument("--public", type=Path, help="a clone of github.com/Delay-Xili/SDNet")
    parser.add_argument("--networks", nargs="+", default=["sdnet18_all", "sdnet18"], help="ours to time")
    parser.add_argument("--once", nargs="*", default=["calibrated"], help="pursuits to time with one step")
    parser.add_argument("--modes", nargs="+", default=["train", "eval", "saved"], choices=["train", "eval", "saved"])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="compile ours and ResNet-18")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    timing.report([row for name in options.networks for row in rows(name, options)], options.json, "reference")


if __name__ == "__main__":
    main()
