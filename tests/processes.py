"""Two gloo processes of a task that really run, for tests that compare them with one."""

import os
import subprocess
import sys
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.strategies import StrategyRegistry
from torch.utils.data import DataLoader, TensorDataset

from csc_nets.data.tensors import TensorDataModule
from csc_nets.tasks.sharding import FullySharded
from csc_nets.tasks.synced_norms import SyncedNorms

ROOT = Path(__file__).parents[1]
BATCH = 12
StrategyRegistry.register("fsdp2", FullySharded, override=True)  # as csc_nets.tasks.trainer does


def trainer_of(processes, strategy="ddp", **options):
    """A trainer of one epoch in float64."""
    return L.Trainer(
        accelerator="cpu",
        devices=processes,
        strategy=strategy if processes > 1 else "auto",
        precision="64-true",
        max_epochs=1,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        plugins=[SyncedNorms()],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        **options,
    )


def fit(task, images, labels, processes):
    """Trains for one epoch on batches of 12 images, of which each process sees its share; returns the trainer."""
    trainer = trainer_of(processes)
    rank, share = int(os.environ.get("LOCAL_RANK", 0)) if processes > 1 else 0, BATCH // processes
    mine = [BATCH * batch + rank * share + i for batch in range(len(images) // BATCH) for i in range(share)]
    trainer.fit(task, DataLoader(TensorDataset(images.double(), labels), batch_size=share, sampler=mine))
    return trainer


def fit_data(task, images, labels, processes, strategy="ddp", held=25, **options):
    """As :func:`fit`, on a data module, which shares the images out, with some of them to validate on."""
    trainer, held = trainer_of(processes, strategy, **options), (images[:held], labels[:held])
    size = {"batch_size": BATCH // processes, "eval_batch_size": BATCH // processes}
    trainer.fit(task, datamodule=TensorDataModule(images, labels, val=held, **size))
    return trainer


def of_two(file, folder):
    """What ``save`` left when two processes ran a test file as a program."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    command = [sys.executable, file, str(folder / "two.pt")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(folder / "two.pt")


def save(results):
    """At the end of such a program: the first process writes."""
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        torch.save(results, sys.argv[1])
