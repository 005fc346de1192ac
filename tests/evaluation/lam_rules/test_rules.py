"""Rules on an orthonormal dictionary, where residual, divergence and best weight are known in closed form."""

import math

import pytest
import torch
from program import forked
from scipy.optimize import brentq
from torch import nn

from csc_nets.evaluation import (
    SURE,
    AdaptiveLam,
    Discrepancy,
    LamRule,
    NoiseLevel,
    Residual,
    as_lam_rule,
    calibrate_rule,
    lam_path,
    lam_rule,
    list_lam_rules,
    register_lam_rule,
)
from csc_nets.evaluation.lam_rules.path import crossing, lowest
from csc_nets.functional import dct_atoms
from csc_nets.layers import CSC2d, SparseCoding
from csc_nets.models import create_model

OWN = 0.05


@pytest.fixture
def layer():
    """Blocks of 4 x 4 pixels over a DCT: D^T D = I, so that the code is the soft threshold of the correlations."""
    layer = CSC2d(1, 16, 4, stride=4, lam=OWN, nonneg=False, steps=2, step_size=1.0)
    layer.atoms = dct_atoms(torch.eye(1), 4).float()
    return layer.eval()


@pytest.fixture
def signal(layer):
    """Sparse blocks in noise: images (3, 1, 32, 32), their correlations (3, n), and the noise level."""
    z = torch.randn(3, 16, 8, 8) * (torch.rand(3, 16, 8, 8) < 0.1) * 2
    x = layer.synthesize(z, (32, 32)) + 0.2 * torch.randn(3, 1, 32, 32)
    return x, layer.dictionary.analysis(x).flatten(1).detach(), 0.2


def residual(c, lam):
    return torch.minimum(c.abs(), torch.as_tensor(lam)).square().sum(-1)


def sure(c, lam, sigma):
    """Donoho, Johnstone 1995, eq. 11, in units of the noise."""
    return residual(c, lam) - c.shape[-1] * sigma**2 + 2 * sigma**2 * (c.abs() > lam).sum(-1)


def test_the_path_is_the_soft_threshold(layer, signal):
    x, c, _ = signal
    grid = torch.tensor([0.05, 0.2, 0.9])
    found = list(lam_path(layer, x, grid, steps=1))
    for lam, (problem, z) in zip(grid.flip(0), found, strict=True):
        torch.testing.assert_close(problem.residual(z).square().flatten(1).sum(1), residual(c, lam))
        expected = c.sign() * (c.abs() - lam).clamp_min(0)
        torch.testing.assert_close(z.flatten(1), expected, atol=1e-5, rtol=1e-5)


def test_the_path_without_a_step_size_gets_there_by_warm_starts():
    """Overlapping atoms: the codes on the path are those of a long solve of each problem."""
    layer = CSC2d(1, 12, 3, padding=1, lam=0.05)
    x = torch.randn(2, 1, 12, 12)
    grid = 0.05 * 40 ** torch.linspace(0, 1, 12)
    layer.pursuit, layer.steps = "fista", 400
    warm = [problem.objective(z) for problem, z in lam_path(layer, x, grid, steps=10)][::-1]
    cold = [layer.objective(x, layer(x, lam=lam.item()), lam=lam.item()) for lam in grid]
    layer.steps = 10
    short = [layer.objective(x, layer(x, lam=lam.item()), lam=lam.item()) for lam in grid]
    excess = torch.stack([(w / c - 1).amax() for w, c in zip(warm, cold, strict=True)])
    without = torch.stack([(s / c - 1).amax() for s, c in zip(short, cold, strict=True)])
    assert excess.amax() < 0.05 and (excess[:4] < 0.6 * without[:4]).all()


def test_the_discrepancy_is_that_of_the_closed_form(layer, signal):
    x, c, sigma = signal
    rule = Discrepancy(points=400, sigma=sigma)
    for found, row in zip(rule(layer, x).tolist(), c, strict=True):
        assert found == pytest.approx(
            brentq(lambda lam, row=row: (residual(row, lam) - row.numel() * sigma**2).item(), OWN, 10), rel=1e-3
        )
    # Twelve points and a straight line between two of them.
    torch.testing.assert_close(Discrepancy(sigma=sigma)(layer, x), rule(layer, x), rtol=0.05, atol=0)


def test_without_noise_the_layer_keeps_its_weight(layer, signal):
    x = signal[0]
    flat = torch.full((2, 1, 32, 32), 0.3)
    torch.testing.assert_close(Discrepancy(sigma=0.0)(layer, x), torch.full((3,), OWN))
    torch.testing.assert_close(SURE(sigma=0.0)(layer, x), torch.full((3,), OWN))
    for rule in (NoiseLevel(), Discrepancy(), SURE()):  # the estimate is 0, too
        torch.testing.assert_close(rule(layer, flat), torch.full((2,), OWN))


@pytest.mark.parametrize("divergence", ["support", "monte_carlo"])
def test_sure_is_sureshrink(layer, signal, divergence):
    x, c, sigma = signal
    rule = SURE(points=60, sigma=sigma, divergence=divergence)
    grid = rule.grid(layer)
    found, known = rule.risk(layer, x, grid), torch.stack([sure(c, lam, sigma) for lam in grid], 1)
    # Random signs in the basis of the atoms are nearly Gaussian: the divergence of k non-zeros has variance 2 k.
    active = torch.stack([(c.abs() > lam).sum(1) for lam in grid], 1)
    bound = 1e-2 if divergence == "support" else 2 * sigma**2 * 4 * (2 * active).sqrt() + 0.1
    assert ((found - known).abs() <= bound).all()
    if divergence == "support":
        best = grid[known.argmin(1)]
        assert (rule(layer, x) / best).log().abs().amax() <= 0.51 * math.log(grid[1] / grid[0])


def test_sure_finds_a_weight_nearly_as_good_as_the_best(layer):
    z = torch.randn(8, 16, 8, 8) * (torch.rand(8, 16, 8, 8) < torch.linspace(0.02, 0.4, 8).view(8, 1, 1, 1)) * 2
    clean = layer.synthesize(z, (32, 32))
    x = clean + 0.2 * torch.randn_like(clean)

    def loss(lam):
        code = layer(x, lam=lam.view(-1, 1, 1, 1))
        return (layer.synthesize(code, (32, 32)) - clean).square().flatten(1).sum(1)

    rule = SURE(sigma=0.2)
    best = torch.stack([loss(lam.expand(8)) for lam in rule.grid(layer)]).amin(0)
    assert (loss(rule(layer, x)) < 1.1 * best).all()


def test_monte_carlo_divergence_is_unbiased_where_the_support_is_not():
    """Twice the same atom: the support counts both, and the divergence of the synthesis is that of one."""
    layer = SparseCoding(8, 16, lam=0.1, nonneg=False, steps=2)
    layer.atoms = torch.cat([torch.eye(8), torch.eye(8)])
    x = torch.randn(4, 8) * 5
    counts = {d: SURE(sigma=1.0, divergence=d, steps=60, points=3, largest=1.001) for d in ("support", "monte_carlo")}
    risks = {d: rule.risk(layer, x, rule.grid(layer))[:, 0] for d, rule in counts.items()}
    torch.testing.assert_close(risks["support"] - risks["monte_carlo"], torch.full((4,), 16.0), rtol=0.02, atol=0)


def test_the_residual_rule_is_its_fixed_point(layer, signal):
    x, c, _ = signal
    rule = Residual(points=400, slope=3.0, intercept=0.1)
    lam = rule(layer, x)
    r = torch.stack([residual(row, value) for row, value in zip(c, lam, strict=True)]) / c.shape[1]
    torch.testing.assert_close(lam, 3 * r + 0.1, rtol=1e-3, atol=0)
    # It is the smallest one: below it the line is above the weight.
    for row, value in zip(c, lam, strict=True):
        below = torch.linspace(OWN, value.item() * 0.99, 50)
        assert all(3 * residual(row, b) / row.numel() + 0.1 > b for b in below)
    assert torch.equal(Residual(slope=0.0, intercept=0.0)(layer, x), torch.full((3,), OWN))
    top = Residual(slope=100.0, intercept=9.0)(layer, x)
    torch.testing.assert_close(top, torch.full((3,), OWN * 32))
    with pytest.raises(ValueError, match="calibrate_rule"):
        Residual()(layer, x)


def test_crossing_and_lowest():
    grid = torch.tensor([1.0, 2.0, 4.0, 8.0])
    gap = torch.tensor([[-1.0, 1, 2, 3], [1, 2, 3, 4], [-4, -3, -2, -1], [-3, -1, 0, 1], [-1, 1, -1, 1]])
    assert crossing(gap, grid).tolist() == [1.5, 1, 8, 4, 1.5]
    curve = torch.stack([(grid.log2() - top) ** 2 for top in (1.3, 0, 3, -2, 9)])
    torch.testing.assert_close(lowest(curve, grid), 2 ** torch.tensor([1.3, 0, 3, 0, 3]))


@pytest.mark.parametrize(
    "rule", [Discrepancy(), SURE(), SURE(divergence="support"), Residual(slope=4.0, intercept=0.05)]
)
def test_what_is_missing_does_not_count(layer, signal, rule):
    x = signal[0]
    torch.testing.assert_close(rule(layer, x, torch.ones(32, 32)), rule(layer, x), rtol=1e-4, atol=0)
    mask = torch.ones(1, 1, 32, 32)
    mask[..., :8, :12] = 0
    found = [rule(layer, x.masked_fill(mask == 0, value), mask) for value in (0.0, 7.0, math.nan)]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2]) and found[0].isfinite().all()


def test_a_weight_per_atom_keeps_its_shape(layer, signal):
    x = signal[0]
    layer.lam = torch.linspace(0.5, 1.5, 16) * OWN
    rule = Discrepancy(sigma=0.2)
    model = nn.Sequential(layer)
    with lam_rule(model, rule):
        z = model(x)
    level = rule(layer, x)
    expected = layer(x, lam=level.view(-1, 1, 1, 1) / OWN * layer.lam.view(1, -1, 1, 1))
    torch.testing.assert_close(z, expected)


@pytest.fixture
def model():
    torch.manual_seed(1)
    return create_model("csc_small", num_classes=4, in_chans=3, widths=[8, 8], lam=0.05).eval()


RULES = [NoiseLevel(), Discrepancy(), SURE(), Residual(slope=4.0, intercept=0.05)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.registered_name)
@pytest.mark.parametrize("layers", ["first", "all"])
def test_each_image_is_treated_alone_and_the_network_is_left_as_it_was(model, rule, layers):
    x = torch.randn(3, 3, 16, 16) * torch.tensor([0.3, 1.0, 2.0]).view(3, 1, 1, 1)
    plain, state, text = model(x), {k: v.clone() for k, v in model.state_dict().items()}, repr(model)
    with lam_rule(model, rule, layers=layers):
        together = model(x)
        alone = torch.cat([model(image[None]) for image in x])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(together, plain)
    assert torch.equal(model(x), plain) and repr(model) == text
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_all_layers_follow_the_first(model):
    x, coders = torch.randn(3, 3, 16, 16), [m for m in model.modules() if isinstance(m, CSC2d)]
    factor = (NoiseLevel()(coders[0], x) / coders[0].lam).view(-1, 1, 1, 1)
    first = model.stages[0](x)
    coders[1].lam = 0.2
    with lam_rule(model, NoiseLevel(), layers="all"):
        logits = model(x)
    z = coders[1](model.stages[0][1](coders[0](x, lam=factor * coders[0].lam)), lam=factor * 0.2)
    torch.testing.assert_close(logits, model.forward_head(model.stages[1][1](z)))
    assert first.shape == (3, 8, 16, 16)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.registered_name)
def test_an_attacker_can_differentiate_through_the_rule(rule):
    """The gradient is the derivative of the whole, rule included: compare a finite difference."""
    coder = CSC2d(3, 48, 4, stride=4, lam=0.05, nonneg=False, step_size=1.0)
    coder.atoms = dct_atoms(torch.eye(3), 4).float()
    model = nn.Sequential(coder, nn.Flatten(), nn.Linear(48 * 16, 1)).double()
    smooth = torch.linspace(-1, 1, 16, dtype=torch.float64)
    x = (smooth[:, None] * smooth + 0.3 * torch.randn(1, 3, 16, 16, dtype=torch.float64)).requires_grad_()
    lam = rule(coder, x)
    assert 0.06 < lam.item() < 1.5  # between the ends of the grid
    (gradient,) = torch.autograd.grad(AdaptiveLam(model, rule)(x).sum(), x)
    step = 1e-6 * torch.randn_like(x)
    with torch.no_grad():
        ahead, back = (AdaptiveLam(model, rule)(x + sign * step).item() for sign in (1, -1))
    assert (gradient * step).sum().item() == pytest.approx((ahead - back) / 2, rel=1e-3)
    coder.lam = lam.detach()[0]  # without the rule's part it is another gradient
    (fixed,) = torch.autograd.grad(model(x).sum(), x)
    assert not torch.allclose(gradient, fixed, rtol=1e-3)


def test_wrong_choices_are_refused(model):
    with pytest.raises(ValueError, match=r"unknown lam rule .*did you mean discrepancy"):
        AdaptiveLam(model, "discrepency")
    with (
        pytest.raises(ValueError, match="layers must be first or all, got 'last'"),
        lam_rule(model, "sure", layers="last"),
    ):
        pass
    with pytest.raises(ValueError, match="has no coding layer"):
        AdaptiveLam(nn.Conv2d(1, 1, 1), "sure")
    with pytest.raises(ValueError, match=r"must be above 0, got 0\.0"):
        Discrepancy()(CSC2d(1, 4, 3, lam=0.0), torch.randn(1, 1, 8, 8))
    for wrong in ({"points": 2}, {"largest": 1.0}, {"steps": 0}, {"divergence": "exact"}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}|number of steps"):
            as_lam_rule({"name": "sure", **wrong})


def test_a_rule_from_outside_is_known_by_its_name(model):
    process = forked(_adds_a_rule, model)  # which no other test then finds
    process.join()
    assert process.exitcode == 0


def _adds_a_rule(model):
    @register_lam_rule("twice")
    class Twice(LamRule):
        def __call__(self, layer, x, mask=None):
            return 2 * layer.lam.expand(len(x))

    assert {"twice", "sure", "discrepancy", "residual", "noise_level"} <= set(list_lam_rules())
    x, coder = torch.randn(2, 3, 16, 16), next(m for m in model.modules() if isinstance(m, CSC2d))
    found = AdaptiveLam(model, "twice")(x)
    coder.lam = 2 * coder.lam
    torch.testing.assert_close(found, model(x))


class ByEnergy(nn.Module):
    """A network whose answer is right at one weight for each level of noise: that at which its code has energy 1."""

    num_classes = 2

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        lam_wanted = 0.1 + 2 * x.flatten(1).var(1)
        code = self.layer(x)
        lam = (self.layer.dictionary.analysis(x) - code).abs().flatten(1).amax(1)  # the soft threshold takes lam
        return torch.stack([-(lam - lam_wanted).abs() + 0.06, torch.zeros(len(x))], 1)


@pytest.mark.parametrize("labelled", [True, False])
def test_calibration_finds_the_line(layer, labelled):
    """The best weight is 0.1 + 2 sigma^2 where the signal is noise alone, and so is the line in the noise variance."""
    torch.manual_seed(0)
    layer.lam = 0.1
    model = ByEnergy(layer)
    noise, levels = torch.randn(6, 1, 64, 64), (0.02, 0.3, 0.5, 0.7)
    batches = [level * noise for level in levels]
    labels = torch.zeros(6, dtype=torch.long) if labelled else None
    rule = calibrate_rule(NoiseLevel(), model, batches, labels, points=200)
    wanted = [0.1 + 2 * level**2 for level in levels]
    expected = torch.tensor([[level, 1.0] for level in levels])
    line = torch.linalg.lstsq(expected, torch.tensor(wanted)[:, None]).solution[:, 0]
    torch.testing.assert_close(torch.tensor([rule.slope, rule.intercept]), line, rtol=0.1, atol=0.02)
    found = calibrate_rule(Residual(steps=1), model, batches, labels, points=200)
    assert found.slope > 0 and found.points == Residual().points
    with pytest.raises(ValueError, match="two levels of noise"):
        calibrate_rule(rule, model, batches[:1])


@pytest.mark.parametrize("sigma", [0.05, 0.1, 0.2])
def test_the_noise_of_photographs_is_found_within_5_percent(sigma):
    """The flower of scikit-learn; the other photograph has a roof as fine as noise."""
    from sklearn.datasets import load_sample_image

    x = torch.from_numpy(load_sample_image("flower.jpg").copy()).permute(2, 0, 1)[None] / 255
    layer = CSC2d(3, 16, 3, lam=0.001)
    noisy = x + sigma * torch.randn_like(x)
    found = NoiseLevel(slope=1.0, intercept=0.0)(layer, noisy)
    assert found.item() == pytest.approx(sigma, rel=0.05)
