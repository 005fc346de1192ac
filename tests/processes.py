"""Two gloo processes of a task that really run, for tests that compare them with one."""

import os
import subprocess
import sys
from pathlib import Path

import lightning as L
import torch
from torch.utils.data import DataLoader, TensorDataset

ROOT = Path(__file__).parents[1]
BATCH = 12


def fit(task, images, labels, processes):
    """Trains for one epoch on batches of 12 images, of which each process sees its share; returns the trainer."""
    trainer = L.Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        precision="64-true",
        max_epochs=1,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    rank, share = int(os.environ.get("LOCAL_RANK", 0)) if processes > 1 else 0, BATCH // processes
    mine = [BATCH * batch + rank * share + i for batch in range(len(images) // BATCH) for i in range(share)]
    trainer.fit(task, DataLoader(TensorDataset(images.double(), labels), batch_size=share, sampler=mine))
    return trainer


def of_two(file, folder):
    """What ``save`` left when two processes ran a test file as a program."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    command = [sys.executable, file, str(folder / "two.pt")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, cwd=folder)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "two.pt")


def save(results):
    """At the end of such a program: the first process writes."""
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        torch.save(results, sys.argv[1])
