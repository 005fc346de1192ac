"""What all new parts share: they are refused where they make no sense, saved, copied and compiled."""

import copy

import pytest
import torch

import csc_nets
from csc_nets.layers import CSC2d, SparseCoding

ALL = [("pursuit", 0), ("pursuit", 1), ("penalty", 0), ("penalty", 1), ("gradient", 0), ("gradient", 1)]


@pytest.fixture(params=ALL, ids=[f"{role} {i}" for role, i in ALL])
def choice(own, request):
    """An option of a layer with a new part."""
    parts = {
        "pursuit": [own.HeavyBall(4, 0.25), own.MyLISTA(3)],
        "penalty": [own.MCP(1.5), own.TopAtoms(2)],
        "gradient": [own.Checkpointed(), own.OneStep()],
    }
    role, i = request.param
    return {role: parts[role][i]}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"pursuit": {"name": "heavy_ball", "beta": 1.0}}, "beta must be in"),
        ({"pursuit": {"name": "heavy_ball", "bta": 0.5}}, "it takes count, beta"),
        ({"pursuit": {"name": "heavy_ball", "count": 0}}, "must be an int >= 1, got 0"),
        ({"pursuit": {"name": "heavy_ball", "count": 2.5}}, "must be an int >= 1, got 2.5"),
        ({"pursuit": "heavy_ball", "steps": 0}, "must be an int >= 1, got 0"),
        ({"pursuit": "heavy_ball", "steps": 3, "tol": 1e-3}, "unexpected keyword argument 'tol'; it takes count, beta"),
        ({"pursuit": "heavy_bal"}, "did you mean 'heavy_ball'"),
        ({"pursuit": {"name": "my_lista", "count": 0}}, "must be an int >= 1, got 0"),
        ({"pursuit": "my_lista", "gradient": "implicit"}, "do not end at one"),
        ({"pursuit": "my_lista", "gradient": "one_step"}, "ends at none"),
        ({"pursuit": {"name": "fista", "count": 4, "tol": 1e-3}, "gradient": "checkpointed"}, "a fixed table"),
        ({"pursuit": "calibrated", "gradient": "checkpointed"}, "a fixed table"),
        ({"pursuit": "calibrated", "penalty": "mcp"}, "derived for the l1 norms"),
        ({"penalty": "mcp", "nonneg": False}, "give nonneg or penalty, not both"),
        ({"penalty": {"name": "mcp", "a": 0}}, "a must be above 0"),
        ({"penalty": {"name": "mcp", "gamma": 2}}, "it takes a"),
        ({"gradient": "onestep"}, "did you mean 'one_step'"),
        ({"pursuit": "lista", "steps": 3, "tol": 1e-3}, "unexpected keyword argument 'tol'; it takes count"),
        ({"pursuit": {"name": "threshold", "gain": 2}}, "unexpected keyword argument 'gain'; it takes no arguments"),
    ],
)
def test_what_makes_no_sense_cannot_be_built(own, options, message):
    with pytest.raises(ValueError, match=rf"^CSC2d: .*{message}"):
        CSC2d(2, 6, 3, **options)


def test_a_checkpoint_holds_a_part_as_plain_values(choice, tmp_path):
    ((role, part),) = choice.items()
    model = csc_nets.create_model("csc_small", widths=[3, 4], **choice).eval()
    assert model.model_args[role] == part.plain() and model.model_args[role]["name"] == part.registered_name
    facts = {"model_name": model.model_name, "model_args": model.model_args}
    weights = {f"model.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": weights, "hyper_parameters": facts}, tmp_path / "saved.ckpt")
    loaded, x = csc_nets.load(tmp_path / "saved.ckpt"), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))


def test_a_checkpoint_with_a_part_that_is_not_known_says_what_to_import(own, tmp_path):
    model = csc_nets.create_model("csc_small", widths=[3], pursuit=own.HeavyBall(4))
    facts = {"model_name": "csc_small", "model_args": {**model.model_args, "pursuit": "forgotten"}}
    torch.save({"state_dict": {}, "hyper_parameters": {**facts, "plugins": ["forgotten.py"]}}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"got 'forgotten'.*import_plugins\(\['forgotten.py'\]\)"):
        csc_nets.load(tmp_path / "a.ckpt")


def test_layers_are_copied_and_compiled_as_one_graph(choice):
    ((_, part),) = choice.items()
    torch.compiler.reset()  # graphs of other tests count for the limit
    x = torch.randn(2, 2, 8, 8)
    for layer in (CSC2d(2, 6, 3, padding=1, **choice).eval(), SparseCoding(8, 12, **choice).eval()):
        twin = copy.deepcopy(layer)
        assert repr(twin) == repr(layer) and type(part).__name__ in repr(layer)
        code = torch.compile(twin, fullgraph=True, backend="eager")(x)
        torch.testing.assert_close(code, layer(x))
        code.sum().backward()
        layer(x).sum().backward()
        for p, q in zip(layer.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad)
