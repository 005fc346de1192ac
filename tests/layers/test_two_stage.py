import pytest
import torch
import torch.nn.functional as F

from csc_nets.layers import TwoStageDictionary2d


@pytest.fixture
def dictionary():
    torch.manual_seed(0)
    return TwoStageDictionary2d(2, [6, 3], [4, 8], [4, 8], above=5, below=4, reach=2).double()


@pytest.mark.parametrize("size", [(16, 16), (8, 24), (13, 9)])
def test_synthesis_is_the_adjoint_of_analysis(dictionary, size):
    x = torch.randn(2, 2, *size, dtype=torch.float64)
    code = dictionary.analysis(x)
    assert code.shape == (2, 6 * 4 + 3 + 5, *(-(-n // 8) for n in size))
    z = torch.randn_like(code)
    torch.testing.assert_close((code * z).sum(), (x * dictionary.synthesis(z, size)).sum())
    torch.testing.assert_close(dictionary.read().analysis(x), code)


def test_the_second_stage_is_a_product(dictionary):
    z = torch.zeros(1, 32, 2, 2, dtype=torch.float64)
    z[:, 27:] = torch.randn(1, 5, 2, 2, dtype=torch.float64)
    first, _, above = dictionary.scales
    below = F.conv_transpose2d(z[:, 27:], above.weight, stride=2)
    expected = F.conv_transpose2d(below, first.weight[:4], stride=4)
    torch.testing.assert_close(dictionary.synthesis(z), expected)


def test_atoms_in_pixels_are_what_a_number_makes(dictionary):
    z = torch.zeros(5, 32, 1, 1, dtype=torch.float64)
    z[:, 27:, 0, 0] = torch.eye(5, dtype=torch.float64)
    *_, effective = dictionary.pixel_atoms()
    torch.testing.assert_close(effective, dictionary.synthesis(z))


def test_the_bound_holds(dictionary):
    x = torch.randn(1, 2, 16, 16, dtype=torch.float64)
    for _ in range(30):
        x = dictionary.synthesis(dictionary.analysis(x / x.norm()), (16, 16))
    assert x.norm() <= 1.02 * dictionary.bound((16, 16))


@pytest.mark.parametrize("below", [0, 7])
def test_atoms_that_there_are_not(below):
    with pytest.raises(ValueError, match="below must be"):
        TwoStageDictionary2d(2, [6], [4], [4], above=5, below=below, reach=2)
