"""The report ``activations``: what single atoms of a network's activations stand for."""

from typing import Any

import torch
from torch import Tensor

from csc_nets.evaluation.report_input import ReportInput, Result

__all__ = ["activations"]

SHOWN = 8
"""Images in a row of the picture."""


@torch.no_grad()
def activations(given: ReportInput) -> Result:
    """Atoms in the order of their use, each with the test images that use it most.

    A row says on which share of the positions the atom is used, its share of the squared code, and how many of its
    images are of their most frequent class.

    Raises:
        ValueError: the network has no sparse autoencoder.
    """
    model: Any = given.model
    if not hasattr(model, "sae"):
        raise ValueError(f"{type(model).__name__} has no sparse autoencoder of activations")
    peaks, labels, images = [], [], []
    used = energy = torch.zeros(())
    positions, error, spread = 0, 0.0, 0.0
    for x, y in given.batches("test"):
        seen = model.activations(x)
        axes = -1 if seen.ndim == 3 else 1  # where the channels are
        z = model.sae(seen)
        flat = z.movedim(axes, -1).flatten(1, -2)
        used, energy = used + (flat != 0).sum((0, 1)).cpu(), energy + flat.square().sum((0, 1)).cpu()
        positions += flat.shape[0] * flat.shape[1]
        size = seen.shape[2:] if seen.ndim == 4 else None
        error += (seen - model.sae.synthesize(z, size)).square().sum().item()
        vectors = seen.movedim(axes, -1).flatten(0, -2)
        spread += (vectors - vectors.mean(0)).square().sum().item()
        peaks.append(flat.amax(1).cpu())
        labels.append(y.cpu())
        images.append(given.data.denormalize(x).cpu())
    peak, label, pixels = torch.cat(peaks), torch.cat(labels), torch.cat(images)
    shown = energy.argsort(descending=True)[: given.images]
    count = min(SHOWN, len(peak))
    best = peak[:, shown].topk(count, 0).indices.T  # (atoms, images)
    rows = [_row(int(atom), best[i], label, used / positions, energy, given) for i, atom in enumerate(shown)]
    given.save(pixels[best])
    alive = (used > 0).double().mean().item()
    atoms = used.sum().item() / positions
    head = (
        f"{len(peak)} {given.tested} images, layer {model.layer_name}: explained variance {1 - error / spread:.4f}, "
        f"{atoms:.2f} atoms a position, {1 - alive:.1%} of {len(used)} atoms unused"
    )
    lines = [
        f"{row['name']:>10}  used {row['used']:7.2%}  energy {row['energy']:6.2%}  {row['of_class']:2d} of {count} "
        f"images are {row['class']}"
        for row in rows
    ]
    numbers = [("explained", 1 - error / spread), ("atoms", atoms), ("unused", 1 - alive)]
    return "\n".join([head, "", *lines]), [*({"name": n, "value": v} for n, v in numbers), *rows]


def _row(atom: int, best: Tensor, labels: Tensor, used: Tensor, energy: Tensor, given: ReportInput) -> dict[str, Any]:
    counts = labels[best].bincount()
    names = given.data.class_names
    return {
        "name": f"atom {atom}",
        "used": used[atom].item(),
        "energy": (energy[atom] / energy.sum()).item(),
        "class": str(names[int(counts.argmax())]),
        "of_class": int(counts.amax()),
    }
