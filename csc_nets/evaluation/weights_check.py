"""One number of trained weights that any machine can compute again."""

import torch
from sklearn.datasets import load_digits, load_sample_images
from torch import Tensor, nn
from torch.nn.functional import interpolate

from csc_nets.models import ImageClassifier
from csc_nets.models.denoiser import Denoiser
from csc_nets.tasks.image_quality import psnr

__all__ = ["check_of"]


@torch.no_grad()
def check_of(model: nn.Module) -> dict[str, float]:
    """A number on images that come with scikit-learn, rounded to 0.01.

    - A denoiser: PSNR in dB on a part of the photograph of a temple, at noise level 25.
    - A classifier of grey images: accuracy on the digits, enlarged to the size that it was trained on.
    - A classifier of colour images: mean of its largest probability over the tiles of both photographs. It says that
      these are the same weights, and not how good they are.

    Raises:
        ValueError: there is no check for such a network yet.
    """
    model.eval()
    if isinstance(model, Denoiser):
        image = torch.from_numpy(load_sample_images().images[0].copy()).double()[100:228, 200:328]
        image = image.mean(2)[None, None] if model.in_chans == 1 else image.permute(2, 0, 1)[None]
        image = image.float() / 255
        noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
        clean = model(image + 25 / 255 * noise, 25 / 255)
        return {"psnr_25": round(psnr(clean, image).item(), 2)}
    if not isinstance(model, ImageClassifier):
        raise ValueError(f"check_of: no check is known for {type(model).__name__}")
    known = model.pretrained_cfg
    size = known["input_size"][-1]
    mean, std = (torch.tensor(known[key]).view(-1, 1, 1) for key in ("mean", "std"))
    if model.in_chans == 1:
        source = load_digits()
        images = torch.from_numpy(source.images).float()[:, None] / 16
        images = images if size == images.shape[-1] else _enlarged(images, size)
        right = model((images - mean) / std).argmax(1) == torch.from_numpy(source.target)
        return {"digits": round(right.float().mean().item(), 2)}
    photographs = torch.stack([torch.from_numpy(image.copy()) for image in load_sample_images().images])
    tiles = photographs.permute(0, 3, 1, 2).unfold(2, size, size).unfold(3, size, size)
    images = tiles.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, size, size).float() / 255
    largest = model((images - mean) / std).softmax(1).amax(1)
    return {"certainty": round(largest.mean().item(), 2)}


def _enlarged(images: Tensor, size: int) -> Tensor:
    """Digits of 8 x 8 pixels as MNIST has them: 20 pixels wide in a black frame."""
    inner = size * 5 // 7
    before = (size - inner) // 2
    after = size - inner - before
    large = interpolate(images, size=(inner, inner), mode="bilinear")
    return nn.functional.pad(large, (before, after, before, after))
