import pytest
import torch
from torch import nn

from csc_nets.models import create_model


def build(seed=0, **options):
    torch.manual_seed(seed)
    return create_model("invertible_cnn", **options).double().eval()


def images(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def error(model, x, **options):
    back = model.reconstruct(x, **options)
    return ((back - x).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)).mean().item()


def test_only_the_classifier_trains_unless_asked():
    model = build(widths=[4, 6])
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"fc.weight", "fc.bias"}
    assert all(p.requires_grad for p in build(widths=[4, 6], frozen=False).parameters())


def test_features_are_those_of_the_encoding():
    model = build(widths=[4, 6], window=2)
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.uniform_(), norm.running_var.uniform_(0.5, 2), norm.weight.data.uniform_(0.5, 2)
    x = images(2, 3, 13, 16)
    encoding = model.forward_switches(x)
    torch.testing.assert_close(encoding.values, model.forward_features(x))
    assert encoding.sizes == [(13, 16), (7, 8)] and [tuple(s.shape[2:]) for s in encoding.switches] == [(7, 8), (4, 4)]
    torch.testing.assert_close(encoding.norms[0], x.flatten(1).norm(dim=1))
    one = model.forward_switches(x, stage=0)
    torch.testing.assert_close(one.values, model.stages[0](x))


def test_orthonormal_mirrored_filters_lose_nothing_through_three_layers():
    """1 x 1 filters, orthonormal over the channels of each stage, no pooling: Proposition 1 three times."""
    model = build(in_chans=2, widths=[2, 4, 8], kernel_size=1, window=1, sign="mirrored", step_size=1.0)
    for layer in model.layers:
        layer.dictionary.weight = torch.linalg.qr(torch.randn(layer.dictionary.weight.shape[:2]).double())[0][
            ..., None, None
        ]
    x = images(3, 2, 5, 6)
    torch.testing.assert_close(model.reconstruct(x, rescale=False), x, rtol=0, atol=1e-13)


def test_decoder_undoes_batch_norm():
    model = build(in_chans=2, widths=[2], kernel_size=1, window=1, sign="mirrored", step_size=1.0)
    model.layers[0].dictionary.weight = torch.eye(2)[..., None, None].double()
    norm = model.stages[0][1]
    norm.running_mean.uniform_(), norm.running_var.uniform_(0.01, 2)
    norm.weight.data.uniform_(-2, 2), norm.bias.data.uniform_(-1, 1)
    x = images(3, 2, 5, 6)
    torch.testing.assert_close(model.reconstruct(x, rescale=False), x, rtol=0, atol=1e-13)
    norm.weight.data.zero_()  # nothing is left but the mean
    assert model.reconstruct(x, rescale=False).isfinite().all()


@pytest.mark.parametrize("sign", ["signed", "mirrored"])
def test_more_steps_invert_better_at_every_depth(sign):
    x = images(4, 3, 16, 16) - 0.5
    options = {"widths": [32, 48], "kernel_size": 5, "norm": False, "sign": sign}
    errors = {steps: [error(build(steps=steps, **options), x, stage=i) for i in (0, 1)] for steps in (1, 4, 16)}
    for depth in (0, 1):
        assert errors[1][depth] > errors[4][depth] > errors[16][depth]
    assert errors[16][0] < 0.5 * errors[1][0]


@pytest.mark.parametrize("frozen", [True, False])
def test_given_filters_are_used_with_the_step_size_that_they_ask_for(frozen):
    model = build(widths=[4, 6], frozen=frozen, steps=5)
    weight = torch.randn(4, 3, 5, 5).double() + 3
    layer = model.layers[0]
    layer.set_filters(weight)
    unit = weight / weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    torch.testing.assert_close(layer.atoms, unit if frozen else weight)
    bound = layer.dictionary.lipschitz.clone()
    layer.dictionary.refresh()
    assert torch.equal(layer.dictionary.lipschitz, bound) and bound > 30
    assert layer.dictionary.weight.requires_grad != frozen
    with pytest.raises(ValueError, match=r"PooledCSC2d: atoms .* shape \(4, 3, 5, 5\), got \(4, 3, 3, 3\)"):
        layer.set_filters(weight[..., 1:4, 1:4])


def test_an_empty_batch_and_a_single_image():
    for density in (0.5, 1.0):
        model = build(widths=[4, 6], density=density)
        assert model.reconstruct(images(0, 3, 7, 5)).shape == (0, 3, 7, 5)
        assert model.reconstruct(images(1, 3, 7, 5)).shape == (1, 3, 7, 5)


def test_bad_arguments_are_refused():
    for options, message in [
        ({"widths": []}, "widths"),
        ({"window": 0}, "window must be an int >= 1, got 0"),
        ({"window": True}, "window must be a whole number, got true"),
        ({"kernel_size": [3, 3]}, "kernel_size"),
        ({"sign": "up"}, "sign"),
    ]:
        with pytest.raises(ValueError, match=message):
            create_model("invertible_cnn", **options)
    with pytest.raises(ValueError, match="3 stages"):
        build().forward_switches(images(1, 3, 8, 8), stage=3)
