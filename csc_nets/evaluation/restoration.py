"""The report ``restoration``: photographs with noise, missing pixels and colour mosaics, restored by a denoiser."""

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torchvision.utils import save_image

from csc_nets.evaluation.report_input import ReportInput, Result
from csc_nets.functional import estimate_noise_level
from csc_nets.models import Denoiser
from csc_nets.tasks.denoising_pictures import titled
from csc_nets.tasks.image_quality import psnr, ssim
from csc_nets.tasks.masks import bayer_masks, check_mask, fill_by_interpolation, random_masks

__all__ = ["restoration"]

Mask = Callable[[Tensor, torch.Generator], Tensor | None]
"""From an image ``(1, C, H, W)`` to what is seen of it; None is all of it."""

_SIDE = 256  # pixels of a tile in the picture, at most


@torch.no_grad()
def restoration(
    given: ReportInput, *, noise: Sequence[float] | None = None, hidden: float | None = None, clean: bool = True
) -> Result:
    """PSNR and SSIM of restored test photographs, beside the noisy image or linear interpolation; a picture.

    The network is told the noise level. In the column ``blind`` it estimates the level. This needs windows without
    missing pixels, so rows with a mask have none. A hidden pixel is missing in all channels; a pixel of a mosaic keeps
    one of three colours. What is seen has the noise, too.

    Args:
        given: a denoiser, and photographs. All are measured, ``given.images`` are shown.
        noise: levels of the noise that is added, in grey levels, of which white is 255; None for 15, 25 and 50.
        hidden: share of the pixels that is missing, in [0, 1); 0 leaves these rows out. None is 0.5.
        clean: False for photographs that are noisy themselves. Nothing is added then, and there is nothing to compare
            with: each one is restored blind, and written to ``restored/`` under its name.

    Returns:
        The table, and a row for each task and level: ``name``, ``missing``, ``noise`` in grey levels; means of
        ``plain``, ``restored`` and ``blind``, PSNR in dB, and of ``ssim``. Of noisy photographs the estimated noise.

    Raises:
        ValueError: the network is no denoiser, a number is out of range, or ``noise`` or ``hidden`` with
            ``clean=False``.
    """
    model = given.model
    if not isinstance(model, Denoiser):
        raise ValueError(f"report=restoration needs a denoiser, such as cdlnet, got {type(model).__name__}")
    images = [given.data.denormalize(x[i : i + 1]) for x, _ in given.batches("test") for i in range(len(x))]
    if not clean:
        if noise is not None or hidden is not None:
            raise ValueError("options.clean=false adds nothing to photographs: it takes no options.noise or hidden")
        return _as_they_are(model, images, given)
    hidden = 0.5 if hidden is None else hidden
    check_mask(hidden, 1, name="options.hidden")
    noise = (15.0, 25.0, 50.0) if noise is None else sorted(set(noise))
    if not noise or not all(0 <= level < math.inf for level in noise):
        raise ValueError(f"options.noise must be one or more finite numbers >= 0, got {list(noise)!r}")
    masks: dict[str, Mask] = {"": lambda image, draw: None}
    if hidden:
        masks[f"{hidden:.3g} hidden"] = lambda image, draw: random_masks(image, hidden, 1, draw)
    if images[0].shape[1] == 3:
        masks["mosaic"] = lambda image, draw: bayer_masks(image)
    shown = noise[len(noise) // 2]
    rows: list[dict[str, Any]] = []
    tiles: list[Tensor] = []
    for task, mask in masks.items():
        for level in noise:
            draw, scores = torch.Generator().manual_seed(0), []
            name = f"noise {level:g}" + (f", {task}" if task else "")
            for i, image in enumerate(images):
                noisy = image + level / 255 * torch.randn(image.shape, generator=draw).to(image)
                seen = mask(image, draw)
                with given.data.naming("test", i):
                    plain = noisy if seen is None else _interpolated(noisy, seen)
                    restored = model(noisy, level / 255, seen)
                    blind = math.nan if task else psnr(model(noisy), image).item()
                    scores.append(
                        [psnr(plain, image).item(), psnr(restored, image).item(), blind, ssim(restored, image).item()]
                    )
                if level == shown and i < given.images:
                    first, second = (f"{value:.2f} dB" for value in scores[-1][:2])
                    titles = ("clean", name, f"plain, {first}", f"restored, {second}")
                    parts = (image, noisy if seen is None else noisy * seen, plain, restored)
                    tiles += [titled(_middle(part[0]), title) for part, title in zip(parts, titles, strict=True)]
            means = torch.tensor(scores).mean(0).tolist()
            row = dict(zip(("plain", "restored", "blind", "ssim"), means, strict=True))
            rows.append({"name": name, "missing": task, "noise": level, **row})
    _save(tiles, given.picture)
    lines = [f"{'':20}{'plain':>9}{'restored':>10}{'blind':>9}{'SSIM':>9}"]
    lines += [
        f"{row['name']:20}{row['plain']:>9.2f}{row['restored']:>10.2f}"
        + ("        -" if math.isnan(row["blind"]) else f"{row['blind']:>9.2f}")
        + f"{row['ssim']:>9.4f}"
        for row in rows
    ]
    lines += [
        "",
        f"PSNR in dB, means over {len(images)} {given.tested} photographs of {given.data.name}.",
        "Noise: in grey levels, of which white is 255.",
        "plain: the noisy image, or linear interpolation of missing values. blind: estimated noise level.",
        "SSIM: of the restored image.",
    ]
    return "\n".join(lines), rows


def _as_they_are(model: Denoiser, images: list[Tensor], given: ReportInput) -> Result:
    """Noisy photographs, restored blind."""
    folder = given.picture.with_name("restored")
    shutil.rmtree(folder, ignore_errors=True)  # of other photographs
    folder.mkdir()
    names = given.data.test_names() or [f"{i:04}" for i in range(len(images))]
    rows: list[dict[str, Any]] = []
    tiles: list[Tensor] = []
    for i, (name, image) in enumerate(zip(names, images, strict=True)):
        with given.data.naming("test", i):
            restored, level = model(image), 255 * estimate_noise_level(image).item()
        file = folder / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        save_image(restored, file)
        rows.append({"name": name, "noise": level})
        if i < given.images:
            parts = {f"noise {level:.1f}, estimated": image, "restored": restored}
            tiles += [titled(_middle(part[0]), title) for title, part in parts.items()]
    _save(tiles, given.picture, columns=2)
    width = max(len(row["name"]) for row in rows)
    lines = [f"{row['name']:{width}}{row['noise']:>8.1f}" for row in rows]
    lines += ["", f"estimated noise in grey levels, white is 255; restored photographs are in {folder}"]
    return "\n".join(lines), rows


def _interpolated(noisy: Tensor, seen: Tensor) -> Tensor:
    """Missing values by linear interpolation, each channel by itself."""
    seen = seen.expand_as(noisy)
    channels = [fill_by_interpolation(noisy[:, i : i + 1], seen[:, i : i + 1]) for i in range(noisy.shape[1])]
    return torch.cat(channels, 1)


def _middle(image: Tensor) -> Tensor:
    """The middle of an image ``(C, H, W)``."""
    (top, height), (left, width) = ((max(0, n - _SIDE) // 2, min(n, _SIDE)) for n in image.shape[1:])
    return image[:, top : top + height, left : left + width]


def _save(tiles: list[Tensor], picture: Path, columns: int = 4) -> None:
    """Tiles of several sizes in rows, white around the smaller ones."""
    height, width = (max(tile.shape[axis] for tile in tiles) for axis in (1, 2))
    padded = [pad(tile, (0, width - tile.shape[2], 0, height - tile.shape[1]), value=1.0) for tile in tiles]
    save_image(torch.stack(padded), picture, nrow=columns, padding=2, pad_value=1)
