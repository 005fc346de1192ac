"""
A volume: three dimensions
==========================

The same layer with three spatial axes, on a magnetic resonance image of a head.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import nibabel
import torch

from csc_nets.layers import CSC3d

# %%
# The volume that nibabel brings for its tests: 33 x 41 x 25 voxels.

file = Path(nibabel.__file__).parent / "tests" / "data" / "anatomical.nii"
volume = torch.tensor(nibabel.load(file).get_fdata()).float()
x = ((volume - volume.mean()) / volume.std())[None, None]

# %%
# 48 atoms of 5 x 5 x 5 voxels at stride 2. They start as patches of the volume, and twenty-five steps of Adam improve
# them.

torch.manual_seed(0)
layer = CSC3d(1, 48, 5, stride=2, padding=2, lam=1.2, steps=8)
patches = x[0, 0].unfold(0, 5, 2).unfold(1, 5, 2).unfold(2, 5, 2).reshape(-1, 1, 5, 5, 5)
patches = patches[patches.flatten(1).std(1) > 0.5]
layer.atoms = patches[torch.randperm(len(patches))[:48]]
optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
for _ in range(25):
    loss = layer.objective(x, layer(x).detach()).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

with torch.no_grad():
    layer.steps = 40
    z = layer(x)
    back = layer.synthesize(z, x.shape[2:])
share = (z != 0).sum().item() / x.numel()
error = ((x - back).square().sum() / x.square().sum()).item()
print(f"{share:.2f} numbers a voxel, {100 * error:.1f} % of the energy is missing")

figure, axes = plt.subplots(3, 5, figsize=(9, 6.2))
for row, (name, picture) in zip(axes, {"volume": x, "D z": back, "missing": x - back}.items(), strict=True):
    for axis, level in zip(row, (4, 8, 12, 16, 20), strict=True):
        axis.imshow(picture[0, 0, :, :, level].T.flip(0), vmin=-1.5, vmax=3)
        axis.set(xticks=[], yticks=[])
        axis.set_title(f"slice {level}" if name == "volume" else "")
    row[0].set_ylabel(name)
figure.suptitle(f"{share:.2f} numbers a voxel keep {100 * (1 - error):.0f} % of the energy")
plt.show()

# %%
# **What to see.** The second row keeps the dark ventricles and the borders of the grey matter, and is smoother. The
# last row, in the same grey scale, is what the code leaves out: mostly noise, and some sharp edges.
