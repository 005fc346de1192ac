"""The recipe of patches of photographs: a minute on two cores, and ahead of every block transform."""

import math
import time
from pathlib import Path

import lightning as L
import pytest
import torch
from hydra import compose, initialize_config_dir

from csc_nets.cli import build, plain
from csc_nets.evaluation import BlockTransform, keep_largest, measure

CONFIGS = Path(__file__).parents[2] / "configs"


def at_count(model, images, count, each):
    """The code with at most ``count`` numbers an image, on average or each."""
    low, high = (torch.full((len(images), 1, 1, 1), math.log(value)) for value in (1e-4, 3.0))
    best = torch.zeros(())
    for _ in range(10):
        middle = (low + high) / 2
        code = model.encode(images, lam=middle.exp())
        found = (code != 0).sum((1, 2, 3), keepdim=True).float()
        fits = (found if each else found.mean().expand_as(found)) <= count
        best = torch.where(fits, code, best)
        low, high = torch.where(fits, low, middle), torch.where(fits, middle, high)
    return best


@pytest.mark.slow
def test_ahead_of_the_transforms(tmp_path):
    with initialize_config_dir(str(CONFIGS)):
        config = plain(compose("train", overrides=["experiment=sample_images_autoencoder"]))
    torch.set_num_threads(1)
    data, task = build(config)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(
        max_epochs=config["trainer"]["max_epochs"], default_root_dir=tmp_path, accelerator="cpu", **quiet
    )
    start = time.process_time()
    trainer.fit(task, data)
    assert time.process_time() - start < 120  # of one core
    model = task.model.eval()
    train, test = (data.split(part).images.float() / 255 for part in ("train", "test"))
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (data.mean, data.std))
    transforms = [BlockTransform.dct(train, block) for block in (8, 16, 32)]
    transforms.append(BlockTransform.principal_components(train, 8))
    for share in (0.02, 0.05, 0.1):
        count = round(share * test[0].numel())
        with torch.no_grad():
            code = at_count(model, (test - mean) / std, count, each=False)
            ours = measure("", model.decode(code, (32, 32)) * std + mean, test, codes=[code])
        assert ours.nonzeros * test[0].numel() <= count + 1e-3  # the transforms keep as many
        for transform in transforms:
            kept = keep_largest(transform.analysis(test), count, each=False)
            other = measure("", transform.synthesis(kept, (32, 32)), test, codes=[kept])
            assert ours.psnr_mean > other.psnr_mean and ours.psnr_of_all > other.psnr_of_all, (share, ours, other)
