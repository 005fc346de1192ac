"""Known dictionaries are recovered from images that were made with them, by unsupervised online dictionary learning.

    python docs/gallery/dictionary_recovery.py [--quick] [--out FILE.png]

One layer (FILE.png): random atoms are laid over images at random places with random signed weights. The learned atoms
have two pixels more, so that an atom may come back moved.

Two layers (FILE_two_layers.png): each deep atom is three atoms of the first layer at random places. Learned layer by
layer, then jointly: the first dictionary from the images, the second from the codes of the first, of which three
entries an atom are kept, then both from the images. The effective atoms come back with 0.996 or more. Each
part is the best of three starts, by its objective: a start can end with two halves of an atom, or one atom for two.

Prints the correlation of each true atom with its learned partner, draws the pairs.
"""

import argparse
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from csc_nets.data import TensorDataModule
from csc_nets.functional import ConvGeometry, unit_norm
from csc_nets.models import CSCDictionary
from csc_nets.tasks import DictionaryLearningTask
from csc_nets.theory import AtomMatch, atom_match


def sparse_images(atoms: Tensor, count: int, size: int, density: float) -> Tensor:
    """Images ``(count, 1, size, size)`` of whole atoms, and a little noise."""
    kernel = atoms.shape[-1]
    places = (count, len(atoms), size - kernel + 1, size - kernel + 1)
    code = torch.randn(places).sign() * (1 + torch.rand(places)) * (torch.rand(places) < density)
    images = ConvGeometry.create(2, kernel).synthesis(code, atoms, (size, size))
    return images + 0.01 * torch.randn_like(images)


def dictionary(channels: int, atoms: int, kernel: int, lam: float) -> CSCDictionary:
    """A network of one dictionary whose atoms may reach over the border of the image."""
    return CSCDictionary(channels, widths=[atoms], kernel_size=kernel, padding=kernel - 1, lam=lam)


def learn(model: CSCDictionary, images: Tensor, epochs: int, **options: Any) -> CSCDictionary:
    """The network, its dictionaries learned from images."""
    task = DictionaryLearningTask(model, optimizer="adamw", **{"lr": 0.03, "reseed_below": 0.3, **options})
    labels, channels = torch.arange(len(images)) % 2, images.shape[1]
    data = TensorDataModule(
        images, labels, batch_size=16, mean=[0.0] * channels, std=[1.0] * channels, val_fraction=0.04
    )
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
    return model


def best_of(starts: int, build: Callable[[], CSCDictionary], images: Tensor, epochs: int) -> CSCDictionary:
    """The one of several learned networks with the lowest objective."""

    def objective(model: CSCDictionary) -> float:
        model.coder.steps = 60
        with torch.no_grad():
            return model.objective(images, model.eval().encode(images)).mean().item()

    learned = [learn(build(), images, epochs, reseed_every=25, reseed_similar=0.8) for _ in range(starts)]
    return min(learned, key=objective)


def one_layer(quick: bool) -> tuple[Tensor, Tensor]:
    """True and learned atoms."""
    count, kernel, images, size, epochs = (4, 5, 200, 16, 8) if quick else (8, 7, 600, 24, 12)
    true = unit_norm(torch.randn(count, 1, kernel, kernel))
    model = dictionary(1, count, kernel + 2, lam=0.5)
    learn(model, sparse_images(true, images, size, 0.008 if quick else 0.003), epochs, reseed_every=20)
    return true, model.effective_atoms().detach()


def two_layers(quick: bool) -> list[tuple[Tensor, Tensor]]:
    """True and learned atoms of the first layer, and what one non-zero of the second code looks like in the image."""
    images, epochs = (60, 1) if quick else (600, 6)
    shape: dict[str, Any] = {"widths": [4, 8], "nonzeros": 3}
    teacher = CSCDictionary(1, kernel_size=[5, 7], padding=10, **shape).eval()
    places = teacher.encode(torch.zeros(1, 1, 20, 20)).shape[1:]
    code = torch.randn(images, *places).sign() * (1 + torch.rand(images, *places))
    code *= torch.rand(images, *places) < 0.0015
    with torch.no_grad():
        x = teacher.decode(code, (20, 20)) + 0.01 * torch.randn(images, 1, 20, 20)

    first = best_of(1 if quick else 3, lambda: dictionary(1, 4, 7, lam=0.3), x, epochs)
    with torch.no_grad():
        codes = first.encode(x)
    second = best_of(1 if quick else 3, lambda: dictionary(4, 8, 9, lam=0.6), codes, epochs)
    model = CSCDictionary(1, kernel_size=[7, 9], padding=14, lam=0.3, **shape)
    for ours, theirs in zip(model.dictionaries, [first.dictionaries[0], second.dictionaries[0]], strict=True):
        ours.weight = theirs.weight.detach()
    model.coder.dictionary.refresh()
    learn(model, x, epochs, lr=0.01, reseed_every=0, sparsify=0)
    return [(teacher.effective_atoms(i).detach(), model.eval().effective_atoms(i).detach()) for i in (0, 1)]


def report(name: str, true: Tensor, learned: Tensor) -> AtomMatch:
    """Pairs true and learned atoms, and prints how well they agree."""
    match = atom_match(learned, true)
    print(f"{name}: {len(true)} atoms, correlations {', '.join(f'{c:.4f}' for c in match.correlation)}")
    print(f"    share found at 0.99: {match.share(0.99):.2f}, worst {match.correlation.min():.4f}")
    return match


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
    true, learned = one_layer(options.quick)
    match = report("one layer", true, learned)
    draw(true, learned, match, options.out)

    torch.manual_seed(1)
    first, effective = two_layers(options.quick)
    shallow, deep = report("two layers, first", *first), report("two layers, effective", *effective)
    draw(*effective, deep, options.out.with_name(f"{options.out.stem}_two_layers{options.out.suffix}"))
    return {
        "share": match.share(0.99),
        "worst": match.correlation.min().item(),
        "two_layers": {"first": shallow.correlation.tolist(), "effective": deep.correlation.tolist()},
    }


if __name__ == "__main__":
    main()
