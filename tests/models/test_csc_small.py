import pytest
import torch
from torch import nn

from csc_nets.models import create_model

sklearn_datasets = pytest.importorskip("sklearn.datasets")


def test_size_and_shape():
    model = create_model("csc_small", in_chans=1).eval()
    assert 100_000 < sum(p.numel() for p in model.parameters()) < 300_000
    for size in (8, 28, 32):
        x = torch.zeros(1, 1, size, size)
        assert model(x).shape == (1, 10)
        assert [t.shape[2] for t in model.forward_intermediates(x)[1]] == [size, -(-size // 2), -(-size // 4)]


def test_threshold_pursuit_is_a_plain_network(narrow, images):
    """One thresholding step is a convolution with the bias -lam and ReLU."""
    model, x = narrow("csc_small", pursuit="threshold", lam=0.2).eval(), images()
    y = x
    for stage, stride in zip(model.stages, [1, 2, 2], strict=True):
        weight = stage[0].dictionary.weight
        y = stage[1](nn.functional.conv2d(y, weight, weight.new_full((len(weight),), -0.2), stride, 1).relu())
    torch.testing.assert_close(model.forward_features(x), y)


def test_learns_handwritten_digits():
    digits = sklearn_datasets.load_digits()
    torch.manual_seed(0)
    order = torch.randperm(len(digits.target))
    x = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1)[order] / 16 - 0.3
    y = torch.tensor(digits.target)[order]
    model = create_model("csc_small", in_chans=1, widths=[16, 32, 32], steps=2)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(4):
        for batch in torch.randperm(1400).split(35):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    with torch.no_grad():
        accuracy = (model.eval()(x[1400:]).argmax(1) == y[1400:]).float().mean()
    assert accuracy > 0.93  # chance: 0.1
