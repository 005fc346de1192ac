"""
Run a CNN backwards
===================

A network of random filters keeps much of an image, if the positions of its pooled maxima are kept. More steps of
hard thresholding in each layer bring back more.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_sample_images
from torch.nn.functional import interpolate

from csc_nets import create_model

# %%
# Two photographs of 64 x 64 pixels.

photographs = [torch.tensor(image).permute(2, 0, 1).float() / 255 for image in load_sample_images().images]
x = torch.stack([interpolate(p[None, :, :, 100:527], (64, 64), mode="area")[0] for p in photographs])

# %%
# The same random filters each time. ``depth`` is the layer from which we go back.

errors, pictures = {}, {}
for steps in (1, 4, 16):
    torch.manual_seed(0)
    model = create_model("invertible_cnn", steps=steps, sign="signed", norm=False).eval()
    for depth in range(3):
        with torch.no_grad():
            back = model.reconstruct(x, depth)
        error = ((back - x).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)).mean().item()
        errors.setdefault(depth, []).append(error)
        pictures[steps, depth] = back.clamp(0, 1)

figure = plt.figure(figsize=(10, 3.6))
left, right = figure.subfigures(1, 2, width_ratios=[1.7, 1])
shown = {"image": x} | {f"layer {d + 1}, {s} step{'s' * (s > 1)}": pictures[s, d] for s in (1, 16) for d in (0, 2)}
axes = left.subplots(2, 5)
for column, (name, images) in zip(axes.T, shown.items(), strict=True):
    for axis, image in zip(column, images, strict=True):
        axis.imshow(image.permute(1, 2, 0))
        axis.axis("off")
    column[0].set_title(name, fontsize=8)
axis = right.subplots()
for depth, values in errors.items():
    axis.plot([1, 4, 16], values, marker="o", label=f"from layer {depth + 1}")
axis.set(xscale="log", xlabel="steps in each layer", ylabel="error / norm of the image", ylim=(0, None))
axis.set_xticks([1, 4, 16], ["1", "4", "16"])
axis.minorticks_off()
axis.legend()
plt.show()

# %%
# **What to see.** One step is the forward pass of a CNN. Sixteen steps with the same filters bring the photographs
# back from the first layer. From the third, building and flower are still there, and the noise says how much is lost.
# Nothing was trained. :doc:`/invertibility` says why.
