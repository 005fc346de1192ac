"""Evaluation mode for a while."""

import pytest
import torch
from torch import nn

from csc_nets.theory import evaluation_mode


@pytest.fixture
def model():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Sequential(nn.ReLU(), nn.Dropout()))
    model[1].eval()
    model[2].training = False  # its own flag, not that of its children
    return model


def flags(model):
    return {name: module.training for name, module in model.named_modules()}


def test_every_module_has_its_own_mode_again(model):
    before = flags(model)
    assert set(before.values()) == {True, False}
    with evaluation_mode(model):
        assert not any(flags(model).values())
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        model(torch.randn(2, 1, 5, 5))
        model[0].train()  # whatever happens inside
    assert flags(model) == before
    assert all(torch.equal(buffers[name], buffer) for name, buffer in model.named_buffers())


def test_after_an_exception_too(model):
    before = flags(model)
    with pytest.raises(RuntimeError, match="inside"), evaluation_mode(model):
        raise RuntimeError("inside")
    assert flags(model) == before


def test_one_inside_the_other(model):
    before = flags(model)
    with evaluation_mode(model):
        with evaluation_mode(model):
            pass
        assert not any(flags(model).values())
    assert flags(model) == before


def test_a_module_that_refuses(model):
    """By then those before it have changed their mode."""

    class Refusing(nn.Module):
        def train(self, mode=True):
            raise RuntimeError("no")

    model.append(Refusing())
    before = flags(model)
    with pytest.raises(RuntimeError, match="no"), evaluation_mode(model):
        pass
    assert flags(model) == before
