"""
Remove noise with a pretrained network
======================================

``create_model("cdlnet", pretrained=True)`` loads 64,000 parameters from the package. One network serves all noise
levels: its thresholds follow the noise.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_sample_image

from csc_nets import create_model

# %%
# A crop of a photograph, and white noise of 15, 25 and 50 grey levels.

clean = torch.tensor(load_sample_image("flower.jpg")[120:312, 200:392]).float().mean(-1)[None, None] / 255
levels = [15, 25, 50]
noisy = torch.cat([clean + level / 255 * torch.randn_like(clean) for level in levels])
model = create_model("cdlnet", pretrained=True).eval()
with torch.no_grad():
    known = model(noisy, torch.tensor(levels) / 255)
    blind = model(noisy)  # the level is estimated


def psnr(images):
    return -10 * (images - clean).square().mean((1, 2, 3)).log10()


for level, *values in zip(levels, psnr(noisy), psnr(known), psnr(blind), strict=True):
    print(f"noise {level}: {values[0]:.2f} dB, denoised {values[1]:.2f} dB, without the level {values[2]:.2f} dB")

figure, axes = plt.subplots(2, 4, figsize=(10, 5.2))
axes[0, 0].imshow(clean[0, 0], vmin=0, vmax=1)
axes[0, 0].set_title("photograph")
for i, level in enumerate(levels):
    axes[0, i + 1].imshow(noisy[i, 0], vmin=0, vmax=1)
    axes[0, i + 1].set_title(f"noise {level}: {psnr(noisy)[i]:.1f} dB")
    axes[1, i + 1].imshow(known[i, 0], vmin=0, vmax=1)
    axes[1, i + 1].set_title(f"denoised: {psnr(known)[i]:.1f} dB")
axes[1, 0].imshow((noisy - known)[1, 0], vmin=-0.3, vmax=0.3)
axes[1, 0].set_title("taken away, noise 25")
for axis in axes.flat:
    axis.axis("off")
plt.show()

# %%
# **What to see.** Petals keep their edges at every level, with the same weights. What is taken away looks like noise:
# there is almost no flower in it.
