"""The two image sets that come with scikit-learn and need no download."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from csc_nets.data.channels import to_channels, to_channels_of
from csc_nets.data.facts import FACTS
from csc_nets.data.registry import register_dataset
from csc_nets.data.sampling import stratified_split
from csc_nets.data.tensors import TensorDataModule


@register_dataset
def digits(*, split_seed: int = 0, statistics: str = "train", **options: Any) -> TensorDataModule:
    """The 1,797 handwritten 8x8 digits of scikit-learn, split 60/20/20 in every class.

    Source: E. Alpaydin and C. Kaynak, *Optical Recognition of Handwritten Digits*, UCI repository (1998), test part.
    Pixels are whole numbers from 0 to 16 there and are stored here as uint8 with 16 at 255.

    Args:
        split_seed: Decides which images are validated and tested on; keep it fixed when runs are compared.
        statistics: ``"train"`` normalises by the training images; ``"all"`` by all images, as runs did whose
            ``config.yaml`` does not say.
        options: See `ImageDataModule`.
    """
    from sklearn.datasets import load_digits  # here, because it takes a second to import

    source = load_digits()
    images = (torch.from_numpy(source.images) * (255 / 16)).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(source.target).long()
    train, val, test = ((images[i], labels[i]) for i in stratified_split(labels, [0.2, 0.2], split_seed))
    settings = {
        "class_names": FACTS["digits"].class_names,
        "name": "digits",
        **_statistics("digits", train[0], statistics),
    }
    return TensorDataModule(*train, val=val, test=test, **settings | options)


@register_dataset
def sample_images(
    *, image_size: int = 32, stride: int | None = None, in_chans: int = 3, statistics: str = "train", **options: Any
) -> TensorDataModule:
    """Patches of scikit-learn's two colour photographs (427 x 640), for autoencoding; the label is the photograph.

    Training patches come from the left 448 columns, validation patches from the next 96 and test patches from the
    last 96, so that no pixel is in two splits.

    Args:
        image_size: Side of a patch in pixels, 1 to 96.
        stride: Distance of neighbouring training patches; None for half a patch. Validation and test patches do not
            overlap.
        in_chans: 1 for grey, 3 for colour.
        statistics: As for `digits`.
        options: See `ImageDataModule`.

    Raises:
        ValueError: If ``image_size`` or ``stride`` is out of range.
    """
    from sklearn.datasets import load_sample_images

    bands = {"train": (0, 448), "val": (448, 544), "test": (544, 640)}
    stride = max(image_size // 2, 1) if stride is None else stride
    if not 1 <= image_size <= 96:
        raise ValueError(f"sample_images: image_size must be a whole number from 1 to 96, got {image_size}")
    if stride < 1:
        raise ValueError(f"sample_images: stride must be a whole number >= 1, got {stride}")
    photographs = torch.stack(
        [torch.from_numpy(image.copy()).permute(2, 0, 1) for image in load_sample_images().images]
    )
    photographs = to_channels("sample_images", photographs, in_chans)
    parts = {
        name: _patches(photographs[..., first:last], image_size, stride if name == "train" else image_size)
        for name, (first, last) in bands.items()
    }
    names = FACTS["sample_images"].class_names
    numbers = _statistics("sample_images", parts["train"][0], statistics)
    settings = {"class_names": names, "name": "sample_images", **numbers}
    return TensorDataModule(*parts["train"], val=parts["val"], test=parts["test"], **settings | options)


def _patches(photographs: Tensor, size: int, stride: int) -> tuple[Tensor, Tensor]:
    grid = photographs.unfold(2, size, stride).unfold(3, size, stride)  # (photographs, C, rows, columns, size, size)
    count = grid.shape[2] * grid.shape[3]
    patches = grid.permute(0, 2, 3, 1, 4, 5).reshape(-1, grid.shape[1], size, size)
    return patches, torch.arange(len(photographs)).repeat_interleave(count)


# Statistics of all images of a set, by which runs were normalised before they were those of the training images.
_OF_ALL = {
    "digits": ((0.3053,), (0.3760,)),
    "sample_images": ((0.4238, 0.4300, 0.3769), (0.3576, 0.2850, 0.3134)),
}


def with_statistics(data: Mapping[str, Any], statistics: str) -> dict[str, Any]:
    """Options of a data set in a configuration that says which statistics are meant, where it did not."""
    return {"statistics": statistics, **data} if data["name"] in _OF_ALL else dict(data)


def _statistics(name: str, training: Tensor, which: str) -> dict[str, tuple[float, ...]]:
    """Mean and standard deviation of each channel, with white at 1."""
    if which not in ("train", "all"):
        raise ValueError(f"{name}: statistics must be 'train' or 'all', got {which!r}")
    if which == "all":
        known = (to_channels_of(values, len(values), training.shape[1]) for values in _OF_ALL[name])
        return dict(zip(("mean", "std"), known, strict=True))
    pixels = training.double() / 255
    mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3), correction=0)
    return {"mean": tuple(mean.tolist()), "std": tuple(std.tolist())}
