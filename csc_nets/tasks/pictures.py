"""Pictures of what a network learnt: its first atoms, the codes of a few images, and the images that come back."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.utils import make_grid, save_image

from csc_nets.layers.effective import effective_atoms
from csc_nets.models import ClosedLoop, Denoiser, InvertibleCNN
from csc_nets.tasks.code_statistics import csc_layers
from csc_nets.tasks.denoising_pictures import save_denoising

__all__ = ["atom_grids", "save_pictures"]

_SIDE = 64  # pixels of one tile, at least
_GAP: dict[str, Any] = {"padding": 4, "pad_value": 1}  # white lines between tiles


@torch.no_grad()
def save_pictures(model: nn.Module, images: Tensor, denormalize: Callable[[Tensor], Tensor], folder: Path) -> None:
    """Writes ``atoms.png``, ``codes.png`` and ``reconstructions.png`` into ``folder``.

    - atoms: those of the first CSC layer, see :func:`atom_grids`; with deeper dictionaries also ``atoms_2.png``, ...;
    - codes: one row an image, the image and the maps of the eight atoms that are busiest in these images;
    - reconstructions: one row an image, the image beside the network's output for an autoencoder, its inversion for an
      :class:`~csc_nets.models.InvertibleCNN`, and ``D z`` of the first CSC layer for every other network.

    - for a :class:`~csc_nets.models.SparseAutoencoder` also ``scales.png``: an image, what came back, and
      what the atoms of each size or stage say of it (the mean colour where they say nothing);
    - for a :class:`~csc_nets.models.ClosedLoop` also ``stages.png``, an image and what the code of each stage, from the
      first to the last, makes of it, and ``interpolations.png``, the images on the great circle between the features of
      one image and of the next.

    A network without CSC layers leaves out what it lacks. A :class:`~csc_nets.models.Denoiser` has its atoms and
    ``denoising.png``, see :func:`~csc_nets.tasks.denoising_pictures.save_denoising`.

    Args:
        model: network in eval mode.
        images: a few normalised images ``(N, C, H, W)``, on the network's device.
        denormalize: from normalised images to pixels in [0, 1].
        folder: is created where it does not exist.
    """
    if isinstance(model, Denoiser):
        folder.mkdir(parents=True, exist_ok=True)
        for name, grid in atom_grids(model).items():
            save_image(grid, folder / f"{name}.png")
        save_denoising(model, denormalize(images), folder / "denoising.png")
        return
    first = next(iter(csc_layers(model).values()), None)
    seen: list[tuple[Tensor, Tensor]] = []
    hook = first.register_forward_hook(lambda layer, args, code: seen.append((args[0], code))) if first else None
    try:
        output = model(images)
    finally:
        if hook:
            hook.remove()
    folder.mkdir(parents=True, exist_ok=True)

    shown = _tile(denormalize(images))
    x_hat = output if hasattr(model, "encode") else None
    if isinstance(model, InvertibleCNN):
        x_hat = model.reconstruct(images)
    if first is not None:
        x, code = seen[0]
        for name, grid in atom_grids(model).items():
            save_image(grid, folder / f"{name}.png")
        busiest = code.abs().mean((0, 2, 3)).topk(min(8, code.shape[1])).indices
        maps = code[:, busiest].abs() / code[:, busiest].abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
        pairs = zip(shown.mean(1, keepdim=True), maps[:, :, None], strict=True)
        rows = [torch.cat([image[None], interpolate(z, image.shape[1:])]) for image, z in pairs]
        save_image(torch.cat(rows), folder / "codes.png", nrow=1 + len(busiest), **_GAP)
        if x_hat is None and x.shape == images.shape:
            x_hat = first.synthesize(code, x.shape[2:])  # type: ignore[operator]
    if x_hat is not None:
        beside = torch.stack([shown, _tile(denormalize(x_hat))], dim=1).flatten(0, 1)
        save_image(beside, folder / "reconstructions.png", nrow=2, **_GAP)

    if hasattr(model, "by_scale"):
        z = model.encode(images)  # type: ignore[operator]
        columns = [images, model.decode(z, images.shape[2:]), *model.by_scale(z, images.shape[2:])]  # type: ignore[operator]
        tiles = torch.stack([_tile(denormalize(column)) for column in columns], 1)
        save_image(tiles.flatten(0, 1), folder / "scales.png", nrow=len(columns), **_GAP)

    if isinstance(model, ClosedLoop):
        depths = [model.reconstruct(images, stage) for stage in range(len(model.stages))]
        between = interpolate_on_sphere(model.encode(images[:-1]), model.encode(images[1:]), 7)
        between = [model.decode(z, images.shape[2:]) for z in between]  # type: ignore[assignment]
        for name, columns in {"stages": [images, *depths], "interpolations": list(between)}.items():
            tiles = torch.stack([_tile(denormalize(column[: len(between[0])])) for column in columns], 1)
            save_image(tiles.flatten(0, 1), folder / f"{name}.png", nrow=len(columns), **_GAP)


def interpolate_on_sphere(first: Tensor, last: Tensor, count: int) -> Tensor:
    """Points at equal angles on the arc between unit vectors ``(N, d)``, both ends included: ``(count, N, d)``.

    Opposite vectors have no shortest arc; any is taken.
    """
    along = (first * last).sum(1, keepdim=True).clamp(-1, 1)
    across = last - along * first
    across = across / across.norm(dim=1, keepdim=True).clamp_min(torch.finfo(last.dtype).tiny)
    angle = torch.linspace(0, 1, count, device=first.device).view(-1, 1, 1) * along.acos()
    return angle.cos() * first + angle.sin() * across


@torch.no_grad()
def atom_grids(model: nn.Module) -> dict[str, Tensor]:
    """Pictures ``(3, H, W)`` in [0, 1] of the atoms of a network's first CSC layer, by name; none without such a layer
    or where its operator has no atoms.

    Each atom is scaled so that grey is 0 and its largest magnitude black or white. ``"atoms"`` are those of the image's
    dictionary; where the layer codes over a product of dictionaries, ``"atoms_2"`` and so on show what one non-zero of
    each deeper code looks like in the image. Atoms of several sizes have a picture a size, ``"atoms_of_8_pixels"``.
    """
    first: Any = next(iter(csc_layers(model).values()), None)
    several = getattr(getattr(first, "dictionary", None), "pixel_atoms", None)
    if several is not None:
        return {f"atoms_of_{atoms.shape[-1]}_pixels": _grid(atoms) for atoms in several()}
    chain = [] if first is None else list(getattr(first.dictionary, "dictionaries", [first.dictionary]))
    if not chain or not hasattr(chain[0], "weight"):
        return {}
    sets = [chain[0].weight] if len(chain) == 1 else [effective_atoms(chain[: i + 1]) for i in range(len(chain))]
    return {f"atoms_{i}" if i > 1 else "atoms": _grid(atoms) for i, atoms in enumerate(sets, start=1)}


def _grid(atoms: Tensor) -> Tensor:
    """Atoms as one picture; where they have another number of channels than 1 or 3, each channel is one."""
    atoms = atoms if atoms.shape[1] in (1, 3) else atoms.flatten(0, 1)[:, None]
    atoms = 0.5 + atoms / (2 * atoms.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12))
    return make_grid(_tile(atoms), nrow=max(8, math.ceil(len(atoms) ** 0.5)), **_GAP)


def _tile(images: Tensor) -> Tensor:
    """Small images enlarged to whole blocks of pixels, with channels averaged where they are not 1 or 3."""
    images = images.float() if images.shape[1] in (1, 3) else images.float().mean(1, keepdim=True)
    return interpolate(images, scale_factor=max(1, -(-_SIDE // images.shape[-1])))
