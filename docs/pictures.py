"""Draws the pictures of README and of the guide from a photograph that comes with scikit-learn.

    python docs/pictures.py [--out docs/images]

readme.png: an image, what the atoms of each size say of it, and their sum, for three lam. No training: the atoms of
``sparse_autoencoder`` are cosines. guide_object.png and guide_steps.png: one layer, its atoms, its code and its steps.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from gallery_style import set_style
from sklearn.datasets import load_sample_image
from torch import Tensor
from torch.nn.functional import max_pool2d

from csc_nets import create_model
from csc_nets.functional import dct_atoms
from csc_nets.layers import CSC2d

LAMS = (0.02, 0.1, 0.5)


@torch.no_grad()
def draw_readme(file: Path) -> None:
    """An image, its code by the size of the atoms, the sum: a row for each lam."""
    import matplotlib.pyplot as plt

    pixels = torch.tensor(load_sample_image("china.jpg")[40:296, 128:384]).permute(2, 0, 1)[None].float() / 255
    mean, std = pixels.mean((0, 2, 3), keepdim=True), pixels.std((0, 2, 3), keepdim=True)
    x = (pixels - mean) / std
    model: Any = create_model("sparse_autoencoder").eval()
    model.start_from(x)
    figure, axes = plt.subplots(3, 5, figsize=(10, 6.4))
    for row, lam in zip(axes, LAMS, strict=True):
        z = model.encode(x, lam=lam)
        small, middle, large = model.by_scale(z, x.shape[2:])
        back = large + middle + small
        error = (back * std + mean - pixels).square().mean()
        share = (z != 0).sum().item() / x.numel()
        heading = f"all atoms: {share:.1%}, {-10 * error.log10():.1f} dB"
        titles = ["image", "atoms of 32 pixels say", "of 16 pixels", "of 8 pixels", heading]
        for column, (axis, picture, title) in enumerate(zip(row, (x, large, middle, small, back), titles, strict=True)):
            offset = 0.5 if column in (2, 3) else mean  # what smaller atoms add has no brightness of its own
            axis.imshow((picture * std + offset)[0].clamp(0, 1).permute(1, 2, 0))
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
            axis.spines[:].set_visible(False)
            axis.set_title(title if column == 4 or lam == LAMS[0] else "", fontsize=8.5)
        row[0].set_ylabel(f"lam = {lam}", fontsize=10)
    figure.savefig(file, dpi=85)
    plt.close(figure)


def layer_and_crop() -> tuple[CSC2d, Tensor, Tensor]:
    """A layer with cosine atoms, a grey crop with mean zero ``(1, 1, 128, 128)``, and its mean."""
    pixels = torch.tensor(load_sample_image("china.jpg")[50:178, 240:368]).float().mean(-1)[None, None] / 255
    layer = CSC2d(1, 64, 8, padding=7, lam=0.1, steps=100, nonneg=False)
    layer.atoms = dct_atoms(torch.eye(1), 8).float()
    return layer, pixels - pixels.mean(), pixels.mean()


@torch.no_grad()
def draw_object(file: Path) -> None:
    """A crop, six atoms with their maps, and the synthesis."""
    import matplotlib.pyplot as plt

    layer, x, mean = layer_and_crop()
    z = layer(x)
    back = layer.synthesize(z, x.shape[2:])
    busy = z.abs().sum((0, 2, 3)).argsort(descending=True)[[1, 2, 3, 4, 5, 8]]
    figure = plt.figure(figsize=(10, 2.9))
    left, middle, right = figure.subfigures(1, 3, width_ratios=[1, 2.2, 1])
    for part, picture, title in ((left, x, "x: the signal"), (right, back, "D z: what the code says")):
        axis = part.subplots()
        axis.imshow((picture + mean)[0, 0], vmin=0, vmax=1)
        axis.set_title(title)
        axis.axis("off")
    for column, atom in zip(middle.subplots(2, 6).T, busy, strict=True):
        column[0].imshow(layer.atoms[atom, 0])
        column[1].imshow(max_pool2d(z[:, [atom]].abs(), 3, 1)[0, 0].clamp_max(0.2), cmap="gray_r")
        for axis in column:
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
    middle.suptitle(
        f"six of 64 atoms, and where the code has them; {(z != 0).float().mean():.1%} is not 0", fontsize=10
    )
    figure.savefig(file)
    plt.close(figure)


@torch.no_grad()
def draw_steps(file: Path) -> None:
    """The synthesis of the code behind more and more steps."""
    import matplotlib.pyplot as plt

    layer, x, mean = layer_and_crop()
    counts = (1, 2, 4, 16, 64)
    figure, axes = plt.subplots(1, len(counts), figsize=(10, 2.4))
    for axis, layer.steps in zip(axes, counts, strict=True):
        back = layer.synthesize(layer(x), x.shape[2:])
        axis.imshow((back + mean)[0, 0], vmin=0, vmax=1)
        missing = (x - back).square().sum() / x.square().sum()
        axis.set_title(f"{layer.steps} step{'s' * (layer.steps > 1)}: {missing:.1%} missing", fontsize=9)
        axis.axis("off")
    figure.savefig(file)
    plt.close(figure)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--out", type=Path, default=Path(__file__).with_name("images"), help="folder for the pictures")
    folder = options.parse_args().out
    set_style()
    draw_readme(folder / "readme.png")
    draw_object(folder / "guide_object.png")
    draw_steps(folder / "guide_steps.png")


if __name__ == "__main__":
    main()
