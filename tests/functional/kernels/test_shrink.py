"""A step's end in one pass: the formula and its gradient, torch's checks of an operator, and layers that use it."""

import pytest
import torch

from csc_nets.functional import nonneg_soft_threshold, soft_threshold
from csc_nets.functional.kernels import shrink
from csc_nets.layers import CSC1d, CSC2d, SparseCoding

SHRINK = {True: nonneg_soft_threshold, False: soft_threshold}


def codes(count, *shape, **options):
    return [torch.randn(*shape, dtype=torch.float64, **options) for _ in range(count)]


@pytest.mark.parametrize("nonneg", [True, False])
@pytest.mark.parametrize("threshold", [(), (5, 1, 1), (3, 1, 1, 1), (3, 5, 1, 1)])
def test_shrinks_and_extrapolates(nonneg, threshold):
    v, y, before = codes(3, 3, 5, 4, 2)
    t, shrinkage = torch.rand(threshold, dtype=torch.float64), torch.tensor(0.9).double()
    z, ahead = shrink.shrink(v, t, y=y, shrinkage=shrinkage, before=before, inertia=0.3, nonneg=nonneg)
    expected = SHRINK[nonneg](v + 0.9 * y, t)
    torch.testing.assert_close(z, expected)
    torch.testing.assert_close(ahead, expected + 0.3 * (expected - before))
    z, ahead = shrink.shrink(v, t, nonneg=nonneg)
    torch.testing.assert_close(z, SHRINK[nonneg](v, t))
    assert not ahead.numel()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_one_signal_may_have_several_thresholds(layout):
    v, t = torch.randn(1, 5, 4, 2).contiguous(memory_format=layout).requires_grad_(), torch.rand(3, 1, 1, 1)
    z, _ = shrink.shrink(v, t)
    torch.testing.assert_close(z, nonneg_soft_threshold(v, t))
    torch.testing.assert_close(torch.autograd.grad(z.sum(), v)[0], (z > 0).sum(0, keepdim=True).float())


@pytest.mark.parametrize("layout", ["rows", "columns", "part"])
def test_format_and_type_are_those_of_the_step(layout):
    v = torch.randn(2, 6, 4, 4).bfloat16()
    v = {"rows": v, "columns": v.to(memory_format=torch.channels_last), "part": v[:, ::2]}[layout]
    z, ahead = shrink.shrink(v, torch.tensor(0.1), before=v[:, :, :1, :1].float(), inertia=0.2)
    expected = v.float().sub(0.1).relu()
    assert z.stride() == ahead.stride() == torch.empty_like(v).stride()
    assert z.dtype == ahead.dtype == torch.bfloat16
    torch.testing.assert_close(z, expected.bfloat16())
    broken, _ = shrink.shrink(v.fill_(float("nan")), torch.tensor(0.1))
    assert broken.isnan().all()


@pytest.mark.parametrize("nonneg", [True, False])
def test_gradients(nonneg):
    v, y, before = codes(3, 2, 3, 2, 2, requires_grad=True)
    t = torch.rand(3, 1, 1, dtype=torch.float64, requires_grad=True)

    def both(v, y, before, t):
        return shrink.shrink(v, t, y=y, shrinkage=torch.tensor(0.9), before=before, inertia=0.3, nonneg=nonneg)

    def code(v, t):
        return shrink.shrink(v, t, nonneg=nonneg)[0]

    def extrapolated(v, before):
        return shrink.shrink(v, torch.tensor(0.1), before=before, inertia=0.3, nonneg=nonneg)[1]

    for call, inputs in ((both, (v, y, before, t)), (code, (v, t)), (extrapolated, (v, before))):
        assert torch.autograd.gradcheck(call, inputs)
        assert torch.autograd.gradgradcheck(call, inputs)


def checks(device, dtype):
    """Arguments of the two operators for ``opcheck``."""
    v, y, before = (t.to(device, dtype).to(memory_format=torch.channels_last) for t in codes(3, 3, 5, 4, 4))
    t, shrinkage = torch.rand(1, 5, device=device), torch.tensor(0.9, device=device)
    for x in (v, y, before, t):
        x.requires_grad_()
    shrink, gradients = torch.ops.csc_nets.shrink.default, torch.ops.csc_nets.shrink_gradients.default
    yield shrink, (v, t, y, before, shrinkage, 0.3, True)
    yield shrink, (v, t, None, None, None, 0.0, False)
    v, y, before = v.detach(), y.detach(), before.detach()
    yield gradients, (v, y, before.relu(), 0.3)
    yield gradients, (v, None, before.relu(), 0.3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operators_pass_the_checks_of_torch(dtype):
    for operator, arguments in checks("cpu", dtype):
        assert set(torch.library.opcheck(operator, arguments).values()) == {"SUCCESS"}


def test_operators_stand_in_a_compiled_graph():
    v, y = (t.float().requires_grad_() for t in codes(2, 3, 5, 4, 4))

    def call(v, y):
        return shrink.shrink(v, torch.tensor(0.1), y=y, before=y, inertia=0.3)[1].square().sum()

    loss = torch.compile(call, fullgraph=True, backend="aot_eager")(v, y)
    expected = call(v, y)
    torch.testing.assert_close(loss, expected)
    for mine, plain in zip(torch.autograd.grad(loss, (v, y)), torch.autograd.grad(expected, (v, y)), strict=True):
        torch.testing.assert_close(mine, plain)


def test_thresholds_per_position_are_refused():
    with pytest.raises(ValueError, match=r"one number per atom or sample, got shape \(5, 4, 4\)"):
        shrink.shrink(torch.zeros(3, 5, 4, 4), torch.zeros(5, 4, 4))


LAYERS = {
    "fista": lambda: CSC2d(3, 8, 3, padding=1, lam=0.1, steps=4),
    "stride": lambda: CSC2d(3, 8, 4, 2, 1, lam=torch.rand(8) * 0.2, steps=3, nonneg=False, learn_lam=True),
    "ridge": lambda: CSC2d(3, 8, 3, lam=0.1, steps=4, ridge=0.3, learn_lam=True),
    "ista": lambda: CSC2d(3, 8, 3, lam=0.1, steps=3, pursuit="ista"),
    "threshold": lambda: CSC2d(3, 8, 3, lam=0.1, steps=1, pursuit="threshold"),
    "threshold with ridge": lambda: CSC2d(3, 8, 3, lam=0.1, steps=1, pursuit="threshold", ridge=0.3),
    "calibrated": lambda: CSC2d(3, 8, 3, lam=0.1, steps=3, pursuit="calibrated").eval(),
    "recompute": lambda: CSC2d(3, 8, 3, padding=1, lam=0.1, steps=9, gradient="recompute"),
    "line": lambda: CSC1d(3, 8, 3, lam=0.1, steps=4),
    "dense": lambda: SparseCoding(3, 8, lam=0.1, steps=4, learn_lam=True),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_the_same_with_it(name, monkeypatch):
    torch.manual_seed(0)
    layer = LAYERS[name]().double()
    x = torch.randn(2, 3, *(9,) * (0 if name == "dense" else 1 if name == "line" else 2), dtype=torch.float64)
    code = layer(x).detach()
    calls = [{}, {"init": code}, {"mask": (torch.rand_like(x) > 0.3).double()}]
    calls.append({"lam": torch.rand(2, *(1,) * (code.ndim - 1), dtype=torch.float64) * 0.1})
    layer.eval()  # the same step size in every call

    def run():
        results, tensors = [], [p for p in layer.parameters() if p.requires_grad]
        for options in calls:
            signal = x.clone().requires_grad_()
            z = layer(signal, **options)
            wanted = [signal, *tensors]
            results += [z, *torch.autograd.grad(z.square().sum(), wanted, allow_unused=True)]
        with torch.no_grad():
            return [*results, layer(x)]

    plain, used = run(), []
    original = shrink.shrink
    monkeypatch.setattr(shrink, "serves", lambda device: True)
    monkeypatch.setattr(shrink, "applies", lambda v, threshold: True)
    monkeypatch.setattr(shrink, "shrink", lambda *a, **k: used.append(k.get("before")) or original(*a, **k))
    for mine, theirs in zip(run(), plain, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)
    assert used
    assert any(before is not None for before in used) == (
        name in ("fista", "stride", "ridge", "recompute", "line", "dense")
    )


@pytest.mark.parametrize("capturing", [False, True])
def test_who_takes_it(capturing, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    assert not shrink.serves(torch.device("cpu"))
    large, t = torch.empty(1, device="meta").expand(shrink.FEWEST, 1, 1, 1), torch.zeros(())
    assert shrink.applies(large, t)
    assert shrink.applies(large[1:], t) == capturing  # the host does not count where a graph is recorded
    assert not shrink.applies(large.double(), t)
    assert not shrink.applies(large.expand(-1, -1, 2, 2), torch.zeros(1, 1, 2, 2))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_pass_the_checks_of_torch(dtype):
    for operator, arguments in checks("cuda", dtype):
        assert set(torch.library.opcheck(operator, arguments).values()) == {"SUCCESS"}


@pytest.mark.gpu
@pytest.mark.parametrize("name", sorted(set(LAYERS) - {"calibrated"}))
@pytest.mark.parametrize("graph", [False, True])
def test_kernels_in_layers(name, graph, monkeypatch):
    """Codes and gradients of a layer on a GPU, with our kernels and with torch's, recorded as a graph and not."""
    torch.manual_seed(0)
    layer = LAYERS[name]().cuda().eval()
    x = torch.randn(
        2, 3, *(9,) * (0 if name == "dense" else 1 if name == "line" else 2), device="cuda"
    ).requires_grad_()

    def run():
        z = layer(x)
        return [z, *torch.autograd.grad(z.square().sum(), [x, *(p for p in layer.parameters() if p.requires_grad)])]

    plain = run()
    monkeypatch.setattr(shrink, "FEWEST", 0)
    mine = run()
    if graph:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            run()
        stream.synchronize()
        recorded = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recorded):
            mine = run()
        recorded.replay()
        torch.cuda.synchronize()
    for a, b in zip(mine, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
