"""
Heart beats: one dimension
==========================

A layer with one spatial axis learns the shapes of an electrocardiogram. The code then says where each shape occurs.
"""

import matplotlib.pyplot as plt
import pywt.data
import torch

from csc_nets.layers import CSC1d

# %%
# The recording of PyWavelets: 1,024 samples, about three seconds.

ecg = torch.tensor(pywt.data.ecg()).float()
ecg = (ecg - ecg.mean()) / ecg.std()
x = ecg[None, None]

# %%
# Four atoms of 96 samples. Training changes the atoms so that few spikes explain the signal.

layer = CSC1d(1, 4, 96, padding=95, lam=1.0, steps=60, nonneg=False)
layer.atoms = torch.stack([ecg[start : start + 96] for start in (100, 330, 560, 790)])[:, None]
optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
for _ in range(40):
    loss = layer.objective(x, layer(x).detach()).mean()  # the code is the best one: it needs no gradient
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

with torch.no_grad():
    layer.steps = 300
    z = layer(x)
    back = layer.synthesize(z, x.shape[2:])
error = ((x - back).square().sum() / x.square().sum()).item()
print(f"{int((z != 0).sum())} spikes for 1,024 samples, {100 * error:.1f} % of the energy is missing")

figure, axes = plt.subplots(3, 1, figsize=(10, 6), height_ratios=[2, 1.2, 1.2])
axes[0].plot(ecg, color="0.6", label="recording")
axes[0].plot(back[0, 0], label="D z", lw=1.2)
axes[0].set(title=f"what {int((z != 0).sum())} spikes say", ylabel="standard deviations", xlabel="sample")
axes[0].legend(loc="upper right")
for m in range(4):
    places = z[0, m].nonzero()[:, 0]
    axes[1].vlines(places - 48, 0, z[0, m, places], color=f"C{m}", label=f"atom {m + 1}")
    axes[2].plot(torch.arange(96) + 110 * m, layer.atoms[m, 0].detach(), color=f"C{m}")
axes[1].set(title="the code", xlim=axes[0].get_xlim(), ylabel="height", xlabel="sample at the middle of the atom")
axes[2].set(title="the atoms", xticks=[], ylabel="value")
plt.show()

# %%
# **What to see.** The largest spikes of the code stand at the beats. Two atoms hold the beat itself, and two the slow
# waves between. Small spikes adjust their height.
