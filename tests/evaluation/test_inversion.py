import pytest
import torch
import torch.nn.functional as F
from torch import nn

from csc_nets.evaluation import activation, invert, relative_error
from csc_nets.models import create_model


class Unreachable(nn.Module):
    def forward(self, x):
        raise AssertionError("what lies behind the layer must not run")


@pytest.fixture
def cnn():
    """Two convolutions with bias, ReLU, max pooling, batch norm, in float64; a third part that must not run."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(12), nn.Conv2d(12, 8, 3), nn.ReLU()
    )
    model[3].running_mean.uniform_(), model[3].running_var.uniform_(0.5, 2)
    return nn.Sequential(model, Unreachable()).double().eval()


@pytest.fixture
def images():
    return torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_activation_is_what_the_layer_returns_or_is_given(cnn, images):
    body = cnn[0]
    assert torch.equal(activation(cnn, "0.2", images), body[:3](images))
    assert torch.equal(activation(cnn, "0.4", images, inputs=True), body[:4](images))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in cnn.modules())
    with pytest.raises(ValueError, match="layer must be the name of a submodule of Sequential, got 'conv1'"):
        activation(cnn, "conv1", images)
    cnn.spare = nn.Identity()
    cnn.forward = lambda x: body(x)
    with pytest.raises(ValueError, match="'spare' of Sequential is not called"):
        activation(cnn, "spare", images)


def test_first_step_is_unpooling_and_transposed_convolution(cnn, images):
    body = cnn[0]
    h = body[0](images)
    pooled, switches = F.max_pool2d(h.relu(), 2, return_indices=True)
    gain = (body[3].weight / (body[3].running_var + body[3].eps).sqrt()).view(1, -1, 1, 1)
    top = body[4](body[3](pooled))
    offset = top - F.conv2d(gain * F.conv2d(images, body[0].weight, padding=1).flatten(2).gather(
        2, switches.flatten(2)).view_as(pooled) * (pooled > 0), body[4].weight)  # fmt: skip
    masked = (top - offset) * (top > 0)
    back = F.conv_transpose2d(masked, body[4].weight) * gain * (pooled > 0)
    back = F.conv_transpose2d(F.max_unpool2d(back, switches, 2), body[0].weight, padding=1)
    found = invert(cnn, images, "0.5", steps=1)
    cosine = (found * back).flatten(1).sum(1) / (found.flatten(1).norm(dim=1) * back.flatten(1).norm(dim=1))
    torch.testing.assert_close(cosine, torch.ones(3, dtype=torch.float64))


def test_many_steps_are_least_squares_with_the_explicit_jacobian(cnn, images):
    matrices = torch.autograd.functional.jacobian(lambda x: activation(cnn, "0.4", x), images)
    target = torch.randn(3, 8, 2, 2, dtype=torch.float64)
    found = invert(cnn, images, "0.4", target, steps=200)
    for i in range(3):
        a = matrices[i, :, :, :, i].reshape(32, 128)
        c = activation(cnn, "0.4", images)[i].flatten() - a @ images[i].flatten()
        expected = torch.linalg.pinv(a) @ (target[i].flatten() - c)
        torch.testing.assert_close(found[i].flatten(), expected, atol=1e-8, rtol=0)


def test_the_true_activation_is_the_default_target(cnn, images):
    h = activation(cnn, "0.4", images)
    torch.testing.assert_close(invert(cnn, images, "0.4", h, steps=3), invert(cnn, images, "0.4", steps=3))


def test_enough_filters_give_the_image_back():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)).double().eval()
    x, errors = torch.rand(2, 2, 12, 12, dtype=torch.float64), []
    invert(model, x, "2", steps=35, trace=lambda v: errors.append(relative_error(v, x).max().item()))
    assert errors == sorted(errors, reverse=True) and errors[0] > 0.1 and errors[-1] < 1e-9


@pytest.mark.parametrize("name", ["csc_small", "sdnet18", "invertible_cnn", "ml_csc_mnist"])
def test_inverts_the_networks_of_the_zoo(name):
    torch.manual_seed(0)
    narrow = {"sdnet18": {"widths": [8, 8, 8, 8]}, "ml_csc_mnist": {}}.get(name, {"widths": [16, 16]})
    model = create_model(name, in_chans=1, **narrow).eval()
    x = torch.rand(2, 1, 28, 28)
    errors = []
    invert(model, x, "stages.0", steps=8, trace=lambda v: errors.append(relative_error(v, x).mean().item()))
    assert len(errors) == 8 and errors == sorted(errors, reverse=True) and errors[-1] < 0.8


def test_inverts_a_residual_network_of_torchvision():
    from torchvision.models import resnet18

    torch.manual_seed(0)
    model, x = resnet18(num_classes=2).eval(), torch.rand(1, 3, 32, 32)
    errors = []
    invert(model, x, "layer1", steps=6, trace=lambda v: errors.append(relative_error(v, x).item()))
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.9 * errors[0]


def test_bad_arguments_are_refused(cnn, images):
    with pytest.raises(ValueError, match="steps must be an int >= 1, got 0"):
        invert(cnn, images, "0.2", steps=0)
    with pytest.raises(ValueError, match=r"target must be finite and of shape \(3, 12, 4, 4\), got \(3, 12, 8, 8\)"):
        invert(cnn, images, "0.2", torch.zeros(3, 12, 8, 8).double())
    with pytest.raises(ValueError, match="evaluation mode"):
        invert(cnn.train(), images, "0.2")
    cnn.eval()
    with pytest.raises(ValueError, match="images to invert must be finite"):
        invert(cnn, images * torch.nan, "0.2")
    with pytest.raises(ValueError, match="target must be finite"):
        invert(cnn, images, "0.2", torch.full((3, 12, 4, 4), torch.nan).double())


def test_a_deep_network_that_shrinks_its_input_is_inverted_in_float32():
    """Activations of 1e-13 have squares that float32 has no numbers for."""
    torch.manual_seed(0)
    layers = [part for _ in range(24) for part in (nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.ReLU())]
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), *layers).eval()
    with torch.no_grad():
        model[3].weight.mul_(1e-9)
    x = torch.rand(2, 3, 8, 8)
    assert 0 < activation(model, "48", x).abs().max() < 1e-12
    exact = invert(model.double(), x.double(), "48", steps=4)
    torch.testing.assert_close(invert(model.float(), x, "48", steps=4).double(), exact, rtol=1e-3, atol=1e-4)


def test_layers_that_work_in_place_or_are_called_by_keyword():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.ReLU(inplace=True), nn.Conv2d(1, 8, 3)

        def forward(self, x):
            return self.second(input=self.first(x))

    model, x = Named().eval(), torch.randn(1, 1, 6, 6)
    before = x.clone()
    assert torch.equal(activation(model, "second", x, inputs=True), x.relu())
    assert invert(model, x, "second", steps=2).isfinite().all() and torch.equal(x, before)


def test_relative_error_of_zeros():
    zero, one = torch.zeros(2, 3), torch.ones(2, 3)
    assert relative_error(zero, zero).tolist() == [0, 0]
    assert relative_error(zero, one).tolist() == [1, 1]
    assert relative_error(one, zero).isinf().all()
    assert relative_error(zero, one * torch.nan).isnan().all() and relative_error(one * torch.nan, one).isnan().all()
    assert relative_error(zero, torch.full((2, 3), 1e-30)).tolist() == [1, 1]


@pytest.mark.gpu
def test_a_gpu_gives_what_a_cpu_gives(cnn, images):
    expected = invert(cnn, images, "0.4", steps=5)
    torch.testing.assert_close(invert(cnn.cuda(), images.cuda(), "0.4", steps=5).cpu(), expected, rtol=1e-6, atol=1e-8)
