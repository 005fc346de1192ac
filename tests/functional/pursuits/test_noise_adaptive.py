"""LISTA whose thresholds follow the noise level, against its equation in plain torch and in closed-form limits."""

import pytest
import torch
import torch.nn.functional as F

from csc_nets.functional import ISTA, FreeL1, NoiseAdaptiveLISTA, as_penalty
from csc_nets.layers import CSC1d, CSC2d, SparseCoding


def shrink(v, t):
    return v.sign() * (v.abs() - t).relu()


def randomised(layer, scale=0.3):
    with torch.no_grad():
        for parameter in layer.pursuit.parameters():
            parameter.copy_(scale * torch.randn_like(parameter))
        layer.pursuit.floors.abs_()
        layer.pursuit.slopes.abs_()
    return layer


@pytest.mark.parametrize("lam", [0.3, torch.tensor([0.1, 0.5]).view(2, 1, 1, 1)], ids=["number", "per_sample"])
def test_the_published_equation(lam):
    layer = randomised(CSC2d(1, 5, 3, stride=2, padding=1, pursuit=NoiseAdaptiveLISTA(3), nonneg=False))
    x, p = torch.randn(2, 1, 8, 8), layer.pursuit
    t = [floor.view(-1, 1, 1) + slope.view(-1, 1, 1) * lam for floor, slope in zip(p.floors, p.slopes, strict=True)]
    z = shrink(F.conv2d(x, p.analysers[0].weight, stride=2, padding=1), t[0])
    for k in (1, 2):
        estimate = F.conv_transpose2d(z, p.synthesisers[k - 1].weight, stride=2, padding=1, output_padding=1)
        z = shrink(z - F.conv2d(estimate - x, p.analysers[k].weight, stride=2, padding=1), t[k])
    torch.testing.assert_close(layer(x, lam=lam), z, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("build", [CSC1d, CSC2d])
def test_it_starts_as_ista(build):
    learned = build(2, 6, 5, padding=2, pursuit="noise_adaptive_lista", steps=7, lam=0.2).eval()
    plain = build(2, 6, 5, padding=2, pursuit=ISTA(7), lam=0.2).eval()
    plain.dictionary.load_state_dict(learned.dictionary.state_dict())
    x = torch.randn(3, 2, *(20,) * learned.dictionary.geometry.dims)
    for lam in (None, 0.05):
        torch.testing.assert_close(learned(x, lam=lam), plain(x, lam=lam), rtol=1e-5, atol=1e-6)


def test_dense_codes():
    learned = SparseCoding(12, 20, pursuit="noise_adaptive_lista", steps=4, lam=0.2).eval()
    plain = SparseCoding(12, 20, pursuit="ista", steps=4, lam=0.2).eval()
    plain.dictionary.load_state_dict(learned.dictionary.state_dict())
    x = torch.randn(3, 12)
    torch.testing.assert_close(learned(x), plain(x), rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        learned.pursuit.analysers[0].weight.mul_(100)
    learned.pursuit.project()
    assert learned.pursuit.analysers[0].weight.norm(dim=1).max() <= 1 + 1e-6


def test_one_step_without_noise_is_the_analysis():
    layer = CSC2d(1, 4, 3, padding=1, pursuit=NoiseAdaptiveLISTA(1), nonneg=False)
    x = torch.randn(2, 1, 9, 9)
    expected = F.conv2d(x, layer.pursuit.analysers[0].weight, padding=1)
    assert torch.equal(layer(x, lam=0.0), expected)
    assert len(layer.pursuit.synthesisers) == 0


def test_without_adaptive_thresholds_the_noise_level_does_not_count():
    layer = CSC2d(1, 4, 3, padding=1, pursuit=NoiseAdaptiveLISTA(3, adaptive=False), nonneg=False)
    torch.nn.init.constant_(layer.pursuit.floors, 0.1)
    x = torch.randn(2, 1, 9, 9)
    torch.testing.assert_close(layer(x, lam=0.0), layer(x, lam=3.0), rtol=1e-5, atol=1e-6)


def test_tied_steps_share_their_parameters():
    tied = CSC2d(1, 4, 3, padding=1, pursuit=NoiseAdaptiveLISTA(5, tied=True), nonneg=False, lam=0.2)
    assert sum(p.numel() for p in tied.pursuit.parameters()) == 2 * 4 * 9 + 2 * 4
    free = CSC2d(1, 4, 3, padding=1, pursuit=NoiseAdaptiveLISTA(5), nonneg=False, lam=0.2)
    p = free.pursuit
    assert sum(q.numel() for q in p.parameters()) == 9 * 4 * 9 + 2 * 5 * 4
    with torch.no_grad():
        for filters in p.analysers:
            filters.weight.copy_(tied.pursuit.analysers[0].weight)
        for filters in p.synthesisers:
            filters.weight.copy_(tied.pursuit.synthesisers[0].weight)
        p.slopes.copy_(tied.pursuit.slopes.expand_as(p.slopes))
    x = torch.randn(2, 1, 9, 9)
    torch.testing.assert_close(tied(x), free(x))


def test_the_projection():
    layer = randomised(CSC2d(3, 4, 3, padding=1, pursuit=NoiseAdaptiveLISTA(3), nonneg=False), scale=2.0)
    p = layer.pursuit
    with torch.no_grad():
        p.floors.neg_()
        p.analysers[1].weight[0].zero_()
        p.analysers[1].weight[1, 0] = 0.01
    before = p.analysers[1].weight.detach().clone()
    p.project()
    assert (p.floors == 0).all() and (p.slopes >= 0).all()
    after = p.analysers[1].weight
    assert torch.equal(after[1, 0], before[1, 0]) and torch.equal(after[0], before[0])
    norms = torch.linalg.vector_norm(after, dim=(2, 3))
    assert norms.max() <= 1 + 1e-6
    long = torch.linalg.vector_norm(before, dim=(2, 3)) > 1
    torch.testing.assert_close(norms[long], torch.ones_like(norms[long]))


def test_another_number_of_steps_is_refused():
    layer = CSC2d(1, 4, 3, pursuit=NoiseAdaptiveLISTA(3))
    with pytest.raises(ValueError, match="takes no other number"):
        layer.steps = 4


def test_recompute_gives_the_same_gradient():
    layer = randomised(CSC2d(1, 5, 3, padding=1, pursuit=NoiseAdaptiveLISTA(4), nonneg=False))
    x = torch.randn(2, 1, 9, 9)
    gradients = []
    for gradient in ("unroll", "recompute"):
        layer.gradient = gradient
        layer.zero_grad()
        layer(x, lam=0.1).square().sum().backward()
        gradients.append([p.grad.clone() for p in layer.pursuit.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_shrinkage_for_thresholds_of_any_sign():
    penalty, v = as_penalty("free_l1"), torch.linspace(-2, 2, 41)
    assert isinstance(penalty, FreeL1)
    torch.testing.assert_close(penalty.prox(v, 0.3), shrink(v, 0.3))
    # CSCNet's own code: two masks and two sums.
    t = -0.3
    published = (v > t) * (v - t) + (v < -t) * (v + t)
    torch.testing.assert_close(penalty.prox(v, t), published)
    torch.testing.assert_close(penalty.prox(-v, t), -penalty.prox(v, t))


def test_thresholds_of_zero_can_be_learned():
    """Training starts at thresholds of 0 and projects onto them: the derivative there is the limit from above."""
    layer, x = (
        randomised(CSC2d(1, 5, 3, padding=1, pursuit=NoiseAdaptiveLISTA(3), nonneg=False)),
        torch.randn(2, 1, 8, 8),
    )
    gradients = []
    for floor in (0.0, 1e-6):
        layer.zero_grad()
        with torch.no_grad():
            layer.pursuit.floors.fill_(floor)
            layer.pursuit.slopes.zero_()
        layer(x, lam=0.1).abs().sum().backward()
        gradients.append((layer.pursuit.floors.grad, layer.pursuit.slopes.grad))
    for at_zero, above in zip(*gradients, strict=True):
        assert (above != 0).all()
        torch.testing.assert_close(at_zero, above, rtol=1e-3, atol=1e-3)
