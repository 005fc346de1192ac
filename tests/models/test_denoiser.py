"""CDLNet, GDLNet, CSCNet and DnCNN: counts, limits, and their published equations in plain torch."""

import pytest
import torch
import torch.nn.functional as F

from csc_nets.functional import estimate_noise_level
from csc_nets.layers.learned_filters import GaborFilters
from csc_nets.models import create_model


def shrink(v, t):
    return (v - t).relu() - (-v - t).relu()


def randomised(model):
    """Untied filters and thresholds that differ, with steps that stay bounded."""
    pursuit = model.coder.pursuit
    with torch.no_grad():
        for parameter in pursuit.parameters():
            parameter.add_(0.1 * parameter.std() * torch.randn_like(parameter))
        pursuit.floors.uniform_(0, 0.02)
        if pursuit.slopes is not None:
            pursuit.slopes.uniform_(0, 0.3)
    return model.eval()


@pytest.mark.parametrize(
    "name, options, count",
    [
        ("cdlnet", {}, 64_000),
        ("cdlnet_large", {}, 507_000),
        ("cdlnet", {"steps": 42, "atoms": 64, "in_chans": 3}, 795_648),
        ("cdlnet", {"steps": 24, "atoms": 96, "in_chans": 3, "stride": 2}, 681_984),
        ("gdlnet", {}, 2 * 30 * 169 * 7),
        ("gdlnet", {"order": 3}, 2 * 30 * 169 * 19),
        ("cscnet", {}, 63_700),
        ("dncnn", {}, 556_097),
    ],
)
def test_published_numbers_of_parameters(name, options, count):
    with torch.device("meta"):
        model = create_model(name, **options)
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_cdlnet_is_its_equation(stride, masked):
    model = randomised(create_model("cdlnet", in_chans=3, steps=4, atoms=6, stride=stride))
    x, sigma = torch.rand(2, 3, 16, 22), torch.tensor([0.1, 0.3])
    mask = (torch.rand(2, 3, 16, 22) > 0.4).float() if masked else torch.ones(2, 3, 16, 22)
    y = mask * x
    mean = y.sum((1, 2, 3), keepdim=True) / mask.sum((1, 2, 3), keepdim=True)
    y = mask * (y - mean)
    missing = [-22 % stride, -16 % stride]
    pads = [n for m in missing for n in (m // 2, m - m // 2)]
    y, m = F.pad(y, pads, mode="reflect"), F.pad(mask, pads, mode="reflect")
    p, d = model.coder.pursuit, model.coder.dictionary.weight
    c = sigma.view(2, 1, 1, 1)
    t = [a.view(-1, 1, 1) + b.view(-1, 1, 1) * c for a, b in zip(p.floors, p.slopes, strict=True)]
    up = {"stride": stride, "padding": 3, "output_padding": stride - 1}
    z = shrink(F.conv2d(y, p.analysers[0].weight, stride=stride, padding=3), t[0])
    for k in range(1, 4):
        estimate = m * F.conv_transpose2d(z, p.synthesisers[k - 1].weight, **up)
        z = shrink(z - F.conv2d(estimate - y, p.analysers[k].weight, stride=stride, padding=3), t[k])
    expected = F.conv_transpose2d(z, d, **up)[..., pads[2] :, pads[0] :][..., :16, :22] + mean
    ours = model(x, sigma, mask) if masked else model(x, sigma)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_cscnet_is_its_equation():
    model = randomised(create_model("cscnet", steps=3, atoms=5, kernel_size=5, stride=3))
    model.coder.pursuit.floors[0, 0] = -0.01  # published thresholds are of both signs
    x, p, d = torch.rand(2, 1, 16, 20), model.coder.pursuit, model.coder.dictionary.weight
    a, b, t = p.synthesisers[0].weight, p.analysers[0].weight, p.floors.view(-1, 1, 1)
    right, down = ((3 - (n + 3 - 5) % 3) % 3 + 3 for n in (20, 16))
    total = 0
    for i in range(3):
        for j in range(3):
            y = F.pad(x, (3 - j, right + j, 3 - i, down + i), mode="reflect")
            z = shrink(F.conv2d(y, b, stride=3), t)
            for _ in range(2):
                z = shrink(z - F.conv2d(F.conv_transpose2d(z, a, stride=3) - y, b, stride=3), t)
            total = total + F.conv_transpose2d(z, d, stride=3)[..., 3 - i :, 3 - j :][..., :16, :20]
    torch.testing.assert_close(model(x, 0.1), total / 9, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_gabor_filters_are_their_equation():
    filters = GaborFilters(4, 2, 5, order=3)
    grid = torch.stack(torch.meshgrid(torch.arange(5.0) - 2, torch.arange(5.0) - 2, indexing="ij"), -1)
    expected = 0
    for r in range(3):
        a, w = filters.precision[r][:, :, None, None], filters.frequency[r][:, :, None, None]
        bell = torch.exp(-(a * grid).square().sum(-1))
        expected = expected + filters.scale[r][..., None, None] * bell * torch.cos(
            (w * grid).sum(-1) + filters.phase[r][..., None, None]
        )
    torch.testing.assert_close(filters(), expected)
    one = GaborFilters(1, 1, 7)
    for parameter in (one.precision, one.frequency, one.phase):
        parameter.zero_()
    torch.testing.assert_close(one(), one.scale[0, 0, 0].expand(1, 1, 7, 7))


@torch.no_grad()
def test_one_step_without_noise_is_synthesis_of_analysis():
    model = create_model("cdlnet", steps=1, atoms=8).eval()
    x = torch.rand(2, 1, 12, 12)
    w = model.coder.dictionary.weight
    mean = x.mean((1, 2, 3), keepdim=True)
    expected = F.conv_transpose2d(F.conv2d(x - mean, w, padding=3), w, padding=3) + mean
    torch.testing.assert_close(model(x, 0.0), expected)


@torch.no_grad()
def test_it_begins_with_one_dictionary_of_norm_one():
    model = create_model("cdlnet_large", steps=3, atoms=12)
    p, d = model.coder.pursuit, model.coder.dictionary
    assert all(torch.equal(f.weight, d.weight) for f in (*p.analysers, *p.synthesisers))
    assert d.squared_norm().item() == pytest.approx(1, rel=1e-4)
    assert not p.floors.any() and not p.slopes.any()


@pytest.mark.parametrize("name", ["cdlnet", "gdlnet", "cscnet", "dncnn"])
@torch.no_grad()
def test_a_mask_of_ones_changes_nothing_and_missing_pixels_may_hold_anything(name, narrow):
    model = narrow(name).eval()
    x, mask = torch.rand(2, 3, 20, 22), torch.ones(1, 1, 20, 22)
    torch.testing.assert_close(model(x, 0.1, mask), model(x, 0.1), rtol=1e-5, atol=1e-6)
    mask[..., 5:9, 7:12] = 0
    whole = model(x, 0.1, mask)
    assert torch.equal(model(torch.where(mask == 0, torch.nan, x), 0.1, mask), whole) and whole.isfinite().all()


@torch.no_grad()
def test_no_noise_level_is_the_estimated_one():
    model = randomised(create_model("cdlnet", steps=3, atoms=8))
    x = torch.rand(3, 1, 32, 32) * torch.tensor([0.1, 0.5, 1.0]).view(3, 1, 1, 1)
    torch.testing.assert_close(model(x), model(x, estimate_noise_level(x)))
    assert not torch.equal(model(x), model(x, 0.0))
    for sigma in (0.2, torch.tensor(0.2), torch.full((3,), 0.2), torch.full((3, 1, 1, 1), 0.2)):
        torch.testing.assert_close(model(x, sigma), model(x, 0.2))


@pytest.mark.parametrize("sigma", [-0.1, float("nan"), torch.ones(2), True])
def test_bad_noise_levels_are_refused(sigma):
    model = create_model("cdlnet", steps=2, atoms=4)
    with pytest.raises(ValueError, match="sigma must be"):
        model(torch.rand(3, 1, 16, 16), sigma)


@pytest.mark.parametrize("name, tile", [("cdlnet", 9), ("cdlnet_large", 10), ("cscnet", 12), ("dncnn", 7)])
@torch.no_grad()
def test_tiles_are_the_whole(name, tile, narrow):
    model = narrow(name, **({} if name == "dncnn" else {"steps": 2})).eval()
    x = torch.rand(1, 3, 61, 70)
    mask = (torch.rand(1, 1, 61, 70) > 0.2).float()
    for arguments in ((None,), (0.2, mask)):
        if name == "cscnet" and len(arguments) == 2:
            continue  # reflected at another place, a mask differs by what a tile does not see
        torch.testing.assert_close(model.tiled(x, *arguments, tile=tile), model(x, *arguments), rtol=1e-5, atol=1e-5)
    if name != "cscnet":
        model.reach //= 2
        assert not torch.allclose(model.tiled(x, 0.2, tile=tile), model(x, 0.2), atol=1e-6)


def test_projection_brings_filters_and_thresholds_back():
    model = create_model("cdlnet", in_chans=3, steps=3, atoms=4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
    model.project()
    p = model.coder.pursuit
    assert min(p.floors.min(), p.slopes.min()) == 0
    for filters in (*p.analysers, *p.synthesisers, model.coder.dictionary.filters):
        assert torch.linalg.vector_norm(filters.weight, dim=(2, 3)).max() <= 1 + 1e-6


@torch.no_grad()
def test_stronger_noise_shrinks_more():
    model = create_model("cdlnet", steps=4, atoms=8).eval()
    torch.nn.init.constant_(model.coder.pursuit.slopes, 1.0)
    x = torch.rand(1, 1, 24, 24)
    energies = [(model(x, sigma) - x.mean()).norm().item() for sigma in (0.0, 0.05, 0.2, 10.0)]
    assert energies == sorted(energies, reverse=True) and energies[-1] == pytest.approx(0, abs=1e-4)


DENOISERS = ["cdlnet", "gdlnet", "cscnet", "dncnn", "proximal_denoiser", "analysis_denoiser"]


@pytest.mark.parametrize("name", DENOISERS)
@torch.no_grad()
def test_bad_input_is_refused_under_the_name_of_the_network(name, narrow):
    model = narrow(name).eval()
    x = torch.rand(2, 3, 20, 22)
    for images in (None, [1.0], x.numpy(), "x", (255 * x).byte(), x.bool(), x.cfloat()):
        with pytest.raises(ValueError, match=f"{name}: images must be a tensor of floats"):
            model(images, 0.1)
    for sigma in ("0.1", [0.1], (0.1, 0.1), {}, 1j, float("inf"), x[0, 0, 0, :2].numpy()):
        with pytest.raises(ValueError, match=f"{name}: sigma must be a finite number >= 0, got"):
            model(x, sigma)
    for sigma in (torch.tensor([0.1, -0.1]), torch.tensor(torch.nan), torch.tensor(True), torch.tensor([1j, 1j])):
        with pytest.raises(ValueError, match=f"{name}: sigma must be (finite and not negative|real numbers), got"):
            model(x, sigma)
    for mask in (True, "mask", [1], x.numpy(), torch.ones(7), torch.ones(1, 2, 3, 20, 22), x.cfloat()):
        for call in (model, model.tiled if name in ("cdlnet", "dncnn") else model):
            with pytest.raises(ValueError, match=f"{name}: mask must"):
                call(x, 0.1, mask)


@pytest.mark.parametrize("name", DENOISERS)
@torch.no_grad()
def test_nan_in_a_mask_is_missing(name, narrow):
    model, x, mask = narrow(name).eval(), torch.rand(1, 3, 20, 22), torch.ones(20, 22)
    mask[3:5, 4:6] = 0
    for sigma in (0.1, None):
        assert torch.equal(model(x, sigma, torch.where(mask == 0, torch.nan, mask)), model(x, sigma, mask))
