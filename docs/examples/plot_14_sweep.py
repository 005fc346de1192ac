"""
A sweep from the command line
=============================

One command trains a network for every combination of options, and goes on where it was stopped. Here are six short
trainings.
"""

import csv
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

# %%
# In a clone the command is ``python train.py -m model.lam=0.05,0.2,0.8 model.steps=1,4``. The other options make it
# short.

folder = Path(tempfile.mkdtemp()) / "sweep"
options = ["model.lam=0.05,0.2,0.8", "model.steps=1,4", "model.widths=[8,16]", "trainer.max_epochs=4"]
quiet = ["callbacks.progress_bar=false", "pictures=false", f"run_dir={folder}"]
done = subprocess.run(
    [sys.executable, "-m", "csc_nets", "train", "-m", *options, *quiet], capture_output=True, text=True, check=True
)
print(done.stdout[done.stdout.index("model.lam") :].rsplit("sweep  ", 1)[0])

# %%
# The folder holds the table as ``table.csv``, a picture ``sweep.png``, and a run folder for each job.

with (folder / "table.csv").open() as file:
    rows = list(csv.DictReader(file))
figure, axes = plt.subplots(1, 2, figsize=(9, 3.4))
for steps in ("1", "4"):
    chosen = sorted((r for r in rows if r["model.steps"] == steps), key=lambda r: float(r["model.lam"]))
    lams = [float(r["model.lam"]) for r in chosen]
    for axis, key in zip(axes, ("test/acc mean", "test/density mean"), strict=True):
        axis.semilogx(
            lams, [100 * float(r[key]) for r in chosen], marker="o", label=f"{steps} step{'s' * (steps != '1')}"
        )
for axis in axes:
    axis.set_xticks(lams, [str(lam) for lam in lams])
    axis.minorticks_off()
axes[0].set(xlabel="lam", ylabel="test accuracy (%)", title="what it reaches, after four epochs")
axes[1].set(xlabel="lam", ylabel="non-zeros in the codes (%)", title="what it needs")
axes[0].legend()
plt.show()

# %%
# **What to see.** Left: four steps are ahead of one after so short a training, at each ``lam``. Right: a larger
# ``lam`` makes sparser codes. One seed does not prove much: add ``seed=0,1,2``, and the table gives means and
# deviations.
