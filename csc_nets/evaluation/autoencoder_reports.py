"""Reports on autoencoders: what comes back, what noise does, what classes look like, how natural images are."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from csc_nets.evaluation.class_subspaces import ClassSubspaces
from csc_nets.evaluation.features import extract_features
from csc_nets.evaluation.generation import feature_space, frechet_distance, kernel_distance
from csc_nets.evaluation.reconstruction import GROUP, reconstruct_images, sweep_noise
from csc_nets.evaluation.report_input import ReportInput, Result
from csc_nets.evaluation.structure import decode_classes, sample_images
from csc_nets.models import ClosedLoop
from csc_nets.tasks import csc_layers
from csc_nets.tasks.image_quality import psnr

__all__ = ["classes", "generation", "noise", "reconstruction"]

NOISY_IMAGES = 500
SIGMAS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)
FACTORS = (0.5, 1.0, 2.0, 4.0, 8.0)


def reconstruction(given: ReportInput) -> Result:
    """PSNR, SSIM, relative error, alignment, recognition, densities; a picture of images above what came back."""
    model, data = given.model, given.data
    found = reconstruct_images(model, given.batches("test"), data.denormalize)
    mean = _mean(given.pixels("train"))
    flat = torch.cat([psnr(mean.expand_as(pixels), pixels) for pixels in given.pixels("test")])
    measured = {"PSNR": (found.psnr, 0.05), "SSIM": (found.ssim, 0.05)}
    measured |= {"relative error": (found.error, 0.95), "alignment": (found.alignment, 0.05)}
    rows: list[dict[str, Any]] = [
        {"name": name, "value": values.mean().item(), "worst": values.quantile(share).item()}
        for name, (values, share) in measured.items()
    ]
    rows.append({"name": "recognised", "value": found.recognised.mean().item()})
    rows.append({"name": "PSNR of the mean training image", "value": flat.mean().item()})
    rows += [{"name": f"density of {name}", "value": density} for name, density in found.density.items()]
    lines = [f"{'':34}{'mean':>9}{'worst 5 %':>11}"]
    for row in rows:
        lines.append(f"{row['name']:34}{row['value']:>9.4g}" + (f"{row['worst']:>11.4g}" if "worst" in row else ""))
    lines += ["", f"{len(found.psnr)} {given.tested} images of {data.name}; recognised among {GROUP}"]
    images = given.shown()
    with torch.no_grad():
        back = model(images).float()
    given.save(torch.stack([data.denormalize(images), data.denormalize(back)]))
    return "\n".join(lines), rows


def noise(given: ReportInput) -> Result:
    """PSNR to the clean image, noise by sparsity; a picture of the first image: as fed, and as it came back."""
    model, data = given.model, given.data
    factors = FACTORS if csc_layers(model) else (1.0,)
    images = torch.cat([images for images, _ in given.batches("test", NOISY_IMAGES)])
    rows, tiles = sweep_noise(model, images, data.denormalize, data.std, sigmas=SIGMAS, factors=factors)
    given.save(tiles)
    lines = ["sigma   noisy" + "".join(f"{f'lam x {factor:g}':>11}" for factor in factors)]
    for start in range(0, len(rows), len(factors)):
        part = rows[start : start + len(factors)]
        lines.append(
            f"{part[0]['sigma']:<6g}{part[0]['noisy_psnr']:>7.2f}" + "".join(f"{row['psnr']:>11.2f}" for row in part)
        )
    lines += ["", f"PSNR in dB to the clean image, mean of {len(images)} {given.tested} images of {data.name}"]
    return "\n".join(lines), [{"name": f"{row['sigma']:g}", **row} for row in rows]


def classes(given: ReportInput) -> Result:
    """A row of pictures a class: its mean, both ends of its principal directions, draws."""
    model, data = _closed_loop(given), given.data
    features, labels = _training_features(given)
    subspaces = ClassSubspaces.fit(features, labels, given.components(features))
    given.save(data.denormalize(decode_classes(model, subspaces)))
    rows: list[dict[str, Any]] = []
    for label, mean, deviations in zip(subspaces.classes, subspaces.means, subspaces.deviations, strict=True):
        share = deviations.square().sum() / (1 - mean.square().sum())  # features are of norm 1
        name = data.class_names[int(label)]
        rows.append({"name": name, "mean_norm": mean.norm().item(), "share": share.item()})
    width = max(5, *(len(row["name"]) for row in rows)) + 2
    lines = [f"{'class':{width}}{'norm of mean':>14}{'share of variance':>19}"]
    lines += [f"{row['name']:{width}}{row['mean_norm']:>14.3f}{row['share']:>19.1%}" for row in rows]
    lines += [
        "",
        f"of the {given.components(features)} leading directions of each class, {len(labels)} training images",
    ]
    lines += ["picture, a row a class: mean, then -2 and +2 deviations along four directions, then four draws"]
    return "\n".join(lines), rows


def generation(given: ReportInput) -> Result:
    """FID and KID to the test images: of training images (what the best could reach), reconstructions, draws."""
    model, data = _closed_loop(given), given.data
    if given.network is None:
        raise ValueError("report=generation needs network=RUN, the run folder of a classifier, or network=inception")
    judge = feature_space(given.network)
    features, labels = _training_features(given)
    subspaces = ClassSubspaces.fit(features, labels, given.components(features))
    real = judge.features(given.pixels("test"))
    shown = 8 * len(subspaces.classes)
    with torch.no_grad():
        back = (data.denormalize(model(images).float()) for images, _ in given.batches("test"))
        drawn = data.denormalize(sample_images(model, subspaces, max(len(real), shown)))
        sets = {
            "training images": judge.features(given.pixels("train")),
            "reconstructions": judge.features(back),
            "draws": judge.features(drawn[: len(real)].split(500)),
        }
    given.save(drawn[:shown].unflatten(0, (8, -1)).transpose(0, 1))
    rows = [
        {"name": name, "images": len(f), "fid": frechet_distance(real, f), "kid": kernel_distance(real, f)}
        for name, f in sets.items()
    ]
    lines = [f"{'':18}{'images':>8}{'FID':>11}{'1000 KID':>11}"]
    lines += [f"{r['name']:18}{r['images']:>8}{r['fid']:>11.4g}{1000 * r['kid']:>11.4g}" for r in rows]  # type: ignore[operator]
    lines += ["", f"to {len(real)} {given.tested} images, in {real.shape[1]} features of {judge.name}"]
    if len(real) <= real.shape[1]:
        lines.append("with fewer images than features, FID means little")
    return "\n".join(lines), rows


def _closed_loop(given: ReportInput) -> ClosedLoop:
    if not isinstance(given.model, ClosedLoop):
        kind = type(given.model).__name__
        raise ValueError(f"this report is on closed loops (csc_ctrl_*, conv_ctrl_*), got {kind}")
    return given.model


def _training_features(given: ReportInput) -> tuple[Tensor, Tensor]:
    return extract_features(given.model, given.batches("train"))


def _mean(batches: Iterable[Tensor]) -> Tensor:
    total, count = torch.zeros(()), 0
    for pixels in batches:
        total, count = total.to(pixels) + pixels.sum(0), count + len(pixels)
    return total / count
