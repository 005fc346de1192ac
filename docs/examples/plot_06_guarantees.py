"""
When is a code provably right?
==============================

A theorem says: if no stripe of the code has too many non-zeros for the coherence of the atoms, the pursuit finds
the true ones. This program draws signals, runs three pursuits, and compares them with the theorem.
"""

import matplotlib.pyplot as plt
import torch

from csc_nets.functional import ConvGeometry, solve
from csc_nets.layers import Dictionary1d
from csc_nets.theory import low_coherence_atoms, mutual_coherence, sample_code

# %%
# Two atoms of 24 samples whose shifts are as different as gradient descent can make them.

atoms = low_coherence_atoms(2, 1, [24], steps=300)
coherence = mutual_coherence(atoms)
limits = [(1 + 0.5 / coherence) / 2, (1 + 1 / coherence) / 2]  # 0.5: the smallest over the largest non-zero
print(f"coherence {coherence:.3f}; limits: {limits[0]:.1f} (threshold), {limits[1]:.1f} (basis pursuit)")

dictionary = Dictionary1d(1, 2, 24)
dictionary.set_atoms(atoms)
geometry = ConvGeometry.create(1, 24)

# %%
# Codes with k non-zeros in each stripe, of size 1 to 2. A support is right if it is exactly the true one.

counts = [1, 2, 3, 4, 6, 8, 12, 16]
found = {"one threshold, the best one": [], "basis pursuit": []}
for k in counts:
    z = sample_code(60, 2, [160], per_stripe=k, reach=23, generator=torch.Generator().manual_seed(k))
    x = geometry.synthesis(z, atoms, (183,))
    truth = z != 0
    correlation = geometry.analysis(x, atoms).abs()
    inside = correlation.masked_fill(~truth, torch.inf).flatten(1).amin(1)
    outside = correlation.masked_fill(truth, 0).flatten(1).amax(1)
    found["one threshold, the best one"].append((inside > outside).float().mean().item())
    code = solve(x.double(), atoms.double(), 0.02, tol=1e-5, steps=3000)
    found["basis pursuit"].append(((code.abs() > 0.3) == truth).flatten(1).all(1).float().mean().item())

figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), width_ratios=[1, 1.6])
for m in range(2):
    axes[0].plot(atoms[m, 0] - 0.9 * m)
axes[0].set(title=f"the two atoms, coherence {coherence:.2f}", xlabel="sample", yticks=[])
for (name, shares), limit, colour, half in zip(found.items(), limits, ("C0", "C1"), (0, 0.5), strict=True):
    axes[1].axvspan(0.9, limit, half, half + 0.5, color=colour, alpha=0.15, lw=0)
    axes[1].plot(counts, [100 * share for share in shares], marker="o", color=colour, label=name)
axes[1].set(
    xscale="log",
    xlabel="non-zeros in a stripe",
    ylabel="signals with the right support (%)",
    title="60 signals a point",
)
axes[1].set_xticks(counts, [str(k) for k in counts])
axes[1].minorticks_off()
axes[1].legend(loc="lower right", bbox_to_anchor=(1, 0.1))
plt.show()

# %%
# **What to see.** Where its colour is shaded, a theorem says that the pursuit is right, and it is. Beyond that the
# theorems are silent. One threshold, the forward pass of a CNN, soon fails; basis pursuit, many steps, goes on much
# longer. ``csc_nets.theory.report(model, images)`` gives such numbers for any network.
