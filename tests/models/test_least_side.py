"""Tiny images: every network takes them, or names the smallest size that it takes."""

import re

import pytest
import torch

from csc_nets.models import create_model, list_models
from csc_nets.models.fast_net import principal_patches
from csc_nets.models.least_side import least_side


def check(model):
    """Whether all of 1 x 1, 2 x 2 and 3 x 3 pixels are taken; where not, the size in the error must be the least."""
    allowed = True
    for side in (1, 2, 3):
        try:
            model(torch.rand(2, model.in_chans, side, side))
        except ValueError as error:
            found = re.fullmatch(r"(\w+): images must have (\d+) x \2 pixels or more, got \((.*)\)", str(error))
            assert found and found[1] == model.model_name and found[3] == f"2, {model.in_chans}, {side}, {side}"
            least, allowed = int(found[2]), False
            model(torch.rand(2, model.in_chans, least, least))
            with pytest.raises(ValueError, match=f"must have {least} x {least} pixels"):
                model(torch.rand(2, model.in_chans, least + 3, least - 1))
    return allowed


@pytest.mark.parametrize("name", list_models())
def test_of_every_network(name, narrow):
    model = narrow(name).eval()
    check(model)
    if hasattr(model, "fit_images"):
        with pytest.raises(ValueError, match=r"images of as many or more, got \(2, 3, 1, 1\)"):
            model.fit_images(torch.rand(2, 3, 1, 1))


@pytest.mark.parametrize("name", ["deep_cnn_mnist", "ml_csc_mnist", "sparse_prior_cnn", "conv_ctrl_32", "csc_ctrl_32"])
def test_in_the_published_sizes_and_in_training(name):
    model = create_model(name, **({} if "ctrl" in name else {"widths": [4, 4, 4]}))
    modes = [module.training for module in model.modules()]
    for call in (
        model,
        model.forward_features,
        lambda x: model.forward_intermediates(x, [-1], intermediates_only=True),
    ):
        with pytest.raises(ValueError, match=f"{name}: images must have"):
            call(torch.rand(1, model.in_chans, 3, 3))
    assert [module.training for module in model.modules()] == modes
    assert not check(model.eval())


def test_other_errors_stay_as_they_are():
    model = create_model("csc_small", widths=[4], in_chans=1)
    model.stages[0].register_forward_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("mine")))
    with pytest.raises(RuntimeError, match=r"^mine$"):
        model(torch.rand(1, 1, 3, 3))
    with pytest.raises(ValueError, match="sigma must be a finite number >= 0, got -1"):
        create_model("cdlnet", steps=1, atoms=2)(torch.rand(1, 1, 4, 4), -1)


def test_statistics_of_batch_norms_are_left_as_they_are():
    model = create_model("csc_small", widths=[4], in_chans=1).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert least_side(model, torch.zeros(1, 1, 2, 2), model, 8) == 1
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_least_side_of_a_chain_of_convolutions():
    """Two convolutions of 4 and 3 pixels, the first with stride 2: ((3 - 1) 2 + 4) = 8."""
    chain = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 4, stride=2), torch.nn.Conv2d(1, 1, 3))
    assert least_side(chain, torch.zeros(1, 1, 2, 2), chain, 32) == 8
    assert least_side(chain, torch.zeros(1, 1, 2, 2), chain, 7) is None
    with pytest.raises(ValueError, match=r"patches of 2 x 2 pixels need images of as many or more, got \(1, 3, 1, 5\)"):
        principal_patches(torch.rand(1, 3, 1, 5), 2)
