"""
What does a hidden unit mean? Dense activations
===============================================

:class:`~csc_nets.layers.SparseCoding` codes vectors. Here they are the hidden activations of a network that reads
digits. Its atoms are directions in the space of activations, and each fires for few images.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from csc_nets.layers import SparseCoding

# %%
# A plain network, trained for a second.

digits = load_digits()
images, labels = torch.tensor(digits.images).float() / 16, torch.tensor(digits.target)
network = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
for _ in range(400):
    batch = torch.randint(1400, (128,))
    loss = cross_entropy(network(images[batch]), labels[batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
with torch.no_grad():
    hidden = network[:3](images)
    accuracy = (network(images[1400:]).argmax(1) == labels[1400:]).float().mean().item()
x = (hidden - hidden.mean(0)) / hidden.std()
print(f"the network reads {accuracy:.1%} of the test images")

# %%
# 128 atoms for 64 hidden units; each activation may use eight.

layer = SparseCoding(64, 128, lam=0.8, steps=10)
layer.atoms = x[torch.randperm(1400)[:128]]
optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
for _ in range(400):
    batch = x[torch.randint(1400, (256,))]
    loss = layer.objective(batch, layer(batch).detach()).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
with torch.no_grad():
    z = layer(x)
    error = ((x - layer.synthesize(z)).square().sum() / x.square().sum()).item()
print(f"{(z != 0).float().sum(1).mean():.1f} atoms an image, {100 * error:.0f} % of the energy is missing")

# %%
# For six atoms, the test images for which they are strongest. The atoms are the busiest ones of six classes.

scores = torch.stack([z[labels == c].mean(0) for c in range(10)])
chosen = [int((scores[c] - scores.mean(0)).argmax()) for c in (0, 1, 3, 4, 6, 7)]
figure, axes = plt.subplots(6, 9, figsize=(8.5, 6), width_ratios=[1] * 8 + [2.6])
for row, atom in zip(axes, chosen, strict=True):
    for axis, index in zip(row, z[1400:, atom].topk(8).indices, strict=False):
        axis.imshow(images[1400 + index], cmap="gray_r")
        axis.set(xticks=[], yticks=[])
    rates = [(z[labels == c, atom] > 0).float().mean().item() for c in range(10)]
    row[8].bar(range(10), rates)
    row[8].set(xticks=range(10), ylim=(0, 1), yticks=[0, 1])
    row[0].set_ylabel(f"atom {atom}")
axes[0, 8].set_title("share of a digit's images\nthat use the atom")
figure.suptitle("the eight test images that use an atom most")
plt.show()

# %%
# **What to see.** Each row is one atom. Its images are alike, often in the way a digit is written, and the bars show
# that it fires for one or two digits. No label was used to find the atoms.
