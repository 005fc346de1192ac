"""What the pursuit and the sizes of a sparse autoencoder cost and give: PSNR and time at as many non-zeros.

    python benchmarks/autoencoder_choices.py [--quick] [--json FILE] [--share 0.05]

Every third test patch (32 x 32) of scikit-learn's two photographs; atoms are cosines. For each choice the mean PSNR
with as many non-zeros for each image, the PSNR of all with one weight for all images, and the CPU time of an image, all
images at once. ``reference`` is that of the network as ``create_model`` builds it.
"""

import statistics
import time
from typing import Any

import timing
import torch
from rate_distortion import at_count, photographs

from csc_nets.evaluation import measure
from csc_nets.models import create_model

DEFAULT = "block_coordinate, 20 sweeps"


def pursuit(name: str, count: int, **options: float) -> dict[str, Any]:
    return {"pursuit": {"name": name, "count": count} | options}


CHOICES: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "block_coordinate, 1 sweep": pursuit("block_coordinate", 1),
    "block_coordinate, 3 sweeps from 10 lam": pursuit("block_coordinate", 3, start=10.0),
    "block_coordinate, 6 sweeps from 10 lam": pursuit("block_coordinate", 6, start=10.0),
    "block_coordinate, 40 sweeps": pursuit("block_coordinate", 40),
    "stagewise, 5 stages": pursuit("stagewise", 5),
    "stagewise, 30 stages": pursuit("stagewise", 30),
    "descending, 40 steps": pursuit("descending", 40),
    "8 pixels": {"sizes": (8,)},
    "16 pixels": {"sizes": (16,)},
    "8 pixels, second stage over 32": {"sizes": (8,), "above": 8},
    "8 and 32 pixels": {"sizes": (8, 32), "frequencies": (8, 8)},
    "8 and 16 pixels": {"sizes": (8, 16)},
    "8 and 16 pixels, second stage over 32": {"sizes": (8, 16), "above": 8},
}


@torch.no_grad()
def rows(options) -> list[dict[str, object]]:  # type: ignore[no-untyped-def]
    train, test, mean, std = photographs(13 if options.quick else 3)
    x, count, rounds = (test - mean) / std, round(options.share * test[0].numel()), 5 if options.quick else 9
    found, first = [], {}
    for name, given in list(CHOICES.items())[: 4 if options.quick else None]:
        model = create_model("sparse_autoencoder", **given).eval()
        model.start_from((train - mean) / std)  # type: ignore[operator]
        values = {}
        for each, key in ((True, "psnr_mean"), (False, "psnr_of_all")):
            code, lam = at_count(model, x, count, each=each, rounds=rounds)
            back = model.decode(code, (32, 32)) * std + mean  # type: ignore[operator]
            values[key] = getattr(measure("", back, test, codes=[code]), key)
        spent = []
        for _ in range(3):
            start = time.process_time()
            model.encode(x, lam=lam)  # type: ignore[operator]
            spent.append(1000 * (time.process_time() - start) / len(x))
        values["time"] = statistics.median(spent)
        first = first or values
        numbers = sum(p.numel() for p in model.parameters())
        for (key, unit), way in zip(
            (("psnr_mean", "dB"), ("psnr_of_all", "dB"), ("time", "ms")),
            ("as many for each, mean", "one weight, of all", "time"),
            strict=True,
        ):
            row = {"name": f"{name} ({numbers:,} numbers in the atoms), {way}", "unit": unit}
            found.append(row | {"ours": values[key], "reference": first[key], "ratio": values[key] / first[key]})
    return found


def main() -> None:
    parser = timing.parser(__doc__.splitlines()[0])
    parser.add_argument("--share", type=float, default=0.05, help="non-zeros over pixels times channels")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    timing.report(rows(options), options.json, "default")


if __name__ == "__main__":
    main()
