import pytest
import torch

from csc_nets.layers import Dictionary2d, MultiScaleDictionary2d


@pytest.fixture
def dictionary():
    torch.manual_seed(0)
    return MultiScaleDictionary2d(2, [5, 3], [4, 8], [2, 8]).double()


@pytest.mark.parametrize("size", [(16, 16), (8, 24), (13, 9)])
def test_synthesis_is_the_adjoint_of_analysis(dictionary, size):
    x = torch.randn(2, 2, *size, dtype=torch.float64)
    code = dictionary.analysis(x)
    assert code.shape == (2, 5 * 16 + 3, *(-(-n // 8) for n in size))
    z = torch.randn_like(code)
    torch.testing.assert_close((code * z).sum(), (x * dictionary.synthesis(z, size)).sum())
    operator = dictionary.read()
    torch.testing.assert_close(operator.analysis(x), code)
    torch.testing.assert_close(operator.synthesis(z, size), dictionary.synthesis(z, size))


def test_one_scale_is_the_dictionary(dictionary):
    one = MultiScaleDictionary2d(2, [5], [4], [2]).double()
    plain = Dictionary2d(2, 5, 4, 2, 1).double()
    plain.load_state_dict(one.scales[0].state_dict())
    x = torch.randn(1, 2, 12, 12, dtype=torch.float64)
    torch.testing.assert_close(one.analysis(x), plain.analysis(x))
    assert one.bound((12, 12)) == plain.bound((12, 12))


def test_the_bound_holds(dictionary):
    x = torch.randn(1, 2, 16, 16, dtype=torch.float64)
    for _ in range(30):
        x = dictionary.synthesis(dictionary.analysis(x / x.norm()), (16, 16))
    assert x.norm() <= 1.02 * dictionary.bound((16, 16))


@pytest.mark.parametrize("arguments", [([5], [4, 8], [2, 8]), ([5, 3], [4, 9], [3, 8]), ([5], [4], [8]), ([], [], [])])
def test_scales_that_do_not_fit(arguments):
    with pytest.raises(ValueError, match="MultiScaleDictionary2d: "):
        MultiScaleDictionary2d(2, *arguments)
