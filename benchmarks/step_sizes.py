"""What it costs that a step size follows the atoms: layers beside copies that keep the bound that they have.

    python benchmarks/step_sizes.py
    python benchmarks/step_sizes.py --batch 32 --compile

Evaluation, and training steps in which every atom turns by 0.01 rad, as at the high rates of a real training. The
copies never look at their atoms. They are no alternative: after a large step of the optimizer they diverge.
"""

import copy
from functools import partial

import timing
import torch
from torch import Tensor

from csc_nets.functional import unit_norm
from csc_nets.layers import CSC2d

# Channels, atoms, side of the images in pixels.
CASES = [(3, 64, 32), (64, 64, 32), (256, 256, 8), (512, 512, 4)]


def frozen(layer: CSC2d) -> CSC2d:
    """A copy that uses the bound that it has, whatever happens to the atoms."""
    kept = copy.deepcopy(layer)
    dictionary = kept.dictionary
    values = dictionary._values()

    def track() -> object:
        return dictionary._operator(dictionary._atoms, partial(dictionary._step_bound, values))

    dictionary.track = track
    return kept


def training_step(layer: CSC2d, x: Tensor, target: Tensor) -> None:
    """A step of gradient descent that turns every atom by 0.01 rad."""
    layer.zero_grad(set_to_none=True)
    (layer(x) * target).sum().backward()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.sub_(unit_norm(parameter.grad), alpha=0.01)


def main() -> None:
    options = timing.parser(__doc__.splitlines()[0])
    options.add_argument("--batch", type=int, default=8)
    options.add_argument("--compile", action="store_true", help="compiled layers, both of a pair")
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    run = torch.compile if given.compile else lambda layer: layer
    rows = []
    for channels, atoms, size in CASES[:1] if given.quick else CASES:
        torch.compiler.reset()  # each case is compiled anew, or the compiler gives up at the eighth
        layer = CSC2d(channels, atoms, 3, padding=1).to(given.device, memory_format=torch.channels_last)
        x = torch.randn(given.batch, channels, size, size, device=given.device)
        x = x.to(memory_format=torch.channels_last)
        name = f"{channels} to {atoms}, {size} x {size}, batch {given.batch}"
        rounds = 3 if given.quick else 15
        with torch.no_grad():
            pair = [partial(run(one), x) for one in (layer.eval(), frozen(layer.eval()))]
            rows.append(timing.row(f"evaluation, {name}", *timing.interleaved(pair, rounds, given.device)))
        target = torch.randn_like(layer(x).detach())
        pair = [partial(training_step, run(one), x, target) for one in (layer.train(), frozen(layer).train())]
        rows.append(timing.row(f"training, {name}", *timing.interleaved(pair, rounds, given.device)))
    timing.report(rows, given.json, "frozen")


if __name__ == "__main__":
    main()
