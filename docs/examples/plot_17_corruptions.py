"""
Nineteen corruptions of a photograph
====================================

`csc_nets.evaluation.corrupt` does to a batch of images what ImageNet-C and CIFAR-10-C do to theirs: it adds noise,
blurs, lets it snow, or compresses.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_sample_images

from csc_nets.evaluation import corrupt, list_corruptions

# %%
# A square of 224 pixels. Every corruption has five severities; this is the third.

photograph = torch.tensor(load_sample_images().images[0]).permute(2, 0, 1) / 255
clean = photograph[:, 100:324, 200:424]
pictures = {"clean": clean} | {name: corrupt(clean, name, severity=3) for name in list_corruptions()}

figure, axes = plt.subplots(4, 5, figsize=(10, 8.6), layout="constrained")
for axis, (name, picture) in zip(axes.flat, pictures.items(), strict=True):
    axis.imshow(picture.permute(1, 2, 0))
    axis.set_title(name.replace("_", " "), fontsize=10)
    axis.axis("off")
plt.show()

# %%
# **What to see.** The first fifteen after the clean image are the ones that scores are averaged over. The last four are
# for choosing a method. Frost is drawn here; in the published images it is cut from photographs.
