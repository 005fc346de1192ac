"""What a conversion did, layer by layer."""

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from csc_nets.conversion.layer import Converted
from csc_nets.functional import Problem, Step
from csc_nets.functional.pursuits.loop import advance
from csc_nets.theory import mutual_coherence, stripe_norm
from csc_nets.theory.network.evaluation_mode import evaluation_mode

__all__ = ["Conversion", "bounded", "duality_gap", "energy_kept", "measure"]

COLUMNS = (
    "name",
    "kind",
    "atoms",
    "steps",
    "coherence",
    "density",
    "stripe",
    "gap_1",
    "gap",
    "energy_1",
    "energy",
    "time",
)


@dataclass(frozen=True)
class Conversion:
    """What :func:`csc_nets.convert` did; ``print`` gives a table.

    Attributes:
        rows: one per replaced layer, with the keys ``name``, ``kind``, ``atoms``, ``steps`` and ``negative`` (share of
            negative thresholds). With images also ``coherence`` of the atoms; ``density`` and ``stripe`` (most
            non-zeros in a stripe) of the codes; ``gap_1`` and ``gap``, the duality gap of the first step and of all
            steps over half the squared norm of the signal; ``energy_1`` and ``energy``, the share of the signal's
            energy that the best multiple of ``D z`` explains; and ``time``, that of the layer over that of its first
            step as a plain layer.
        skipped: layers that stay as they are: name and reason.
    """

    rows: list[dict[str, Any]]
    skipped: dict[str, str]

    @property
    def replaced(self) -> list[str]:
        """Names of the replaced layers."""
        return [row["name"] for row in self.rows]

    def __str__(self) -> str:
        columns = [c for c in COLUMNS if any(c in row for row in self.rows)]
        cells = [columns, *([_cell(row.get(c)) for c in columns] for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells]
        return "\n".join([*lines, *(f"skipped {name}: {reason}" for name, reason in self.skipped.items())])


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def measure(network: nn.Module, replaced: dict[str, str], skipped: dict[str, str], images: Tensor | None) -> Conversion:
    """The summary of a conversion.

    Args:
        network: with its converted layers, ``replaced``: name and what the layer was.
        skipped: names and reasons.
        images: a batch for the figures of codes; None for none.
    """
    rows = []
    for name, kind in replaced.items():
        layer: Any = network.get_submodule(name)
        row = {"name": name, "kind": kind, "atoms": len(layer.scale), "steps": layer.steps}
        if not layer.scale.is_meta:
            row["negative"] = (layer.thresholds()[""] < 0).double().mean().item()
        rows.append(row)
    if images is not None:
        by_name = {row["name"]: row for row in rows}
        handles = []

        def listen(row: dict[str, Any]) -> Any:
            def hook(layer: Any, args: tuple[Any, ...], output: Tensor) -> None:
                if "coherence" not in row:  # the first call
                    row.update(_figures(layer, args[0].clone(), output))

            return hook

        with evaluation_mode(network), torch.no_grad():
            for name, row in by_name.items():
                handles.append(network.get_submodule(name).register_forward_hook(listen(row)))
            try:
                network(images)
            finally:
                for handle in handles:
                    handle.remove()
    return Conversion(rows, skipped)


def _figures(layer: Any, x: Tensor, output: Tensor) -> dict[str, Any]:
    """Figures of one layer on its input and output."""
    problem = layer.problem(x)
    first = advance(problem, Step(1.0), None)
    last = layer.code(output).reshape(first.shape)
    geometry = getattr(layer.dictionary, "geometry", None)
    sizes = (1,) if geometry is None else (geometry.kernel_size, geometry.stride, 0, geometry.dilation)
    return {
        "coherence": mutual_coherence(layer.dictionary),
        "density": (last != 0).double().mean().item(),
        "stripe": int(stripe_norm(last, *sizes).max()),  # type: ignore[arg-type]
        "gap_1": duality_gap(problem, first),
        "gap": duality_gap(problem, last),
        "energy_1": energy_kept(problem, first),
        "energy": energy_kept(problem, last),
        "time": _time(layer.forward, x) / _time(_one_step(layer), x),
    }


def _one_step(layer: Converted) -> Any:
    """The plain layer that the first step is."""
    weight, bias = layer.plain(layer.atoms)
    geometry = getattr(layer.dictionary, "geometry", None)
    if geometry is None:
        return lambda x: nn.functional.linear(x, weight, bias)
    return lambda x: geometry.analysis(x, weight, bias)


def _time(run: Any, x: Tensor) -> float:
    """Seconds of the fastest of three runs."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        run(x)
        if x.device.type == "cuda":
            torch.cuda.synchronize(x.device)
        times.append(time.perf_counter() - start)
    return min(times)


def energy_kept(problem: Problem, z: Tensor) -> float:
    r"""Share of the energy of the signals that the best multiple of :math:`D z` explains.

    :math:`\langle x, D z \rangle^2 / (\|x\|^2 \|D z\|^2)`, over the batch. A first step of size 1 overshoots: coherent
    atoms say the same thing several times. The best multiple takes that away.
    """
    x, made = problem.masked(problem.x).double(), problem.operator.synthesis(z, problem.size).double()
    axes = tuple(range(1, x.ndim))
    along = (x * made).sum(axes).square() / made.square().sum(axes).clamp_min(1e-300)
    total = x.square().sum()
    return (along.sum() / total).item() if total > 0 else 1.0


def duality_gap(problem: Problem, z: Tensor) -> float | None:
    """Duality gap over half the squared norm of the signals, the mean over the batch; also for negative weights.

    Returns:
        A number; inf where no bound was found; None for a problem without any weight, or a penalty without a dual.
    """
    if not problem.penalty.has_dual or not bool((torch.as_tensor(problem.lam) != 0).any()):
        return None
    lifted, energy = bounded(problem), problem.energy()
    if lifted is None:
        return math.inf
    return (lifted.duality_gap(z) / energy.clamp_min(1e-300)).mean().item()


def bounded(problem: Problem, updates: int = 500) -> Problem | None:
    r"""The same problem, up to a constant of its objective, with weights that are not negative.

    For every signal c, :math:`\tfrac12 \|x - D z\|^2 + w \cdot z` and
    :math:`\tfrac12 \|x + c - D z\|^2 + (w + D^T c) \cdot z` differ by a number that does not depend on z (expand the
    square). So a c with :math:`D^T c \ge -w` makes an l1 problem of one with negative weights; there is one where the
    objective has a lower bound that is attained strictly (Farkas). It is searched for by accelerated gradient steps on
    the squared violation.

    Args:
        problem: with the non-negative l1 norm.
        updates: most steps of the search.

    Returns:
        The problem, or None where no such signal was found.
    """
    shape = problem.operator.analysis(problem.x[:1]).shape
    weight = torch.as_tensor(problem.lam).expand(shape)
    if bool((weight >= 0).all()):
        return problem
    operator, size, step = problem.operator, problem.size, problem.step_size
    never = weight.abs() > 1e15  # atoms without a scale
    wanted = -weight + 0.1 * weight.masked_fill(never, 0).abs().mean()
    c = ahead = torch.zeros_like(problem.x[:1])
    for k in range(updates):
        lack = (wanted - operator.analysis(ahead)).relu()
        new = ahead + step * operator.synthesis(lack, size)
        c, ahead = new, new + k / (k + 3) * (new - c)
        if k % 10 == 9:
            lifted = weight + operator.analysis(c)
            if bool((lifted >= 0).all()):
                return replace(problem, x=problem.x + c, lam=lifted, check=False)
    return None
