"""
An image that is too large
==========================

A code has as many maps as the layer has atoms: of a large photograph it does not fit.
:func:`~csc_nets.layers.encode_tiles` codes it tile by tile, with the same result.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_sample_image

from csc_nets.functional import SparseCode, dct_atoms
from csc_nets.layers import CSC2d, encode_tiles, synthesize_tiles

# %%
# A panorama of 427 x 1,920 pixels from three copies of a photograph; 64 cosine atoms of 8 x 8 pixels.

photograph = torch.tensor(load_sample_image("china.jpg")).float().mean(-1) / 255
panorama = torch.cat([photograph, photograph.flip(1), photograph], 1)[None, None]
x = panorama - panorama.mean()
layer = CSC2d(1, 64, 8, padding=7, lam=0.15, steps=4, nonneg=False).eval()
layer.atoms = dct_atoms(torch.eye(1), 8).float()

# %%
# ``budget`` is the memory for the work on one tile, in bytes. The non-zeros are kept, eight bytes each.

tiles = []


def watched(parts):
    for where, code in parts:
        tiles.append((where, (code != 0).float().mean().item()))
        yield where, code


sparse = SparseCode.of(watched(encode_tiles(layer, x, budget=48 * 2**20)))
back = synthesize_tiles(layer, sparse, x.shape) + panorama.mean()

# %%
# Beside the whole at once.

with torch.no_grad():
    whole = layer(x)
    difference = (layer.synthesize(whole, x.shape[2:]) + panorama.mean() - back).abs().max().item()
kept = 8 * (whole != 0).sum().item() / 2**20
dense = 4 * whole.numel() / 2**20
print(f"{len(tiles)} tiles; largest difference {difference:.1e}; code {kept:.0f} MiB, dense {dense:.0f} MiB")

figure, axes = plt.subplots(3, 1, figsize=(9, 6.6))
axes[0].imshow(panorama[0, 0], vmin=0, vmax=1)
axes[0].set_title("panorama")
axes[1].imshow(back[0, 0], vmin=0, vmax=1)
axes[1].set_title(f"from {kept:.0f} MiB of non-zeros, tile by tile; the dense code has {dense:.0f} MiB")
density = torch.zeros(whole.shape[2:])
for (_, _, rows, columns), share in tiles:
    density[rows, columns] = 100 * share
shown = axes[2].imshow(density, cmap="viridis")
figure.colorbar(shown, ax=axes[2], label="non-zeros (%)", location="bottom", shrink=0.5)
axes[2].set_title(f"{len(tiles)} tiles, coloured by the density of their codes")
for axis in axes:
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
plt.show()

# %%
# **What to see.** No seam in the middle picture. The busy parts of the picture, roofs and trees, take more non-zeros
# than the sky.
