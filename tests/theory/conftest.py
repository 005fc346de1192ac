"""Shared by the tests of energy and of networks."""

import pytest
import torch


@pytest.fixture
def noise():
    return torch.randn(8, 2, 32, 32, generator=torch.Generator().manual_seed(0))
