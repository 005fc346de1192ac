"""Time of a CSC layer over its floor: the convolutions and transposed convolutions of its steps and nothing else.

    python benchmarks/layer.py [--quick] [--json FILE] [--threads N] [--device cuda] [--bf16] [--compile]
                               [--network sdnet18_all] [--batch 32]

The floor runs the same operators (first step one convolution, every further step one transposed convolution and one
convolution), back to back on channels_last tensors, in the same run; in training it is differentiated with respect to
input and weight, like the layer, and has no elementwise work. With ``--bf16`` the layer runs under autocast and the
floor on tensors in bfloat16. On a CPU the layer of few channels has another way to synthesise than torch's convolution
(``csc_nets.functional.operators.col2im``), and may be below the floor.

``--network`` takes all layers of one of the networks, as they stand on images of 32x32, instead of three typical ones.
``--compile`` compiles layer and floor (``mode="reduce-overhead"``: with CUDA graphs on a GPU).
"""

import argparse
from collections.abc import Callable

import timing
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import csc_nets
from csc_nets.layers import CSC2d

# name, in, out, kernel, stride, padding, size
LAYERS = [
    ("3->64 k3 32x32", 3, 64, 3, 1, 1, 32),
    ("128->256 k3 s2 16x16", 128, 256, 3, 2, 1, 16),
    ("256->256 k3 8x8", 256, 256, 3, 1, 1, 8),
]


def layers_of(network: str) -> list[tuple]:
    """The distinct layers of a network as in ``LAYERS``, in the order in which an image of 32x32 meets them."""
    found: dict[tuple, None] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, CSC2d)
        geometry, size = module.dictionary.geometry, inputs[0].shape[-1]
        numbers = (geometry.kernel_size[0], geometry.stride[0], geometry.padding[0][0], size)
        channels, atoms = module.dictionary.in_channels, module.dictionary.out_channels
        name = f"{channels}->{atoms} k{numbers[0]}" + (f" s{numbers[1]}" if numbers[1] > 1 else "") + f" {size}x{size}"
        found[name, channels, atoms, *numbers] = None

    model = csc_nets.create_model(network).eval()
    for module in model.modules():
        if isinstance(module, CSC2d):
            module.register_forward_pre_hook(note)
    with torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))
    return list(found)


def floor(x: Tensor, weight: Tensor, stride: int, padding: int, steps: int) -> Tensor:
    """The convolutions of ``steps`` steps, chained so that each depends on the one before."""
    z = F.conv2d(x, weight, None, stride, padding)
    skipped = (x.shape[-1] + 2 * padding - weight.shape[-1]) % stride
    for _ in range(steps - 1):
        r = F.conv_transpose2d(z, weight, None, stride, padding, skipped)
        z = F.conv2d(r, weight, None, stride, padding)
    return z


def trained(call: Callable[[], Tensor], cotangent: Tensor) -> Callable[[], None]:
    """One forward and backward pass with a fixed gradient at the output."""
    return lambda: call().backward(cotangent)


def case(layer: tuple, steps: int, train: bool, options: argparse.Namespace) -> dict[str, object]:
    name, channels, atoms, kernel, stride, padding, size = layer
    batch, half, device, rounds = options.batch, options.bf16, options.device, 3 if options.quick else 15
    torch.manual_seed(0)
    csc = CSC2d(channels, atoms, kernel, stride, padding, lam=0.1, steps=steps).to(device)
    csc = csc.to(memory_format=torch.channels_last).train(train)
    x = torch.randn(batch, channels, size, size, device=device).to(memory_format=torch.channels_last)
    precision = torch.bfloat16 if half else torch.float32
    signal = x.to(precision, copy=True)
    weight = csc.atoms.detach().to(precision, copy=True, memory_format=torch.channels_last)

    def code() -> Tensor:
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=half):
            return csc(x)

    def convolutions() -> Tensor:
        return floor(signal, weight, stride, padding, steps)

    if options.compile:
        code, convolutions = (torch.compile(call, mode="reduce-overhead") for call in (code, convolutions))
    if train:
        x.requires_grad_(), signal.requires_grad_(), weight.requires_grad_()
        cotangent = torch.randn_like(code().detach())
        candidates: list[Callable[[], object]] = [trained(code, cotangent), trained(convolutions, cotangent)]
    else:
        candidates = [code, convolutions]
    with torch.set_grad_enabled(train):
        seconds = timing.interleaved(candidates, rounds, device)
    mode = ("train" if train else "eval") + (" bf16" if half else "")
    return timing.row(f"{name}, {steps} steps, {mode}", *seconds)


def main() -> None:
    parser = timing.parser(__doc__.splitlines()[0])
    parser.add_argument("--bf16", action="store_true", help="under autocast, over a floor in bfloat16")
    parser.add_argument("--compile", action="store_true", help="compile layer and floor")
    parser.add_argument("--network", help="take the layers of this network, such as sdnet18_all")
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [
        case(layer, steps, train, options)
        for layer in (layers_of(options.network) if options.network else LAYERS)
        for steps in ((2,) if options.quick else (2, 8))
        for train in (False, True)
    ]
    timing.report(rows, options.json, "floor")


if __name__ == "__main__":
    main()
