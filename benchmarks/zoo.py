"""Images a second of the networks of the zoo, in training and inference, beside a plain network of the same shape.

    python benchmarks/zoo.py [--bf16] [--batch 32] [--quick] [--json FILE] [--threads N] [--device cuda]

Images have the size and channels that a network was made for, in channels_last. A training step is forward,
cross-entropy, backward and SGD, in float32 or with ``--bf16`` under autocast. A row is milliseconds an image; the
reference is the plain network with as many layers of the same sizes: ResNets for SDNets, FastNet for its coded kinds,
the CNN for ML-CSC on MNIST. The others stand beside ResNet-20.
"""

from collections.abc import Callable

import timing
import torch
from torch import nn

from csc_nets.models import create_model

PAIRS = {
    "resnet20": "resnet20",
    "sdnet20": "resnet20",
    "sdnet20_all": "resnet20",
    "sdnet18": "resnet18",
    "sdnet18_all": "resnet18",
    "fastnet_stem": "fastnet",
    "fastnet_all": "fastnet",
    "ml_csc_mnist": "deep_cnn_mnist",
    "ml_csc_cifar": "resnet20",
    "csc_small": "resnet20",
    "crate_cifar": "resnet20",
}
OPTIONS = {"calibrated": {"pursuit": "calibrated", "steps": 1}, "threshold": {"pursuit": "threshold", "steps": 1}}
CASES = [(name, plain, "") for name, plain in PAIRS.items()]
CASES += [(name, PAIRS[name], kind) for name in ("sdnet20_all", "fastnet_all") for kind in OPTIONS]
QUICK = [("sdnet20", "resnet20", "")]


def step(model: nn.Module, batch: int, training: bool, bf16: bool, device: str) -> Callable[[], object]:
    """A training step, or an evaluation, of a network on random images."""
    model = model.to(device, memory_format=torch.channels_last).train(training)
    shape = model.pretrained_cfg["input_size"]
    x = torch.randn(batch, *shape, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (batch,), device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    def run() -> None:
        with torch.set_grad_enabled(training):
            with torch.autocast(device, torch.bfloat16, enabled=bf16):
                loss = nn.functional.cross_entropy(model(x).float(), labels)
            if training:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    return run


def main() -> None:
    options = timing.parser(__doc__.splitlines()[0])
    options.add_argument("--bf16", action="store_true")
    options.add_argument("--batch", type=int, default=32)
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    rows = []
    for name, plain, kind in QUICK if given.quick else CASES:
        for training in (True, False):
            models = create_model(name, **OPTIONS.get(kind, {})), create_model(plain)
            steps = [step(model, given.batch, training, given.bf16, given.device) for model in models]
            seconds = timing.interleaved(steps, 2 if given.quick else 5, given.device)
            ours, reference = ([value / given.batch for value in record] for record in seconds)
            title = f"{name}{kind and f', {kind}'}, {'training' if training else 'inference'}"
            rows.append(timing.row(title, ours, reference))
            print(f"{title}: {1e3 / float(rows[-1]['ours']):.0f} images a second", flush=True)
    timing.report(rows, given.json, "plain")


if __name__ == "__main__":
    main()
