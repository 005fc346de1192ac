"""Shared by all tests: one thread a process (the suite runs in parallel), a fixed seed, float32 by default."""

import random

import numpy as np
import pytest
import torch

torch.set_num_threads(1)

# The first backward pass starts a thread for each device, and processes are not forked beside those. A test on fake
# tensors makes torch count an accelerator that is not there: without it, now, there are none.
torch.zeros(1, requires_grad=True).sum().backward()


@pytest.fixture(autouse=True)
def _seed():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
