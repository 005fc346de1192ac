r"""Douglas-Rachford splitting: solves convolutional sparse coding with two FFT passes a step.

Derivation. The problem is the sum of two convex functions whose proximal maps are known,

.. math:: f(z) = \tfrac12 \|x - D z\|^2, \qquad g(z) = \lambda \|z\|_1 + \tfrac{\mu}{2} \|z\|^2
          \quad (\text{and } z \ge 0 \text{ if asked for}).

With a weight :math:`\rho > 0` per atom (a metric) and relaxation :math:`0 < \alpha < 2`, Douglas-Rachford iterates a
point w (Lions and Mercier, "Splitting Algorithms for the Sum of Two Nonlinear Operators", 1979; relaxed: Eckstein and
Bertsekas 1992):

.. math:: z = \mathrm{prox}_{g/\rho}(w), \; y = \mathrm{prox}_{f/\rho}(2 z - w), \; w \leftarrow w + \alpha (y - z)

- z is the soft threshold of w at :math:`\lambda / \rho`, divided by :math:`1 + \mu / \rho`.
- Woodbury, at :math:`v = 2 z - w`: :math:`y = (D^T D + \rho)^{-1} (D^T x + \rho v) = v + \rho^{-1} D^T q` with
  :math:`q = (D \rho^{-1} D^T + 1)^{-1} (x - D v) = x - D y`. The inverse acts on signals; in the Fourier domain it is a
  division (for C channels a C x C inverse) per frequency.
- Fixed points have y = z: then :math:`D^T (x - D z) = \rho (w - z)`, which by the prox is a subgradient of g at z.
  These are the optimality conditions.

The state here is :math:`u = \rho w`, in units of correlations, with the subgradient :math:`p = u - \rho z`, which is
:math:`\mathrm{clip}(u, \pm \lambda)` without ridge (with :math:`z \ge 0` the clip has no lower end):

.. math:: q = (D \rho^{-1} D^T + 1)^{-1} (x - D \rho^{-1} (u - 2 p)), \qquad
          u \leftarrow u + \alpha \, (D^T q - p), \qquad z = \rho^{-1} (u - p),

so that rho may change while p and z stay. Two more results cost nothing:

- :math:`q` is a residual, and the step computes its correlations with the atoms. Scaled until it is feasible, q is a
  dual point. Where single atoms are off by :math:`\varepsilon`, scaling all of q costs :math:`\varepsilon \lambda
  \|z\|_1`. So q is divided by a window first, which is above 1 around these atoms only, and its correlations are
  computed anew. Where that nearly certifies, a few steps of steepest descent on half the squared excess
  :math:`\|D^T q - \mathrm{clip}(D^T q, \pm \lambda)\|^2 / 2` come first. On photographs the window makes the gap 2 to
  12 times smaller, and these steps another 2 to 3 times.
- :math:`D \rho^{-1} u` and :math:`D \rho^{-1} p` follow from the difference :math:`D \rho^{-1} (u - 2 p)` by the same
  recursion in signal space, hence :math:`D z`. So the duality gap needs no transform (an error in
  :math:`D \rho^{-1} u` shrinks by :math:`|1 - \alpha / 2|` a step).

At positions where no atom may lie (the end of the circle, see :mod:`csc_nets.functional.operators.fourier`), lam is
infinite: p = u. If a part of the signal is not observed (a mask, or padding), :math:`m D` takes the place of D, and q
solves :math:`(m D \rho^{-1} D^T m + 1) q = m(\ldots)` by conjugate gradients in signal space. They start from the last
q and are preconditioned by the Fourier inverse without m.
"""

import math
from typing import Any

import torch
from torch import Tensor

from csc_nets.functional.operators import Operator, as_operator
from csc_nets.functional.operators.fourier import FourierDictionary
from csc_nets.functional.operators.protocol import read
from csc_nets.functional.problem import Problem, dual_value

__all__ = ["douglas_rachford", "split"]

# rho is revised at these steps and never later. From then on it is plain Douglas-Rachford, which converges. (With
# conjugate gradients the inverse is inexact. This was measured to be enough, and the certificate holds in any case.)
_REVISIONS = (3, 6, 12, 24, 48, 96, 192)
_CHECK_EVERY = 5
# The window makes the gap at most about so much smaller and costs an analysis; steps of descent cost six steps.
_WINDOW_GAIN, _DESCENT_GAIN = 30, 4
_DESCENT_STEPS = 4
# The weights of two atoms differ by at most the square of this, before the power 2/3.
_SPREAD = 8.0


def douglas_rachford(
    x: Tensor,
    dictionary: Operator | Tensor,
    lam: float | Tensor,
    *,
    steps: int = 500,
    rho: float | None = None,
    relax: float | None = None,
    nonneg: bool = False,
    ridge: float = 0.0,
    init: Tensor | None = None,
    mask: Tensor | None = None,
    tol: float | None = None,
    trace: list[Tensor] | None = None,
) -> Tensor:
    """Codes by Douglas-Rachford splitting in the Fourier domain, without gradient; see the top of this file.

    Memory per signal: twice its code. The work space fits a processor's cache (on an accelerator it is 2 GB in all).

    Args:
        x: signals ``(N, C, *S)``, float32 or float64.
        dictionary: weights ``(M, C, *K)`` or a convolutional dictionary layer with zero padding, or with circular
            padding on signals whose size is a multiple of the stride. Many channels and strides are expensive: the work
            per frequency is the square of channels times strides, and the work at the start its cube.
        lam: sparsity weight, as for :func:`~csc_nets.functional.fista`.
        steps: largest number of steps.
        rho: weight of the splitting, > 0; None chooses it per sample, with one channel also per pair of atoms, and
            revises it a few times.
        relax: relaxation alpha, between 0 and 2; None is 1.95, and 1.7 with a ridge. (Off the support, the part that D
            maps to zero shrinks by 1 - alpha a step. Without a ridge this part does not matter.)
        nonneg, ridge, init, mask: as for :func:`~csc_nets.functional.fista`.
        tol: stop when every sample has a duality gap of at most this times half its squared norm.
        trace: a list that receives the objective ``(N,)`` of every step.

    Returns:
        Codes ``(N, M, *S')``.

    Raises:
        ValueError: a dictionary that no Fourier transform makes diagonal, or a bad argument.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be an int >= 1, got {steps!r}")
    if rho is not None and not 0 < rho < math.inf:
        raise ValueError(f"rho must be a finite number > 0, got {rho!r}")
    if relax is not None and not 0 < relax < 2:
        raise ValueError(f"relax must lie between 0 and 2, got {relax!r}")
    if tol is not None and not tol > 0:
        raise ValueError(f"tol must be greater than 0, got {tol!r}")
    problem = Problem(x, read(as_operator(dictionary)), lam, ridge, nonneg, mask)
    return split(problem, steps, rho, relax, init, tol, trace)[0]


@torch.no_grad()
def split(
    problem: Problem,
    steps: int,
    rho: float | None = None,
    relax: float | None = None,
    init: Tensor | None = None,
    tol: float | None = None,
    trace: list[Tensor] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """:func:`douglas_rachford`, and the certified gap over half the squared norm, ``(N,)``, if ``tol`` was given."""
    if not len(problem.x):
        return problem.operator.analysis(problem.x), problem.x.new_zeros(0)
    run, gap = Splitting(problem, rho, relax, init), None
    rounding = 4 * torch.finfo(problem.x.dtype).eps
    due = _CHECK_EVERY
    for k in range(1, steps + 1):
        check = tol is not None and (k >= due or k == steps)
        revise = rho is None and k in _REVISIONS
        run.step(look=check or revise or trace is not None, last=k == steps)
        if trace is not None:
            trace.append(run.objective().to(problem.x.dtype))
        if tol is not None and check:
            gap = run.certify(tol - rounding) + rounding
            due = k + max(_CHECK_EVERY, k // 10)
            if bool(((gap <= tol) | gap.isnan()).all()):
                break
        if revise:
            run.revise_rho()
    return run.code(), gap


class Splitting:
    """The state of a run, names as at the top of this file. Spectra of signals are ``(N, channels, *grid)``."""

    def __init__(self, problem: Problem, rho: float | None, relax: float | None, init: Tensor | None) -> None:
        x = problem.masked(problem.x)
        self.waves = waves = FourierDictionary.create(problem.operator, x.shape[2:])
        weight: Tensor = problem.operator.weight
        if x.shape[1] != weight.shape[1] or x.dtype != weight.dtype:
            raise ValueError(
                f"douglas_rachford: expected signals (N, {weight.shape[1]}, ...) of {weight.dtype}, as the dictionary, "
                f"got {tuple(x.shape)} of {x.dtype}"
            )
        self.relax = relax or (1.7 if problem.quadratic else 1.95)
        self.ridge, self.nonneg = problem.quadratic, problem.nonneg
        self.lam = waves.weight_of_pairs(problem.lam)
        self.x = waves.fft(waves.embed(x))
        self.energy = _square(x) / 2
        # Where the circle was observed: None for everywhere.
        self.observed: Tensor | None = None
        if problem.mask is not None or waves.is_cropped:
            self.observed = waves.embed(problem.masked(torch.ones_like(x)))
        self.blocks = waves.blocks(len(x))

        self.first_rho = self._first_rho(problem.lam) if rho is None else torch.full_like(self.energy, rho)[:, None]
        self._set_rho(self.first_rho)
        self.u = self.x.new_zeros(len(x), len(waves.spectra), *waves.grid)
        self.residual = torch.zeros_like(self.x.real)  # q as a signal
        self.du = torch.zeros_like(self.x)  # D u / rho
        self.s = torch.zeros_like(self.x)  # D (u - 2 p) / rho
        if init is not None:
            init = init.expand(len(x), *init.shape[1:])
            init = init.clamp_min(0) if problem.nonneg else init
            # A signal of zeros has no scale for a tolerance: its code is set to 0.
            init = init.where((self.energy > 0).view(-1, *(1,) * (x.ndim - 1)), 0)
            self._warm_start(init, waves.embed(problem.residual(init)))
        self.q = self._invert()

    def _warm_start(self, init: Tensor, residual: Tensor) -> None:
        """u and p that have ``init`` as their code, and stay there if it is a solution."""
        self.u, self.residual, spectrum = self.waves.pack(init), residual, self.waves.fft(residual)
        dz = self.waves.synthesize(self.u)
        for block in self.blocks:
            z = torch.view_as_real(self.u[:, block])
            p = self._clip(torch.view_as_real(self.waves.analyze_block(spectrum, block)), block, at_zero=True)
            p = torch.where(z == 0, p, self._lam(block) * z.sign() + self.ridge * z)
            z.mul_(self._per_pair(self.rho, block)).add_(p)
        self._follow(dz)

    def _follow(self, dz: Tensor) -> None:
        """Sets D u / rho and D (u - 2 p) / rho from D z, by a synthesis."""
        dp = torch.zeros_like(self.s)
        for block in self.blocks:
            p = self._clip(torch.view_as_real(self.u[:, block]), block).mul_(self._per_pair(self.inverse, block))
            dp += self.waves.synthesize_block(torch.view_as_complex(p), block)
        dp = self.waves.real_part(dp)
        self.du, self.s = dz + dp, dz - dp

    def _first_rho(self, lam: float | Tensor) -> Tensor:
        """rho ``(N, 1)`` as if p were 0.3 lam in the quadratic mean, and the code as large as the signal."""
        square = torch.as_tensor(lam, dtype=torch.float64, device=self.energy.device).square()
        level = (square.flatten(1).mean(1) if square.ndim == self.x.ndim else square.mean()).sqrt()
        clipped = 0.3 * level * (self.waves.count * math.prod(self.waves.code_size)) ** 0.5
        size = (2 * self.energy).sqrt()
        return self._balanced_rho(clipped / size, self.waves.gram.mean().to(size).expand_as(size))[:, None]

    def _balanced_rho(self, ratio: Tensor, old: Tensor) -> Tensor:
        r"""The weight that suits :math:`\|p\| / \|z\|`.

        :math:`(\rho \|z^* - z_0\|^2 + \|p^* - p_0\|^2 / \rho) / 2k`, a sum over the atoms, bounds the error after k
        steps; from zero it is least at :math:`\rho = \|p^*\| / \|z^*\|`, atom by atom. Measured on photographs, random
        and patch dictionaries and lam from .02 to .5, the best rho grows more slowly, as the 2/3 power of that.
        """
        energy = self.waves.gram.mean().to(ratio).clamp_min(torch.finfo(self.waves.gram.dtype).tiny)
        rho = 0.2 * ratio ** (2 / 3) * energy ** (1 / 3)
        # With a strong ridge the code is small for every rho; from rho = ridge on, a few steps are enough.
        return torch.where((ratio > 0) & ratio.isfinite(), rho, old).clamp_min(self.ridge)

    def _set_rho(self, rho: Tensor) -> None:
        """Takes rho ``(N, 1)``, or ``(N, pairs)`` with one channel, and what follows from it."""
        rho = rho.to(self.x.real)
        self.gram = self.waves.weighted_gram(1 / rho)
        self.solver = 1 / (1 + self.gram)
        self.rho = rho.view(*rho.shape, *(1,) * (self.x.ndim - 1))  # against the real view of u
        self.inverse = 1 / self.rho

    def revise_rho(self) -> None:
        """Sets rho by what the code is now, which it keeps: per pair of atoms where there is one channel."""
        clipped, shrunk = self.clipped.sum(1, True), self.shrunk.sum(1, True)
        ratio = (clipped / shrunk).sqrt()
        if self.waves.basis is None:
            own = (self.clipped / self.shrunk).sqrt()
            ratio = torch.where(own.isnan(), ratio, own.clamp(ratio / _SPREAD, ratio * _SPREAD))
        # A code of zeros gives no ratio. The first rho is taken again, so that one from a bad start does not stay.
        new, dz = self._balanced_rho(ratio, self.first_rho), (self.du + self.s) / 2
        change = (new / self.rho.flatten(1)).to(self.rho)
        change = change.view(*change.shape, *self.rho.shape[2:])
        for block in self.blocks:
            u = torch.view_as_real(self.u[:, block])
            u.lerp_(self._clip(u, block), 1 - self._per_pair(change, block))
        self._set_rho(new)
        self._follow(dz)
        self.q = self._invert()

    def step(self, look: bool, last: bool) -> None:
        """One step; with ``look`` it also sums up what :meth:`duality_gap` and :meth:`revise_rho` need."""
        waves, relax, forward = self.waves, self.relax, look or not last
        total = torch.zeros_like(self.s)
        if look:
            self.l1, self.smooth = torch.zeros_like(self.energy).repeat(2, 1)
            self.shrunk, self.clipped = self.energy.new_zeros(2, len(self.energy), len(waves.spectra))
            self.level = self.rho.new_zeros(len(self.u), *waves.grid)
        for block in self.blocks:
            u, inverse = torch.view_as_real(self.u[:, block]), self._per_pair(self.inverse, block)
            p = self._clip(u, block)
            y = torch.view_as_real(waves.analyze_block(self.q, block))
            if look:
                correlation = y
                if self.ridge:
                    z = (u - p) * inverse
                    self.smooth += _square(z)
                    correlation = y - self.ridge * z
                self._raise_level(self.level, correlation, block)
            u.add_(y.sub_(p), alpha=relax)
            if forward:
                p = self._clip(u, block)
                if look:
                    z = (u - p) * inverse
                    self.l1 += _sum(z.abs() * self._lam(block))
                    self.shrunk[:, block] = _square(z.flatten(0, 1)).view(len(z), -1)
                    self.clipped[:, block] = _square(waves.inside(p).flatten(0, 1)).view(len(z), -1)
                v = torch.add(u, p, alpha=-2, out=p).mul_(inverse)
                total += waves.synthesize_block(torch.view_as_complex(v), block)
        if forward:
            # D p / rho was (D u / rho - s) / 2.
            self.du.mul_(1 - relax / 2).add_(self.s, alpha=relax / 2)
            self.du.add_(waves.filter(self.q, self.gram), alpha=relax)
            self.s = waves.real_part(total)
            self.dual = self.q
            self.q = self._invert()

    def code(self) -> Tensor:
        """The code z ``(N, M, *S')``."""
        count = self.waves.count
        z = self.rho.new_empty(len(self.u), count, *self.waves.code_size)
        for block in self.blocks:
            u = torch.view_as_real(self.u[:, block])
            part = self.waves.unpack((u - self._clip(u, block)) * self._per_pair(self.inverse, block))
            atoms = slice(2 * block.start, min(2 * block.stop, count))
            z[:, atoms] = part[:, : len(range(count)[atoms])]
        return z

    def objective(self) -> Tensor:
        """F(z) per sample ``(N,)``, float64."""
        r = self.x - (self.du + self.s) / 2  # D z = (D u - D p) / rho
        if self.observed is not None:
            r = self.waves.fft(self.observed * self.waves.ifft(r).real)
        value: Tensor = self._energy(r) / 2 + self.l1 + self.ridge / 2 * self.shrunk.sum(1)
        return value

    def certify(self, tol: float) -> Tensor:
        """Duality gap over half the squared norm, ``(N,)``, float64, with the best dual point that is worth its cost.

        Args:
            tol: what is to be certified.
        """
        gap = self._gap(self.dual, self.level)
        if self.ridge or not tol < float(gap.max()) <= _WINDOW_GAIN * tol:
            return gap
        gap = torch.minimum(gap, self._gap(*self._windowed(self.dual, self.level)))
        if tol < float(gap.max()) <= _DESCENT_GAIN * tol:
            dual = self._descended(self.dual)
            gap = torch.minimum(gap, self._gap(*self._windowed(dual, self._level(dual))))
        return gap

    def _gap(self, dual: Tensor, level: Tensor) -> Tensor:
        """Of a dual point that is scaled by its largest level, over half the squared norm."""
        inner = _sum((self.x.conj() * dual).real) / math.prod(self.waves.grid)
        norm = self._energy(dual) + self.ridge * self.smooth
        excess = level.flatten(1).amax(1).double()
        gap = self.objective() - dual_value(inner, norm, excess, self.nonneg)
        return torch.where(self.energy > 0, gap / self.energy, 0)

    def _level(self, dual: Tensor) -> Tensor:
        """The largest correlation over its weight at each position, ``(N, *grid)``."""
        level = torch.zeros_like(self.level)
        for block in self.blocks:
            self._raise_level(level, torch.view_as_real(self.waves.analyze_block(dual, block)), block)
        return level

    def _windowed(self, dual: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """A dual point over the window of its level, and the level that it has then."""
        dual = self.waves.fft(self.waves.ifft(dual).real / self._window(level))
        return dual, self._level(dual)

    def _descended(self, dual: Tensor) -> Tensor:
        """A dual point after steps of steepest descent on half the squared excess of its correlations."""
        for _ in range(_DESCENT_STEPS):
            direction, excessive = torch.zeros_like(dual), []
            for block in self.blocks:
                y = torch.view_as_real(self.waves.analyze_block(dual, block))
                y = y - self._clip(y, block)
                excessive.append(y != 0)
                direction += self.waves.synthesize_block(torch.view_as_complex(y), block)
            direction = self.waves.real_part(direction)
            if self.observed is not None:
                direction = self.waves.fft(self.observed * self.waves.ifft(direction).real)
            curvature = torch.zeros_like(self.energy)
            for block, where in zip(self.blocks, excessive, strict=True):
                y = torch.view_as_real(self.waves.analyze_block(direction, block))
                curvature += _square(y * where)
            length = torch.where(curvature > 0, self._energy(direction) / curvature, 0).to(self.rho)
            dual = dual - length.view(-1, *(1,) * (dual.ndim - 1)) * direction
        return dual

    def _window(self, level: Tensor) -> Tensor:
        """At least the level of every atom that reaches a position, and smooth: ``(N, 1, *grid)``."""
        window, shape = level.clamp_min(1), self.waves.geometry
        sizes = zip(shape.kernel_size, shape.dilation, shape.stride, strict=True)
        spans = [(k - 1) * d // s + 1 for k, d, s in sizes]
        for axis, span in enumerate(spans, start=1):
            half = span // 2
            reach = min(span + half, window.shape[axis] // 2)
            width = 1
            while width < 2 * reach + 1:  # the largest of ``width`` neighbours
                more = min(width, 2 * reach + 1 - width)
                window = torch.maximum(window, window.roll(more, axis))
                width += more
            window = window.roll(-reach, axis)
            window = torch.stack([window.roll(i, axis) for i in range(-half, half + 1)]).mean(0)
        return window[:, None]

    def _energy(self, s: Tensor) -> Tensor:
        return _square(torch.view_as_real(s)) / math.prod(self.waves.grid)

    def _lam(self, block: slice) -> Any:
        lam = self.lam
        return lam[:, block] if isinstance(lam, Tensor) and lam.shape[1] > 1 else lam

    @staticmethod
    def _per_pair(value: Tensor, block: slice) -> Tensor:
        return value[:, block] if value.shape[1] > 1 else value

    def _clip(self, u: Tensor, block: slice, at_zero: bool = False) -> Tensor:
        """p, a subgradient of the penalty at z, or the nearest one at 0."""
        lam = self._lam(block)
        p = u.clamp(max=lam) if self.nonneg else u.clamp(-lam, lam)
        if self.ridge and not at_zero:
            p.lerp_(u, self.ridge / (self._per_pair(self.rho, block) + self.ridge))
        for axis, (n, g) in enumerate(zip(self.waves.code_size, self.waves.grid, strict=True), start=2):
            if n < g:
                p.narrow(axis, n, g - n).copy_(u.narrow(axis, n, g - n))
        return p

    def _raise_level(self, level: Tensor, y: Tensor, block: slice) -> None:
        """Raises the largest correlation over its weight at each position, ``(N, *grid)``, by a block of atoms."""
        lam = self._lam(block)
        if isinstance(lam, Tensor):
            y = torch.where(y == 0, 0, y / lam)
        y = self.waves.inside(y)
        top = y.amax((1, -1)) if self.nonneg else y.abs().amax((1, -1))
        if not isinstance(lam, Tensor):
            top = torch.where(top > 0, top / lam, 0)
        for axis, n in enumerate(self.waves.code_size, start=1):
            level = level.narrow(axis, 0, n)
        torch.maximum(level, top, out=level)

    def _invert(self) -> Tensor:
        r""":math:`q = (D \rho^{-1} D^T + 1)^{-1} (x - s)`, spectrum."""
        b = self.x - self.s
        if self.observed is None:
            return self.waves.filter(b, self.solver)
        waves, m, tiny = self.waves, self.observed, torch.finfo(b.real.dtype).tiny

        def restrict(spectrum: Tensor) -> Tensor:
            return m * waves.ifft(spectrum).real

        r, one = restrict(b), (len(b), *(1,) * (b.ndim - 1))
        q = self.residual
        r -= restrict(waves.filter(waves.fft(q), self.gram)) + q
        limit = 0.01 * _square(r)  # errors shrink with the steps that they are made in
        direction, inner = torch.zeros_like(r), r.new_ones(one)
        left = torch.ones_like(inner)  # samples that are not solved
        for _ in range(20):
            v, last = restrict(waves.filter(waves.fft(r), self.solver)), inner
            inner = _sum(r * v).to(r).view(one)
            direction = v + inner / last.clamp_min(tiny) * direction
            image = restrict(waves.filter(waves.fft(direction), self.gram)) + direction
            length = left * inner / _sum(direction * image).to(r).view(one).clamp_min(tiny)
            q = q + length * direction
            r = r - length * image
            left = (_square(r) > limit).to(r).view(one)
            if not left.any():
                break
        self.residual = q
        return waves.fft(q)


def _sum(t: Tensor) -> Tensor:
    """Sum per sample ``(N,)``, float64."""
    return t.flatten(1).sum(1, dtype=torch.float64)


def _square(t: Tensor) -> Tensor:
    """Squared norm per sample ``(N,)``, float64."""
    norm: Tensor = torch.linalg.vector_norm(t.flatten(1), dim=1)
    return norm.double().square()
