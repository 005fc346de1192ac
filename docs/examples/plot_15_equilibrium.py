"""
Solve to the end: equilibrium and implicit gradients
====================================================

A layer with ``steps=None`` runs until its code is right to a tolerance. Its gradient is that of the solution, from
one linear system, whatever the number of steps.
"""

import matplotlib.pyplot as plt
import torch

from csc_nets.functional import FISTA, Implicit, ToTolerance
from csc_nets.layers import CSC2d

# %%
# The true gradient, in float64: a layer solved to 1e-10.

torch.manual_seed(0)
x, target = torch.randn(2, 8, 12, 12, dtype=torch.float64), torch.randn(2, 16, 12, 12, dtype=torch.float64)


def gradient(**options):
    torch.manual_seed(1)
    layer = CSC2d(8, 16, 3, padding=1, lam=0.5, dtype=torch.float64, **options)
    z = layer(x)
    (z * target).sum().backward()
    return next(layer.parameters()).grad, z.detach()


truth, solution = gradient(pursuit=ToTolerance(1e-10), gradient=Implicit())

# %%
# Unrolled steps against a tolerance. Errors are relative to the gradient of the solution.

counts = [1, 2, 4, 8, 16, 32, 64, 128, 256]
unrolled = [gradient(pursuit=FISTA(k)) for k in counts]
tolerances = [1e-1, 1e-2, 1e-3, 1e-4, 1e-6, 1e-8]
implicit = [gradient(pursuit=ToTolerance(tol), gradient=Implicit()) for tol in tolerances]


def error(found, true):
    return ((found - true).norm() / true.norm()).item()


figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.5), sharey=True)
axes[0].loglog(counts, [error(z, solution) for _, z in unrolled], marker="o", label="code")
axes[0].loglog(counts, [error(g, truth) for g, _ in unrolled], marker="s", label="gradient of the atoms")
axes[0].set(xlabel="steps of FISTA, unrolled", ylabel="error, relative to the solution", title="T steps")
axes[1].loglog(tolerances, [error(z, solution) for _, z in implicit], marker="o", label="code")
axes[1].loglog(tolerances, [error(g, truth) for g, _ in implicit], marker="s", label="gradient of the atoms")
axes[1].invert_xaxis()
axes[1].set(xlabel="tolerance (duality gap over half the energy)", title="equilibrium, implicit gradient")
axes[0].legend()
plt.show()

# %%
# **What to see.** Left: the code of many unrolled steps is right long before its gradient is. Right: with the
# implicit gradient, from a tolerance of 1e-3 on the gradient is as good as the code.
