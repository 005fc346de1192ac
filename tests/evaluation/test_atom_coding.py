import math

import pytest
import torch

from csc_nets.evaluation.atom_coding import AtomCoder


def draw(p, r, seed):
    """Indices of atoms with a share p of non-zeros and geometric magnitudes, ``(1, M, n, 1)``."""
    torch.manual_seed(seed)
    p, r = torch.tensor(p)[:, None], torch.tensor(r)[:, None]
    uniform = torch.rand(len(p), 200_000)
    magnitude = 1 + (uniform.log() / r.log()).floor()
    sign = torch.randint(2, magnitude.shape) * 2 - 1
    return (magnitude * sign * (torch.rand_like(uniform) < p))[None, :, :, None]


def test_the_distribution_is_found_and_bits_are_its_entropy():
    p, r = [0.3, 0.05], [0.6, 0.2]
    coder = AtomCoder.fit([draw(p, r, 0)])
    assert coder.tables[0][0].tolist() == pytest.approx(p, rel=0.03)
    assert coder.tables[0][1].tolist() == pytest.approx(r, rel=0.05)
    h = lambda x: -x * math.log2(x) - (1 - x) * math.log2(1 - x)  # noqa: E731
    entropy = sum(h(a) + a * (1 + h(b) / (1 - b)) for a, b in zip(p, r, strict=True))
    fresh = draw(p, r, 1)
    assert coder.bits([fresh]) / 200_000 == pytest.approx(entropy, rel=0.01)


def test_probabilities_sum_to_one_and_prices_are_differences_of_bits():
    coder = AtomCoder.fit([draw([0.2], [0.5], 0)])
    bits = [coder.bits([torch.full((1, 1, 1, 1), float(q))]) for q in range(-60, 61)]
    assert sum(2**-b for b in bits) == pytest.approx(1)
    ratio = coder.tables[0][1].item()
    mean = sum((1 - ratio) * ratio ** (q - 1) * bits[60 + q] for q in range(1, 60))
    assert coder.prices()[0].item() == pytest.approx(mean - bits[60], rel=1e-6)


def test_what_training_has_not_seen_can_be_coded():
    coder = AtomCoder.fit([torch.zeros(1, 2, 3, 3)])
    assert math.isfinite(coder.bits([torch.full((1, 2, 3, 3), 7.0)]))
