"""What every layer and pursuit is given is checked at the door, and one signal may come without a batch axis."""

import copy

import pytest
import torch
from torch import nn

from csc_nets.functional import ISTA, Convolution, Problem, as_operator, fista, ista, objective, solve, unit_norm
from csc_nets.functional.inputs import broadcasts, check_inputs
from csc_nets.layers import (
    CSC,
    CSC1d,
    CSC2d,
    CSC3d,
    DeconvDecoder,
    DenseDictionary,
    Dictionary2d,
    MultiLayerCSC,
    PooledCSC2d,
    Scattering2d,
    SparseCoding,
    SparsePriorConv2d,
)
from csc_nets.layers.effective import EffectiveCSC2d


class Doubled(nn.Module):
    """An operator of which nothing but analysis and synthesis is known."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(2.0))

    def analysis(self, x):
        return self.gain * torch.cat([x, x.flip(1)], 1)

    def synthesis(self, z, output_size=None):
        return self.gain * (z[:, :3] + z[:, 3:].flip(1))


# The layer, and the shapes of a signal and its code without the batch axis.
CODERS = {
    "CSC1d": (lambda **o: CSC1d(3, 8, 5, padding=2, stride=2, **o), (3, 17), (8, 9)),
    "CSC2d": (lambda **o: CSC2d(3, 8, 3, **o), (3, 8, 8), (8, 6, 6)),
    "CSC2d reflect": (lambda **o: CSC2d(3, 8, 3, padding=1, padding_mode="reflect", **o), (3, 8, 7), (8, 8, 7)),
    "CSC3d": (lambda **o: CSC3d(2, 5, 3, padding=1, **o), (2, 4, 5, 6), (5, 4, 5, 6)),
    "CSC": (lambda **o: CSC(Dictionary2d(3, 8, 3), **o), (3, 8, 8), (8, 6, 6)),
    "SparseCoding": (lambda **o: SparseCoding(7, 12, **o), (7,), (12,)),
    "EffectiveCSC2d": (
        lambda **o: EffectiveCSC2d([Dictionary2d(3, 6, 3, stride=2), Dictionary2d(6, 8, 3)], **o),
        (3, 15, 15),
        (8, 5, 5),
    ),
    "SparsePriorConv2d": (lambda **o: SparsePriorConv2d(3, 8, 3, steps=o.get("steps", 2)), (3, 8, 8), (8, 6, 6)),
}
STACK = lambda: [Dictionary2d(3, 4, 3, stride=2), Dictionary2d(4, 8, 3)]  # noqa: E731
OTHERS = {
    "MultiLayerCSC": (lambda: MultiLayerCSC(STACK(), steps=2), (3, 15, 15)),
    "MultiLayerCSC layered": (lambda: MultiLayerCSC(STACK(), pursuit="layered_basis_pursuit"), (3, 15, 15)),
    "MultiLayerCSC untied": (lambda: MultiLayerCSC(STACK(), pursuit="all_free", steps=2), (3, 15, 15)),
    "PooledCSC2d": (lambda: PooledCSC2d(3, 8, 3, steps=2), (3, 9, 9)),
    "Scattering2d": (lambda: Scattering2d(2, 3, input_size=16), (3, 16, 16)),
    "DeconvDecoder": (lambda: DeconvDecoder([6, 4, 3], 3, 2, 1), (6, 5, 5)),
}
ALL = {name: (build, shape) for name, (build, shape, _) in CODERS.items()} | OTHERS


@pytest.fixture(params=CODERS)
def coder(request):
    build, signal, code = CODERS[request.param]
    torch.manual_seed(0)
    return build(), torch.randn(2, *signal), code


def name_of(layer):
    return layer._get_name()


@pytest.mark.parametrize("case", ALL)
def test_one_signal_without_a_batch_axis(case):
    build, shape = ALL[case]
    layer, x = build().eval(), torch.randn(2, *shape)
    torch.testing.assert_close(layer(x[0]), layer(x[:1])[0], rtol=1e-5, atol=1e-6)
    if case != "DeconvDecoder":  # batch norm in training wants more than one number a channel, which it has here
        assert layer(x[0]).ndim == len(shape)


def test_everything_that_belongs_to_one_signal_goes_without_a_batch_axis(coder):
    layer, x, code = coder
    layer.eval()
    one = x[0]
    mask, init = (torch.rand(one.shape) > 0.3).float(), torch.rand(code)
    many = {"mask": mask[None], "init": init[None]}
    torch.testing.assert_close(layer(one, mask=mask, init=init), layer(x[:1], **many)[0], rtol=1e-4, atol=1e-5)
    z = layer(one)
    torch.testing.assert_close(layer.objective(one, z), layer.objective(x, layer(x))[0], rtol=1e-4, atol=1e-5)
    assert layer.objective(one, z).ndim == 0
    torch.testing.assert_close(layer.synthesize(z, one.shape[1:]), layer.synthesize(z[None], one.shape[1:])[0])
    # The smallest weight at which its code is zero, per atom and per sample.
    top = layer.lam_max(one)
    assert not layer(one, lam=top).any() or isinstance(layer, SparsePriorConv2d)
    atoms = torch.rand(code[0])
    assert torch.equal(layer(one, lam=atoms), layer(x[:1], lam=atoms)[0])
    (step,) = layer.coded(one, z)
    assert step.signal.ndim == len(code) + 1 and step.code.shape == (1, *code)


def test_parts_of_other_layers_without_a_batch_axis():
    layer, x = MultiLayerCSC(STACK(), steps=2).eval(), torch.randn(3, 15, 15)
    codes = layer.codes(x)
    assert [z.ndim for z in codes] == [3, 3] and layer.objective(x, codes[-1]).ndim == 0
    assert layer.synthesize(codes[-1], (15, 15)).shape == x.shape and len(layer.coded(x, codes[-1])) == 2
    for lam in ([0.1, torch.rand(8)], [torch.rand(4, 1, 1), torch.rand(1, 1, 1)], 0.2):
        batch = [v[None] if isinstance(v, torch.Tensor) and v.ndim == 3 else v for v in lam] if lam != 0.2 else lam
        torch.testing.assert_close(layer(x, lam=lam), layer(x[None], lam=batch)[0])
    pooled, x = PooledCSC2d(3, 8, 3).eval(), torch.randn(3, 9, 9)
    values, switches = pooled.pooled(x)
    assert values.shape == switches.shape == (8, 4, 4) and pooled.code(x).shape == (8, 7, 7)
    whole = pooled.synthesize(values[None], switches[None], (9, 9))
    torch.testing.assert_close(pooled.synthesize(values, switches, (9, 9)), whole[0])
    torch.testing.assert_close(pooled.objective(x, pooled.code(x)), pooled.objective(x[None], pooled.code(x[None]))[0])
    assert len(pooled.coded(x, values)) == 1


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.float16, torch.float64, torch.complex64])
@pytest.mark.parametrize("case", ALL)
def test_signals_of_another_type_are_refused(case, dtype):
    build, shape = ALL[case]
    layer, x = build().eval(), torch.ones(2, *shape).to(dtype)
    if case == "Scattering2d":
        if dtype.is_floating_point:
            pytest.skip("it computes in float32 or float64, whatever float it is given")
        with pytest.raises(ValueError, match=f"Scattering2d: expected images .* of floats, got {dtype}"):
            layer(x)
        return
    name = "z" if case == "DeconvDecoder" else "x"
    message = rf"{name_of(layer)}: {name} must be of type torch.float32 as the dictionary is, got {dtype}"
    with pytest.raises(ValueError, match=message):
        layer(x)


@pytest.mark.parametrize("case", ALL)
def test_signals_of_another_number_of_axes_or_channels_are_refused(case):
    build, shape = ALL[case]
    layer = build().eval()
    for bad in (
        (2, 1, *shape[1:], 1),
        (2, *([shape[0] + 1] if len(shape) > 1 else []), *shape[1:], 6)[: len(shape) + 1],
    ):
        if case == "Scattering2d" and len(bad) == 4:
            continue  # any number of channels will do
        with pytest.raises(ValueError, match=f"{name_of(layer)}: expected .* got "):
            layer(torch.randn(bad))
    with pytest.raises(ValueError, match="got list"):
        layer([1.0])


@pytest.mark.parametrize("case", ALL)
def test_signals_on_another_device_are_refused(case):
    build, shape = ALL[case]
    if case == "Scattering2d":
        pytest.skip("its filters follow the images")
    with pytest.raises(ValueError, match="must be on cpu as the dictionary is, got meta"):
        build().eval()(torch.ones(2, *shape, device="meta"))


def test_signals_of_the_equilibrium_layer_are_not_converted():
    layer = CSC2d(1, 4, 3, steps=None, tol=1e-2)
    for dtype in (torch.float64, torch.int64, torch.complex64):
        with pytest.raises(ValueError, match=f"x must be of type torch.float32 as the dictionary is, got {dtype}"):
            layer(torch.ones(1, 1, 6, 6, dtype=dtype))


def test_complex_signals_over_a_complex_dictionary():
    weight = unit_norm(torch.randn(9, 6, dtype=torch.complex128))

    class Conjugated:
        def analysis(self, x):
            return x @ weight.conj().T

        def synthesis(self, z, output_size=None):
            return z @ weight

    options = {"lam": torch.tensor(0.3, dtype=torch.float64), "nonneg": False}
    layer, x = CSC(Conjugated(), steps=None, tol=1e-6, **options), torch.randn(2, 6, dtype=torch.complex128)
    z = layer(x)
    assert z.imag.abs().max() > 0.1
    torch.testing.assert_close(z, CSC(Conjugated(), steps=3000, **options)(x), rtol=0, atol=1e-2)
    assert (layer.problem(x).duality_gap(z) <= 1e-6 * x.abs().square().sum(1)).all()
    # torch's convolutions do not conjugate: analysis and synthesis would be no adjoints.
    with pytest.raises(ValueError, match=r"must be real, got torch\.complex128"):
        fista(x, weight, 0.3)


def test_a_warm_start_of_another_shape_is_refused(coder):
    layer, x, code = coder
    owner, init = name_of(layer), torch.zeros(2, *code)
    shown = ", ".join(map(str, code))
    message = rf"{owner}: init must be \((N|2), {shown}\), got "
    for bad in (init[:, :-1], init[..., :-1], init[0], init[None], torch.zeros(3, *code)):
        if isinstance(layer, SparseCoding) and bad.shape == init.shape:
            continue
        with pytest.raises(ValueError, match=message + rf"\({', '.join(map(str, bad.shape))},?\)"):
            layer(x, init=bad)
    with pytest.raises(ValueError, match=f"{owner}: init must be of type torch.float32 .* got torch.float64"):
        layer(x, init=init.double())
    with pytest.raises(ValueError, match=f"{owner}: init must be on cpu .* got meta"):
        layer(x, init=init.to("meta"))


def test_the_message_that_is_promised():
    layer, x = CSC2d(3, 8, 3), torch.randn(2, 3, 8, 8)
    with pytest.raises(ValueError, match=r"^CSC2d: init must be \(N, 8, 6, 6\), got \(2, 8, 5, 5\)$"):
        layer(x, init=torch.zeros(2, 8, 5, 5))
    with pytest.raises(ValueError, match=r"^CSC2d: expected 3 input channels \(N, 3, H, W\), got \(8, 1, 28, 28\)$"):
        layer(torch.zeros(8, 1, 28, 28))


def test_one_warm_start_is_for_all_signals():
    layer, x = CSC2d(3, 8, 3, steps=3).eval(), torch.randn(2, 3, 8, 8)
    init = torch.rand(1, 8, 6, 6)
    torch.testing.assert_close(layer(x, init=init), layer(x, init=init.repeat(2, 1, 1, 1)))
    with torch.no_grad():
        torch.testing.assert_close(layer(x, init=init), layer(x, init=init.repeat(2, 1, 1, 1)))
    weights = torch.tensor([0.1, 0.2]).view(2, 1, 1, 1)  # of one signal
    torch.testing.assert_close(layer(x[:1], lam=weights, init=init)[1:], layer(x[:1], lam=0.2, init=init))


def test_weights_of_another_shape_are_refused(coder):
    layer, x, code = coder
    owner, axes = name_of(layer), (1,) * (len(code) - 1)
    bad = [
        torch.ones(code[0] - 1),
        torch.ones(3, 1, *axes),
        torch.ones(2, code[0] + 1, *axes),
        torch.ones(1, 1, 1, *axes),
    ]
    if axes:
        bad += [torch.ones(1, *code[:-1], code[-1] + 1), torch.ones(code[0] + 1, *axes)]
    for lam in bad:
        with pytest.raises(ValueError, match=rf"{owner}: lam must be a number, one .* got shape \({lam.shape[0]},"):
            layer(x, lam=lam)
    for dtype in (torch.float64, torch.complex64, torch.bool):
        with pytest.raises(ValueError, match=rf"{owner}: lam must be .* got {dtype}"):
            layer(x, lam=torch.ones(code[0]).to(dtype))
    with pytest.raises(ValueError, match=rf"{owner}: lam must be on cpu as the signal is, got meta"):
        layer(x, lam=torch.ones(code[0], device="meta"))
    for value in (-1.0, float("nan"), "a", True, torch.tensor(-1.0)):
        with pytest.raises(ValueError, match=f"{owner}: lam must be"):
            layer(x, lam=value)


def test_weights_that_fit(coder):
    layer, x, code = coder
    axes = (1,) * (len(code) - 1)
    layer.eval()
    expected = layer(x, lam=0.2)
    shapes = [(), (code[0],), (2, 1, *axes), (1, code[0], *axes), (2, *code), (1, 1, *axes)]
    for shape in shapes:
        torch.testing.assert_close(layer(x, lam=torch.full(shape, 0.2)), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(layer(x, lam=torch.tensor(0.2, dtype=torch.float64)), expected)  # a number


@pytest.mark.parametrize("grad", [True, False])
def test_nan_in_a_mask_says_that_nothing_was_observed(coder, grad):
    layer, x, _ = coder
    layer.eval()
    mask = (torch.rand_like(x) > 0.3).float()
    holes = torch.where(mask == 0, torch.nan, 3.0)
    spoiled = torch.where(mask == 0, torch.nan, x)
    with torch.set_grad_enabled(grad):
        expected = layer(x, mask=mask)
        for given in (holes, mask.bool(), mask.int(), mask.double()):
            torch.testing.assert_close(layer(spoiled, mask=given), expected)
        assert expected.isfinite().all()
        torch.testing.assert_close(
            layer.objective(spoiled, expected, mask=holes), layer.objective(x, expected, mask=mask)
        )


def test_nan_in_a_mask_of_a_function():
    weight, x = unit_norm(torch.randn(6, 1, 3, 3)), torch.randn(2, 1, 8, 8)
    mask = (torch.rand_like(x) > 0.3).float()
    holes = torch.where(mask == 0, torch.nan, 1.0)
    for code in (ista, fista, lambda *a, **k: solve(*a, **k, method="douglas_rachford"), solve):
        torch.testing.assert_close(code(x, weight, 0.1, mask=holes), code(x, weight, 0.1, mask=mask))
    assert Problem(x, as_operator(weight), 0.1, mask=holes).mask.dtype == torch.bool


def test_masks_that_do_not_fit_are_refused(coder):
    layer, x, _ = coder
    owner = name_of(layer)
    bad = [torch.ones(3, *x.shape[1:]), torch.ones(*x.shape[:-1], x.shape[-1] + 1), torch.ones(1, *x.shape)]
    for mask in bad:
        with pytest.raises(ValueError, match=rf"{owner}: mask must broadcast against the signal \(2, .* got shape \("):
            layer(x, mask=mask)
    with pytest.raises(
        ValueError, match=f"{owner}: mask must be a tensor of booleans or real numbers, got torch.complex64"
    ):
        layer(x, mask=torch.ones_like(x).to(torch.complex64))
    with pytest.raises(ValueError, match=f"{owner}: mask must be on cpu as the signal is, got meta"):
        layer(x, mask=torch.ones_like(x, device="meta"))


def test_codes_of_another_shape_are_refused(coder):
    layer, x, code = coder
    owner = name_of(layer)
    with pytest.raises(ValueError, match=f"{owner}: (z|init) must be "):
        layer.objective(x, torch.zeros(2, code[0] + 1, *code[1:]))
    with pytest.raises(ValueError, match=f"{owner}: expected .* got"):
        layer.synthesize(torch.zeros(2, code[0] + 1, *code[1:]))
    with pytest.raises(
        ValueError, match=f"{owner}: z must be of type torch.float32 as the dictionary is, got torch.int64"
    ):
        layer.synthesize(torch.zeros(2, *code, dtype=torch.int64))


def test_other_arguments_of_other_layers_are_refused():
    layer, x = MultiLayerCSC(STACK()), torch.randn(2, 3, 15, 15)
    for lam in (torch.rand(4), [0.1, torch.rand(4)], [0.1, torch.rand(3, 1, 1, 1)], [torch.rand(2, 1, 1, 2), 0.1]):
        with pytest.raises(ValueError, match=r"MultiLayerCSC: lam must be a number, one per atom .* got shape"):
            layer(x, lam=lam)
    with pytest.raises(ValueError, match=r"MultiLayerCSC: z must be \(N, 8, 5, 5\), got \(2, 8, 4, 5\)"):
        layer.objective(x, torch.zeros(2, 8, 4, 5))
    with pytest.raises(ValueError, match=r"MultiLayerCSC: expected 8 code channels \(N, 8, H, W\), got \(2, 7, 5, 5\)"):
        layer.synthesize(torch.zeros(2, 7, 5, 5))
    pooled, x = PooledCSC2d(3, 8, 3), torch.randn(2, 3, 9, 9)
    values, switches = pooled.pooled(x)
    with pytest.raises(ValueError, match=r"PooledCSC2d: switches must be int64 of the shape .* got torch.float32"):
        pooled.synthesize(values, values, (9, 9))
    with pytest.raises(ValueError, match=r"PooledCSC2d: values must be \(N, 8, 5, 5\), got \(2, 8, 4, 4\)"):
        pooled.synthesize(values, switches, (12, 12))
    with pytest.raises(ValueError, match=r"PooledCSC2d: z must be \(N, 8, 7, 7\), got \(2, 8, 4, 4\)"):
        pooled.objective(x, values)
    decoder = DeconvDecoder([6, 4, 3], 3, 2, 1)
    with pytest.raises(ValueError, match=r"DeconvDecoder: expected 6 code channels \(N, 6, H, W\), got \(2, 4, 5, 5\)"):
        decoder(torch.zeros(2, 4, 5, 5))
    with pytest.raises(ValueError, match="DeconvDecoder: output_size must be 2 sizes, got"):
        decoder(torch.zeros(2, 6, 5, 5), (9,))
    with pytest.raises(ValueError, match="start must name one of 2 stages, got True"):
        decoder(torch.zeros(2, 4, 5, 5), start=True)


def test_one_signal_with_the_weights_of_several_samples():
    x, weights = torch.randn(1, 3, 15, 15), torch.tensor([0.05, 0.2, 0.4]).view(3, 1, 1, 1)
    for pursuit in ("ml_ista", "layered_basis_pursuit", "all_free"):
        layer = MultiLayerCSC(STACK(), pursuit=pursuit, steps=2).eval()
        torch.testing.assert_close(layer(x, lam=[weights, 0.1])[1:2], layer(x, lam=[0.2, 0.1]), rtol=1e-4, atol=1e-6)


def test_an_operator_of_which_nothing_is_known_is_asked_by_an_analysis():
    layer, x = CSC(Doubled(), steps=3).eval(), torch.randn(2, 3, 5)
    with pytest.raises(ValueError, match=r"CSC: init must be \(N, 6, 5\), got \(2, 6, 4\)"):
        layer(x, init=torch.zeros(2, 6, 4))
    with pytest.raises(ValueError, match=r"CSC: lam must be a number, one per atom \(6,\)"):
        layer(x, lam=torch.ones(5))
    with pytest.raises(ValueError, match=r"CSC: signals must be .* of floats, got torch.int64"):
        layer(x.long())
    assert layer(x, lam=torch.ones(6), init=torch.zeros(2, 6, 5)).shape == (2, 6, 5)


def test_functions_refuse_what_layers_refuse():
    weight, x = unit_norm(torch.randn(8, 3, 3, 3)), torch.randn(2, 3, 8, 8)
    for code in (fista, ista, solve):
        name = code.__name__
        with pytest.raises(
            ValueError, match=f"{name}: x must be of type torch.float32 as the dictionary is, got torch.int64"
        ):
            code(x.long(), weight, 0.1)
        with pytest.raises(ValueError, match=rf"{name}: init must be \(N, 8, 6, 6\), got \(2, 8, 5, 5\)"):
            code(x, weight, 0.1, init=torch.zeros(2, 8, 5, 5))
        with pytest.raises(ValueError, match=rf"{name}: expected 3 input channels \(N, 3, H, W\), got \(2, 4, 8, 8\)"):
            code(torch.randn(2, 4, 8, 8), weight, 0.1)
        with pytest.raises(ValueError, match=rf"{name}: mask must broadcast against the signal"):
            code(x, weight, 0.1, mask=torch.ones(3, 8))
        with pytest.raises(ValueError, match=rf"{name}: lam must be a number, one per atom \(8,\)"):
            code(x, weight, torch.ones(7))
    with pytest.raises(ValueError, match=r"objective: z must be \(N, 8, 6, 6\), got \(2, 8, 6, 5\)"):
        objective(x, weight, torch.zeros(2, 8, 6, 5), 0.1)


def test_autocast_takes_lower_precision_and_nothing_else():
    layer, x = CSC2d(3, 8, 3).eval(), torch.randn(2, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(x.bfloat16(), init=torch.zeros(2, 8, 6, 6, dtype=torch.bfloat16), lam=torch.ones(8).bfloat16())
        assert half.dtype == torch.bfloat16
        with pytest.raises(ValueError, match=r"x must be of type torch\.float32"):
            layer(x.double())
        with pytest.raises(ValueError, match=r"x must be of type torch\.float32"):
            layer(x.long())


@pytest.mark.parametrize("case", ["CSC2d", "SparseCoding", "EffectiveCSC2d"])
@pytest.mark.parametrize("batched", [True, False])
def test_the_door_breaks_no_graph(case, batched):
    torch.compiler.reset()
    build, signal, code = CODERS[case]
    layer = build(steps=3).eval()
    lead = (2,) if batched else ()
    x, init = torch.randn(*lead, *signal), torch.rand(*lead, *code)
    lam, mask = torch.rand(*((2, 1) if batched else (1,)), *(1,) * (len(code) - 1)), (torch.rand_like(x) > 0.3).float()
    if not batched and case == "SparseCoding":
        lam = torch.rand(12)
    expected = layer(x, lam=lam, init=init, mask=mask)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, lam=lam, init=init, mask=mask), expected, rtol=1e-4, atol=1e-5)
    exported = torch.export.export(layer, (x,), {"lam": lam, "init": init, "mask": mask}).module()
    torch.testing.assert_close(exported(x, lam=lam, init=init, mask=mask), expected, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(
            compiled(x, init=init, mask=mask), layer(x, init=init, mask=mask), rtol=1e-1, atol=1e-1
        )


def test_no_value_is_read_at_the_door():
    layer = copy.deepcopy(CSC2d(3, 8, 3, steps=2)).to("meta").eval()
    x, lam = torch.randn(2, 3, 8, 8, device="meta"), torch.ones(8, device="meta")
    init, mask = torch.zeros(2, 8, 6, 6, device="meta"), torch.ones_like(x)
    operator = Convolution(torch.empty(8, 3, 3, 3, device="meta"), layer.dictionary.geometry)
    given = check_inputs("CSC2d", operator, x, lam, init, mask)
    assert given.init is init and not given.single


def test_a_module_that_names_something_else_its_weight():
    class Scaled(nn.Linear):
        def analysis(self, x):
            return x * self.weight[0, 0]

        synthesis = lambda self, z, output_size=None: z * self.weight[0, 0]  # noqa: E731

    layer = CSC(Scaled(7, 3), pursuit=ISTA(2))
    assert layer(torch.randn(2, 4, 5)).shape == (2, 4, 5)
    assert isinstance(SparseCoding(4, 5).dictionary, DenseDictionary)


@pytest.mark.parametrize(
    "own", [(), (1,), (4,), (5,), (3, 4), (1, 4), (4, 3), (2, 3, 4), (1, 1, 1), (1, 2, 3, 4), (2, 3, 0)]
)
def test_a_shape_broadcasts_where_torch_expands_it(own):
    try:
        torch.empty(own).expand(2, 3, 4)
        expected = True
    except RuntimeError:
        expected = False
    assert broadcasts(own, (2, 3, 4)) == expected
