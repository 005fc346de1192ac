"""The objective of closed-loop transcription with classes over one determinant a class, forward and backward.

    python benchmarks/rate_reduction.py [--quick] [--json FILE] [--threads N] [--device cuda]

The reference is the published formula written out: for each class a d x d determinant of its features, one of its
transcriptions and one of both. The two values must agree before they are timed.
"""

import timing
import torch
import torch.nn.functional as F
from torch import Tensor

from csc_nets.functional import ctrl_multi

EPS = 0.5


def one_by_one(z: Tensor, z_hat: Tensor, labels: Tensor) -> Tensor:
    """The game of the texts, class after class."""
    d = z.shape[1]
    identity = torch.eye(d, dtype=z.dtype, device=z.device)

    def rate(y: Tensor) -> Tensor:
        return torch.logdet(identity + d / (len(y) * EPS) * y.T @ y) / 2

    total = rate(z) + rate(z_hat)
    for j in labels.unique().tolist():
        own, other = z[labels == j], z_hat[labels == j]
        rates = rate(own), rate(other)
        total = total - len(own) / len(z) * (rates[0] + rates[1])
        total = total + rate(torch.cat([own, other])) - (rates[0] + rates[1]) / 2
    return total


def case(classes: int, samples: int, features: int, device: str, rounds: int) -> dict[str, object]:
    torch.manual_seed(0)
    z = F.normalize(torch.randn(samples, features, device=device), dim=1).requires_grad_()
    z_hat = F.normalize(torch.randn(samples, features, device=device), dim=1).requires_grad_()
    labels = torch.randint(classes, (samples,), device=device)
    values = [function(z.double(), z_hat.double(), labels) for function in (ctrl_multi, one_by_one)]
    torch.testing.assert_close(*values, rtol=1e-10, atol=0)
    ours, reference = timing.interleaved(
        [
            lambda: ctrl_multi(z, z_hat, labels).backward(),
            lambda: one_by_one(z, z_hat, labels).backward(),
        ],
        rounds,
        device,
    )
    return timing.row(f"{classes} classes, {samples} x {features}", ours, reference)


def main() -> None:
    options = timing.parser(__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(options.threads)
    cases = [(10, 200, 128), (10, 2048, 128), (100, 2048, 128), (1000, 2048, 128), (1000, 300, 128)]
    cases = cases[:1] + cases[2:3] if options.quick else cases
    rows = [case(*shape, options.device, 3 if options.quick else 9) for shape in cases]
    timing.report(rows, options.json, "one each")


if __name__ == "__main__":
    main()
