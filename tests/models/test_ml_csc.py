import pytest
import torch
from torch import nn

from csc_nets.models import create_model

X = torch.rand(2, 1, 28, 28)


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    "name, pursuit, parameters",
    [
        *(("ml_csc_mnist", p, 604_909) for p in ("layered_basis_pursuit", "ml_ista", "ml_fista")),
        ("ml_csc_mnist", "all_free", 7 * (604_909 - 3 - 5_130) + 5_130),
        *(("ml_csc_cifar", p, 4_005_869) for p in ("layered_basis_pursuit", "ml_ista", "ml_fista")),
        ("ml_csc_cifar", "ml_lista", 4_171_242),
    ],
)
def test_parameter_counts_are_the_published_ones(name, pursuit, parameters):
    with torch.device("meta"):
        assert count(create_model(name, pursuit=pursuit)) == parameters


def test_sizes_of_the_codes_are_the_published_ones():
    model = create_model("ml_csc_mnist", steps=1)
    assert [tuple(z.shape[1:]) for z in model.stages[0].codes(X)] == [(32, 12, 12), (64, 4, 4), (512, 1, 1)]
    model = create_model("ml_csc_cifar", steps=1)
    _, outputs = model.forward_intermediates(torch.rand(2, 3, 32, 32))
    assert [tuple(z.shape[1:]) for z in outputs] == [(128, 4, 4), (256, 4, 4), (512, 2, 2), (512, 1, 1)]
    assert [z.shape[-1] for z in model.stages[0].codes(torch.rand(2, 3, 32, 32))] == [16, 8, 4]


def test_without_unfoldings_it_is_a_cnn_with_a_linear_classifier():
    model = create_model("ml_csc_mnist", steps=0).eval()
    layers = []
    for dictionary, bias, stride in zip(model.stages[0].dictionaries, model.stages[0].biases, (2, 2, 1), strict=True):
        nn.init.normal_(bias, std=0.1)
        conv = nn.Conv2d(*dictionary.weight.shape[1::-1], dictionary.weight.shape[2:], stride)
        conv.weight, conv.bias = dictionary.weight, bias
        layers += [conv, nn.ReLU()]
    cnn = nn.Sequential(*layers, nn.Flatten(), model.fc)
    torch.testing.assert_close(model(X), cnn(X), rtol=1e-6, atol=1e-7)
    assert torch.equal(model.stages[0](X), cnn[:-2](X))


def test_the_deep_cnn_is_as_deep_and_computes_as_much():
    def multiplications(model):
        total = 0

        def add(layer, args, z):
            nonlocal total
            total += layer.weight.numel() * z[0, 0].numel()

        hooks = [m.register_forward_hook(add) for m in model.modules() if isinstance(m, nn.Conv2d)]
        model(X[:1])
        for hook in hooks:
            hook.remove()
        return total

    deep = create_model("deep_cnn_mnist").eval()
    assert sum(isinstance(m, nn.Conv2d) for m in deep.modules()) == 3 * (1 + 2 * 6)
    pursuit = create_model("ml_csc_mnist", steps=0).stages[0]
    once = sum(
        d.weight.numel() * z[0, 0].numel() for d, z in zip(pursuit.dictionaries, pursuit.codes(X[:1]), strict=True)
    )
    assert 1 < multiplications(deep) / (13 * once) < 1.2
    normed = create_model("deep_cnn_mnist", batch_norm=True)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in normed.modules()) == 39
    assert normed(X).shape == (2, 10)


def test_weights_can_be_sparser_at_test_time():
    model = create_model("ml_csc_mnist", steps=2).eval()
    before = model.stages[0](X).count_nonzero()
    model.set_lam(0.05)
    assert model.stages[0](X).count_nonzero() < before


@pytest.mark.parametrize("name", ["ml_csc_mnist", "deep_cnn_mnist"])
def test_bad_shapes_are_refused(name):
    with pytest.raises(ValueError, match="kernel_size must be one int or 3"):
        create_model(name, kernel_size=[3, 3])
    with pytest.raises(ValueError, match="widths must be at least one"):
        create_model(name, widths=[])
    with pytest.raises(ValueError, match="steps must be an int >= 0"):
        create_model(name, steps=-1)
