import pytest
import torch

from csc_nets.functional import ConvGeometry, Convolution
from csc_nets.functional.operators import blocks


@pytest.mark.parametrize(("dims", "kernel", "channels"), [(1, (64,), 2), (2, (4, 8), 3), (3, (4, 4, 4), 1)])
def test_equal_to_the_convolution_and_its_adjoint(dims, kernel, channels):
    torch.manual_seed(0)
    geometry = ConvGeometry.create(dims, kernel, kernel)
    weight = torch.randn(5, channels, *kernel, dtype=torch.float64)
    size = [k * n for k, n in zip(kernel, (3, 2, 1), strict=False)]
    x = torch.randn(2, channels, *size, dtype=torch.float64)
    assert blocks.applies(weight, geometry, size)
    z = geometry.analysis(x, weight)
    torch.testing.assert_close(blocks.analysis(x, weight), z)
    torch.testing.assert_close(blocks.synthesis(z, weight), geometry.synthesis(z, weight, size))
    operator = Convolution(weight, geometry)
    torch.testing.assert_close(operator.analysis(x, exact=False), z)
    assert torch.equal(operator.analysis(x), z)  # exact means torch's own


def test_gradients():
    weight = torch.randn(3, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    x = torch.randn(1, 1, 8, 16, dtype=torch.float64, requires_grad=True)
    z = torch.randn(1, 3, 1, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(blocks.analysis, (x, weight))
    assert torch.autograd.gradcheck(blocks.synthesis, (z, weight))


@pytest.mark.parametrize(
    ("arguments", "size"), [((8, 4), (16, 16)), ((8, 8), (16, 12)), ((8, 8, 1), (16, 16)), ((2, 2), (4, 4))]
)
def test_other_layouts_are_left_to_torch(arguments, size):
    geometry = ConvGeometry.create(2, *arguments)
    assert not blocks.applies(torch.randn(3, 1, *geometry.kernel_size), geometry, size)
