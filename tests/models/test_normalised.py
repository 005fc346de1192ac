import math

import pytest
import torch
from torch import nn

from csc_nets.models import Normalised, create_model


def test_pixels_become_what_the_network_was_trained_with():
    x = torch.rand(2, 3, 8, 8)
    mean, std = [0.4, 0.5, 0.6], [0.1, 0.2, 0.3]
    expected = torch.stack([(x[:, c] - mean[c]) / std[c] for c in range(3)], 1)
    torch.testing.assert_close(Normalised(nn.Identity(), mean, std)(x), expected)
    model = create_model("csc_small", pretrained=True).eval()
    known = model.pretrained_cfg
    pixels = torch.rand(2, 1, 8, 8)
    expected = model((pixels - known["mean"][0]) / known["std"][0])
    torch.testing.assert_close(Normalised(model)(pixels), expected)
    assert list(Normalised(model).state_dict()) == [f"model.{key}" for key in model.state_dict()]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "mean must be given: Identity does not say what it was trained with"),
        ({"mean": [0.5]}, "std must be given"),
        ({"mean": [math.nan], "std": [1.0]}, "mean must be finite numbers, got"),
        ({"mean": [0.5], "std": [0.0]}, r"std must be finite numbers above 0, got \[0.0\]"),
    ],
)
def test_bad_values_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        Normalised(nn.Identity(), **given)
