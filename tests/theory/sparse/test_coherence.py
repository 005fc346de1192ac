"""Coherence against the Gram matrix of the operator itself, and against Welch's bound."""

import math

import pytest
import torch
import torch.nn.functional as F

from csc_nets.functional import ConvGeometry, unit_norm
from csc_nets.layers import DenseDictionary, Dictionary1d, Dictionary2d, Dictionary3d
from csc_nets.theory import mutual_coherence, welch_bound

GEOMETRIES = [
    # channels, atoms, kernel, stride, dilation
    (1, 3, (5,), 1, 1),
    (2, 3, (4,), 2, 1),
    (1, 2, (6,), 3, 1),
    (2, 3, (4,), 1, 2),
    (1, 2, (5,), 2, 3),
    (1, 2, (5,), 4, 2),
    (1, 3, (3,), 3, 1),
    (1, 2, (2,), 3, 1),
    (2, 3, (3, 3), 1, 1),
    (1, 2, (4, 3), 2, 1),
    (1, 2, (4, 5), (3, 1), 1),
    (1, 2, (3, 2), (1, 2), (2, 3)),
    (1, 2, (2, 3, 2), 1, 1),
    (1, 2, (3, 2, 3), (2, 1, 3), (1, 2, 2)),
]


def gram_coherence(matrix):
    """Largest off-diagonal entry of the Gram matrix of unit columns."""
    matrix = matrix / matrix.norm(dim=0)
    gram = matrix.T @ matrix
    return gram.fill_diagonal_(0).abs().max().item()


def synthesis_matrix(geometry, weight, size):
    """D, column by column: the synthesis of every unit code."""
    code_size = geometry.code_size(size)
    codes = torch.eye(len(weight) * math.prod(code_size), dtype=weight.dtype).view(-1, len(weight), *code_size)
    return geometry.synthesis(codes, weight, size).flatten(1).T


@pytest.mark.parametrize("circular", [True, False])
@pytest.mark.parametrize(("channels", "atoms", "kernel", "stride", "dilation"), GEOMETRIES)
def test_coherence_is_that_of_the_explicit_matrix(channels, atoms, kernel, stride, dilation, circular):
    weight = torch.randn(atoms, channels, *kernel, dtype=torch.float64)
    plain = ConvGeometry.create(len(kernel), kernel, stride, 0, dilation)
    size = []
    for n, s, d in zip(plain.kernel_size, plain.stride, plain.dilation, strict=True):
        extent = d * (n - 1) + 1
        # Circular: no atom meets another across both ends. Not circular: all shifts at which two can meet are there.
        size.append(-(-(2 * extent - 1) // s) * s if circular else extent + (extent - 1) // s * s)
    geometry = plain
    if circular:
        pads = tuple((0, d * (n - 1)) for n, d in zip(plain.kernel_size, plain.dilation, strict=True))
        geometry = ConvGeometry(plain.kernel_size, plain.stride, pads, plain.dilation, "circular")
    expected = gram_coherence(synthesis_matrix(geometry, weight, size))
    assert mutual_coherence(weight, stride, dilation) == pytest.approx(expected, abs=1e-12)
    assert mutual_coherence(-7 * weight, stride, dilation) == pytest.approx(expected, abs=1e-12)


def test_published_program_for_square_kernels():
    """One convolution of the atoms with themselves, its centre left out."""
    for kernel, stride in ((3, 1), (4, 2), (5, 3)):
        weight = unit_norm(torch.randn(6, 2, kernel, kernel, dtype=torch.float64))
        half = (kernel - 1) // stride
        correlations = F.conv2d(weight, weight, stride=stride, padding=stride * half)
        correlations[range(6), range(6), half, half] = 0
        assert mutual_coherence(weight, stride) == pytest.approx(correlations.abs().max().item(), abs=1e-14)


def test_layers_and_convolutions_bring_their_own_stride():
    for layer in (
        Dictionary1d(2, 3, 5, stride=2),
        Dictionary2d(2, 3, 3, dilation=2, padding=1),
        Dictionary3d(1, 2, 2, unit_norm=False),
        torch.nn.Conv1d(2, 4, 5, stride=3),
        torch.nn.Conv2d(2, 4, 3, dilation=2, stride=2, padding="valid", padding_mode="replicate"),
        torch.nn.Conv3d(1, 2, 2),
    ):
        where = getattr(layer, "geometry", layer)
        expected = mutual_coherence(layer.weight, where.stride, where.dilation)
        assert mutual_coherence(layer) == expected > 0
        assert welch_bound(layer) == welch_bound(layer.weight, where.stride, where.dilation)
    for layer in (DenseDictionary(5, 9), torch.nn.Linear(5, 9)):
        expected = gram_coherence(layer.weight.detach().double().T)
        assert mutual_coherence(layer) == mutual_coherence(layer.weight) == pytest.approx(expected, abs=1e-12)


def test_atoms_of_different_groups_do_not_meet():
    conv = torch.nn.Conv2d(6, 4, 3, groups=2)
    apart = [mutual_coherence(half) for half in conv.weight.chunk(2)]
    assert mutual_coherence(conv) == max(apart)
    full = torch.zeros(4, 6, 3, 3)
    full[:2, :3], full[2:, 3:] = conv.weight.detach()[:2], conv.weight.detach()[2:]
    assert mutual_coherence(conv) == pytest.approx(mutual_coherence(full), abs=1e-14)
    conv.weight.data[:2] = conv.weight.data[2:]  # alike, but on other channels
    assert mutual_coherence(conv) < 0.95
    assert welch_bound(conv) == welch_bound(conv.weight[:2])


def test_limits():
    assert mutual_coherence(torch.randn(1, 4)) == 0  # one atom
    assert mutual_coherence(torch.randn(1, 3, 1)) == 0  # that does not meet its own shifts
    assert mutual_coherence(torch.randn(1, 1, 4, 4), stride=4) == 0
    assert mutual_coherence(torch.ones(1, 1, 2)) == pytest.approx(0.5)
    assert mutual_coherence(torch.ones(1, 1, 4, 4)) == pytest.approx(0.75)
    assert mutual_coherence(torch.ones(1, 1, 2), dilation=5) == pytest.approx(0.5)
    assert mutual_coherence(torch.ones(2, 3)) == 1  # two equal atoms
    atom = torch.tensor([[[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]], [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]])
    assert mutual_coherence(atom) == 1  # one is the other, moved by one sample
    assert mutual_coherence(atom, stride=3) == 0
    assert mutual_coherence(torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]) < 1e-14
    assert mutual_coherence(torch.stack([torch.zeros(3), torch.ones(3)])) == 0  # an atom that is dead
    assert mutual_coherence(1e-30 * torch.ones(1, 1, 2, dtype=torch.float64)) == pytest.approx(0.5)


def test_many_atoms_fit_into_memory(monkeypatch):
    weight = torch.randn(512, 8, 3, 3)
    whole = mutual_coherence(weight)
    monkeypatch.setattr("csc_nets.theory.sparse.coherence.BLOCK", 10_000)  # 19 rows at a time
    assert mutual_coherence(weight) == pytest.approx(whole, abs=1e-14)


@pytest.mark.parametrize(("channels", "atoms", "kernel", "stride", "dilation"), GEOMETRIES)
def test_welch_bound_is_below_every_dictionary(channels, atoms, kernel, stride, dilation):
    for count in (1, atoms, 3 * atoms * channels * math.prod(kernel)):
        shape = (count, channels, *kernel)
        bound = welch_bound(torch.empty(shape).fill_(1), stride, dilation)
        for _ in range(5):
            assert bound <= mutual_coherence(torch.randn(shape), stride, dilation) + 1e-12
    assert 0 < bound < 1


def test_dead_atoms_do_not_count_for_the_welch_bound():
    assert welch_bound(torch.tensor([[0.0], [1.0]])) == mutual_coherence(torch.tensor([[0.0], [1.0]])) == 0
    weight = torch.randn(7, 2, 3)
    alone = welch_bound(weight)
    assert welch_bound(torch.cat([weight, torch.zeros(9, 2, 3)])) == alone > 0
    assert welch_bound(torch.zeros(9, 2, 3)) == 0
    conv = torch.nn.Conv1d(4, 14, 3, groups=2)
    conv.weight.data[:3] = 0
    assert welch_bound(conv) == alone


def test_welch_bound_in_closed_form():
    for m, n in ((2, 5), (3, 1), (7, 4)):
        assert welch_bound(torch.ones(m, 1, n)) == pytest.approx(math.sqrt((m - 1) / (m * (2 * n - 1) - 1)))
    for m, features in ((3, 2), (9, 5)):
        expected = math.sqrt((m - features) / (features * (m - 1)))
        assert welch_bound(torch.ones(m, features)) == pytest.approx(expected)
    assert welch_bound(torch.ones(4, 4)) == welch_bound(torch.ones(1, 1, 7)) == 0
    # Stride 2 and dilation 2 see every second sample, as stride 1 does on a signal of these.
    assert welch_bound(torch.ones(3, 1, 4), stride=2, dilation=2) == welch_bound(torch.ones(3, 1, 4))


@pytest.mark.parametrize("features", [2, 3, 6])
def test_welch_bound_is_reached_by_a_simplex(features):
    """features + 1 equiangular atoms, as a matrix, as needles of channels, and as patches that do not overlap."""
    centred = torch.eye(features + 1, dtype=torch.float64) - 1 / (features + 1)
    simplex = torch.linalg.svd(centred).U[:, :features]
    for weight, stride in (
        (simplex, 1),
        (simplex[..., None], 1),
        (simplex[:, None], features),
        (simplex[:, None], features + 2),
    ):
        assert welch_bound(weight, stride) == pytest.approx(1 / features, abs=1e-12)
        assert mutual_coherence(weight, stride) == pytest.approx(1 / features, abs=1e-12)


@pytest.mark.parametrize(
    ("dictionary", "options", "message"),
    [
        (torch.ones(4), {}, r"expected atoms \(M, C, \*K\) or \(M, F\), got shape \(4,\)"),
        (torch.ones(0, 3), {}, "shape"),
        (torch.tensor([[1.0, math.nan]]), {}, "NaN"),
        (torch.ones(2, 1, 3), {"stride": 0}, "stride"),
        (torch.eye(3), {"stride": 5}, r"atoms \(M, F\) have no shifts, got stride=5"),
        (torch.eye(3), {"dilation": 2}, "no shifts"),
        (torch.ones(2, 1, 3), {"dilation": (1, 1)}, "dilation"),
        (Dictionary1d(1, 2, 3), {"stride": 2}, "its own stride"),
        (torch.nn.ReLU(), {}, "got ReLU"),
        (torch.nn.ConvTranspose1d(2, 2, 3), {}, "got ConvTranspose1d"),
    ],
)
def test_bad_arguments_are_refused(dictionary, options, message):
    for function in (mutual_coherence, welch_bound):
        with pytest.raises(ValueError, match=message):
            function(dictionary, **options)


def test_coherence_without_shifts_is_that_of_flattened_atoms():
    for shape in ((5, 2, 3), (4, 1, 3, 2), (6, 4)):
        weight = torch.randn(shape, dtype=torch.float64)
        flat = unit_norm(weight).flatten(1)
        gram = (flat @ flat.T)[~torch.eye(len(flat), dtype=torch.bool)]
        assert mutual_coherence(weight, shifts=False) == pytest.approx(gram.abs().max().item(), abs=1e-14)
        assert mutual_coherence(weight, shifts=False, signed=True) == pytest.approx(gram.max().item(), abs=1e-14)


def test_signed_coherence():
    triangle = torch.tensor([[1.0, 0.0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]])
    assert mutual_coherence(triangle, signed=True) == pytest.approx(-0.5, abs=1e-7)
    assert mutual_coherence(triangle) == pytest.approx(0.5, abs=1e-7)
    # Shifts that do not meet, or other groups, are orthogonal: never below 0.
    atoms = triangle[:, None]
    assert mutual_coherence(atoms, stride=2, signed=True) == 0
    assert mutual_coherence(atoms, stride=2, shifts=False, signed=True) == pytest.approx(-0.5, abs=1e-7)
    grouped = torch.nn.Conv1d(2, 6, 2, stride=2, groups=2, bias=False)
    grouped.weight.data = atoms.repeat(2, 1, 1)
    assert mutual_coherence(grouped, shifts=False, signed=True) == 0
    opposite = torch.tensor([[[1.0, -1.0]]])
    assert mutual_coherence(opposite) == pytest.approx(0.5) and mutual_coherence(opposite, signed=True) == 0
    for signed in (False, True):
        assert mutual_coherence(torch.ones(1, 1, 3), shifts=False, signed=signed) == 0
