"""A known dictionary is recovered from images that were made with it, by unsupervised online dictionary learning.

    python docs/gallery/dictionary_recovery.py [--quick] [--out FILE]

Random atoms are laid over images at random places with random signed weights. The learned atoms have two pixels more,
so that an atom may come back moved. Prints the correlation of each true atom with its learned partner, draws the pairs.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from csc_nets import create_model
from csc_nets.data import TensorDataModule
from csc_nets.functional import ConvGeometry, unit_norm
from csc_nets.tasks import DictionaryLearningTask
from csc_nets.theory import AtomMatch, atom_match


def sparse_images(atoms: Tensor, count: int, size: int, density: float) -> Tensor:
    """Images ``(count, 1, size, size)`` of whole atoms, and a little noise."""
    kernel = atoms.shape[-1]
    places = (count, len(atoms), size - kernel + 1, size - kernel + 1)
    code = torch.randn(places).sign() * (1 + torch.rand(places)) * (torch.rand(places) < density)
    images = ConvGeometry.create(2, kernel).synthesis(code, atoms, (size, size))
    return images + 0.01 * torch.randn_like(images)


def learn(images: Tensor, atoms: int, kernel: int, epochs: int) -> Tensor:
    """Atoms ``(atoms, 1, kernel, kernel)`` learned from images."""
    model = create_model("csc_dictionary", in_chans=1, widths=[atoms], kernel_size=kernel, padding=kernel - 1, lam=0.5)
    task = DictionaryLearningTask(model, optimizer="adamw", lr=0.03, reseed_every=20, reseed_below=0.3)
    labels = torch.arange(len(images)) % 2
    data = TensorDataModule(images, labels, batch_size=16, mean=[0.0], std=[1.0], val_fraction=0.04)
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(task, datamodule=data)
    return model.dictionaries[0].weight.detach()


def draw(true: Tensor, learned: Tensor, match: AtomMatch, file: Path) -> None:
    """True atoms above their learned partners."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(true), figsize=(1.3 * len(true), 3.2), squeeze=False)
    for i, atom in enumerate(true):
        partner = match.sign[i] * learned[match.index[i]]
        for axis, picture in zip(axes[:, i], (atom, partner), strict=True):
            axis.imshow(picture[0], cmap="gray", vmin=-0.45, vmax=0.45)
            axis.set_xticks([]), axis.set_yticks([])
        axes[1, i].set_xlabel(f"{match.correlation[i]:.4f}")
    axes[0, 0].set_ylabel("true")
    axes[1, 0].set_ylabel("learned")
    figure.suptitle("Atoms and their learned partners, with the correlation at the best shift")
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs everything; returns the printed numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer atoms and images, under 30 s")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "images" / "dictionary_recovery.png")
    options = parser.parse_args(argv)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(0)
    count, kernel, images, size, epochs = (4, 5, 200, 16, 8) if options.quick else (8, 7, 600, 24, 12)
    true = unit_norm(torch.randn(count, 1, kernel, kernel))
    learned = learn(sparse_images(true, images, size, 0.008 if options.quick else 0.003), count, kernel + 2, epochs)
    match = atom_match(learned, true)
    print(f"{count} atoms, correlations: {', '.join(f'{c:.4f}' for c in match.correlation)}")
    print(f"share of atoms found at 0.99: {match.share(0.99):.2f}, worst {match.correlation.min():.4f}")
    draw(true, learned, match, options.out)
    return {"share": match.share(0.99), "worst": match.correlation.min().item()}


if __name__ == "__main__":
    main()
