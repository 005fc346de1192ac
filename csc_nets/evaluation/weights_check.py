"""One number of trained weights that any machine can compute again."""

import torch
from sklearn.datasets import load_sample_image
from torch import nn

from csc_nets.models.denoiser import Denoiser
from csc_nets.tasks.image_quality import psnr

__all__ = ["check_of"]


@torch.no_grad()
def check_of(model: nn.Module) -> dict[str, float]:
    """PSNR in dB of a denoiser on a part of scikit-learn's photograph of a temple, noise level 25, rounded to 0.01.

    Raises:
        ValueError: there is no check for such a network yet.
    """
    if not isinstance(model, Denoiser):
        raise ValueError(f"check_of: no check is known for {type(model).__name__}")
    image = torch.from_numpy(load_sample_image("china.jpg").copy()).double()[100:228, 200:328]
    image = image.mean(2)[None, None] if model.in_chans == 1 else image.permute(2, 0, 1)[None]
    image = image.float() / 255
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    clean = model.eval()(image + 25 / 255 * noise, 25 / 255)
    return {"psnr_25": round(psnr(clean, image).item(), 2)}
