"""
Fill missing pixels
===================

A code is found from the pixels that are there; the synthesis of the code has all of them. Any layer takes
``mask=``.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_sample_image

from csc_nets import create_model
from csc_nets.functional import dct_atoms
from csc_nets.layers import CSC2d

# %%
# A photograph of which half the pixels are lost.

clean = torch.tensor(load_sample_image("china.jpg")[50:178, 260:388]).float().mean(-1)[None, None] / 255
observed = torch.rand(clean.shape) < 0.5

# %%
# Two ways. A layer with cosine atoms, which was never trained, and the pretrained denoiser.

mean = clean[observed].mean()
layer = CSC2d(1, 64, 8, padding=7, lam=0.04, steps=200, nonneg=False)
layer.atoms = dct_atoms(torch.eye(1), 8).float()
denoiser = create_model("cdlnet", pretrained=True).eval()
with torch.no_grad():
    z = layer(clean - mean, mask=observed)  # values under the mask are not read
    by_layer = layer.synthesize(z, clean.shape[2:]) + mean
    by_network = denoiser(clean * observed, 10 / 255, mask=observed)
pictures = {"photograph": clean, "half is missing": clean * observed, "one layer": by_layer, "cdlnet": by_network}

figure, axes = plt.subplots(1, 4, figsize=(10, 2.9))
for axis, (name, picture) in zip(axes, pictures.items(), strict=True):
    axis.imshow(picture[0, 0], vmin=0, vmax=1)
    error = (picture - clean)[~observed].square().mean()
    quality = f"\n{-10 * error.log10():.1f} dB where pixels were missing" if name in ("one layer", "cdlnet") else "\n"
    axis.set_title(name + quality, fontsize=9)
    axis.axis("off")
plt.show()

# %%
# **What to see.** The layer, which was never trained, fills the holes well: long edges and smooth parts need few
# atoms. The denoiser is behind, and leaves dark spots in dark parts, because it has seen no mask in training.
