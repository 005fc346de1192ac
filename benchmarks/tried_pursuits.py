"""What pursuits make of their convolutions: those of the layers, and all others that were tried, as two tables.

    python benchmarks/tried_pursuits.py [--quick] [--json FILE] [--images FOLDER] [--threads N]

Figures are the sum of the objectives over that of the least ones, minus 1, of non-negative codes with zero padding, on
images that no coefficient has seen. T steps cost 2 T - 1 convolutions, except where it is said below. The least
objectives are ``csc_nets.solve``'s, in float64, with a duality gap of 1e-5 of half the squared norm. Times are CPU time
of two steps over two of FISTA, of the plain code here and in ``functional``, median of the layers.

Images are crops of 32x32: of scikit-learn's two photographs, or of the pictures in a folder. Layers are a stem of 64
atoms of 3x3 and one of as many behind 32 random filters and a ReLU, with atoms random or learned on the objective. What
is tried here alone:

- One gain, gains, shifts: the coefficients of ``functional.calibrated``; one for all atoms is learned by Adam.
- Adam: the calibrated coefficients trained further, all steps at once, on the objective after the last one;
  ``"calibrated"`` finds them in closed form, each step for itself.
- Analytic weights: Liu, Chen, Wang, Yin, "ALISTA", 2019: the filters w of least correlation with all shifts of all
  atoms, and <w, d> = 1 with their own; published with one gain and one threshold for each step, which are learned.
- Diagonal majoriser: FISTA in the variable diag(s)^1/2 z, s the sums of the rows of |D^T D|. No signal is looked at.
- Half of the atoms frozen: the half with the most energy in the codes of known signals after one step makes 2 T - 2
  more; the others stay as they are. That is 2 T - 1/2 convolutions.
- "In hindsight": the option that is best on the very images that are coded.
"""

import argparse
import copy
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pursuits
import timing
import torch
import torch.nn.functional as F
from torch import Tensor

import csc_nets
from csc_nets.functional import Problem, calibrate, calibrated, calibration_update, fista, whitening
from csc_nets.functional.problem import SAFETY
from csc_nets.layers import Dictionary2d

LAYERS = ("FISTA", 'and an inertia (`"calibrated"`)', 'whitened residuals, rho = L (`"whitened"`)')
Codes = Tensor | list[Tensor]
Run = Callable[[], Codes]


@dataclass(frozen=True)
class Encoder:
    """Synthesis by a dictionary, analysis by other filters: a pair that is not adjoint."""

    dictionary: Dictionary2d
    filters: Tensor

    def analysis(self, x: Tensor) -> Tensor:
        return self.dictionary.analysis(x, self.filters)

    def synthesis(self, z: Tensor, output_size: tuple[int, ...] | None = None) -> Tensor:
        return self.dictionary.synthesis(z, output_size)


@dataclass(frozen=True)
class Case:
    """A layer, signals to learn coefficients from and signals to code."""

    name: str
    weight: Tensor
    known: Tensor
    new: Tensor
    lam: float
    updates: int = 0
    tol: float = 1e-5
    found: dict[int, Tensor] = field(default_factory=dict)

    @cached_property
    def dictionary(self) -> Dictionary2d:
        atoms, channels, size, _ = self.weight.shape
        made = Dictionary2d(channels, atoms, size, padding=size // 2, unit_norm=False).requires_grad_(False)
        made.weight.copy_(self.weight)
        made.refresh()
        return made

    @cached_property
    def step_size(self) -> Tensor:
        return SAFETY / self.dictionary.bound(self.new.shape[2:])

    def coefficients(self, steps: int) -> Tensor:
        """Calibrated on the known signals."""
        if steps not in self.found:
            self.found[steps] = calibrate(self.known, self.dictionary, self.lam, steps, nonneg=True)
        return self.found[steps]

    def descent(self, z: Tensor) -> Tensor:
        """Minus the gradient of the objective where codes are positive."""
        return self.dictionary.analysis(self.problem.residual(z)) - self.lam

    @cached_property
    def problem(self) -> Problem:
        return Problem(self.new, self.dictionary, self.lam, nonneg=True)

    @property
    def zero(self) -> Tensor:
        return torch.zeros(len(self.new), len(self.weight), *self.new.shape[2:])

    @cached_property
    def best(self) -> Tensor:
        """Codes that solve the problem."""
        wide = copy.deepcopy(self.dictionary).double()
        return csc_nets.solve(self.new.double(), wide, self.lam, nonneg=True, tol=self.tol, steps=100_000).float()

    def excess(self, codes: Codes) -> float:
        """Sum of the objectives over the least one, minus 1; of several codes that of the best."""
        total, tried = self.problem.objective, [codes] if isinstance(codes, Tensor) else codes
        return min(float(total(z).sum() / total(self.best).sum()) - 1 for z in tried)


def by_adam(case: Case, steps: int, keep: tuple[int, ...], shared: bool = False, filters: Tensor | None = None) -> Run:
    """Steps whose coefficients Adam learned on the objective after the last one.

    Args:
        case: the layer.
        steps: number of steps.
        keep: what is learned: 0 gains, 1 shifts, 2 inertias, 3 the filters.
        shared: one for all atoms, from those of ISTA on; else one for each, from calibrated ones on.
        filters: of the analysis, where they are not the dictionary's.
    """
    atoms = len(case.weight)
    filters = (case.weight if filters is None else filters).clone()
    learned = [*torch.zeros(3, steps, 1 if shared else atoms).unbind(), filters]
    start = ista(case, steps) if shared else case.coefficients(steps)
    problem = Problem(case.known, case.dictionary, case.lam, nonneg=True)

    def codes(x: Tensor) -> Tensor:
        gain, shift, inertia = (t.expand(steps, atoms) for t in learned[:3])
        more = torch.stack([0 * gain, case.step_size * case.lam * shift, inertia], 1)
        coefficients = start * torch.stack([gain.exp(), 1 + 0 * gain, 1 + 0 * gain], 1) + more
        return calibrated(x, Encoder(case.dictionary, filters), case.lam, coefficients, nonneg=True)

    optimizer = torch.optim.Adam([learned[i].requires_grad_() for i in keep], lr=0.1 if shared else 0.02)
    if 3 in keep:
        optimizer.param_groups[0]["lr"] = 0.005
    with torch.enable_grad():
        for k in range(case.updates):
            optimizer.param_groups[0]["lr"] *= 1 if k < case.updates // 2 else 0.95
            optimizer.zero_grad()
            problem.objective(codes(case.known)).mean().backward()
            optimizer.step()
    return lambda: codes(case.new)


def ista(case: Case, steps: int) -> Tensor:
    """ISTA as coefficients ``(T, 3, M)``."""
    made = torch.zeros(steps, 3, len(case.weight))
    made[:, 0] = case.step_size
    return made


def restricted(case: Case, kept: Tensor, fixed: Tensor) -> Tensor:
    """Calibrated coefficients ``(T, 3, M)``, of which only those that are ``kept`` follow the objective."""
    problem, now = Problem(case.known, case.dictionary, case.lam, nonneg=True), fixed
    best, least = now, math.inf
    for _ in range(20):
        now = torch.where(kept, calibration_update(problem, now, case.step_size, 0.5), fixed)
        total = float(problem.objective(calibrated(case.known, case.dictionary, case.lam, now, nonneg=True)).sum())
        best, least = (now, total) if total < least else (best, least)
    return best


def half(case: Case, steps: int) -> tuple[Tensor, Tensor]:
    """Coefficients of steps of which all but the first move half of the atoms only, and those atoms."""
    energy = (
        calibrated(case.known, case.dictionary, case.lam, case.coefficients(1), nonneg=True).square().sum((0, 2, 3))
    )
    some = energy.topk(len(energy) // 2).indices
    kept = torch.zeros(2 * steps - 1, 1, len(energy), dtype=torch.bool)
    kept[0], kept[:, :, some] = True, True
    still = ista(case, len(kept))
    still[:, 0] = 1e-20 * case.step_size  # not 0, which is no gain to a calibration
    return restricted(case, kept, torch.where(kept, ista(case, len(kept)), still)), some


def frozen(case: Case, coefficients: Tensor, some: Tensor) -> Run:
    """Calibrated steps that work for the atoms they move only."""
    part = replace(case, weight=case.weight[some]).dictionary if len(coefficients) > 1 else case.dictionary

    def run() -> Tensor:
        z = calibrated(case.new, case.dictionary, case.lam, coefficients[:1], nonneg=True)
        start = before = now = z[:, some]
        rest = case.problem.residual(z) if len(coefficients) > 1 else z
        for k, (gain, shift, inertia) in enumerate(coefficients[1:, :, some, None, None]):
            r = rest - part.synthesis(now - start, rest.shape[2:]) if k else rest
            v = now + inertia * (now - (before if k else 0)) + gain * (part.analysis(r) - case.lam) - shift
            before, now = now, v.relu()
        z[:, some] = now
        return z

    return run


def relaxed(case: Case, steps: int) -> list[Tensor]:
    """ISTA that goes farther than the proximal step, by factors of 1 to 1.9."""
    found = []
    for factor in (1.0, 1.3, 1.6, 1.9):
        z = case.zero
        for _ in range(steps):
            z = z.lerp((z + case.step_size * case.descent(z)).relu(), factor)
        found.append(z.relu())
    return found


def majorised(case: Case, steps: int) -> Run:
    """FISTA with a step size for each atom."""
    border = case.weight.shape[-1] - 1
    gram = F.conv2d(F.pad(case.weight, [border] * 4), case.weight)
    scale = gram.abs().sum((1, 2, 3)).rsqrt()[:, None, None]
    scaled = replace(case, weight=scale[..., None] * case.weight).dictionary
    return lambda: scale * fista(case.new, scaled, case.lam * scale, steps=steps, nonneg=True)


def analytic(weight: Tensor) -> Tensor:
    """Filters ``(M, C, *K)`` of least correlation with all shifts of all atoms, and 1 with their own atom."""
    size = weight.shape[-1]
    shifts = F.unfold(F.pad(weight, [size - 1] * 4), size)  # (M, C K K, shifts)
    gram = torch.einsum("map,mbp->ab", shifts, shifts)
    filters = torch.linalg.solve(gram, weight.flatten(1).T).T
    return (filters / (filters * weight.flatten(1)).sum(1, keepdim=True)).view_as(weight)


def anderson(case: Case, steps: int, memory: int = 3) -> Tensor:
    """ISTA with Anderson's mixture of the last codes (type II), per sample."""
    z, before, after = case.zero, [], []
    for _ in range(steps):
        before.append(z)
        after.append((z + case.step_size * case.descent(z)).relu())
        before, after = before[-memory:], after[-memory:]
        moves = (torch.stack(after, 1) - torch.stack(before, 1)).flatten(2)
        gram = moves @ moves.mT
        gram = gram + 1e-6 * gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(len(after))
        share = torch.linalg.solve(gram, torch.ones_like(gram[..., :1]))
        share = share / share.sum(1, keepdim=True)
        z = (torch.stack(after, 1) * share[..., None, None]).sum(1).relu()
    return z


def short_douglas_rachford(case: Case, steps: int, reach: int = 3, size: int = 32) -> list[Tensor]:
    """Douglas-Rachford with the inverse of DD^T + rho cropped to 7x7, for rho and relaxations on a grid."""
    spectrum, found = torch.fft.fft2(case.weight, (size, size)), []
    gram = torch.einsum("mcij,mdij->ijcd", spectrum.conj(), spectrum)
    for rho in (0.1, 0.3, 1.0, 3.0, 10.0):
        inverse = torch.linalg.inv(gram + rho * torch.eye(gram.shape[-1])).permute(2, 3, 0, 1)
        filters = torch.fft.ifft2(inverse).real.roll([reach, reach], (2, 3))[:, :, : 2 * reach + 1, : 2 * reach + 1]
        for relax in (1.0, 1.6):
            w = case.zero
            for _ in range(steps):
                clipped = w.clamp(max=case.lam / rho)
                signal = F.conv2d(case.problem.residual(w - 2 * clipped), filters, padding=reach)
                w = w + relax * (case.dictionary.analysis(signal) - clipped)
            found.append((w - case.lam / rho).relu())
    return found


def screened(case: Case, steps: int) -> float:
    """Share of the code that the sphere of the duality gap proves to be zero after so many steps of FISTA."""
    z = fista(case.new, case.dictionary, case.lam, steps=steps, nonneg=True)
    radius = (2 * case.problem.duality_gap(z).float()).sqrt().view(-1, 1, 1, 1)
    correlation = case.dictionary.analysis(case.problem.residual(z))
    scale = (case.lam / correlation.flatten(1).amax(1)).clamp(max=1).view(-1, 1, 1, 1)
    return float((scale * correlation + radius < case.lam).float().mean())


def whitened(case: Case, steps: int, share: float) -> Run:
    """Calibrated steps on residuals that are whitened with rho = share L."""
    filters = whitening(case.weight, case.dictionary.lipschitz, share)
    options: dict[str, Any] = {"nonneg": True, "metric": partial(F.conv2d, weight=filters, padding="same")}
    coefficients = calibrate(case.known, case.dictionary, case.lam, steps, **options)
    return lambda: calibrated(case.new, case.dictionary, case.lam, coefficients, **options)


def attempts(case: Case) -> dict[str, Callable[[int], Run]]:
    """Everything that was tried: a number of steps to a function that codes the new signals."""
    x, dictionary, lam = case.new, case.dictionary, case.lam

    def by_coefficients(find: Callable[[int], Tensor]) -> Callable[[int], Run]:
        return lambda t: partial(calibrated, x, dictionary, lam, find(t), nonneg=True)

    def only(*names: bool) -> Callable[[int], Run]:
        return by_coefficients(lambda t: restricted(case, torch.tensor(names)[:, None], ista(case, t)))

    weights = analytic(case.weight)
    return {
        "FISTA": lambda t: partial(fista, x, dictionary, lam, steps=t, nonneg=True),
        "FISTA with gradient restart": lambda t: partial(fista, x, dictionary, lam, steps=t, nonneg=True, restart=True),
        "FISTA, a step size for each atom (diagonal majoriser)": lambda t: majorised(case, t),
        "ISTA, over-relaxed by 1 to 1.9, in hindsight": lambda t: partial(relaxed, case, t),
        "Anderson acceleration of ISTA, three codes": lambda t: partial(anderson, case, t),
        "Douglas-Rachford, inverse of 7x7, in hindsight": lambda t: partial(short_douglas_rachford, case, t),
        "one gain and one shift for all atoms": lambda t: by_adam(case, t, (0, 1), shared=True),
        "the same with analytic weights (ALISTA)": lambda t: by_adam(case, t, (0, 1), True, weights),
        "a gain for each atom": only(True, False, False),
        "and a shift": only(True, True, False),
        'and an inertia (`"calibrated"`)': by_coefficients(case.coefficients),
        "calibrated, half of the atoms frozen": lambda t: frozen(case, *half(case, t)),
        "calibrated, and Adam": lambda t: by_adam(case, t, (0, 1, 2)),
        "calibrated, and Adam with analytic weights": lambda t: by_adam(case, t, (0, 1, 2), filters=weights),
        "calibrated, and Adam with free filters": lambda t: by_adam(case, t, (0, 1, 2, 3)),
        'whitened residuals, rho = L (`"whitened"`)': lambda t: whitened(case, t, 1.0),
        "whitened residuals, rho = 0.1 L": lambda t: whitened(case, t, 0.1),
    }


def layers(options: argparse.Namespace) -> list[tuple[str, Tensor | None, Tensor, Tensor]]:
    """Name, atoms (None: learned for each lam), known and new signals."""
    known, new = pursuits.crops(16, options.images)
    known, new = (known[::2], new[::4]) if options.quick else (known, new[::2])
    random = F.normalize(torch.randn(64, 32 * 9, generator=torch.Generator().manual_seed(2)))
    stem, middle = (F.normalize(random[:, : 9 * n]).view(64, n, 3, 3) for n in (3, 32))
    inside = pursuits.features(torch.cat([known, new])).split(len(known))
    return [
        ("stem 3->64 random", stem, known, new),
        ("middle 32->64 random", middle, *inside),
        ("stem learned", None, known, new),
        ("middle learned", None, *inside),
    ][: 1 if options.quick else None]


def measure(case: Case, steps: Sequence[int], everything: bool, rounds: int) -> dict[tuple[str, int], dict[str, float]]:
    """Excess of each pursuit and number of steps, and where everything is looked at the time of two steps."""
    found = attempts(case)
    runs = {(n, t): found[n](t) for n in (found if everything else LAYERS) for t in steps}
    runs |= {("FISTA", t): found["FISTA"](t) for t in (8, 16)}
    figures = {key: {"ours": case.excess(run())} for key, run in runs.items()}
    if everything:
        timed = [(n, 2) for n in found if "hindsight" not in n]
        measured = timing.interleaved([runs[key] for key in timed], rounds, "cpu", 0.01)
        for key, record in zip(timed, measured, strict=True):
            figures[key]["time"] = statistics.median(a / b for a, b in zip(record, measured[0], strict=True))
    return figures


def table(header: list[str], lines: list[list[str]]) -> str:
    """Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *lines])


def short(values: list[float]) -> str:
    """Figures to two digits, such as ``5.99 / .78``."""
    return " / ".join((f"{v:.2f}" if v >= 0.1 else f"{v:.3f}").removeprefix("0") for v in values)


@torch.no_grad()
def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    parser = timing.parser(__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="a folder of pictures (default: scikit-learn's two photographs)")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    steps, rounds, effort = ((1, 2), 2, (3, 1e-3)) if options.quick else ((1, 2, 4), 5, (40, 1e-5))
    rows: list[dict[str, Any]] = []
    reached, tried, proved = [], {}, []
    for name, weight, known, new in layers(options):
        for lam in (0.1,) if options.quick else (0.1, 0.5):
            if weight is None:
                with torch.enable_grad():
                    atoms = pursuits.learn(known, 64, lam)
            case = Case(name, atoms if weight is None else weight, known, new, lam, *effort)
            figures = measure(case, steps, lam == 0.1, rounds)
            line = [short([v["ours"] for (n, _), v in figures.items() if n == pursuit]) for pursuit in LAYERS]
            reached.append([f"{name}, {lam}", *line])
            print(*reached[-1], sep=" | ", flush=True)
            if lam == 0.1:
                for n in dict.fromkeys(n for n, _ in figures):
                    tried.setdefault(n, []).append([figures[n, t] for t in steps])
                after = (16,) if options.quick else (16, 128)
                proved.append(f"{name}: " + ", ".join(f"{screened(case, t):.3f} after {t} steps" for t in after))
            for (n, t), value in figures.items():
                row = {
                    "name": f"{name}, lam {lam}: {n}, T = {t}",
                    "reference": figures["FISTA", t]["ours"],
                    "unit": "1",
                }
                rows.append(row | value | {"ratio": value["ours"] / row["reference"]})
    print(f"\nWhat it reaches, T = {steps} (FISTA also 8 / 16)\n")
    print(table(["layer, lam", "FISTA", "calibrated", "whitened"], reached))
    print(f"\nWhat was tried, lam 0.1, T = {steps}\n")
    lines = []
    for n, found in tried.items():
        times = [figures[1]["time"] for figures in found if "time" in figures[1]]
        cells = [short([v["ours"] for v in figures]) for figures in found]
        lines.append([n, *cells, f"{statistics.median(times):.1f}" if times else ""])
    print(table(["", *(line[0] for line in reached if line[0].endswith("0.1")), "time"], lines))
    print("\nShare of the code that screening proves zero: " + "; ".join(proved))
    if options.json:
        timing.write(rows, options.json)
    return rows


if __name__ == "__main__":
    main()
