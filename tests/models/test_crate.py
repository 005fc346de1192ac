import pytest
import torch
from torch import nn

from csc_nets.models import create_model, import_crate
from csc_nets.models.crate import CRATEBlock, PatchEmbedding

PUBLISHED = {"crate_tiny": 6.09, "crate_small": 13.12, "crate_base": 22.80, "crate_large": 77.64}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_the_published_ones(name):
    with torch.device("meta"):
        model = create_model(name, num_classes=1000)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == PUBLISHED[name]


def published_state(width: int, depth: int, patch: int, grid: int, classes: int) -> dict[str, torch.Tensor]:
    """Random tensors under the names of the published code."""
    pixels, g = 3 * patch**2, torch.Generator().manual_seed(3)
    shapes = {"pos_embedding": (1, 1 + grid**2, width), "cls_token": (1, 1, width)}
    norms = {"to_patch_embedding.1": pixels, "to_patch_embedding.3": width, "mlp_head.0": width}
    shapes |= {"to_patch_embedding.2.weight": (width, pixels), "to_patch_embedding.2.bias": (width,)}
    shapes |= {"mlp_head.1.weight": (classes, width), "mlp_head.1.bias": (classes,)}
    for i in range(depth):
        layer = f"transformer.layers.{i}"
        norms |= {f"{layer}.0.norm": width, f"{layer}.1.norm": width}
        shapes |= {f"{layer}.0.fn.qkv.weight": (width, width), f"{layer}.0.fn.to_out.0.weight": (width, width)}
        shapes |= {f"{layer}.0.fn.to_out.0.bias": (width,), f"{layer}.1.fn.weight": (width, width)}
    shapes |= {f"{name}.{kind}": (size,) for name, size in norms.items() for kind in ("weight", "bias")}
    return {key: torch.randn(shape, generator=g, dtype=torch.float64) / 2 for key, shape in shapes.items()}


def by_formulas(state: dict[str, torch.Tensor], images: torch.Tensor, heads: int, depth: int, patch: int):
    """The logits as the paper has them, one token and one head after the other."""

    def norm(x, name):
        return nn.functional.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    logits = []
    for image in images:
        patches = [
            image[:, i : i + patch, j : j + patch].permute(1, 2, 0).flatten()
            for i in range(0, image.shape[1], patch)
            for j in range(0, image.shape[2], patch)
        ]
        tokens = norm(torch.stack(patches), "to_patch_embedding.1") @ state["to_patch_embedding.2.weight"].T
        tokens = norm(tokens + state["to_patch_embedding.2.bias"], "to_patch_embedding.3")
        z = torch.cat([state["cls_token"][0], tokens]) + state["pos_embedding"][0]
        for i in range(depth):
            layer = f"transformer.layers.{i}"
            w = norm(z, f"{layer}.0.norm") @ state[f"{layer}.0.fn.qkv.weight"].T
            heads_out = []
            for u in w.chunk(heads, 1):
                heads_out.append(torch.softmax(u @ u.T / u.shape[1] ** 0.5, 1) @ u)
            z = z + torch.cat(heads_out, 1) @ state[f"{layer}.0.fn.to_out.0.weight"].T
            z = norm(z + state[f"{layer}.0.fn.to_out.0.bias"], f"{layer}.1.norm")
            d = state[f"{layer}.1.fn.weight"]  # atoms in its columns
            z = torch.relu(z + 0.1 * (z - z @ d.T) @ d - 0.1 * 0.1)
        logits.append(norm(z[0], "mlp_head.0") @ state["mlp_head.1.weight"].T + state["mlp_head.1.bias"])
    return torch.stack(logits)


def test_a_checkpoint_gives_what_the_formulas_say():
    state = published_state(width=12, depth=2, patch=4, grid=3, classes=5)
    network = import_crate({"state_dict": {f"module.{key}": value for key, value in state.items()}}, heads=3)
    images = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    expected = by_formulas(state, images, heads=3, depth=2, patch=4)
    torch.testing.assert_close(network(images), expected, rtol=1e-7, atol=1e-7)
    assert network.model_args["input_size"] == 12 and network.num_classes == 5 and not network.training
    other = import_crate(state, heads=3, lam=0.5)(images)
    assert (other - expected).abs().max() > 1e-3


def test_what_is_no_checkpoint_is_refused():
    state = published_state(width=12, depth=1, patch=4, grid=2, classes=5)
    with pytest.raises(ValueError, match="give heads, which are not known for tokens of length 12"):
        import_crate(state)
    with pytest.raises(ValueError, match=r"tensors are missing: \['stages.1.coder_norm.weight'\]"):
        import_crate({k: v for k, v in state.items() if k != "transformer.layers.0.1.norm.weight"}, heads=2)
    with pytest.raises(ValueError, match="expected names of CRATE such as pos_embedding"):
        import_crate({"conv.weight": torch.zeros(1)})


def test_more_steps_lower_the_objective_of_the_tokens():
    torch.manual_seed(0)
    y, values = torch.randn(2, 5, 12), []
    blocks = {steps: CRATEBlock(12, 2, pursuit="ista", steps=steps, lam=0.1) for steps in (1, 4, 2000)}
    for block in blocks.values():
        block.load_state_dict(blocks[1].state_dict())
        values.append(block.coder.objective(y, block.coder(y, init=y)).sum())
    assert values[0] > values[1] > values[2]
    certified = blocks[1].coder.problem(y)
    gap = certified.duality_gap(blocks[2000].coder(y, init=y).flatten(0, 1))
    assert (gap < 1e-3 * certified.energy()).all()


def test_an_overcomplete_dictionary_codes_from_zero_and_adds_to_the_token():
    torch.manual_seed(0)
    model = create_model("crate_cifar", width=12, depth=1, heads=2, expansion=3)
    block = model.stages[1]
    assert block.coder.atoms.shape == (36, 12) and block.coder.steps == 2 and block.decoder is not None
    x = torch.randn(2, 5, 12)
    after = x + block.attention(block.attention_norm(x))
    silent = CRATEBlock(12, 2, 3, lam=1e6)
    silent.load_state_dict({k: v for k, v in block.state_dict().items() if "lam" not in k}, strict=False)
    torch.testing.assert_close(silent(x), after)  # no code, no change
    assert (block(x) - after).abs().max() > 1e-3


def test_an_image_of_another_size_gets_interpolated_positions():
    embedding = PatchEmbedding(1, 6, patch_size=2, grid=4)
    with torch.no_grad():
        embedding.position.copy_(torch.arange(17.0).view(1, 17, 1).expand(1, 17, 6))
        embedding.position[:, 1:] = 5.0
    found = embedding.positions((3, 7))
    assert found.shape == (1, 22, 6) and torch.allclose(found[:, 1:], torch.tensor(5.0))
    assert torch.equal(found[:, 0], embedding.position[:, 0])
    x = torch.randn(1, 1, 5, 8)  # padded to 6 rows
    assert torch.equal(embedding(x), embedding(nn.functional.pad(x, (0, 0, 0, 1))))
    assert embedding(x).shape == (1, 13, 6)


def test_the_mean_of_all_tokens_can_be_classified():
    model = create_model("crate_cifar", width=12, depth=1, heads=2).eval()
    tokens = torch.randn(2, 65, 12)
    first = model.forward_head(tokens)
    model.reset_classifier(10, "avg")
    torch.testing.assert_close(model.forward_head(tokens, pre_logits=True), model.norm(tokens.mean(1)))
    again = create_model("crate_cifar", **model.model_args).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.forward_head(tokens), model.forward_head(tokens)) and first.shape == (2, 10)
    with pytest.raises(ValueError, match="global_pool must be 'token' or 'avg', got 'max'"):
        model.reset_classifier(10, "max")


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"heads": 5}, "heads must divide width=96, got 5"),
        ({"input_size": 30}, "input_size must be a multiple of patch_size=4, got 30"),
        ({"depth": 0}, "depth must be an int >= 1, got 0"),
        ({"step_size": -1.0}, "step_size"),
    ],
)
def test_bad_arguments_are_named(bad, message):
    with pytest.raises(ValueError, match=message):
        create_model("crate_cifar", **bad)
