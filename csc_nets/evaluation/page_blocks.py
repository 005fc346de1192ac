"""Blocks of a run's page: its errors, its codes stage by stage, what comes back, and what theory says."""

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from csc_nets.evaluation.report_input import ReportInput
from csc_nets.layers.effective import effective_atoms
from csc_nets.pages import Block, bars, grid, lines, picture, table
from csc_nets.tasks import csc_layers
from csc_nets.tasks.code_statistics import keep_codes
from csc_nets.theory import energy_profile, report

__all__ = ["code_blocks", "error_blocks", "reconstruction_block", "theory_blocks"]

HARDEST, ATOMS, FEW = 16, 32, 8
LARGEST_MATRIX = 40
ENERGY_CAUSES = 12


@torch.no_grad()
def error_blocks(given: ReportInput) -> Iterator[Block]:
    """Confusion of classes and the hardest images; nothing for a network that names no class."""
    names = list(given.data.class_names)
    scores: list[Tensor] = []
    truth: list[Tensor] = []
    for images, labels in given.batches("test"):
        output = given.model(images)
        if output.ndim != 2 or output.shape[1] != len(names):
            return
        scores.append(output.float().cpu())
        truth.append(labels.cpu())
    logits, labels = torch.cat(scores), torch.cat(truth).long()
    found = logits.argmax(1)
    wrong = int((found != labels).sum())
    if len(names) <= LARGEST_MATRIX:
        counts = torch.zeros(len(names), len(names), dtype=torch.long)
        counts.index_put_((labels, found), torch.ones_like(labels), accumulate=True)
        title = f"Confusion of {len(labels)} {given.tested} images, {wrong} of them wrong"
        body = grid(counts.tolist(), names, title=title, rows="true class", columns="class that the network says")
        told = f"<p>{wrong} of {len(labels)} {given.tested} images are wrong.</p>"  # runs stand side by side
        yield Block("Confusion", told + body, "Orange cells are mistakes.")
    losses = cross_entropy(logits, labels, reduction="none")
    hardest = losses.argsort(descending=True)[:HARDEST].tolist()
    images = _images(given, hardest)
    said = [f"{names[labels[i]]} as {names[found[i]]} ({logits[i].softmax(0)[found[i]]:.0%})" for i in hardest]
    body = picture(images, alt=f"Hardest {given.tested} images: {'; '.join(said)}", columns=8)
    body += f"<p>{', '.join(said)}</p>"
    yield Block("Hardest images", body, "The largest losses first: what each is, and what the network says how surely.")


def _images(given: ReportInput, wanted: list[int]) -> Tensor:
    """These test images as pixels, in the order asked for."""
    kept: dict[int, Tensor] = {}
    first = 0
    for images, _ in given.batches("test"):
        inside = [i for i in wanted if first <= i < first + len(images)]
        kept |= {i: given.data.denormalize(images[i - first : i - first + 1])[0].cpu() for i in inside}
        first += len(images)
    return torch.stack([kept[i] for i in wanted])


@torch.no_grad()
def code_blocks(given: ReportInput) -> Iterator[Block]:
    """Atoms by stage, densities and firing rates of the coding layers."""
    layers = csc_layers(given.model)
    if not layers:
        return
    with keep_codes(layers.values()) as kept:
        given.model(given.shown())
    names = {id(layer): name for name, layer in layers.items()}
    codes = {names[id(layer)]: code for layer, code in kept}
    yield from _atoms(layers)
    density = {name: 100 * (code != 0).float().mean().item() for name, code in codes.items()}
    rates = {name: (code != 0).float().transpose(0, 1).flatten(1).mean(1) for name, code in codes.items()}
    silent = {name: int((rate == 0).sum()) for name, rate in rates.items()}
    body = bars(density, title=f"Density of the codes: {density}", unit="%", top=100)
    few = list(rates)[:6]
    series = {
        name: [
            ((i + 1) / len(rates[name]), 100 * v)
            for i, v in enumerate(rates[name].sort(descending=True).values.tolist())
        ]
        for name in few
    }
    body += lines(
        series,
        title="Firing rates of the atoms, the busiest first",
        x="atom, as a share of all",
        y="positions where it fires (%)",
    )
    unused = ", ".join(f"{count} of {len(rates[name])} in {name}" for name, count in silent.items() if count)
    share = f"Share of non-zeros in {len(given.shown())} {given.tested} images."
    caption = f"{share} Atoms that never fire there: {unused or 'none'}."
    yield Block("Density and firing rates", body, caption)


def _atoms(layers: dict[str, Any]) -> Iterator[Block]:
    """Atoms of the image's layer, and what one non-zero of each deeper layer looks like in the image."""
    chain: list[Any] = []
    parts = []
    for name, layer in layers.items():
        dictionary: Any = getattr(layer, "dictionary", None)
        weight = getattr(dictionary, "weight", None)
        if not isinstance(weight, Tensor) or weight.ndim != 4:
            break
        if chain and dictionary.in_channels != chain[-1].out_channels:
            break
        chain.append(dictionary)
        try:
            atoms = weight if len(chain) == 1 else effective_atoms(chain)
        except (ValueError, AttributeError):
            break
        if atoms.shape[1] not in (1, 3):
            break
        atoms = atoms.detach()[:ATOMS].float()
        atoms = 0.5 + 0.5 * atoms / atoms.flatten(1).abs().amax(1).clamp_min(1e-12).view(-1, 1, 1, 1)
        alt = f"{len(atoms)} of {len(weight)} atoms of {name}, {atoms.shape[-1]} pixels wide"
        parts.append(
            f"<h3>{name}: {len(atoms)} of {len(weight)}, {atoms.shape[-1]} pixels</h3>"
            + picture(atoms, alt=alt, columns=8)
        )
        if len(chain) == 4:
            break
    if parts:
        caption = "Grey is 0. A deeper atom is what one non-zero of that layer looks like in the image."
        yield Block("Atoms by stage", "".join(parts), caption)


@torch.no_grad()
def reconstruction_block(given: ReportInput) -> Iterator[Block]:
    """What the code of each stage says of a few images."""
    images, model, data = given.shown()[:FEW], cast(Any, given.model), given.data
    rows = {"image": data.denormalize(images)}
    if hasattr(model, "reconstruct") and hasattr(model, "stages"):
        rows |= {f"stage {i + 1}": data.denormalize(model.reconstruct(images, i)) for i in range(len(model.stages))}
    else:
        output = model(images)
        if output.shape == images.shape:
            rows["network"] = data.denormalize(output.float())
        rows |= _by_layer(given, images)
    if len(rows) > 1:
        missing = [f"{name}: PSNR {_psnr(row, rows['image']):.1f} dB" for name, row in rows.items() if name != "image"]
        body = "".join(
            f"<h3>{name}</h3>" + picture(row, alt=f"{name} of {len(row)} {given.tested} images", columns=FEW)
            for name, row in rows.items()
        )
        yield Block(
            "Reconstructions by stage",
            body,
            "; ".join(missing) + ". What is lost at a stage does not come back behind it.",
        )


def _by_layer(given: ReportInput, images: Tensor) -> dict[str, Tensor]:
    """``D_1 ... D_k z_k`` of stage k, scaled to fit best; the norms in between are left out."""
    layers = csc_layers(given.model)
    with keep_codes(layers.values()) as kept:
        given.model(images)
    names = {id(layer): name for name, layer in layers.items()}
    found: dict[str, Tensor] = {}
    below: list[tuple[Any, Tensor]] = []
    for layer, code in kept:
        signal = images if not below else below[-1][1]
        if code.ndim != 4 or getattr(getattr(layer, "dictionary", None), "in_channels", None) != signal.shape[1]:
            break
        below.append((layer, code))
        back, sizes = code, [images, *(z for _, z in below[:-1])]
        try:
            for (owner, _), before in zip(below[::-1], sizes[::-1], strict=True):
                back = owner.synthesize(back, before.shape[2:])
        except (ValueError, RuntimeError):  # a pooling stands between the stages
            break
        scale = (back * images).flatten(1).sum(1) / back.square().flatten(1).sum(1).clamp_min(1e-12)
        found[f"{names[id(layer)]}, D z"] = given.data.denormalize(back * scale.view(-1, 1, 1, 1))
    return found


def _psnr(image: Tensor, truth: Tensor) -> float:
    return -10 * (image - truth).square().mean().clamp_min(1e-12).log10().item()


def theory_blocks(given: ReportInput) -> Iterator[Block]:
    """Coherence, guarantees and the energy profile, where the network has something to say about them."""
    try:
        rows = [
            {**row, "density": f"{100 * row['density']:.1f} %", "coherence": float(row["coherence"])}
            for row in report(given.model, given.shown()).rows
        ]
        heads = {
            "name": "layer",
            "atoms": "atoms",
            "coherence": "coherence",
            "welch_bound": "least possible",
            "density": "density",
            "k": "non-zeros in a stripe",
            "k_unique": "guaranteed up to",
            "residual": "residual",
            "uniqueness": "unique",
            "hard_thresholding": "thresholding",
            "basis_pursuit": "basis pursuit",
        }
        caption = (
            "A guarantee holds where a stripe has no more non-zeros than the column says. Trained codes rarely do. "
            "The residual is the share of the norm that the code leaves unexplained."
        )
        yield Block("Coherence and guarantees", table(rows, heads), caption)
    except ValueError:
        pass
    try:
        profile = energy_profile(given.model, given.shown())
    except ValueError:
        return
    shares = [1.0, *(row.share for row in profile.rows if row.on_path)]
    points = {"share of the energy": [(float(i), share) for i, share in enumerate(shares)]}
    title = "Energy left behind each operation"
    rows = [{"cause": cause, "left": share} for cause, share in list(profile.causes.items())[:ENERGY_CAUSES]]
    body = lines(points, title=title, log_y=True, x="operation", y="share of the energy left") + table(
        rows, {"cause": "cause", "left": "share that it leaves"}
    )
    caption = "Each step down is an operation that loses a part of the signal. The table has the product by cause."
    yield Block("Energy", body, caption)
