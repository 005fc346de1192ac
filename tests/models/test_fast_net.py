import pytest
import torch
from torch.nn.functional import conv2d, gelu, pad, unfold

from csc_nets.models import create_model
from csc_nets.models.fast_net import principal_patches


@pytest.fixture
def pictures():
    """Smooth images ``(64, 3, 16, 16)``, whose neighbouring pixels and channels are alike."""
    noise = torch.randn(64, 3, 20, 20, generator=torch.Generator().manual_seed(1))
    smooth = torch.nn.functional.avg_pool2d(noise, 5, stride=1)
    return 5 * (smooth + smooth.mean(1, keepdim=True))


def test_principal_patches_are_orthonormal_and_have_the_mean_squares_of_a_direct_sum(pictures):
    vectors, variances = principal_patches(pictures, 2)
    flat = vectors.flatten(1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(12), atol=1e-5, rtol=0)
    assert (variances.diff() <= 0).all()
    patches = torch.cat([pictures[:, :, i : i + 2, j : j + 2].flatten(1) for i in range(15) for j in range(15)])
    torch.testing.assert_close((patches @ flat.T).square().mean(0), variances, rtol=1e-4, atol=1e-6)


def test_the_stem_whitens_the_patches_it_was_shown(pictures):
    model = create_model("fastnet", widths=[4, 6, 8])
    model.fit_images(pictures)
    responses = conv2d(pictures, model.stages[0][1].weight).transpose(0, 1).flatten(1)
    assert torch.equal(responses[:12], -responses[12:])
    covariance = responses[:12] @ responses[:12].T / responses.shape[1]
    torch.testing.assert_close(covariance, torch.eye(12), atol=0.05, rtol=0)  # the ridge takes a little
    stem = model.forward_intermediates(pictures, [0], intermediates_only=True)[0]
    torch.testing.assert_close(
        stem, gelu(conv2d(pad(pictures, (0, 1, 0, 1)), model.stages[0][1].weight, model.stages[0][1].bias))
    )


def test_one_step_of_a_coded_stem_without_sparsity_is_the_analysis_by_the_same_vectors(pictures):
    """The two signs of a non-negative code hold a number of any sign: nothing is lost."""
    model = create_model("fastnet_stem", widths=[4, 6, 8], pursuit="threshold", steps=1, lam=0.0)
    model.fit_images(pictures)
    code = model.stages[0][1](pictures)
    vectors, _ = principal_patches(pictures, 2)
    analysis = torch.einsum("pk,nkl->npl", vectors.flatten(1), unfold(pictures, 2)).view(64, 12, 15, 15)
    torch.testing.assert_close(code[:, :12] - code[:, 12:], analysis, atol=1e-4, rtol=1e-4)
    assert (code[:, :12] * code[:, 12:]).abs().max() == 0


@pytest.mark.parametrize(
    "name, coded", [("fastnet", 0), ("fastnet_stem", 1), ("fastnet_stages", 6), ("fastnet_all", 7)]
)
def test_layers_and_size_of_the_published_network(name, coded):
    from csc_nets.layers import CSC2d

    model = create_model(name)
    assert sum(isinstance(module, CSC2d) for module in model.modules()) == coded
    weights = sum(p.numel() for key, p in model.named_parameters() if p.ndim == 4 and not key.startswith("stages.0"))
    assert weights == 9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256)
    assert model.pretrained_cfg["first_conv"] == "stages.0.1"


def test_plain_layers_start_by_handing_on_their_input():
    conv = create_model("fastnet").stages[1][0]
    x = torch.randn(2, 24, 8, 8)
    torch.testing.assert_close(conv(x)[:, :24], x)


def test_logits_are_scaled():
    model = create_model("fastnet", widths=[4, 6]).eval()
    model.reset_classifier(7)
    features = torch.randn(2, 6, 3, 4)
    pooled = features.mean((2, 3))
    expected = (pooled @ model.fc.weight.T + model.fc.bias) / 9
    torch.testing.assert_close(model.forward_head(features), expected)
    assert expected.shape == (2, 7)
    model.reset_classifier(0)
    torch.testing.assert_close(model.forward_head(features), pooled)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"coding": "stems"}, "coding must be 'none', 'stem', 'stages' or 'all', got 'stems'"),
        ({"lam": 0.2}, "coding='none' has no coded layer and takes no lam"),
        ({"widths": []}, "widths must be at least one positive int"),
        ({"bn_momentum": 0.0}, "bn_momentum must be above 0 and at most 1"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        create_model("fastnet", **options)


def test_atoms_start_by_handing_on_what_comes_in():
    """A thresholding without sparsity by the first atoms is the ReLU of the signal."""
    x = torch.randn(2, 24, 8, 8)
    model = create_model("fastnet_all", widths=[32, 40, 48], pursuit="threshold", steps=1, lam=0.0).eval()
    torch.testing.assert_close(model.stages[1][0](x)[:, :24], x.relu())
    assert model.stages[1][0].atoms.flatten(1).norm(dim=1).allclose(torch.ones(32))


@pytest.mark.parametrize("grid", [1, 2])
def test_the_last_map_is_pooled_as_asked(pictures, grid):
    model = create_model("fastnet", widths=[4, 6, 8], global_pool="max").eval()
    model.grid = grid
    features = model.forward_features(pictures)
    side = features.shape[-1] // grid
    parts = [features[..., i : i + side, j : j + side].flatten(2) for i in (0, side)[:grid] for j in (0, side)[:grid]]
    maxima = torch.stack([part.max(2).values for part in parts], 2).flatten(1)
    assert torch.equal(model.forward_head(features, pre_logits=True), maxima)


def test_another_pooling_can_be_built_again(pictures):
    model = create_model("fastnet", widths=[4, 6, 8]).eval()
    model.reset_classifier(5, "max")
    again = create_model(model.model_name, **model.model_args).eval()
    again.load_state_dict(model.state_dict())
    assert again.global_pool == "max" and torch.equal(again(pictures), model(pictures))
    with pytest.raises(ValueError, match="global_pool must be 'avg' or 'max', got 'token'"):
        create_model("fastnet", global_pool="token")
