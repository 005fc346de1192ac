import pytest
import torch
from torch import nn

from csc_nets.models import create_model
from csc_nets.models.outline import LINES, outline


@pytest.mark.parametrize("name", ["csc_small", "sdnet18_all", "resnet34", "csc_ctrl_64"])
def test_a_network_fits_a_screen(name):
    with torch.device("meta"):
        model = create_model(name)
    assert 3 <= len(repr(model).splitlines()) <= LINES


def test_what_lies_deeper_is_its_number_of_parameters():
    inner = nn.Sequential(*(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)) for _ in range(3)))
    model = nn.Sequential(inner, nn.Linear(1, 1))
    assert outline(model, lines=100) == nn.Module.__repr__(model)
    assert outline(model, lines=5).splitlines()[1] == "  (0): Sequential(39 parameters)"
