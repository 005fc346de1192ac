import pytest
import torch
from program import train


def test_an_older_torch_that_does_not_spread_weights_over_cpus_is_refused(tmp_path, monkeypatch):
    """torch 2.6, whose streams of CPUs record no event."""

    class OldStream:
        def wait_stream(self, stream):
            pass

    monkeypatch.setattr(torch.cpu, "Stream", OldStream)
    with pytest.raises(ValueError, match=r"fsdp2 needs torch 2\.7 or newer on CPUs, got .*: take ddp, or GPUs"):
        train("trainer.strategy=fsdp2", "trainer.accelerator=cpu", f"run_dir={tmp_path / 'run'}")
    assert not (tmp_path / "run").exists()
