"""Pictures of what a denoiser does: noisy, denoised, what it took away, and the clean image."""

from pathlib import Path
from typing import Any

import torch
from PIL import ImageDraw
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image
from torchvision.utils import save_image

from csc_nets.tasks.image_quality import psnr

__all__ = ["save_denoising", "titled"]

_MARGIN = 16  # pixels above a picture for its title


@torch.no_grad()
def save_denoising(model: Any, images: Tensor, file: Path, noise: float = 25.0) -> None:
    """Writes one row an image: clean, noisy, denoised, and the residual with grey for 0, with the PSNR above.

    Args:
        model: denoiser in eval mode, called as ``model(noisy, sigma)``.
        images: clean images ``(N, C, H, W)`` with white at 1, on the network's device.
        file: the picture.
        noise: noise level in grey levels, of which white is 255.
    """
    sigma = noise / 255
    noisy = images + sigma * torch.randn(images.shape, generator=torch.Generator().manual_seed(0)).to(images)
    clean = model(noisy, sigma).float()
    columns = {
        "clean": images,
        f"noise {noise:g}": noisy,
        "denoised": clean,
        "taken away": 0.5 + noisy - clean,
    }
    tiles = []
    for i in range(len(images)):
        for name, column in columns.items():
            value = f", {psnr(column[i : i + 1], images[i : i + 1]).item():.2f} dB"
            title = name + (value if name.startswith(("noise", "denoised")) else "")
            tiles.append(titled(column[i], title))
    save_image(torch.stack(tiles), file, nrow=len(columns), padding=2, pad_value=1)


def titled(image: Tensor, title: str) -> Tensor:
    """An image ``(3, H + margin, W)`` with a line of text above it."""
    picture = image.float().cpu().clamp(0, 1).expand(3, -1, -1)
    band = to_pil_image(torch.ones(3, _MARGIN, picture.shape[2]))
    ImageDraw.Draw(band).text((2, 2), title, fill=(0, 0, 0))
    return torch.cat([pil_to_tensor(band).float() / 255, picture], 1)
