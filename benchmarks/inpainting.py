"""Missing pixels of photographs: a sparse autoencoder and a denoiser beside linear interpolation.

    python benchmarks/inpainting.py [--quick] [--json FILE]

Every third test patch (32 x 32) of scikit-learn's two photographs. ``ours`` and ``reference`` are the PSNR in dB of the
missing pixels, all together; the reference is linear interpolation by ``scipy.interpolate.griddata``. One grid: the
code of the seen pixels, at the better of two weights. ``fill``: :func:`csc_nets.functional.fill`. ``cdlnet``: the
weights of the package, colour by colour, with the best of three noise levels. Atoms of the autoencoder are cosines.
"""

import time
from collections.abc import Callable

import timing
import torch
from rate_distortion import photographs
from torch import Tensor

from csc_nets.evaluation import psnr_of_all
from csc_nets.models import create_model
from csc_nets.tasks.masks import fill_by_interpolation, random_masks

CASES = ((0.25, 1), (0.5, 1), (0.75, 1), (0.25, 4), (0.5, 4))


@torch.no_grad()
def rows(options) -> list[dict[str, object]]:  # type: ignore[no-untyped-def]
    train, test, mean, std = photographs(40 if options.quick else 3)
    model = create_model("sparse_autoencoder").eval()
    model.start_from((train - mean) / std)  # type: ignore[operator]
    denoiser = create_model("cdlnet", pretrained=True).eval()
    x = (test - mean) / std

    def one_grid(lam: float) -> Callable[[Tensor], Tensor]:
        return lambda seen: model.decode(model.encode(x, lam=lam, mask=seen), (32, 32)) * std + mean  # type: ignore[operator]

    def denoised(level: float) -> Callable[[Tensor], Tensor]:
        def run(seen: Tensor) -> Tensor:
            colours = test.flatten(0, 1)[:, None]
            mask = seen.repeat_interleave(test.shape[1], 0)
            back = denoiser(colours, torch.full((len(colours), 1, 1, 1), level / 255), mask=mask)
            return back.view(test.shape)  # type: ignore[no-any-return]

        return run

    ways: dict[str, list[Callable[[Tensor], Tensor]]] = {
        "one grid": [one_grid(0.02), one_grid(0.1)],
        "fill": [lambda seen: model.fill(x, seen) * std + mean],  # type: ignore[operator]
        "cdlnet": [denoised(5), denoised(10), denoised(20)],
    }
    found = []
    for share, size in CASES[: 1 if options.quick else None]:
        seen = random_masks(test, share, size, torch.Generator().manual_seed(0))
        missing = (~seen).expand_as(test)
        other = psnr_of_all(fill_by_interpolation(test, seen)[missing], test[missing])
        for name, settings in ways.items():
            start = time.process_time()
            ours = max(psnr_of_all(way(seen).clamp(0, 1)[missing], test[missing]) for way in settings)
            spent = 1000 * (time.process_time() - start) / len(test) / len(settings)
            title = f"{share:.0%} in squares of {size}, {name}, {spent:.0f} ms an image"
            found.append({"name": title, "ours": ours, "reference": other, "ratio": ours / other, "unit": "dB"})
    return found


def main() -> None:
    options = timing.parser(__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(options.threads)
    timing.report(rows(options), options.json, "interpol.")


if __name__ == "__main__":
    main()
