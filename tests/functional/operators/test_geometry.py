"""The adjoint pair against inner products, autograd, torch's own convolutions and explicit matrices."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from csc_nets.functional import ConvGeometry, largest_eigenpair, power_step, unit_norm
from csc_nets.functional.problem import SAFETY
from csc_nets.layers import Dictionary1d, Dictionary2d


@st.composite
def geometries(draw):
    dims = draw(st.integers(1, 3))
    axes = lambda low, high: [draw(st.integers(low, high)) for _ in range(dims)]  # noqa: E731
    same = draw(st.booleans())
    geometry = ConvGeometry.create(
        dims,
        axes(1, 5),
        1 if same else axes(1, 4),
        "same" if same else axes(0, 4),
        axes(1, 3 if dims < 3 else 2),
        draw(st.sampled_from(["zeros", "circular", "reflect"])),
    )
    return geometry, axes(1, {1: 40, 2: 14, 3: 9}[dims])


@settings(max_examples=400, deadline=None)
@given(geometries(), st.integers(0, 10**6))
def test_analysis_and_synthesis_are_adjoint(case, seed):
    geometry, size = case
    try:
        code_size = geometry.code_size(size)
    except ValueError:
        assume(False)
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(shape, dtype=torch.float64, generator=generator)  # noqa: E731
    weight, x = draw(3, 2, *geometry.kernel_size), draw(2, 2, *size).requires_grad_()
    analysed = geometry.analysis(x, weight)
    assert analysed.shape == (2, 3, *code_size)
    z = draw(*analysed.shape)
    synthesised = geometry.synthesis(z, weight, size)
    assert synthesised.shape == x.shape
    torch.testing.assert_close((synthesised * x).sum(), (z * analysed).sum(), rtol=1e-10, atol=1e-10)
    # Independent of our own code for the adjoint: the vector-Jacobian product of the analysis.
    torch.testing.assert_close(torch.autograd.grad(analysed, x, z)[0], synthesised, rtol=1e-10, atol=1e-10)
    # The size taken when none is given is a legal one.
    assert geometry.code_size(geometry.signal_size(code_size)) == code_size


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect"])
@pytest.mark.parametrize("kernel", [2, 3, 4])
def test_analysis_is_the_convolution_layer_of_torch(dims, mode, kernel):
    conv = [torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d][dims - 1]
    for padding, stride in (("same", 1), (1, 2)):
        layer = conv(2, 3, kernel, stride, padding, padding_mode=mode)
        geometry = ConvGeometry.create(dims, kernel, stride, padding, 1, mode)
        x = torch.randn(2, 2, *[7, 8, 9][:dims])
        torch.testing.assert_close(geometry.analysis(x, layer.weight, layer.bias), layer(x))


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "code"), [(3, 1, 1, 8), (3, 2, 1, 8), (4, 2, 1, 8), (7, 2, 3, 16), (4, 4, 0, 5)]
)
def test_default_signal_size_is_code_times_stride_where_that_fits(kernel, stride, padding, code):
    assert ConvGeometry.create(1, kernel, stride, padding).signal_size((code,)) == (code * stride,)


def test_default_signal_size_is_the_smallest_where_it_does_not():
    assert ConvGeometry.create(1, 3, 1, 0).signal_size((6,)) == (8,)
    assert ConvGeometry.create(1, 3, 2, 0).signal_size((15,)) == (31,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 0}, "kernel_size must be an int >= 1"),
        ({"kernel_size": (3, 3, 3)}, "kernel_size"),
        ({"kernel_size": 3, "stride": 0}, "stride"),
        ({"kernel_size": 3, "padding": -1}, "padding"),
        ({"kernel_size": 3, "padding": "full"}, "'same' or 'valid'"),
        ({"kernel_size": 3, "stride": 2, "padding": "same"}, "stride 1 only"),
        ({"kernel_size": 3, "padding_mode": "replicate"}, "zeros, circular, reflect"),
    ],
)
def test_bad_geometry_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ConvGeometry.create(2, **arguments)


def test_sizes_that_do_not_fit_are_refused():
    geometry = ConvGeometry.create(2, 3, 2, 1)
    with pytest.raises(ValueError, match="too small"):
        ConvGeometry.create(2, 5).code_size((4, 9))
    with pytest.raises(ValueError, match=r"output_size \(14, 16\) does not fit a code of size \(8, 8\)"):
        geometry.synthesis(torch.zeros(1, 2, 8, 8), torch.zeros(2, 1, 3, 3), (14, 16))
    for size in (15, 16):
        assert geometry.synthesis(torch.zeros(1, 2, 8, 8), torch.zeros(2, 1, 3, 3), (size, 16)).shape[2] == size


def _matrix(geometry, weight, size):
    """D^T as an explicit matrix, column by column."""
    basis = torch.eye(weight.shape[1] * math.prod(size), dtype=weight.dtype).view(-1, weight.shape[1], *size)
    return geometry.analysis(basis, weight).flatten(1).T


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect"])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (4, 2, 1), (3, 3, 0)])
def test_largest_eigenpair_is_the_squared_singular_value(mode, kernel, stride, padding):
    geometry = ConvGeometry.create(2, kernel, stride, padding, 1, mode)
    weight = torch.randn(5, 2, kernel, kernel, dtype=torch.float64)
    exact = torch.linalg.svdvals(_matrix(geometry, weight, (8, 7)))[0].square()
    apply = lambda u: geometry.synthesis(geometry.analysis(u, weight), weight, (8, 7))  # noqa: E731
    direction, value = largest_eigenpair(apply, torch.randn(1, 2, 8, 7, dtype=torch.float64), 60)
    torch.testing.assert_close(value, exact, rtol=1e-9, atol=0)
    torch.testing.assert_close(apply(direction), value * direction, rtol=0, atol=1e-3 * value.item())
    # A power step from the eigenvector stays there; from anywhere else it does not overshoot.
    torch.testing.assert_close(power_step(apply, direction)[1], exact, rtol=1e-6, atol=0)
    u = torch.randn_like(direction)
    u = u / u.norm()
    value = power_step(apply, u)[1]
    assert (u * apply(u)).sum() <= value <= exact


def test_largest_eigenpair_of_a_small_or_zero_operator():
    diagonal = torch.tensor([1.0, 3.0, 2.0])
    assert largest_eigenpair(lambda u: diagonal * u, torch.ones(3), 20)[1].item() == pytest.approx(3, rel=1e-5)
    assert largest_eigenpair(lambda u: 0 * u, torch.ones(3))[1] == 0


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "padding", "size"),
    [(3, 3, 1, 1, 32), (16, 3, 2, 1, 16), (3, 7, 2, 3, 40), (8, 5, 1, 2, 24), (8, 4, 4, 0, 24)],
)
@pytest.mark.parametrize("smooth", [False, True])
def test_probe_bounds_the_norm_for_signals_of_other_sizes(channels, kernel, stride, padding, size, smooth):
    geometry = ConvGeometry.create(2, kernel, stride, padding)
    weight = torch.randn(24, channels, kernel + 4, kernel + 4)
    weight = unit_norm(F.avg_pool2d(weight, 5, 1) if smooth else weight[..., 4:, 4:])
    probe, probe_size = geometry.probe()

    def norm(g, n):
        apply = lambda u: g.synthesis(g.analysis(u, weight), weight, n)  # noqa: E731
        return largest_eigenpair(apply, torch.randn(1, channels, *n), 60)[1].item()

    # The step size is at most 1 / norm.
    assert norm(geometry, (size, size)) * SAFETY <= norm(probe, probe_size)


def exact_norm(geometry, weight, size):
    return torch.linalg.svdvals(_matrix(geometry, weight, size))[0].square().item()


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect"])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (3, 3, 1), (4, 2, 1), (2, 3, 1), (5, 2, 2)]
)
def test_step_size_is_safe_on_every_signal_size(mode, kernel, stride, padding):
    dictionary = Dictionary2d(1, 12, kernel, stride, padding, padding_mode=mode).double()
    geometry, weight = dictionary.geometry, dictionary.weight.detach()
    for size in ((12, 12), (13, 12), (14, 13), (10, 11)):
        assert SAFETY * exact_norm(geometry, weight, size) <= dictionary.bound(size).item()


def shortfall(geometry):
    """What the probe may miss by waves between its samples: see ConvGeometry.probe."""
    _, size = geometry.probe()
    extents = [d * (k - 1) + 1 for k, d in zip(geometry.kernel_size, geometry.dilation, strict=True)]
    return math.prod((1 + 1 / math.cos(math.pi * (e - 1) / n)) / 2 for e, n in zip(extents, size, strict=True))


def worst_atoms(geometry, size, count, steps=30, seed=0):
    """The largest quotient of the squared norm and its bound that gradient ascent on the atoms finds."""
    probe, probe_size = geometry.probe()
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 1, *geometry.kernel_size)
    weight = torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()
    optimizer = torch.optim.Adam([weight], lr=0.1)

    def columns(g, n):
        basis = torch.eye(math.prod(geometry.kernel_size), dtype=torch.float64).view(-1, 1, *geometry.kernel_size)
        return _matrix(g, basis, n).view(len(basis), -1, math.prod(n))

    taps, probe_taps = columns(geometry, size), columns(probe, probe_size)

    def norm(t):
        matrix = torch.einsum("mk,kpn->mpn", weight.flatten(1), t).flatten(0, 1)
        return torch.linalg.eigvalsh(matrix.T @ matrix)[-1]

    worst = 0.0
    for _ in range(steps):
        quotient = norm(taps) / (norm(probe_taps) * geometry.overlap(size))
        worst = max(worst, quotient.item())
        optimizer.zero_grad()
        (-quotient.log()).backward()
        optimizer.step()
    return worst


def sizes_from_the_least(geometry, count):
    found = []
    for n in range(1, 40):
        try:
            geometry.code_size((n,) * geometry.dims)
        except ValueError:
            continue
        found.append((n,) * geometry.dims)
    return found[:count]


@pytest.mark.parametrize("mode", ["circular", "reflect"])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [
        (kernel, stride, padding, dilation)
        for kernel in (1, 2, 3, 5)
        for stride in (1, 2, 3)
        for padding in (1, 2, 3)
        for dilation in (1, 2)
        if padding <= kernel and (dilation == 1 or (kernel == 3 and stride < 3))
    ],
)
def test_no_atoms_beat_the_bound(mode, kernel, stride, padding, dilation):
    geometry = ConvGeometry.create(1, kernel, stride, padding, dilation, mode)
    for size in sizes_from_the_least(geometry, 7):
        assert worst_atoms(geometry, size, 2) <= 1.04 * shortfall(geometry), size


@pytest.mark.parametrize(
    ("mode", "kernel", "stride", "padding", "size"),
    [
        ("reflect", 3, 1, 1, (3, 3)),
        ("reflect", 3, 1, 1, (2, 5)),
        ("reflect", 3, 1, 1, (5, 5)),
        ("reflect", 3, 1, 2, (4, 6)),
        ("reflect", 3, 2, 1, (3, 5)),
        ("reflect", 3, 2, 1, (3, 8)),
        ("reflect", (1, 3), 1, (2, 1), (4, 4)),
        ("circular", 3, 1, 2, (2, 5)),
        ("circular", 3, 2, 1, (3, 4)),
        ("circular", 3, 3, 1, (1, 5)),
    ],
)
def test_no_atoms_of_two_axes_beat_the_bound(mode, kernel, stride, padding, size):
    geometry = ConvGeometry.create(2, kernel, stride, padding, 1, mode)
    for count in (1, 3):
        assert worst_atoms(geometry, size, count, steps=25) <= 1.04**2 * shortfall(geometry)


@pytest.mark.parametrize(
    ("arguments", "size", "atom"),
    [
        ((2, 3, 1, 1, 1, "reflect"), (3, 3), torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 0, 1]])),
        ((1, 3, 2, 1, 1, "reflect"), (3,), torch.tensor([1.0, 0, 0])),
        ((1, 3, 2, 1, 1, "reflect"), (13,), torch.tensor([0.0, 0, 1])),
        ((3, 1, 1, 2, 1, "reflect"), (3, 3, 3), torch.ones(1, 1, 1)),
        ((3, 1, 1, 2, 1, "reflect"), (4, 4, 5), torch.ones(1, 1, 1)),
        ((1, 3, 3, 1, 1, "circular"), (1,), torch.ones(3)),
    ],
)
def test_tiny_signals_with_copied_borders(arguments, size, atom):
    """Samples that both borders copy, or that an atom meets twice: the bound was up to 3.4 times too low."""
    geometry = ConvGeometry.create(*arguments)
    weight = unit_norm(atom.double()[None, None])
    probe, probe_size = geometry.probe()
    bound = exact_norm(probe, weight, probe_size) * geometry.overlap(size)
    assert SAFETY * exact_norm(geometry, weight, size) <= bound


@settings(max_examples=300, deadline=None)
@given(geometries(), st.integers(1, 3), st.sampled_from([0.0, 1.0]), st.integers(0, 10**6))
def test_every_geometry_and_size_has_a_bound(case, count, mean, seed):
    geometry, size = case
    try:
        geometry.code_size(size)
    except ValueError:
        assume(False)
    probe, probe_size = geometry.probe()
    assume(math.prod(probe_size) <= 4000 and math.prod(size) <= 1500)
    generator = torch.Generator().manual_seed(seed)
    weight = unit_norm(mean + torch.randn(count, 1, *geometry.kernel_size, dtype=torch.float64, generator=generator))
    start = torch.randn(1, 1, *probe_size, dtype=torch.float64, generator=generator)
    apply = lambda u: probe.synthesis(probe.analysis(u, weight), weight, probe_size)  # noqa: E731
    bound = largest_eigenpair(apply, start, 60)[1].item() * geometry.overlap(size)
    assert exact_norm(geometry, weight, size) <= 1.05 * bound * shortfall(geometry)
    assert exact_norm(geometry, weight, size) <= geometry.crowding() * torch.linalg.matrix_norm(
        weight.flatten(1), 2
    ) ** 2 * (1 + 1e-9)


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect"])
def test_ordinary_sizes_are_not_slowed_down(mode):
    for kernel, stride in ((3, 1), (5, 1), (7, 1), (3, 2), (4, 2)):
        geometry = ConvGeometry.create(2, kernel, stride, kernel // 2 if stride == 1 else 1, 1, mode)
        for n in (16, 28, 32, 224):
            assert geometry.overlap((n, n)) == 1
    assert ConvGeometry.create(2, 3, 2, 1).overlap((3, 3)) == ConvGeometry.create(2, 3, 1, 1).overlap((1, 2)) == 1


@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_step_size_is_safe_for_waves_between_the_samples_of_the_probe(kernel):
    dictionary = Dictionary1d(1, 8, kernel, padding=kernel // 2).double().eval()
    (size,) = dictionary.direction.shape[2:]
    frequency = 2 * math.pi * (size // 5 + 0.5) / size
    phases = torch.arange(8, dtype=torch.float64).view(8, 1, 1) * math.pi / 8
    dictionary.weight = torch.cos(frequency * torch.arange(kernel, dtype=torch.float64).view(1, 1, -1) + phases)
    dictionary.refresh()
    exact = exact_norm(dictionary.geometry, dictionary.weight.detach(), (120,))
    assert 0.94 * exact < dictionary.lipschitz < 0.999 * exact  # below, as the probe says; and SAFETY makes up for it
    assert SAFETY * exact <= dictionary.bound((120,))


def test_unit_norm():
    weight = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    weight[1] = 0
    norms = unit_norm(weight).flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.tensor([1.0, 0, 1, 1], dtype=torch.float64))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_atoms_that_cover_the_signal_are_rows_of_a_matrix(dims):
    size = (4, 3, 2)[:dims]
    geometry = ConvGeometry.create(dims, size, stride=2)
    weight, x = torch.randn(5, 2, *size, dtype=torch.float64), torch.randn(3, 2, *size, dtype=torch.float64)
    bias = torch.randn(5, dtype=torch.float64)
    fast, exact = (geometry.analysis(x, weight, bias, exact=exact) for exact in (False, True))
    torch.testing.assert_close(fast, exact, rtol=1e-12, atol=1e-12)
    expected = torch.einsum("nm,mc...->nc...", exact.flatten(1), weight)
    torch.testing.assert_close(geometry.synthesis(exact, weight, size), expected, rtol=1e-12, atol=1e-12)
    assert not geometry.is_matrix([n + 1 for n in size])
    assert not ConvGeometry.create(dims, size, padding=1).is_matrix(size)


@pytest.mark.parametrize("number", [np.int64(3), np.int32(3), np.uint8(3), torch.tensor(3)])
@pytest.mark.parametrize("option", ["kernel_size", "stride", "padding", "dilation", "groups"])
def test_integers_of_numpy_are_integers(option, number):
    sizes = {"kernel_size": 2, option: number}
    plain = {"kernel_size": 2, option: 3}
    assert ConvGeometry.create(2, **sizes) == ConvGeometry.create(2, **plain)
    if option != "groups":
        assert ConvGeometry.create(2, **{**sizes, option: [number, 3]}) == ConvGeometry.create(2, **plain)


def test_vectors_have_no_axes():
    assert ConvGeometry.create(0, 1) == ConvGeometry.create(0, ())
    with pytest.raises(ValueError, match=r"kernel_size must be an int >= 1 or 0 of them, got \[2.5\]"):
        ConvGeometry.create(0, [2.5])


@pytest.mark.parametrize("value", [2.5, np.float64(3), "3", None, [3, 2.5], [3], np.int64(0)])
def test_other_sizes_are_refused_by_name(value):
    with pytest.raises(ValueError, match="kernel_size must be an int >= 1 or 2 of them, got"):
        ConvGeometry.create(2, value)
