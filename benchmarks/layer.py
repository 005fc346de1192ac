"""Time of a CSC layer over its floor: the convolutions and transposed convolutions of its steps and nothing else.

    python benchmarks/layer.py [--quick] [--json FILE] [--threads N] [--device cuda]

The floor runs the same operators (first step one convolution, every further step one transposed convolution and one
convolution), back to back on channels_last tensors, in the same run; in training it is differentiated with respect to
input and weight, like the layer, and has no elementwise work.
"""

from collections.abc import Callable

import timing
import torch
import torch.nn.functional as F
from torch import Tensor

from csc_nets.layers import CSC2d

# name, in, out, kernel, stride, padding, size
LAYERS = [
    ("3->64 k3 32x32", 3, 64, 3, 1, 1, 32),
    ("128->256 k3 s2 16x16", 128, 256, 3, 2, 1, 16),
    ("256->256 k3 8x8", 256, 256, 3, 1, 1, 8),
]


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


def case(layer: tuple, batch: int, steps: int, train: bool, device: str, rounds: int) -> dict[str, object]:
    name, channels, atoms, kernel, stride, padding, size = layer
    torch.manual_seed(0)
    csc = CSC2d(channels, atoms, kernel, stride, padding, lam=0.1, steps=steps).to(device)
    csc = csc.to(memory_format=torch.channels_last).train(train)
    x = torch.randn(batch, channels, size, size, device=device).to(memory_format=torch.channels_last)
    weight = csc.atoms.detach().clone(memory_format=torch.channels_last)
    mode = "train" if train else "eval"
    if train:
        x.requires_grad_(), weight.requires_grad_()
        cotangent = torch.randn_like(csc(x))
        ours = trained(lambda: csc(x), cotangent)
        lower = trained(lambda: floor(x, weight, stride, padding, steps), cotangent)
        seconds = timing.interleaved([ours, lower], rounds, device)
    else:
        with torch.no_grad():
            seconds = timing.interleaved(
                [lambda: csc(x), lambda: floor(x, weight, stride, padding, steps)], rounds, device
            )
    return timing.row(f"{name}, {steps} steps, {mode}", *seconds)


def main() -> None:
    options = timing.parser(__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(options.threads)
    rows = [
        case(layer, 32, steps, train, options.device, 3 if options.quick else 15)
        for layer in LAYERS
        for steps in ((2,) if options.quick else (2, 8))
        for train in (False, True)
    ]
    timing.report(rows, options.json, "floor")


if __name__ == "__main__":
    main()
