"""
Where does a network lose its input?
====================================

:func:`~csc_nets.theory.energy_profile` follows the energy of an image through a network, operation by operation,
and names the cause of each loss.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn

from csc_nets import create_model
from csc_nets.theory import energy_profile

# %%
# A CNN and a network of sparse coding with random weights, and scattering, whose filters are wavelets.

digits = torch.tensor(load_digits().images[:128]).float()[:, None]
x = (digits - digits.mean()) / digits.std()


def convolution(inputs, outputs, stride):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU())


cnn = nn.Sequential(
    convolution(1, 32, 1),
    convolution(32, 64, 2),
    convolution(64, 64, 2),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(64, 10),
)
networks = {
    "plain CNN": cnn,
    "sparse coding, csc_small": create_model("csc_small", in_chans=1, steps=8),
    "scattering": create_model("scattering", in_chans=1, input_size=8, bank="wavelet"),
}
figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), sharey=True)
for axis, (name, network) in zip(axes, networks.items(), strict=True):
    with torch.no_grad():
        for _ in range(20):
            network.train()(x)  # batch norms see the images; weights stay random
    profile = energy_profile(network.eval(), x)
    rows = [row for row in profile.rows if row.on_path and row.cause != "scale"]
    axis.semilogy(range(len(rows) + 1), [1.0, *(max(row.share, 1e-9) for row in rows)], color="0.7", lw=1, zorder=1)
    for colour, cause in enumerate(dict.fromkeys(row.cause for row in rows)):
        points = [(i, row.share) for i, row in enumerate(rows, 1) if row.cause == cause]
        axis.scatter(*zip(*points, strict=True), color=f"C{colour}", s=26, label=cause, zorder=2)
    axis.set(title=name, xlabel="operation")
    axis.locator_params(axis="x", integer=True)
    axis.legend(fontsize=8)
    print(name, {cause: f"{share:.2g}" for cause, share in profile.causes.items()})
axes[0].set_ylabel("share of the energy that is left")
plt.show()

# %%
# **What to see.** Each step down is one operation, and its colour says why. Random filters and strides of the CNN
# lose the most. The first sparse code loses nothing: its atoms explain the image. Those behind it lose more, because
# random atoms do not fit codes. Scattering loses nothing before its classifier.
