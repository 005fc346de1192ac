"""Networks whose worst case is known, and one of the package on its test images."""

import pytest
import torch
from torch import nn

from csc_nets.data import create_datamodule
from csc_nets.models import Normalised, create_model


class Linear(nn.Module):
    """Logits ``W x + b`` of images."""

    def __init__(self, classes, shape=(1, 6, 6), dtype=torch.float64):
        super().__init__()
        self.layer = nn.Linear(int(torch.tensor(shape).prod()), classes, dtype=dtype)

    def forward(self, x):
        return self.layer(x.flatten(1))


class Quantised(nn.Module):
    """A network that sees a few levels of grey: its gradient is 0 almost everywhere."""

    def __init__(self, model, levels):
        super().__init__()
        self.model, self.levels = model, levels

    def forward(self, x):
        return self.model((x * self.levels).round() / self.levels)


@pytest.fixture
def linear():
    return Linear


@pytest.fixture
def quantised():
    return Quantised


@pytest.fixture(scope="session")
def digits():
    """48 test images of the weights in the package, and the network on pixels."""
    data = create_datamodule("digits")
    data.setup("test")
    images, labels = next(iter(data.test_dataloader()))
    network = Normalised(create_model("csc_small", pretrained=True)).eval()
    return network, data.denormalize(images)[:48].clone(), labels[:48].clone()
