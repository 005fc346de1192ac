"""Where the gain of a step goes, and what a step does in half precision."""

import pytest
import torch

from csc_nets.functional import L1, NonnegativeL1
from csc_nets.functional.kernels import FoldedStep
from csc_nets.layers import CSC2d, Dictionary2d


def kept(call):
    """Shapes and dtypes of the distinct tensors that a call keeps for its backward pass."""
    found = {}

    def pack(tensor):
        found[tensor.untyped_storage().data_ptr()] = (tuple(tensor.shape), tensor.dtype)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = call()  # alive until all are counted, or an address may be used twice
    assert result.requires_grad
    return list(found.values())


@pytest.mark.parametrize("batch", [1, 64])  # signals smaller than the filters, and larger
@pytest.mark.parametrize("penalty", [NonnegativeL1(), L1()])
def test_a_gain_is_that_of_every_atom(batch, penalty):
    torch.manual_seed(0)
    dictionary = Dictionary2d(8, 32, 3, padding=1).double()
    x, gain = torch.randn(batch, 8, 4, 4).double(), torch.tensor(0.3).double()
    threshold, gradients = torch.full((32, 1, 1), 0.1).double(), []
    for of_step in (gain, gain.expand(32)):
        dictionary.zero_grad()
        step = FoldedStep(dictionary.read(), penalty, of_step, threshold)
        y = step.start(x)
        z = step.advance(x, y, y, step.synthesis(y, (4, 4)))
        v = y + 0.3 * dictionary.analysis(x - dictionary.synthesis(y))
        expected = (v - 0.1).relu() if penalty.nonneg else v.sign() * (v.abs() - 0.1).relu()
        torch.testing.assert_close(z, expected)
        z.square().sum().backward()
        gradients.append(next(dictionary.parameters()).grad)
    torch.testing.assert_close(*gradients)


def test_small_signals_leave_one_copy_of_the_filters():
    dictionary = Dictionary2d(8, 32, 3, padding=1)
    x, gain = torch.randn(1, 8, 4, 4), torch.tensor(0.3)

    def run(x):
        step = FoldedStep(dictionary.read(), NonnegativeL1(), gain, torch.tensor(0.1))
        y = step.start(x)
        return step.advance(x, y, y, step.synthesis(y, (4, 4)))

    trained = (tuple(next(dictionary.parameters()).shape), torch.float32)
    assert kept(lambda: run(x)).count(trained) == 2  # as trained and normalised
    assert kept(lambda: run(x.expand(64, -1, -1, -1))).count(trained) == 3  # and times the gain


@pytest.mark.parametrize("nonneg", [True, False])
@pytest.mark.parametrize("lam", [0.1, torch.tensor([0.05, 0.2]).view(2, 1, 1, 1)])
def test_half_precision(nonneg, lam):
    torch.manual_seed(0)
    layer = CSC2d(3, 32, 3, padding=1, steps=3, nonneg=nonneg)
    x = torch.randn(2, 3, 16, 16)
    layer(x)  # one power step, so that both runs below take the same step size
    layer.eval()
    full = layer(x, lam=lam)
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(x, lam=lam)
        # Autocast would round the filters for each of the five convolutions, and keep them.
        assert kept(lambda: layer(x, lam=lam)).count((tuple(layer.atoms.shape), torch.bfloat16)) == 2
    assert half.dtype == torch.bfloat16 and layer.dictionary.lipschitz.dtype == torch.float32
    assert (half.float() - full).norm() < 0.01 * full.norm()
    # The gradient of a code in half precision is in full precision, and near.
    wanted = torch.autograd.grad(full.square().sum(), layer.parameters())[0]
    found = torch.autograd.grad(half.float().square().sum(), layer.parameters())[0]
    assert found.dtype == torch.float32
    assert (found - wanted).norm() < 0.05 * wanted.norm()
