"""
A closed loop: features that lie apart
======================================

Closed-loop transcription trains an encoder and a decoder against each other, with coding rates in place of a
classifier. Afterwards the features of one class lie in a small subspace, and those of different classes are nearly
orthogonal.
"""

import lightning as L
import matplotlib.pyplot as plt
import torch

from csc_nets import create_model
from csc_nets.data import digits
from csc_nets.tasks import TranscriptionTask

# %%
# Digits of 8 x 8 pixels in [-1, 1]; a sparse-coding encoder of two stages, and 32 features. Fifty short epochs.

L.seed_everything(0, verbose=False)
data = digits(batch_size=512, mean=[0.5], std=[0.5])
model = create_model("csc_ctrl_32", in_chans=1, input_size=8, widths=[16, 32], features=32)
data.setup()
x, y = next(iter(data.test_dataloader()))
x, y = x[y.argsort()], y.sort().values


def cosines(training):
    with torch.no_grad():
        z = model.train(training).encode(x)
        return (z @ z.T).abs(), model(x[:: len(x) // 10][:10])


before, _ = cosines(True)  # with the batch norms of this batch: they have seen no other yet
quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
trainer = L.Trainer(max_epochs=50, accelerator="cpu", limit_val_batches=0, num_sanity_val_steps=0, **quiet)
trainer.fit(TranscriptionTask(model, objective="multi", lr=1e-3), datamodule=data)
after, back = cosines(False)

same = y[:, None] == y
print(f"mean cosine in a class {after[same].mean():.2f}, between classes {after[~same].mean():.2f}")

figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), width_ratios=[1, 1, 1.25])
for axis, values, title in zip(axes, (before, after), ("before training", "after training"), strict=False):
    shown = axis.imshow(values, vmin=0, vmax=1, cmap="viridis")
    axis.set(title=title, xlabel="test image, sorted by digit", ylabel="test image")
    axis.grid(False)
figure.colorbar(shown, ax=axes[1], label="|cosine| of the features")
pairs = torch.stack([x[:: len(x) // 10][:10, 0], back[:, 0]])
tiles = torch.nn.functional.pad(pairs, (1, 1, 1, 1), value=1).view(2, 2, 5, 10, 10)
axes[2].imshow(tiles.permute(1, 0, 3, 2, 4).reshape(40, 50), vmin=-1, vmax=1)
axes[2].set(title="digits, and what the loop makes of them below", xticks=[], yticks=[])
axes[2].grid(False)
plt.show()

# %%
# **What to see.** Ten bright squares on the diagonal, one for each digit, and dark between them. The decoder makes
# images from these features; after so short a training they are blurred, and typical rather than copies.
# :doc:`/closed_loop` has long trainings.
