"""
Missing pixels at test time
===========================

A coding layer explains the pixels that are there, and needs no value for the others. A convolution has to be given
one.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from csc_nets.layers import CSC2d

# %%
# Two networks with the same head: one coding layer, or one convolution with a ReLU. Both are trained on whole images.

digits = load_digits()
x, y = torch.tensor(digits.images).float()[:, None] / 16, torch.tensor(digits.target)
x = (x - x.mean()) / x.std()


def head():
    return nn.Sequential(nn.BatchNorm2d(32), nn.Flatten(), nn.Linear(32 * 64, 10))


layer, convolution = (
    CSC2d(1, 32, 5, padding=2, lam=0.1, steps=12),
    nn.Sequential(nn.Conv2d(1, 32, 5, padding=2), nn.ReLU()),
)
networks = {"sparse coding": (layer, head()), "convolution": (convolution, head())}
for features, classify in networks.values():
    optimizer = torch.optim.Adam([*features.parameters(), *classify.parameters()], lr=2e-3)
    for _ in range(150):
        batch = torch.randint(1200, (64,))
        loss = cross_entropy(classify(features(x[batch])), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    classify.eval()

# %%
# Accuracy on 597 test images, of which some pixels are lost. The mask goes to the coding layer; a lost pixel is the
# mean for the convolution.

test, truth, shares = x[1200:], y[1200:], [0, 0.2, 0.4, 0.6, 0.8]
masks = [torch.rand(test.shape) >= share for share in shares]
curves = {
    name: []
    for name in (
        "sparse coding, mask=observed",
        "sparse coding, lost pixels are the mean",
        "convolution, lost pixels are the mean",
    )
}
with torch.no_grad():
    for mask in masks:
        codes = [layer(test, mask=mask), layer(test * mask), convolution(test * mask)]
        heads = [networks["sparse coding"][1]] * 2 + [networks["convolution"][1]]
        for curve, code, classify in zip(curves.values(), codes, heads, strict=True):
            curve.append((classify(code).argmax(1) == truth).float().mean().item())
    filled = [layer.synthesize(layer(test[:4], mask=mask[:4]), (8, 8)) for mask in masks[1:4]]
for name, curve in curves.items():
    print(f"{name}: " + ", ".join(f"{value:.1%}" for value in curve))

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), width_ratios=[1.3, 1])
for name, values in curves.items():
    left.plot([100 * s for s in shares], [100 * v for v in values], marker="o", label=name)
left.set(xlabel="lost pixels (%)", ylabel="test accuracy (%)", title="trained on whole images")
left.legend()
columns = [test[:4], *(c for mask, back in zip(masks[1:4], filled, strict=True) for c in (test[:4] * mask[:4], back))]
tiles = torch.nn.functional.pad(torch.stack(columns, 1)[:, :, 0], (1, 1, 1, 1), value=3)
right.imshow(tiles.permute(0, 2, 1, 3).reshape(40, 70), vmin=-1, vmax=2)
right.set(title="20, 40, 60 % lost, each beside its synthesis", xticks=[], yticks=[])
right.grid(False)
plt.show()

# %%
# **What to see.** With 20 and 40 % of the pixels lost the coding layer is three or four points ahead of the
# convolution. The mask itself gives about one point of that. With 80 % lost, nothing helps. Right: the synthesis of a
# code fills most of the holes. One seed.
