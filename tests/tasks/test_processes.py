"""Two processes of every task that really run, against one that is given their whole batches."""

import os
import subprocess
import sys
from pathlib import Path

import lightning as L
import torch
from torch.utils.data import DataLoader, TensorDataset

from csc_nets.models import create_model
from csc_nets.tasks import create_task

# Networks without batch norm, which would see half a batch.
TASKS = {
    "classification": ("ml_csc_mnist", {"widths": [4, 6, 8], "kernel_size": 3, "stride": [1, 2, 2], "steps": 2}, {}),
    "classification, coded": ("sparse_prior_cnn", {"widths": [4, 6], "kernel_size": 3, "stride": [1, 2]}, {}),
    "dictionary_learning": ("csc_dictionary", {"widths": [5], "kernel_size": 5, "steps": 4}, {"reseed_every": 0}),
}


def trained(name, processes):
    """Parameters and bounds of norms after six batches of twelve images, whatever the number of processes."""
    model_name, arguments, options = TASKS[name]
    torch.manual_seed(0)
    model = create_model(model_name, in_chans=1, **arguments)
    images, labels = torch.rand(72, 1, 16, 16), torch.arange(72) % 3
    before = {key: p.detach().double() for key, p in model.named_parameters()}
    task = create_task(name.split(",")[0], model, optimizer="sgd", lr=0.05, **options)
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
    rank, share = int(os.environ.get("LOCAL_RANK", 0)) if processes > 1 else 0, 12 // processes
    mine = [12 * batch + rank * share + i for batch in range(6) for i in range(share)]
    trainer.fit(task, DataLoader(TensorDataset(images.double(), labels), batch_size=share, sampler=mine))
    assert all(not torch.equal(p, before[key]) for key, p in task.model.named_parameters() if p.requires_grad)
    bounds = {key: value for key, value in task.model.named_buffers() if key.endswith("lipschitz")}
    return {**{key: p.detach() for key, p in task.model.named_parameters()}, **bounds}


def test_two_processes_end_with_the_weights_of_one_that_sees_the_whole_batch(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, __file__, str(tmp_path / "two.pt")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    two = torch.load(tmp_path / "two.pt")
    for name in TASKS:
        torch.testing.assert_close(two[name], trained(name, processes=1), rtol=1e-8, atol=1e-10)


if __name__ == "__main__":
    found = {name: trained(name, processes=2) for name in TASKS}
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        torch.save(found, sys.argv[1])
