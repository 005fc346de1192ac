"""What older versions of torch cannot do."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])

fake_devices = pytest.mark.skipif(
    TORCH < (2, 7) and not torch.cuda.is_available(), reason="torch 2.6 asks a driver before it makes a fake tensor"
)

SHARDS_ON_CPUS = hasattr(torch.cpu.Stream, "record_event")
shards_on_cpus = pytest.mark.skipif(not SHARDS_ON_CPUS, reason="fully_shard of torch 2.6 does not run on CPUs")

NO_TRANSFORMS = "torch 2.6 exports no Fourier transform of real signals with a free batch size"


@contextmanager
def exporting() -> Iterator[None]:
    """Skips a test that exports a Fourier transform of real signals, where torch exports not even a plain one."""
    try:
        yield
    except Exception as error:
        if "_fft_r2c" in str(error) and not exports_transforms():
            pytest.skip(NO_TRANSFORMS)
        raise


class _Transform(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.rfft2(x).abs()


def exports_transforms() -> bool:
    """Whether torch exports a Fourier transform of real signals with a free batch size."""
    try:
        torch.export.export(_Transform(), (torch.zeros(2, 4, 4),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    except Exception:
        return False
    return True
