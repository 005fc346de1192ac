"""
Read a CNN of your own as sparse coding
=======================================

:func:`csc_nets.convert` turns the convolutions of a trained network into coding layers. The outputs stay the same.
Then the layers can take more steps and sparser codes.
"""

import copy

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

import csc_nets

# %%
# A CNN with batch norm, trained on digits for a few seconds.

digits = load_digits()
x, y = torch.tensor(digits.images).float()[:, None] / 16, torch.tensor(digits.target)
x = (x - x.mean()) / x.std()
cnn = nn.Sequential(
    nn.Conv2d(1, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(),
    nn.Conv2d(24, 48, 3, stride=2, padding=1), nn.BatchNorm2d(48), nn.ReLU(),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10),
)  # fmt: skip
optimizer = torch.optim.Adam(cnn.parameters(), lr=5e-3)
for _ in range(200):
    batch = torch.randint(1200, (64,))
    loss = cross_entropy(cnn(x[batch]), y[batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
cnn.eval()

# %%
# The conversion. ``summary`` says what became what.

coded, summary = csc_nets.convert(cnn, where="*")
with torch.no_grad():
    difference = (coded(x) - cnn(x)).abs().max().item()
print(summary)
print(f"largest difference of the outputs: {difference:.1e}")

# %%
# Now a sparser code in the first layer, by one step or by eight. How much of an image does the code explain? And what
# does the rest of the network make of it, before and after fifty more steps of training?


def accuracy(network):
    with torch.no_grad():
        return 100 * (network.eval()(x[1200:]).argmax(1) == y[1200:]).float().mean().item()


def point(density, steps):
    network = copy.deepcopy(coded)
    network[0].steps = steps
    csc_nets.calibrate_density(network, [x[:200]], density=density)
    with torch.no_grad():
        (step,) = network[0].coded(x[1200:], network[0](x[1200:]))
        back = network[0].dictionary.synthesis(step.code, x.shape[2:])
    energies = x[1200:].square().sum((1, 2, 3)) * back.square().sum((1, 2, 3))
    explained = 100 * ((x[1200:] * back).sum((1, 2, 3)) ** 2 / energies).mean().item()
    before = accuracy(network)
    optimizer = torch.optim.Adam(network.train().parameters(), lr=2e-3)
    for _ in range(50):
        batch = torch.randint(1200, (64,))
        loss = cross_entropy(network(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return explained, before, accuracy(network)


densities = [0.1, 0.2, 0.3]
figure, axes = plt.subplots(1, 2, figsize=(11, 3.5))
percent = [100 * density for density in densities]
for colour, steps in zip(("C0", "C1"), (1, 8), strict=True):
    explained, before, after = zip(*(point(density, steps) for density in densities), strict=True)
    name = f"{steps} step{'s' * (steps > 1)}"
    axes[0].plot(percent, explained, marker="o", color=colour, label=name)
    axes[1].plot(percent, before, marker="o", ls=":", color=colour, label=f"{name}, as converted")
    axes[1].plot(percent, after, marker="o", color=colour, label=f"{name}, trained on")
axes[1].axhline(accuracy(cnn), color="0.6", lw=1, label="the CNN")
axes[0].set(
    xlabel="non-zeros of each code (%)", ylabel="energy of the image explained (%)", title="what the first code says"
)
axes[1].set(xlabel="non-zeros of each code (%)", ylabel="test accuracy (%)", title="what the network makes of it")
axes[0].legend()
axes[1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
plt.show()

# %%
# **What to see.** Left: at the same density, more steps say more of the image. Right, dotted: the other layers expect
# the old codes, so sparser ones break the network. Fifty steps of training mend it where a fifth of the entries or
# more is kept. With a tenth, codes of more steps need a longer training.
