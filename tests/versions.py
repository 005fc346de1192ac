"""What older versions of torch cannot do."""

import pytest
import torch

TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])

fake_devices = pytest.mark.skipif(
    TORCH < (2, 7) and not torch.cuda.is_available(), reason="torch 2.6 asks a driver before it makes a fake tensor"
)
