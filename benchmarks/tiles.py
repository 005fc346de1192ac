"""Tiled encoding: peak memory of a large image, time beside the whole image at once, and a folder beside its reading.

    python benchmarks/tiles.py [--quick] [--json FILE] [--size 4096] [--folder [--device cuda]]

Three kinds of rows:

- peak memory: a fresh process imports csc_nets, makes an image of ``--size`` squared, codes it tile by tile (4 steps,
  a sparsity weight that leaves about 5 % of the code), keeps all non-zeros, and synthesises the image from them; beside
  the 2 GB that it may take. The largest resident size of the process counts, import and image included.
- time: all tiles of an image, beside the layer's forward pass of the whole image (evaluation, channels_last).
- a folder of photographs (``--folder``), at 5 % density: the CPU time (on a GPU, that of the clock) to code an image
  and write its non-zeros, beside that of reading and decoding it; and images a second by the clock, all of it beside
  reading and decoding alone, with the same one worker process. Where the first ratio is below 1 and two cores are free,
  the second goes towards 1.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timing
import torch

from csc_nets.functional import SparseCode
from csc_nets.layers import CSC2d, encode_tiles, synthesize_tiles

# channels, atoms, kernel
LAYERS = [(1, 64, 3), (3, 64, 3), (1, 32, 8)]
ALLOWED = 2 * 2**30


def layer(channels: int, atoms: int, kernel: int, stride: int = 1, steps: int = 4) -> CSC2d:
    torch.manual_seed(0)
    padding = "same" if stride == 1 else (kernel - stride) // 2
    return CSC2d(channels, atoms, kernel, stride, padding, steps=steps).eval()


def name(channels: int, atoms: int, kernel: int, size: int) -> str:
    return f"{size}x{size} {'grey' if channels == 1 else 'colour'}, {atoms} atoms of {kernel}x{kernel}"


def peak() -> int:
    """Largest resident size of this process so far, in bytes."""
    # Not getrusage: that remembers the process which started this one.
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def sparse_weight(csc: CSC2d, x: torch.Tensor, density: float = 0.05) -> float:
    """The sparsity weight at which a corner of the image has a code of this density."""
    corner = x[:1, :, :256, :256].contiguous()
    low, high = 0.0, csc.lam_max(corner).item()
    for _ in range(10):
        lam = (low + high) / 2
        with torch.no_grad():
            share = (csc(corner, lam=lam) != 0).float().mean().item()
        low, high = (lam, high) if share > density else (low, lam)
    return high


def alone(channels: int, atoms: int, kernel: int, size: int) -> None:
    """What the fresh process does; prints its figures as JSON."""
    imported = peak()
    csc = layer(channels, atoms, kernel)
    x = torch.randn(1, channels, size, size)
    csc.lam = sparse_weight(csc, x)  # type: ignore[assignment]
    start = time.process_time()
    code = SparseCode.of(encode_tiles(csc, x))
    seconds, encoded = time.process_time() - start, peak()
    start = time.process_time()
    error = synthesize_tiles(csc, code, x.shape).sub_(x).norm() / x.norm()
    figures = {"imported": imported, "encoded": encoded, "synthesised": peak(), "encode_seconds": seconds}
    figures |= {"synthesis_seconds": time.process_time() - start, "density": code.density, "error": error.item()}
    print(json.dumps(figures | {"code": code.nbytes, "dense": 4 * atoms * size**2}))


def memory(case: tuple[int, int, int], size: int, threads: int) -> list[dict[str, object]]:
    """Rows of one layer."""
    command = [sys.executable, __file__, "--alone", *map(str, case), "--size", str(size), "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout)
    rows: list[dict[str, object]] = []
    for label in ("imported", "encoded", "synthesised"):
        ours, reference = figures[label] / 2**20, ALLOWED / 2**20
        rows.append({"name": f"{name(*case, size)}, {label}", "ours": ours, "reference": reference})
        rows[-1] |= {"ratio": ours / reference, "unit": "MiB"} | figures
    return rows


def tiled(csc: CSC2d, x: torch.Tensor) -> Callable[[], None]:
    def run() -> None:
        for _ in encode_tiles(csc, x):
            pass

    return run


def speed(case: tuple[int, int, int], size: int, rounds: int) -> dict[str, object]:
    csc, x = layer(*case), torch.randn(1, case[0], size, size)
    # A clone: for one channel .to() leaves strides that torch takes for the other layout.
    whole = x.clone(memory_format=torch.channels_last)
    with torch.no_grad():
        seconds = timing.interleaved([tiled(csc, x), lambda: csc(whole)], rounds, "cpu")
    return timing.row(f"{name(*case, size)}, time", *seconds)


def folder(quick: bool, device: str) -> list[dict[str, object]]:
    """Rows of photographs, 480 x 320 pixels, as they come and as squares of 128."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    from csc_nets.evaluation.encoding import encode_folder, folder_images

    most = 16 if quick else 384
    rows: list[dict[str, object]] = []
    busy = time.process_time if device == "cpu" else time.perf_counter
    with tempfile.TemporaryDirectory() as temporary:
        photographs = load_sample_images().images
        for label, csc, count, options in (
            ("480x320, 64 atoms of 3x3, 4 steps", layer(3, 64, 3), 24, {}),
            ("480x320, 64 atoms of 8x8 at stride 4, 2 steps", layer(3, 64, 8, 4, 2), 96, {}),
            ("128x128, 64 atoms of 8x8 at stride 4, 2 steps", layer(3, 64, 8, 4, 2), 384, {"image_size": 128}),
        ):
            count, root = min(count, most), Path(temporary) / label
            root.mkdir()
            for i in range(count):
                top, left = i % 100, 3 * i % 160
                crop = photographs[i % 2][top : top + 320, left : left + 480]
                Image.fromarray(crop).save(root / f"{i:05d}.jpg", quality=90)
            csc.lam = sparse_weight(csc, next(iter(folder_images(root, num_workers=0)[1]))[0])  # type: ignore[assignment]
            csc.to(device)

            def reading(workers: int, root: Path = root, options: dict[str, Any] = options) -> None:
                for _ in folder_images(root, num_workers=workers, **options)[1]:
                    pass

            def everything(
                workers: int, csc: CSC2d = csc, root: Path = root, options: dict[str, Any] = options
            ) -> None:
                for _ in encode_folder(csc, root, root.with_suffix(".codes"), num_workers=workers, **options):
                    pass

            seconds: dict[str, list[float]] = {}
            for _ in range(1 if quick else 3):
                for workers, clock in ((0, busy), (1, time.perf_counter)):
                    for run in (everything, reading):
                        start = clock()
                        run(workers)
                        seconds.setdefault(f"{run.__name__} {workers}", []).append((clock() - start) / count)
            both, read = seconds["everything 0"], seconds["reading 0"]
            coding = [a - b for a, b in zip(both, read, strict=True)]
            rows.append(timing.row(f"{label}: time to code and write, beside reading", coding, read))
            ours, reference = 1 / min(seconds["everything 1"]), 1 / min(seconds["reading 1"])
            row = {"name": f"{label}: rate of all, beside reading", "ours": ours, "reference": reference}
            rows.append(row | {"ratio": ours / reference, "unit": "images/s"})
    return rows


def main() -> None:
    parser = timing.parser(__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=4096, help="height and width of the image whose memory is measured")
    parser.add_argument("--folder", action="store_true", help="measure a folder of images, and nothing else")
    parser.add_argument("--alone", type=int, nargs=3, metavar=("CHANNELS", "ATOMS", "KERNEL"), help="one fresh process")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.alone:
        return alone(*options.alone, options.size)
    if options.folder:
        rows = folder(options.quick, options.device)
    else:
        cases = LAYERS[:1] if options.quick else LAYERS
        rows = [speed(case, 512 if options.quick else 1024, 3 if options.quick else 7) for case in cases]
        rows += [r for case in cases for r in memory(case, 1024 if options.quick else options.size, options.threads)]
    timing.report(rows, options.json, "reference")


if __name__ == "__main__":
    main()
