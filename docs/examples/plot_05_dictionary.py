"""
Learn a dictionary
==================

Atoms that start as noise become edges. Nothing but the objective is minimised.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_sample_image
from torch.nn.functional import avg_pool2d

from csc_nets.layers import CSC2d

# %%
# Patches of a photograph, without their slow parts.

photograph = torch.tensor(load_sample_image("china.jpg")).float().mean(-1)[None, None] / 255
smooth = avg_pool2d(photograph, 13, 1, 6, count_include_pad=False)
detail = (photograph - smooth) / (photograph - smooth).std()
patches = detail[0].unfold(1, 24, 24).unfold(2, 24, 24).flatten(1, 2).transpose(0, 1)

# %%
# 36 atoms of 8 x 8 pixels, signed codes. The code is computed without a gradient; the atoms take the step.

layer = CSC2d(1, 36, 8, padding=7, lam=1.5, steps=8, nonneg=False)
first = layer.atoms.detach().clone()
optimizer = torch.optim.Adam(layer.parameters(), lr=0.015)
curve = []
for _ in range(100):
    x = patches[torch.randint(len(patches), (12,))]
    with torch.no_grad():
        z = layer(x)
    loss = layer.objective(x, z).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    curve.append((2 * loss / x.square().flatten(1).sum(1).mean()).item())
print(f"objective {curve[0]:.2f} to {sum(curve[-10:]) / 10:.2f} of that of a code of zeros")


def grid(atoms):
    tiles = atoms[:, 0] / atoms.flatten(1).abs().amax(1).view(-1, 1, 1)
    tiles = torch.nn.functional.pad(tiles, (1, 1, 1, 1), value=1)
    return tiles.view(6, 6, 10, 10).transpose(1, 2).reshape(60, 60)


figure, axes = plt.subplots(1, 3, figsize=(10, 3.3))
for axis, atoms, title in zip(
    axes, (first, layer.atoms.detach()), ("atoms at the start", "after 100 steps"), strict=False
):
    axis.imshow(grid(atoms), vmin=-1, vmax=1)
    axis.set_title(title)
    axis.axis("off")
mean = torch.tensor(curve).unfold(0, 15, 1).mean(1)
axes[2].plot(range(14, 100), mean)
axes[2].set(xlabel="step", ylabel="objective over that of z = 0", title="mean over 15 steps")
plt.show()

# %%
# **What to see.** Atoms in the middle are edges and stripes of all directions, as in the first layer of a trained CNN
# and in the visual cortex. A command line for the same: ``python train.py experiment=sample_images_dictionary``.
