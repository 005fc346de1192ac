import pytest
import torch

from csc_nets.layers.encoders import BatchTopKEncoder, Encoder, JumpReLUEncoder, build_encoder, register_encoder


@pytest.fixture
def scores():
    return torch.randn(50, 20, generator=torch.Generator().manual_seed(0))


def atoms():
    return torch.eye(20)


def test_rules(scores):
    linear = build_encoder("linear", atoms(), 4)
    assert torch.equal(linear.rule(scores), scores.relu())
    top = build_encoder("top_k", atoms(), 4).rule(scores)
    expected = torch.zeros_like(scores)
    for i, row in enumerate(scores):
        best = row.topk(4)
        expected[i, best.indices] = best.values.relu()
    assert torch.equal(top, expected)
    maps = build_encoder("top_k", atoms(), 4).rule(scores.T[None, :, :, None])
    assert torch.equal(maps[0, :, :, 0].T, expected)  # at each position


def test_a_batch_shares_its_atoms_and_a_threshold_takes_over(scores):
    encoder = BatchTopKEncoder(atoms(), 4, momentum=0.5)
    z = encoder.rule(scores)
    assert (z != 0).sum() == 4 * 50 and z[z != 0].min() == scores.flatten().topk(200).values[-1]
    assert encoder.threshold == z[z != 0].min()
    encoder.rule(scores + 1.0)
    kept = (scores + 1.0).flatten().topk(200).values[-1]
    torch.testing.assert_close(encoder.threshold, (z[z != 0].min() + kept) / 2)
    encoder.eval()
    assert torch.equal(encoder.rule(scores) != 0, scores > encoder.threshold)


def test_the_derivative_of_a_jump_is_that_of_its_smoothed_mean():
    """The mean of a jump over uniform scores has a derivative; that of the box is the same number."""
    encoder = JumpReLUEncoder(torch.eye(1), 1, threshold=0.5, width=0.2).double()
    scores = torch.linspace(0, 1, 100_001, dtype=torch.float64)[:, None]
    value = encoder.rule(scores).sum() / len(scores)
    torch.testing.assert_close(value, torch.tensor(0.375, dtype=torch.float64), rtol=0, atol=1e-4)  # int_0.5^1 s ds
    (gradient,) = torch.autograd.grad(value, encoder.log_threshold)
    # d/dt int_t^1 s ds = -t, times dt / d log t = t
    torch.testing.assert_close(gradient, torch.tensor([-0.25], dtype=torch.float64), rtol=1e-3, atol=0)
    count = encoder.sparsity(scores)
    torch.testing.assert_close(count, torch.tensor(0.25, dtype=torch.float64), rtol=1e-3, atol=0)  # (0.5 / 1 - 1)^2
    (gradient,) = torch.autograd.grad(count, encoder.log_threshold)
    # d/dt (1 - t - 1)^2 = 2 t, times t
    torch.testing.assert_close(gradient, torch.tensor([0.5], dtype=torch.float64), rtol=1e-3, atol=0)


def test_an_encoder_of_ones_own():
    @register_encoder("squares")
    class Squares(Encoder):
        def rule(self, scores):
            return scores.square()

    built = build_encoder({"name": "squares"}, atoms(), 3)
    x = torch.randn(4, 20)
    assert torch.equal(built(x, torch.nn.functional.linear), x.square())


def test_bad_encoders_are_named():
    with pytest.raises(ValueError, match="did you mean 'top_k'"):
        build_encoder("topk", atoms(), 4)
    with pytest.raises(ValueError, match="k must be"):
        build_encoder("top_k", atoms(), 0)
    with pytest.raises(ValueError, match="threshold and width must be above 0"):
        build_encoder({"name": "jump_relu", "width": 0.0}, atoms(), 4)
