"""The sparse autoencoder before any training beside block transforms: PSNR at as many non-zeros.

    python benchmarks/rate_distortion.py [--quick] [--json FILE] [--threads N]

The images are the 78 test patches (32 x 32) of scikit-learn's two photographs; the colours' axes and the principal
components come from the training patches. One weight, or one threshold, serves all images. ``ours`` and ``reference``
are PSNR in dB; the reference is the best of DCT (8, 16, 32) and principal components (8), each measure for itself.
"""

import time

import timing
import torch

from csc_nets.data import create_datamodule
from csc_nets.evaluation import BlockTransform, RatePoint, keep_largest, measure
from csc_nets.models import create_model


@torch.no_grad()
def rows(quick: bool) -> list[dict[str, object]]:
    data = create_datamodule("sample_images", image_size=32)
    data.setup()
    train, test = (data.split(part).images.float() / 255 for part in ("train", "test"))
    test = test[::13] if quick else test
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (data.mean, data.std))
    model = create_model("sparse_autoencoder", refit=10, steps=10 if quick else 40).eval()
    model.start_from((train - mean) / std)  # type: ignore[operator]
    transforms = [BlockTransform.dct(train, block) for block in (8, 16, 32)]
    transforms.append(BlockTransform.principal_components(train, 8))
    found: list[dict[str, object]] = []
    for lam in (0.0182,) if quick else (0.105, 0.0182, 0.00255, 0.0005):
        start = time.process_time()
        code = model.encode((test - mean) / std, lam=lam)  # type: ignore[operator]
        seconds = (time.process_time() - start) / len(test)
        back = model.decode(code, (32, 32)) * std + mean  # type: ignore[operator]
        ours = measure("", back, test, codes=[code])
        count = max(1, -(-int(code.count_nonzero()) // len(test)))  # rounded up: never fewer than ours
        others: list[RatePoint] = []
        for transform in transforms:
            kept = keep_largest(transform.analysis(test), count, each=False)
            others.append(measure("", transform.synthesis(kept, (32, 32)), test, codes=[kept]))
        for key in ("psnr_mean", "psnr_of_all"):
            own, best = getattr(ours, key), max(getattr(other, key) for other in others)
            name = f"{key}, {ours.nonzeros:.2%} non-zeros, {1000 * seconds:.0f} ms an image"
            found.append({"name": name, "ours": own, "reference": best, "ratio": own / best, "unit": "dB"})
    return found


def main() -> None:
    options = timing.parser(__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(options.threads)
    timing.report(rows(options.quick), options.json, "transform")


if __name__ == "__main__":
    main()
