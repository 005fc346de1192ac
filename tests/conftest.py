"""Shared by all tests: one thread a process (the suite runs in parallel), a fixed seed, float32 by default."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
