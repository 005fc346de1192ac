import math

import pytest
import torch
from torch import nn

from csc_nets.layers import CSC2d
from csc_nets.models import create_model
from csc_nets.tasks.optimization import build_optimizer, idle_decay, learning_rate_factor, parameter_groups

COSINE = {"total": 100, "warmup": 0, "schedule": "cosine", "final": 0.1, "milestones": [], "gamma": 0.1}


@pytest.mark.parametrize("learn_lam", [False, True])
def test_decay_acts_on_plain_weights_only(learn_lam):
    model = create_model("csc_small", num_classes=3, in_chans=1, learn_lam=learn_lam)
    decay, rest = parameter_groups(model, 0.5)
    names = {id(p): name for name, p in model.named_parameters()}
    assert [names[id(p)] for p in decay["params"]] == ["fc.weight"]
    assert (decay["weight_decay"], rest["weight_decay"]) == (0.5, 0.0)
    assert len(decay["params"]) + len(rest["params"]) == len(names)


def test_a_plain_network_without_the_zoos_api():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 3))
    model[2].requires_grad_(False)
    decay, rest = parameter_groups(model, 0.1)
    assert decay["params"] == [model[0].weight]
    assert len(rest["params"]) == 3


def test_decayed_weights_shrink_and_dictionaries_stay():
    model = create_model("csc_small", num_classes=3, in_chans=1)
    optimizer = build_optimizer(model, "sgd", lr=0.1, weight_decay=0.5, momentum=0.0, nesterov=True)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        factor = 1 - 0.1 * 0.5 if name == "fc.weight" else 1.0
        torch.testing.assert_close(p.detach(), before[name] * factor)


@pytest.mark.parametrize("learn_lam", [False, True])
def test_decay_acts_on_the_tensors_behind_atoms_where_it_is_asked_to(learn_lam):
    model = create_model("csc_small", num_classes=3, in_chans=1, learn_lam=learn_lam)
    decay, _ = parameter_groups(model, 0.5, decay_atoms=True)
    names = {id(p): name for name, p in model.named_parameters()}
    behind = {name for name in names.values() if name.endswith("dictionary.parametrizations.weight.original")}
    assert len(behind) == 3 and {names[id(p)] for p in decay["params"]} == behind | {"fc.weight"}


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_a_step_lengthens_what_is_behind_an_atom_and_decay_shortens_it(rate):
    """The gradient is orthogonal: |v|^2 becomes (1 - lr rate)^2 |v|^2 + lr^2 |g|^2."""
    layer = CSC2d(1, 8, 3, padding=1, pursuit="threshold", steps=1)
    optimizer = build_optimizer(layer, "sgd", lr=0.1, weight_decay=rate, momentum=0.0, nesterov=False, decay_atoms=True)
    layer(torch.randn(4, 1, 8, 8)).square().sum().backward()
    v = layer.dictionary.parametrizations.weight.original
    before, gradient = v.detach().flatten(1).norm(dim=1), v.grad.flatten(1).norm(dim=1)
    optimizer.step()
    wanted = ((1 - 0.1 * rate) * before).square() + (0.1 * gradient).square()
    torch.testing.assert_close(v.detach().flatten(1).norm(dim=1).square(), wanted)


def test_cosine_passes_through_its_closed_form():
    values = [learning_rate_factor(step, **COSINE) for step in (0, 50, 100, 150)]
    assert values == pytest.approx([1.0, 0.55, 0.1, 0.1])


def test_warm_up_climbs_linearly_and_joins_the_cosine():
    values = [learning_rate_factor(step, **{**COSINE, "warmup": 10}) for step in range(12)]
    assert values[:11] == pytest.approx([k / 10 for k in range(1, 11)] + [1.0])
    assert values[11] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 90)))


def test_step_falls_at_each_milestone():
    step = {**COSINE, "schedule": "step", "milestones": [30, 60]}
    assert [learning_rate_factor(k, **step) for k in (29, 30, 60)] == pytest.approx([1.0, 0.1, 0.01])


def test_constant_stays():
    assert learning_rate_factor(99, **{**COSINE, "schedule": "constant"}) == 1.0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "lion"}, "optimizer must be 'sgd' or 'adamw', got 'lion'"),
        ({"lr": 0.0}, "lr must be a positive number, got 0.0"),
        ({"lr": float("nan")}, "lr must be a positive number, got nan"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"weight_decay": -1.0}, "weight_decay must be >= 0, got -1.0"),
    ],
)
def test_bad_values_are_named(changed, message):
    options = {"name": "adamw", "lr": 0.1, "weight_decay": 0.0, "momentum": 0.9, "nesterov": True, **changed}
    with pytest.raises(ValueError, match=message):
        build_optimizer(nn.Linear(2, 2), **options)


def test_a_model_without_parameters_and_an_unknown_schedule_are_refused():
    with pytest.raises(ValueError, match="Identity has no trainable parameters"):
        parameter_groups(nn.Identity(), 0.0)
    with pytest.raises(ValueError, match="schedule must be 'cosine', 'linear', 'step' or 'constant', got 'x'"):
        learning_rate_factor(0, **{**COSINE, "schedule": "x"})


def test_linear_falls_along_a_line_to_the_end():
    values = [learning_rate_factor(step, **{**COSINE, "schedule": "linear"}) for step in (0, 25, 50, 100, 150)]
    final = COSINE["final"]
    assert values == pytest.approx([final + (1 - final) * share for share in (1, 0.75, 0.5, 0, 0)])


def test_parameters_of_one_player():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    groups = parameter_groups(model, 0.1, list(model[1].parameters()))
    assert [p for group in groups for p in group["params"]] == [model[1].weight, model[1].bias]


def test_biases_of_norms_have_a_rate_of_their_own():
    model = create_model("csc_small", num_classes=3, in_chans=1, widths=[4, 6])
    options = {"lr": 0.1, "weight_decay": 0.5, "momentum": 0.9, "nesterov": True}
    groups = build_optimizer(model, "sgd", bias_rate=64, **options).param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    assert [names[id(p)] for p in groups[2]["params"]] == ["stages.0.1.bias", "stages.1.1.bias"]
    assert [group["lr"] for group in groups] == [0.1, 0.1, 6.4] and groups[2]["weight_decay"] == 0
    assert sum(len(group["params"]) for group in groups) == len(names)
    assert len(build_optimizer(model, "sgd", **options).param_groups) == 2
    with pytest.raises(ValueError, match="bias_rate must be a positive number, got 0"):
        build_optimizer(model, "sgd", bias_rate=0, **options)


def test_why_decay_of_atoms_may_change_nothing():
    assert idle_decay(create_model("csc_small"), 0.1) is None
    assert idle_decay(create_model("csc_small"), 0.0) == "task.weight_decay is 0"
    assert idle_decay(create_model("fastnet"), 0.1) == "fastnet has no atoms that are trained"
    frozen = CSC2d(1, 4, 3).requires_grad_(False)
    assert idle_decay(frozen, 0.1) == "CSC2d has no atoms that are trained"
