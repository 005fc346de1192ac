"""Time of the scattering layer over kymatio's, with the same filters, images and paths.

    pip install kymatio
    python benchmarks/scattering.py [--quick] [--json FILE] [--threads N] [--device cuda]

The rows say the batch, the size and the number of scales; 8 angles, two orders, no gradient. ``wavelet`` is the
Parseval bank against the same reference.
"""

import timing
import torch

from csc_nets.layers import Scattering2d

CASES = [(64, 32, 2), (64, 32, 3), (16, 64, 3), (4, 224, 3)]


@torch.no_grad()
def case(batch: int, size: int, scales: int, bank: str, device: str, rounds: int) -> dict[str, object]:
    """One row."""
    # The package itself does not import with scipy 1.17.
    from kymatio.scattering2d.frontend.torch_frontend import ScatteringTorch2D

    torch.manual_seed(0)
    x = torch.randn(batch, 3, size, size, device=device)
    ours = Scattering2d(scales, 8, bank=bank, input_size=size).to(device)
    theirs = ScatteringTorch2D(J=scales, shape=(size, size), L=8).to(device)
    expected = theirs(x)
    if bank == "morlet":  # it takes 3.1415 for pi
        torch.testing.assert_close(ours(x).unflatten(1, (3, -1)), expected, rtol=1e-3, atol=1e-4)
    seconds = timing.interleaved([lambda: ours(x), lambda: theirs(x)], rounds, device)
    return timing.row(f"{bank}, {batch} x 3 x {size} x {size}, {scales} scales", *seconds)


def main() -> None:
    options = timing.parser(__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(options.threads)
    cases = CASES[:2] if options.quick else CASES
    rounds = 3 if options.quick else 9
    rows = [case(*shape, bank, options.device, rounds) for shape in cases for bank in ("morlet", "wavelet")]
    timing.report(rows, options.json, "kymatio")


if __name__ == "__main__":
    main()
