import pytest
import torch
from torch import nn

from csc_nets.evaluation import batch_statistics
from csc_nets.models import create_model


def test_batches_are_normalised_by_themselves_and_the_network_is_left_as_it_was():
    torch.manual_seed(0)
    model = create_model("resnet18", widths=[4, 4, 4, 4]).eval()
    x = 3 + 2 * torch.randn(16, 3, 16, 16)
    plain, state = model(x), {key: value.clone() for key, value in model.state_dict().items()}
    with batch_statistics(model):
        found = model(x)
        assert not model.training
    model.train()
    expected = model(x)  # training mode does the same, and moves the running statistics
    torch.testing.assert_close(found, expected)
    model.load_state_dict(state)
    assert torch.equal(model.eval()(x), plain)
    with batch_statistics(model):
        pass
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_an_error_leaves_the_statistics_and_other_networks_are_refused():
    model = nn.Sequential(nn.BatchNorm2d(2)).eval()
    mean = model[0].running_mean
    with pytest.raises(RuntimeError), batch_statistics(model):
        raise RuntimeError
    assert model[0].running_mean is mean
    with pytest.raises(ValueError, match="Linear has no batch norm with running statistics"):
        batch_statistics(nn.Linear(2, 2)).__enter__()
