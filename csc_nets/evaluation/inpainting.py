"""The report ``inpainting``: missing pixels, filled by an autoencoder on one grid, on several, by interpolation."""

from typing import Any

import torch
from torch import Tensor

from csc_nets.evaluation.rate_distortion import psnr_of_all
from csc_nets.evaluation.report_input import ReportInput, Result
from csc_nets.tasks.masks import fill_by_interpolation, random_masks

__all__ = ["inpainting"]

CASES = ((0.25, 1), (0.5, 1), (0.75, 1), (0.25, 4), (0.5, 4))
"""Hidden share of the pixels, and side of the hidden squares."""
FACTORS = (0.3, 1.0, 3.0)
LIMIT = 64


@torch.no_grad()
def inpainting(given: ReportInput) -> Result:
    """PSNR of the missing pixels, by hidden share; a picture: as it is, as fed, one code, ``fill``, interpolation."""
    model: Any = given.model
    if not hasattr(model, "by_scale"):
        raise ValueError(f"report=inpainting needs a sparse_autoencoder, got {type(model).__name__}")
    images = torch.cat([x for x, _ in given.batches("test", LIMIT)])[:LIMIT]
    truth = given.data.denormalize(images).cpu()
    lam = model.coder.lam
    rows: list[dict[str, Any]] = []
    tiles: list[Tensor] = [truth[: given.images]]
    for share, size in CASES:
        seen = random_masks(images, share, size, torch.Generator().manual_seed(0))
        missing = (~seen).expand_as(images).cpu()
        scores = {}
        for factor in FACTORS:
            z = model.encode(images, lam=factor * lam, mask=seen)
            back = torch.where(seen, images, model.decode(z, images.shape[2:]))
            scores[factor] = given.data.denormalize(back).cpu()
        plain = given.data.denormalize(fill_by_interpolation(images, seen)).cpu()
        row: dict[str, Any] = {"name": f"{share:.0%} in squares of {size}", "share": share, "size": size}
        filled = given.data.denormalize(model.fill(images, seen)).cpu()
        row |= {f"lam x {factor:g}": psnr_of_all(back[missing], truth[missing]) for factor, back in scores.items()}
        row["fill"] = psnr_of_all(filled[missing], truth[missing])
        rows.append(row | {"interpolation": psnr_of_all(plain[missing], truth[missing])})
        if (share, size) in ((0.5, 1), (0.25, 4)):
            tiles += [part[: given.images] for part in (truth * seen.cpu(), scores[1.0], filled, plain)]
    given.save(torch.stack(tiles))
    keys = [*(f"lam x {factor:g}" for factor in FACTORS), "fill", "interpolation"]
    lines = [f"{'hidden':22}" + "".join(f"{key:>15}" for key in keys)]
    lines += [f"{row['name']:22}" + "".join(f"{row[key]:>15.2f}" for key in keys) for row in rows]
    of = f"{len(images)} {given.tested} images of {given.data.name}"
    lines += ["", f"PSNR in dB of the missing pixels of {of}, all together"]
    return "\n".join(lines), rows
