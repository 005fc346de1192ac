import copy

import pytest
import torch
import torch.nn.functional as F

from csc_nets.layers import PooledCSC2d


def layer(*shape, seed=0, **options):
    torch.manual_seed(seed)
    return PooledCSC2d(*shape, dtype=torch.float64, **options).eval()


def signal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def test_one_unit_step_is_a_layer_of_a_cnn_and_its_decoder():
    csc, x = layer(3, 8, 3, padding=1, step_size=1.0), signal(2, 3, 10, 12)
    weight = csc.dictionary.weight
    expected, at = F.max_pool2d(torch.relu(F.conv2d(x, weight, padding=1)), 2, return_indices=True)
    values, switches = csc.pooled(x)
    assert torch.equal(values, expected) and torch.equal(csc(x), expected)
    kept = values > 0  # where all of a window is 0, any position is its largest
    assert torch.equal(switches[kept], at[kept])
    back = F.conv_transpose2d(F.max_unpool2d(expected, at, 2), weight, padding=1)
    torch.testing.assert_close(csc.synthesize(values, switches, (10, 12)), back)


@pytest.mark.parametrize("stride", [2, 4])
def test_mirrored_orthonormal_filters_lose_nothing(stride):
    """Gilbert et al., Proposition 1: [W^T, -W^T] max([W; -W] x, 0) = x, with patches that tile the image."""
    csc = layer(3, 3 * stride**2, stride, stride, window=1, sign="mirrored", step_size=1.0)
    csc.dictionary.weight = torch.linalg.qr(torch.randn(3 * stride**2, 3 * stride**2, dtype=torch.float64))[0].view(
        -1, 3, stride, stride
    )
    x = signal(2, 3, 8, 8)
    values, switches = csc.pooled(x)
    assert values.shape == (2, 6 * stride**2, 8 // stride, 8 // stride) and (values >= 0).all()
    torch.testing.assert_close(csc.synthesize(values, switches, (8, 8)), x, rtol=0, atol=1e-13)


def test_without_mirrors_half_of_it_is_lost():
    csc = layer(3, 12, 2, 2, window=1, step_size=1.0)
    csc.dictionary.weight = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64))[0].view(-1, 3, 2, 2)
    x = signal(64, 3, 8, 8)
    error = csc.synthesize(*csc.pooled(x), (8, 8)) - x
    assert (error.square().sum() / x.square().sum()).item() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("sign", ["signed", "nonneg", "mirrored"])
@pytest.mark.parametrize("density", [1.0, 0.3])
def test_codes_are_block_sparse_and_more_steps_explain_more(sign, density):
    x, errors = signal(3, 2, 12, 12), []
    for steps in (1, 2, 4, 16):
        csc = layer(2, 24, 5, padding=2, steps=steps, sign=sign, density=density)
        code = csc.code(x)
        assert code.shape == (3, csc.out_channels, 12, 12)
        assert ((F.avg_pool2d((code != 0).double(), 2) * 4) < 1.5).all(), "one non-zero in a window"
        assert (code != 0).flatten(1).sum(1).max() <= round(density * csc.out_channels * 36)
        assert sign == "signed" or (code >= 0).all()
        values, switches = csc.pooled(x)
        back = csc.synthesize(values, switches, (12, 12))
        torch.testing.assert_close(back, csc._pair(csc.dictionary).synthesis(code, (12, 12)))
        errors.append((back - x).square().sum().item())
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.7 * errors[0]


def test_the_short_way_of_one_step_is_the_pursuit():
    for options in ({}, {"density": 0.4}, {"sign": "signed", "density": 0.4}, {"sign": "mirrored", "step_size": 0.5}):
        csc, x = layer(2, 6, 3, padding=1, steps=1, **options), signal(2, 2, 7, 9)
        values, switches = csc.pooled(x)
        torch.testing.assert_close(
            csc.synthesize(values, switches, (7, 9)), csc._pair(csc.dictionary).synthesis(csc.code(x), (7, 9))
        )


def test_the_pursuit_descends_on_its_objective():
    x, values = signal(2, 2, 9, 9), []
    for steps in (1, 3, 9):
        csc = layer(2, 12, 3, padding=1, steps=steps)
        z = csc.code(x)
        values.append(csc.objective(x, z))
        expected = (x - csc.dictionary.synthesis(z, (9, 9))).square().sum((1, 2, 3)) / 2
        torch.testing.assert_close(values[-1], expected)
    assert (values[0] > values[1]).all() and (values[1] > values[2]).all()


def test_gradients_reach_the_filters_and_the_signal():
    csc, x = layer(1, 3, 3, steps=2, step_size=0.2, unit_norm=False), signal(1, 1, 6, 6).requires_grad_()
    weight = csc.dictionary.weight.detach().clone().requires_grad_()

    def run(x, weight):
        return torch.func.functional_call(csc, {"dictionary.weight": weight}, (x,))

    assert torch.autograd.gradcheck(run, (x, weight))


def test_survives_copy_state_dict_and_compilation():
    csc, x = layer(2, 6, 3, padding=1, steps=3, sign="mirrored", density=0.5), signal(2, 2, 8, 8)
    other = layer(2, 6, 3, padding=1, steps=3, sign="mirrored", density=0.5, seed=1)
    other.load_state_dict(csc.state_dict())
    assert torch.equal(other(x), csc(x)) and torch.equal(copy.deepcopy(csc)(x), csc(x))
    torch.testing.assert_close(torch.compile(csc, fullgraph=True, backend="eager")(x), csc(x))
    assert repr(csc).startswith("PooledCSC2d(") and "window=2, steps=3, sign='mirrored', density=0.5" in repr(csc)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"window": 0}, "window must be an int >= 1 or None, got 0"),
        ({"density": 0}, r"density must be in \(0, 1\], got 0"),
        ({"steps": 0}, "steps must be an int >= 1, got 0"),
        ({"sign": "relu"}, "sign must be one of signed, nonneg, mirrored, got 'relu'"),
        ({"step_size": -1.0}, "step_size must be None or a finite number > 0, got -1.0"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PooledCSC2d(1, 2, 3, **options)
    with pytest.raises(ValueError, match="expected 1 input channels"):
        PooledCSC2d(1, 2, 3)(torch.zeros(1, 2, 8, 8))
