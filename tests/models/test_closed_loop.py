import pytest
import torch
from torch import nn

from csc_nets.models import create_model

KINDS = ["csc_ctrl_32", "conv_ctrl_32"]


@pytest.mark.parametrize("name", KINDS)
def test_features_lie_on_the_sphere_and_images_in_range(name, narrow, images):
    model, x = narrow(name).eval(), 3 * images(count=5)
    z = model.encode(x)
    assert z.shape == (5, 8)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(5))
    assert (z < 0).any() and (z > 0).any(), "signed, or all lie in one orthant"
    assert model(x).abs().max() <= 1
    torch.testing.assert_close(model(x), model.decode(z))
    torch.testing.assert_close(model.reconstruct(x), model(x))
    torch.testing.assert_close(model.encode(2 * x).norm(dim=1), torch.ones(5))


@pytest.mark.parametrize("name", KINDS)
def test_larger_images_have_more_features(name, narrow, images):
    model, x = narrow(name).eval(), images(size=(20, 24))
    z = model.encode(x)
    assert z.shape == (2, 8 * 2 * 3) and model.decode(z, (20, 24)).shape == x.shape
    with pytest.raises(ValueError, match=r"images of \(16, 16\) have features \(N, 8\), got \(2, 48\)"):
        model.decode(z)


@pytest.mark.parametrize("name", KINDS)
def test_batches_of_one_train(name, narrow, images):
    model = narrow(name).train()
    model(images(count=1)).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_codes_of_zeros_have_features_of_zeros(narrow, images):
    model = narrow("csc_ctrl_32", lam=1e4).eval()
    assert not model.encode(images()).any() and model(images()).isfinite().all()
    assert model.half().encode(images().half()).isfinite().all()


@pytest.mark.parametrize("name", KINDS)
def test_partial_reconstruction_of_every_stage(name, narrow, images):
    model, x = narrow(name).eval(), images()
    for stage in range(3):
        assert model.reconstruct(x, stage).shape == x.shape
    (code,) = model.forward_intermediates(x, [0], intermediates_only=True)
    torch.testing.assert_close(model.reconstruct(x, 0), torch.tanh(model.synthesize(code, (16, 16), 0)))
    assert not torch.allclose(model.reconstruct(x, 0), model.reconstruct(x, 1))


@pytest.mark.parametrize("name", KINDS)
def test_each_parameter_belongs_to_one_player(name, narrow, images):
    model = narrow(name)
    encoder, decoder = model.players()
    assert {id(p) for p in encoder} | {id(p) for p in decoder} == {id(p) for p in model.parameters()}
    assert not {id(p) for p in encoder} & {id(p) for p in decoder}
    model(images()).sum().backward()
    assert all(p.grad is not None for p in decoder)
    model.zero_grad()
    model.decode(model.encode(images()).detach()).sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in encoder)


def test_a_shared_decoder_leaves_the_encoder_alone(narrow, images):
    model = narrow("csc_ctrl_32", decoder="shared")
    model.decode(model.encode(images()).detach()).sum().backward()
    encoder, decoder = model.players()
    assert all(p.grad is None or not p.grad.any() for p in encoder) and decoder


def test_sparsity_weight_at_test_time(narrow, images):
    model, x = narrow("csc_ctrl_32").eval(), images()
    codes = []
    for lam in (0.01, 1.0):
        model.set_lam(lam)
        codes.append((model.forward_intermediates(x, [0], intermediates_only=True)[0] != 0).float().mean())
    assert codes[1] < 0.5 * codes[0]


def test_the_baseline_is_the_published_network():
    with torch.device("meta"):
        model = create_model("conv_ctrl_32")
        sparse = create_model("csc_ctrl_32")
    sides = [sum(p.numel() for p in side if p.ndim == 4) for side in model.players()]
    assert sides == [1_182_720, 1_182_720]
    assert sum(p.numel() for p in sparse.players()[0] if p.ndim == 4) == 1_182_720
    kinds = [type(m).__name__ for m in model.stages.modules() if not list(m.children())]
    assert kinds == ["Conv2d", "LeakyReLU", *["Conv2d", "BatchNorm2d", "LeakyReLU"] * 2, "Conv2d"]
    assert all(m.bias is None for m in model.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d))


@pytest.mark.parametrize("size", [64, 128, 224])
def test_every_size(size):
    model = create_model(f"csc_ctrl_{size}", widths=[2] * (4 if size == 64 else 5), features=3, in_chans=1).eval()
    x = torch.rand(1, 1, size, size)
    assert model.encode(x).shape == (1, 3) and model(x).shape == x.shape
    assert model.input_size == size and model.feature_info.reduction()[-1] == 2 ** (len(model.stages) - 1)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="input_size must be a multiple of 8, got 30"):
        create_model("csc_ctrl_32", input_size=30)
    with pytest.raises(ValueError, match="widths"):
        create_model("conv_ctrl_32", widths=[])
