"""Pictures of what a network learnt: its first atoms, the codes of a few images, and the images that come back."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.utils import save_image

from csc_nets.tasks.code_statistics import csc_layers

__all__ = ["save_pictures"]

_SIDE = 64  # pixels of one tile, at least
_GAP = {"padding": 4, "pad_value": 1}  # white lines between tiles


@torch.no_grad()
def save_pictures(model: nn.Module, images: Tensor, denormalize: Callable[[Tensor], Tensor], folder: Path) -> None:
    """Writes ``atoms.png``, ``codes.png`` and ``reconstructions.png`` into ``folder``.

    - atoms: those of the first CSC layer, each scaled so that grey is 0 and its largest magnitude black or white;
    - codes: one row an image, the image and the maps of the eight atoms that are busiest in these images;
    - reconstructions: one row an image, the image beside the network's output for an autoencoder, and beside ``D z``
      of the first CSC layer for every other network.

    A network without CSC layers leaves out what it lacks.

    Args:
        model: network in eval mode.
        images: a few normalised images ``(N, C, H, W)``, on the network's device.
        denormalize: from normalised images to pixels in [0, 1].
        folder: is created where it does not exist.
    """
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
    if first is not None:
        x, code = seen[0]
        save_image(_tile(_atoms(first)), folder / "atoms.png", nrow=8, **_GAP)
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


def _atoms(layer: nn.Module) -> Tensor:
    """Atoms as pictures ``(K, 1 or 3, h, w)``; where they have another number of channels, each channel is one."""
    atoms: Tensor = layer.dictionary.weight  # type: ignore[union-attr, assignment]
    atoms = atoms if atoms.shape[1] in (1, 3) else atoms.flatten(0, 1)[:, None]
    return 0.5 + atoms / (2 * atoms.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12))


def _tile(images: Tensor) -> Tensor:
    """Small images enlarged to whole blocks of pixels, with channels averaged where they are not 1 or 3."""
    images = images.float() if images.shape[1] in (1, 3) else images.float().mean(1, keepdim=True)
    return interpolate(images, scale_factor=max(1, -(-_SIDE // images.shape[-1])))
