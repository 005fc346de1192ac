"""
A layer by hand
===============

A coding layer is ten lines of PyTorch. This program writes them, compares them with
:class:`~csc_nets.layers.CSC2d`, and shows what more steps buy.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_sample_image
from torch.nn.functional import conv2d, conv_transpose2d

from csc_nets.functional import dct_atoms, solve
from csc_nets.layers import CSC2d

# %%
# One crop of a photograph, grey, mean zero. The 64 atoms are cosines of 8 x 8 pixels.

image = torch.tensor(load_sample_image("china.jpg")[60:156, 250:346]).float().mean(-1)[None, None] / 255
x = image - image.mean()
layer = CSC2d(1, 64, 8, stride=4, lam=0.05, pursuit="ista", nonneg=False)
layer.atoms = dct_atoms(torch.eye(1), 8).float()

# %%
# The ten lines. A step goes downhill on the error. Then each entry moves towards zero by ``step_size * lam`` and
# stops there.


def ista(x, atoms, lam, step_size, steps):
    z = torch.zeros_like(conv2d(x, atoms, stride=4))
    for _ in range(steps):
        residual = x - conv_transpose2d(z, atoms, stride=4)
        v = z + step_size * conv2d(residual, atoms, stride=4)
        z = v.sign() * (v.abs() - step_size * lam).relu()
    return z


with torch.no_grad():
    layer.steps = 50
    step_size = 0.9 / layer.dictionary.lipschitz
    difference = (layer(x) - ista(x, layer.atoms, 0.05, step_size, 50)).abs().max().item()
print(f"largest difference after 50 steps: {difference:.1e}")

# %%
# Two pursuits on the same problem. :func:`~csc_nets.solve` gives the least objective, with a certificate.

with torch.no_grad():
    best = layer.objective(x, solve(x, layer.dictionary, 0.05, tol=1e-5)).item()
    counts, excess = [1, 2, 4, 8, 16, 32, 64], {}
    for name in ("ista", "fista"):
        layer.pursuit, points = name, []
        for layer.steps in counts:
            points.append((layer.steps, layer.objective(x, layer(x)).item() / best - 1))
        excess[name.upper()] = points
    z = layer(x)
    back = layer.synthesize(z, x.shape[2:]) + image.mean()

figure, axes = plt.subplots(1, 3, figsize=(10, 3.3), width_ratios=[1, 1, 1.5])
for axis, picture, title in zip(
    axes, (image, back), ("image", f"D z: {(z != 0).float().mean():.0%} of the code is not 0"), strict=False
):
    axis.imshow(picture[0, 0], vmin=0, vmax=1)
    axis.set_title(title)
    axis.axis("off")
for name, points in excess.items():
    axes[2].loglog(*zip(*points, strict=True), marker="o", label=name)
axes[2].set(xlabel="steps", ylabel="objective over the least one, minus 1", title="the price of few steps")
axes[2].legend()
plt.show()

# %%
# **What to see.** The middle picture is the code put back into an image: few numbers, and all edges. Right: both
# pursuits begin alike, and momentum pays from some four steps on. :doc:`/pursuits` shows what gets there in one or
# two.
