"""Stripe and patch norms against loops over positions, and against the Gram matrix of the dictionary."""

import itertools
import math

import pytest
import torch

from csc_nets.functional import ConvGeometry
from csc_nets.theory import patch_norm, stripe_norm

CODES = [(7,), (12,), (5, 6), (3, 4, 5)]


def sparse_code(size, atoms=3, batch=4, density=0.2):
    return torch.randn(batch, atoms, *size) * (torch.rand(batch, atoms, *size) < density)


def by_loops(code, offsets, order):
    """Norm of every window, from its definition."""
    size, needles = code.shape[2:], code.double().flatten(2)  # positions in row-major order
    norms = []
    for position in itertools.product(*map(range, size)):
        window = set()
        for offset in itertools.product(*offsets):
            at = 0
            for p, o, n in zip(position, offset, size, strict=True):
                at = at * n + (p + o) % n
            window.add(at)
        entries = needles[..., sorted(window)].flatten(1)
        norms.append((entries != 0).sum(1) if order == 0 else entries.norm(dim=1))
    return torch.stack(norms).amax(0)


@pytest.mark.parametrize("order", [0, 2])
@pytest.mark.parametrize("size", CODES)
def test_norms_are_those_of_loops(size, order):
    code = sparse_code(size)
    for kernel, stride in ((1, 1), (2, 1), (3, 1), (3, 2), (4, 3), (6, 1)):
        reach = (kernel - 1) // stride
        expected = by_loops(code, [range(-reach, reach + 1)] * len(size), order)
        torch.testing.assert_close(stripe_norm(code, kernel, stride, order), expected, check_dtype=False)
        expected = by_loops(code, [range(kernel)] * len(size), order)
        torch.testing.assert_close(patch_norm(code, kernel, order), expected, check_dtype=False)
    for dilation in (2, 3):
        expected = by_loops(code, [range(0, 3 * dilation, dilation)] * len(size), order)
        torch.testing.assert_close(patch_norm(code, 3, order, dilation), expected, check_dtype=False)


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "size"),
    [
        ((4,), 1, 1, (14,)),
        ((4,), 2, 1, (14,)),
        ((3,), 1, 2, (14,)),
        ((3,), 2, 2, (12,)),
        ((4,), 3, 2, (24,)),
        ((3,), 4, 2, (16,)),
        ((2, 3), 1, 1, (6, 7)),
        ((3, 2), (2, 1), (1, 3), (8, 9)),
    ],
)
def test_a_stripe_is_the_support_of_a_row_of_the_gram_matrix(kernel, stride, dilation, size):
    plain = ConvGeometry.create(len(kernel), kernel, stride, 0, dilation)
    pads = tuple((0, d * (n - 1)) for n, d in zip(plain.kernel_size, plain.dilation, strict=True))
    circular = ConvGeometry(plain.kernel_size, plain.stride, pads, plain.dilation, "circular")
    weight = torch.rand(2, 1, *kernel) + 0.1  # positive: two atoms that meet have a positive inner product
    code_size = circular.code_size(size)
    codes = torch.eye(2 * math.prod(code_size)).view(-1, 2, *code_size)
    gram = circular.analysis(circular.synthesis(codes, weight, size), weight)
    assert torch.equal(
        stripe_norm(torch.ones(1, 2, *code_size), kernel, stride, 0, dilation), (gram[0] != 0).sum()[None]
    )
    code = sparse_code(code_size, 2)
    meets = (gram != 0).flatten(1).double()  # (atoms and positions, atoms and positions)
    per_row = (code != 0).flatten(1).double() @ meets
    assert torch.equal(stripe_norm(code, kernel, stride, 0, dilation), per_row.amax(1).long())


def test_limits():
    code = sparse_code((6, 8))
    count, norm = (code != 0).flatten(1).sum(1), code.flatten(1).norm(dim=1)
    assert torch.equal(patch_norm(code, None), count)
    torch.testing.assert_close(patch_norm(code, None, 2), norm)
    torch.testing.assert_close(patch_norm(code, (6, 8), 2), norm)
    torch.testing.assert_close(stripe_norm(code, 100, order=2), norm)
    assert torch.equal(patch_norm(code, 1), (code != 0).sum(1).flatten(1).amax(1))
    assert torch.equal(stripe_norm(code, 3, stride=3), patch_norm(code, 1))
    dense = sparse_code(())
    for value in (stripe_norm(dense, 1), patch_norm(dense, 1), patch_norm(dense, None)):
        assert torch.equal(value, (dense != 0).sum(1))
    assert stripe_norm(torch.zeros(2, 3, 9), 4).tolist() == [0, 0]
    assert patch_norm(code[:0], 3).shape == (0,)
    integers = torch.tensor([[3, 1, 1]])
    for function in (stripe_norm, patch_norm):
        torch.testing.assert_close(function(integers, 1, order=2), torch.tensor([11.0]).sqrt())
    assert stripe_norm(code, 3).dtype == torch.int64 and patch_norm(code, 3, 2).dtype == torch.float32


def test_bad_arguments_are_refused():
    code = torch.zeros(1, 2, 8)
    for function in (stripe_norm, patch_norm):
        with pytest.raises(ValueError, match="order must be 0 or 2, got 1"):
            function(code, 3, order=1)
        with pytest.raises(ValueError, match="kernel_size must be an int >= 1"):
            function(code, 0)
        with pytest.raises(ValueError, match="dilation"):
            function(code, 3, dilation=0)
        with pytest.raises(ValueError, match=r"code must be \(N, M, \*S\)"):
            function(code[0, 0], 3)
        with pytest.raises(ValueError, match=r"real, got torch\.complex64"):
            function(code.to(torch.complex64), 3)
    with pytest.raises(ValueError, match="stride"):
        stripe_norm(code, 3, stride=0)
