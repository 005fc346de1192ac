import pytest
import torch

from csc_nets.functional import Cascade, fista
from csc_nets.layers import DenseDictionary, Dictionary1d, Dictionary2d


@pytest.fixture
def cascade():
    return Cascade([Dictionary2d(1, 4, 6, 2).double(), Dictionary2d(4, 6, 5, 2, 1).double()])


def test_adjoint_pair_of_the_product(cascade):
    for size in ((28, 28), (27, 30)):
        x = torch.randn(2, 1, *size, dtype=torch.float64)
        z = torch.randn_like(cascade.analysis(x))
        assert z.shape[2:] == cascade.sizes(size)[-1]
        torch.testing.assert_close((cascade.synthesis(z, size) * x).sum(), (z * cascade.analysis(x)).sum())


def test_codes_are_the_partial_products(cascade):
    z = torch.randn(2, 6, 5, 5, dtype=torch.float64)
    signal, first, deepest = cascade.codes(z, (28, 28))
    d1, d2 = cascade.dictionaries
    assert deepest is z
    torch.testing.assert_close(first, d2.synthesis(z, (12, 12)))
    torch.testing.assert_close(signal, d1.synthesis(first, (28, 28)))
    assert torch.equal(cascade.synthesis(z, (28, 28)), signal)


def test_a_pursuit_takes_it_as_a_dictionary():
    dense = [DenseDictionary(8, 12).double(), DenseDictionary(12, 16).double()]
    matrix = dense[1].weight @ dense[0].weight
    x = torch.randn(3, 8, dtype=torch.float64)
    ours = fista(x, Cascade(dense), 0.1, steps=300)
    torch.testing.assert_close(ours, fista(x, matrix.detach(), 0.1, steps=300), rtol=1e-6, atol=1e-8)


def test_layers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"dictionaries\[1\] must take the 4 atoms"):
        Cascade([Dictionary1d(1, 4, 3), Dictionary1d(5, 6, 3)])
    with pytest.raises(ValueError, match="at least one"):
        Cascade([])
