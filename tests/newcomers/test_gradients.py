"""A gradient that runs rows again, and one of a single step."""

import pytest
import torch

from csc_nets.functional import FISTA, ISTA, Matrix, Problem, Step, ToTolerance, advance

NAMES = pytest.mark.parametrize("name", ["plain", "mask", "ridge", "init", "per sample", "signed", "all"])


@NAMES
@pytest.mark.parametrize("kind", ["conv", "dense"])
@pytest.mark.parametrize("pursuit", ["fista", "heavy_ball", "my_lista", "threshold"])
def test_rows_that_are_run_again_have_the_gradient_of_the_steps(
    own, situation, gradients_of, alike, name, kind, pursuit
):
    build, x, arguments = situation(name, kind)
    layer = build(pursuit=pursuit, steps=4)
    other = build(layer, pursuit=pursuit, steps=4, gradient="checkpointed")
    alike(gradients_of(other, x, **arguments), gradients_of(layer, x, **arguments))


def test_only_codes_are_kept(own, situation):
    """Not the residuals: they are computed again."""
    build, x, _ = situation("plain", "conv")

    def kept(layer):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            layer(x)
        return sum(sizes)

    layer = build(pursuit=FISTA(12))
    assert kept(build(layer, pursuit=FISTA(12), gradient="checkpointed")) < 0.7 * kept(layer)


def test_a_row_with_memory_is_refused():
    problem = Problem(torch.randn(2, 4), Matrix(torch.randn(6, 4)), 0.1)
    with pytest.raises(ValueError, match="a row with memory needs"):
        advance(problem, Step(0.1, memory=0.5), None)


@NAMES
@pytest.mark.parametrize("kind", ["strided", "dense"])
def test_one_step_is_that_of_ista_from_the_solution(own, situation, gradients_of, alike, name, kind):
    build, x, arguments = situation(name, kind)
    layer = build(pursuit=own.HeavyBall(900, 0.9), gradient=own.OneStep())
    with torch.no_grad():
        z = build(layer, pursuit=own.HeavyBall(900, 0.9))(x, **arguments)
    step = build(layer, pursuit=ISTA(1))
    y, found = gradients_of(layer, x, **arguments)
    code, expected = gradients_of(step, x, **{**arguments, "init": z})
    kept = 1 + len(list(layer.parameters()))  # of x and the parameters
    alike((y, found[:kept]), (code, expected[:kept]))
    torch.testing.assert_close(y, z, atol=1e-4, rtol=1e-4)


def test_one_step_of_a_pursuit_to_a_tolerance(own, situation, gradients_of):
    """With c the gradient at the code and S its support, the exact gradient of x is D_S (D_S^T D_S)^-1 c_S and that of
    a step eta D_S c_S: their inner product is eta |c_S|^2, so that it is a direction of descent."""
    build, x, _ = situation("plain", "strided")
    layer = build(pursuit=ToTolerance(1e-10), gradient="one_step")
    z, (exact, *_) = gradients_of(build(layer, pursuit=ToTolerance(1e-10)), x)
    c = torch.randn(z.shape, generator=torch.Generator().manual_seed(5))
    _, (found, *_) = gradients_of(layer, x)
    expected = layer.problem(x).step_size * c[z != 0].square().sum()
    torch.testing.assert_close(torch.vdot(found.flatten(), exact.flatten()), expected, rtol=1e-4, atol=0)
