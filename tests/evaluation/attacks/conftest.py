"""Networks whose worst case is known, and one of the package on its test images."""

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from csc_nets.data import create_datamodule
from csc_nets.layers import CSC2d
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


def fitted_to_digits(images, labels, shrinkage, **options):
    """A coded layer with random atoms and a linear classifier of its code, fitted by a ridge regression.

    Returns:
        The network, whose logits are ten times the regression of the one-hot label.
    """
    torch.manual_seed(0)
    layer = CSC2d(1, 32, 5, lam=0.05, dtype=images.dtype, **options).eval()
    with torch.no_grad():
        code = layer(images).flatten(1)
    hot = nn.functional.one_hot(labels, 10).to(images)
    centre, mean = code.mean(0), hot.mean(0)
    gram = (code - centre).T @ (code - centre) + shrinkage * torch.eye(code.shape[1], dtype=images.dtype)
    head = nn.Linear(code.shape[1], 10, dtype=images.dtype)
    head.weight.data = 10 * torch.linalg.solve(gram, (code - centre).T @ (hot - mean)).T
    head.bias.data = 10 * mean - head.weight.data @ centre
    return nn.Sequential(layer, nn.Flatten(), head).eval()


@pytest.fixture(scope="session")
def fit():
    return fitted_to_digits


@pytest.fixture(scope="session")
def pixels():
    """All digits, ``(1797, 1, 8, 8)`` in [0, 1], and their labels."""
    source = load_digits()
    return torch.from_numpy(source.images)[:, None] / 16, torch.from_numpy(source.target).long()


@pytest.fixture(scope="session")
def digits(fit, pixels):
    """A network of one coded layer with two steps of FISTA, and 48 test images that it has right."""
    images, labels = pixels[0].float(), pixels[1]
    network = fit(images[:1200], labels[:1200], 1.0, steps=2)
    with torch.no_grad():
        right = network(images[1200:]).argmax(1) == labels[1200:]
    return network, images[1200:][right][:48].clone(), labels[1200:][right][:48].clone()


@pytest.fixture(scope="session")
def packaged():
    """The weights in the package on pixels, and 48 test images."""
    data = create_datamodule("digits")
    data.setup("test")
    images, labels = next(iter(data.test_dataloader()))
    network = Normalised(create_model("csc_small", pretrained=True)).eval()
    return network, data.denormalize(images)[:48].clone(), labels[:48].clone()
