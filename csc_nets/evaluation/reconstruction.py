"""How well each image comes back from an autoencoder, also from noise and with sparser codes."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from csc_nets.tasks import csc_layers, observe_codes
from csc_nets.tasks.image_quality import psnr, ssim

__all__ = ["Reconstructions", "reconstruct_images", "scaled_lam", "sweep_noise"]

GROUP = 100
"""Images among which one is to be recognised."""


@dataclass(frozen=True)
class Reconstructions:
    """Numbers about the images that came back, one an image, ``(N,)``.

    Attributes:
        psnr: dB, of pixels in [0, 1].
        ssim: structural similarity.
        error: ``||x - x_hat||^2 / ||x||^2`` of what the network is fed.
        alignment: cosine of the features of an image and of what came back.
        recognised: whether what came back is nearer to its own image than to all others of its group of 100 in a row
            (the last group may be smaller). Chance is 1 %; images that are typical of one of ten classes reach 10 %.
        density: share of non-zero coefficients of each CSC layer, by name, over all images.
    """

    psnr: Tensor
    ssim: Tensor
    error: Tensor
    alignment: Tensor
    recognised: Tensor
    density: dict[str, float]


@torch.no_grad()
def reconstruct_images(
    model: nn.Module, batches: Iterable[Any], denormalize: Callable[[Tensor], Tensor], limit: int | None = None
) -> Reconstructions:
    """Sends images through an autoencoder and measures what comes back.

    Args:
        model: from images to images of the same shape, with ``encode``, in the mode that it is in.
        batches: ``(images, labels)``.
        denormalize: from what the network is fed to pixels in [0, 1].
        limit: images to take, the first ones; None for all.

    Raises:
        ValueError: the network is no autoencoder, or there are no images.
    """
    network = _autoencoder(model)
    device = next(iter(model.parameters())).device
    names = list(csc_layers(model))
    rows: dict[str, list[Tensor]] = {name: [] for name in ("psnr", "ssim", "error", "alignment", "recognised")}
    densities: list[Tensor] = []
    waiting: list[Tensor] = []  # for enough images to be recognised among
    done = 0
    for images, _ in batches:
        x = images[: None if limit is None else limit - done].to(device)
        with observe_codes(model) as codes:
            x_hat = network(x).float()
        # A layer that the decoder calls again, or one that was not called, has no density of its own.
        if names and len(codes) == len(names):
            densities.append(len(x) * torch.stack([code.density for code in codes]).double().cpu())
        pixels, back = denormalize(x), denormalize(x_hat)
        energy = x.square().flatten(1).sum(1).clamp_min(torch.finfo(x.dtype).tiny)
        waiting.append(torch.stack([back, pixels]))
        values = {
            "psnr": psnr(back, pixels),
            "ssim": ssim(back, pixels),
            "error": (x - x_hat).square().flatten(1).sum(1) / energy,
            "alignment": cosine_similarity(network.encode(x).flatten(1), network.encode(x_hat).flatten(1)),
        }
        for name, value in values.items():
            rows[name].append(value.cpu())
        together = torch.cat(waiting, 1).split(GROUP, 1)
        waiting = [group for group in together if group.shape[1] < GROUP]
        rows["recognised"] += [_recognised(*group) for group in together if group.shape[1] == GROUP]
        done += len(x)
        if limit is not None and done >= limit:
            break
    rows["recognised"] += [_recognised(*group) for group in waiting]
    if not done:
        raise ValueError("reconstruct_images: no images")
    density = dict(zip(names, (torch.stack(densities).sum(0) / done).tolist(), strict=True)) if densities else {}
    return Reconstructions(**{name: torch.cat(parts) for name, parts in rows.items()}, density=density)


@torch.no_grad()
def sweep_noise(
    model: nn.Module,
    images: Tensor,
    denormalize: Callable[[Tensor], Tensor],
    std: Sequence[float],
    *,
    sigmas: Sequence[float],
    factors: Sequence[float] = (1.0,),
    seed: int = 0,
) -> tuple[list[dict[str, float]], Tensor]:
    """Sends images with Gaussian noise through an autoencoder, and compares what comes back with the clean ones.

    Args:
        model: as for :func:`reconstruct_images`.
        images: clean, as the network is fed, ``(N, C, H, W)``, on its device.
        denormalize: as for :func:`reconstruct_images`; it clips, so the PSNR of noisy images is that of clipped ones.
        std: what the pixels of each channel were divided by.
        sigmas: standard deviations of the noise, where white is 1.
        factors: by what the sparsity weights of all CSC layers are multiplied.
        seed: of the noise, which is the same for all factors.

    Returns:
        A row for each sigma and factor: ``sigma``, ``factor``, ``noisy_psnr`` (of the input), ``psnr`` and ``ssim`` (of
        what came back), means over images, and ``density`` of the codes where there are any; and the pixels of the
        first image as it was fed and came back, ``(len(sigmas), 1 + len(factors), C, H, W)``.

    Raises:
        ValueError: a sigma or factor is negative, or a factor other than 1 for a network without CSC layers.
    """
    network = _autoencoder(model)
    if not sigmas or not factors or not all(0 <= value < math.inf for value in [*sigmas, *factors]):
        raise ValueError(f"sigmas and factors must be lists of numbers >= 0, got {list(sigmas)} and {list(factors)}")
    pixels = denormalize(images)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed)) / torch.tensor(std).view(-1, 1, 1)
    noise = noise.to(images)
    rows: list[dict[str, float]] = []
    tiles: list[Tensor] = []
    for sigma in sigmas:
        noisy = images + sigma * noise
        tiles.append(denormalize(noisy[:1]))
        for factor in factors:
            with scaled_lam(model, factor), observe_codes(model) as codes:
                back = denormalize(network(noisy).float())
            row = {"sigma": sigma, "factor": factor, "noisy_psnr": psnr(denormalize(noisy), pixels).mean().item()}
            row |= {"psnr": psnr(back, pixels).mean().item(), "ssim": ssim(back, pixels).mean().item()}
            if codes:
                row["density"] = torch.stack([code.density for code in codes]).mean().item()
            rows.append(row)
            tiles.append(back[:1])
    return rows, torch.cat(tiles).unflatten(0, (len(sigmas), 1 + len(factors)))


@contextmanager
def scaled_lam(model: nn.Module, factor: float) -> Iterator[None]:
    """Inside, the sparsity weights of all CSC layers of ``model`` are ``factor`` times their own.

    Raises:
        ValueError: a factor other than 1 for a network without CSC layers.
    """
    layers: list[Any] = list(csc_layers(model).values())
    if factor != 1 and not layers:
        raise ValueError(f"{type(model).__name__} has no CSC layers, whose lam could be multiplied by {factor}")
    if factor == 1:
        yield
        return
    own = [layer.lam for layer in layers]
    try:
        for layer, lam in zip(layers, own, strict=True):
            # Several dictionaries have a weight each.
            layer.lam = tuple(factor * part for part in lam) if isinstance(lam, tuple) else factor * lam
        yield
    finally:
        for layer, lam in zip(layers, own, strict=True):
            layer.lam = lam


def _recognised(back: Tensor, pixels: Tensor) -> Tensor:
    nearest = torch.cdist(back.flatten(1), pixels.flatten(1)).argmin(1).cpu()
    return (nearest == torch.arange(len(nearest))).float()


def _autoencoder(model: nn.Module) -> Any:
    if not hasattr(model, "encode"):
        raise ValueError(f"images come back from an autoencoder, got {type(model).__name__}")
    return model
