"""A table of coherence, local sparsity and guarantees for any network on a batch, one line per layer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from csc_nets.theory.network.code_layers import CodeLayer, find_code_layers
from csc_nets.theory.sparse.coherence import mutual_coherence, welch_bound
from csc_nets.theory.sparse.layer_quantities import LayerQuantities, measure
from csc_nets.theory.sparse.local_sparsity import patch_norm
from csc_nets.theory.sparse.theorems import (
    Guarantee,
    basis_pursuit,
    basis_pursuit_noiseless,
    global_stability,
    hard_thresholding,
    soft_thresholding,
    uniqueness,
)

__all__ = ["Report", "report"]

THEOREMS = (
    uniqueness,
    global_stability,
    hard_thresholding,
    soft_thresholding,
    basis_pursuit_noiseless,
    basis_pursuit,
)

# Heading, key of the row; numbers are formatted by _cell.
COLUMNS = (
    ("layer", "name"),
    ("atoms", "atoms"),
    ("kernel", "kernel"),
    ("mu", "coherence"),
    ("Welch", "welch_bound"),
    ("dens.", "density"),
    ("k", "k"),
    ("p", "p"),
    ("cut", "cut"),
    ("Gmin", "smallest"),
    ("Gmax", "largest"),
    ("resid.", "residual"),
    ("k uni", "k_unique"),
    ("k BP", "k_basis_pursuit"),
    ("unique", "uniqueness"),
    ("thresh.", "hard_thresholding"),
    ("noisy BP", "basis_pursuit"),
)

LEGEND = """\
Measured codes stand for true ones: a guarantee that holds, holds for signals of the model,
x = D_1 G_1 and in a chain G_1 = D_2 G_2, ..., whose true codes have these mu, k, p, cut, Gmin and Gmax. The batch's own
signals and codes are such only where resid. is 0: ||x - D code|| / ||x||, within a chain with the code before as x.
kernel/stride; mu: mutual coherence of the unit atoms, Welch: its least possible value; dens.: share of non-zeros;
k: most non-zeros in a stripe, p: in a patch that a layer given this code sees, in the whole code if none is; cut:
non-zeros whose atom the border cuts (a guarantee needs 0); Gmin, Gmax: least and largest non-zero; k uni: largest k
for which the code is unique (among those of uncut atoms) and basis pursuit finds it, k BP: for which it is stable with
noise; thresh.: layered thresholding. yes: the condition holds; zero: it does, the code is zero; no: it fails for these
codes; vacuous: it fails for every code with two non-zeros in a stripe."""

SHORT = {"holds": "yes", "does not hold": "no", "vacuous": "vacuous"}
NAME_WIDTH = 18


@dataclass(frozen=True)
class Report:
    """The layers that compute codes; ``print`` gives a table.

    Attributes:
        rows: one per layer, in order of execution, with the keys ``name``, ``kind``, ``atoms``, ``kernel_size``,
            ``stride``, ``coherence``, ``welch_bound``, ``density``, ``k``, ``p``, ``cut``, ``smallest``, ``largest``,
            ``residual``, ``k_unique`` and ``k_basis_pursuit`` (inf if every k is allowed), ``chain`` (layers of one
            multi-layer model have the same number), and the name of each theorem, with its status for the layers of
            the chain up to this one.
        guarantees: one entry per chain: the six theorems by name, with thresholds and error bounds.
        left_out: convolutions that ran and are not read as sparse coding: name and reason.
        samples: number of signals in the batch.
    """

    rows: list[dict[str, Any]]
    guarantees: list[dict[str, Guarantee]]
    left_out: dict[str, str]
    samples: int

    def __str__(self) -> str:
        cells = [[heading for heading, _ in COLUMNS]]
        cells += [[_cell(key, row) for _, key in COLUMNS] for row in self.rows]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            " ".join(
                [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]
            ).rstrip()
            for line in cells
        ]
        text = [lines[0], "-" * max(map(len, lines)), *lines[1:], "", f"{self.samples} signals. " + LEGEND]
        if len(self.guarantees) < len(self.rows):
            members = [[row["name"] for row in self.rows if row["chain"] == c] for c in range(len(self.guarantees))]
            text.append("One multi-layer model each: " + "; ".join(" > ".join(m) for m in members if len(m) > 1) + ".")
        return "\n".join(text + [f"Convolutions left out, {reason}." for reason in _by_reason(self.left_out)])


def report(model: nn.Module, batch: Tensor, *, noise: float = 0.0) -> Report:
    r"""Coherence, local sparsity and guarantees for the layers of a network on a batch.

    The layers are those that :func:`~csc_nets.theory.find_code_layers` finds: the sparse coding layers of this package,
    and in any CNN every convolution with a ReLU on its output, directly or after a batch norm. Such a convolution is
    layered thresholding, with its filters as atoms.

    A layer is judged by itself: its input is the signal, its output the code. The layers of one multi-layer model are
    judged together: the error of one layer is the noise of the next. Such models are :class:`MultiLayerCSC`, and layers
    of unit atoms that follow one another.

    The theorems are about true codes, which are not known. The measured codes take their place, and the residual says
    how well they explain their signals. No theorem allows two non-zeros in a stripe if the coherence is 1/3 or more.
    For basis pursuit with noise the limit is 1/5, and from 1/2 on it does not allow a single one. The codes of a CNN
    have hundreds.

    Args:
        model: any module that takes ``batch``. It runs in evaluation mode and is not changed.
        batch: input. A few samples are enough: each number is the worst over the samples, and all codes are kept in
            memory.
        noise: local level :math:`\epsilon_0` of the noise in the input of every chain. ``global_stability`` takes it as
            the l2 norm of the whole noise.

    Raises:
        ValueError: ``batch`` is not a tensor of floats with a sample axis, ``model`` is not a module or has no such
            layer.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3))
        >>> found = report(model, torch.randn(2, 1, 8, 8))
        >>> found.rows[0]["name"], found.rows[0]["kind"], found.left_out
        ('0', 'Conv2d + ReLU', {'2': 'not followed by a ReLU'})
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"report: model must be a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(batch, Tensor) or not batch.is_floating_point() or batch.ndim < 2 or len(batch) == 0:
        seen = f"{batch.dtype} {tuple(batch.shape)}" if isinstance(batch, Tensor) else type(batch).__name__
        raise ValueError(f"report: batch must be a tensor of floats (N, C, *S) or (N, F), N >= 1, got {seen}")
    layers, left_out = find_code_layers(model, batch)
    if not layers:
        raise ValueError(
            f"report: {type(model).__name__} computed no code: no sparse coding layer and no convolution followed by a "
            f"ReLU ran (convolutions left out: {'; '.join(_by_reason(left_out)) or 'none'})"
        )
    rows: list[dict[str, Any]] = []
    found = []
    for number, chain in enumerate(_chains(layers)):
        quantities = _measure(chain)
        for depth, (layer, numbers) in enumerate(zip(chain, quantities, strict=True), start=1):
            status = {theorem.__name__: theorem(quantities[:depth], noise).status for theorem in THEOREMS}
            rows.append(_row(layer, numbers, number) | status)
        found.append({theorem.__name__: theorem(quantities, noise) for theorem in THEOREMS})
    return Report(rows, found, left_out, len(batch))


def _chains(layers: Sequence[CodeLayer]) -> list[list[CodeLayer]]:
    chains: list[list[CodeLayer]] = []
    for layer in layers:
        if layer.chained and chains:
            chains[-1].append(layer)
        else:
            chains.append([layer])
    return chains


def _by_reason(left_out: dict[str, str]) -> list[str]:
    """One text per reason, with the number of convolutions and the first three names."""
    names: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        names.setdefault(reason, []).append(name)
    return [
        f"{reason}: {len(some)} ({', '.join(some[:3])}{', ...' if len(some) > 3 else ''})"
        for reason, some in names.items()
    ]


def _measure(chain: Sequence[CodeLayer]) -> list[LayerQuantities]:
    """Measures a chain. The patches of its last code are those of all layers that take this code as input."""
    dictionaries, codes = [layer.dictionary for layer in chain], [layer.code for layer in chain]
    numbers = [
        replace(n, name=layer.name)
        for n, layer in zip(measure(dictionaries, codes, None, chain[0].signal_size), chain, strict=True)
    ]
    last, geometry = chain[-1], chain[-1].dictionary.geometry
    if last.readers:
        patches = [patch_norm(last.code, g.kernel_size, dilation=g.dilation) for g in last.readers]
        numbers[-1] = replace(numbers[-1], patch=int(torch.stack(patches).max()))
    if last.dictionary.groups > 1:  # a chain of one layer; ``measure`` compared atoms of different groups as well
        groups = last.dictionary.per_group
        coherence = max(mutual_coherence(atoms, geometry.stride, geometry.dilation) for atoms in groups)
        numbers[-1] = replace(numbers[-1], coherence=coherence)
    return numbers


def _row(layer: CodeLayer, numbers: LayerQuantities, chain: int) -> dict[str, Any]:
    geometry, groups = layer.dictionary.geometry, layer.dictionary.per_group
    limits = [theorem([numbers], 0.0).layers[0]["k_limit"] for theorem in (uniqueness, basis_pursuit)]
    unique, stable = (math.inf if limit == math.inf else math.ceil(limit) - 1 for limit in limits)
    return {
        "name": layer.name,
        "kind": layer.kind,
        "atoms": len(layer.dictionary.weight),
        "kernel_size": geometry.kernel_size,
        "stride": geometry.stride,
        "coherence": numbers.coherence,
        "welch_bound": max(welch_bound(atoms, geometry.stride, geometry.dilation) for atoms in groups),
        "density": (layer.code != 0).double().mean().item(),
        "k": numbers.stripe,
        "p": numbers.patch,
        "cut": numbers.cut,
        "smallest": numbers.smallest,
        "largest": numbers.largest,
        "residual": layer.residual,
        "k_unique": unique,
        "k_basis_pursuit": stable,
        "chain": chain,
    }


def _cell(key: str, row: dict[str, Any]) -> str:
    if key == "kernel":
        sizes = "x".join(map(str, row["kernel_size"])) or "dense"
        strides = sorted(set(row["stride"]) - {1})
        return sizes + "".join(f"/{s}" for s in strides)
    value = row[key]
    if key == "name":
        return value if len(value) <= NAME_WIDTH else "..." + value[3 - NAME_WIDTH :]
    if isinstance(value, str):
        return "zero" if value == "holds" and row["k"] == 0 else SHORT[value]
    if isinstance(value, int):
        return str(value)
    if value == math.inf:
        return "-" if key == "smallest" else "any"
    if key == "density":
        return f"{value:.1%}"
    return f"{value:.3f}" if key in ("coherence", "welch_bound", "residual") else f"{value:.2g}"
