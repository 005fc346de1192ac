"""A run with ``task.lam_range`` on the digits: from the command line, and killed and resumed."""

import os
import time

import torch
from program import forked, numbers, resume, table, train

from csc_nets.checkpoint import read_checkpoint


def states(folder):
    return read_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"]


def test_a_killed_run_with_random_weights_ends_as_if_nothing_had_happened(tmp_path):
    options = ["task.lam_range=[0.05,1.0]", "trainer.max_epochs=3"]
    train(*options, f"run_dir={tmp_path / 'whole'}")
    process = forked(train, *options, f"run_dir={tmp_path / 'killed'}")
    last = tmp_path / "killed" / "checkpoints" / "last.ckpt"
    while not last.exists():
        assert process.is_alive()
        time.sleep(0.005)
    process.kill()
    process.join()
    assert not os.path.exists(tmp_path / "killed" / "metrics.json")
    resume(tmp_path / "killed")
    whole, killed = states(tmp_path / "whole"), states(tmp_path / "killed")
    assert all(torch.equal(whole[key], killed[key]) for key in whole)
    assert table(tmp_path / "whole") == table(tmp_path / "killed")
    same = [{**numbers(tmp_path / name), "training_seconds": 0} for name in ("whole", "killed")]
    assert same[0] == same[1]
    train("trainer.max_epochs=3", f"run_dir={tmp_path / 'fixed'}")
    assert any(not torch.equal(whole[key], value) for key, value in states(tmp_path / "fixed").items())
