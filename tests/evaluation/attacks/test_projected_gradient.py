"""FGSM and PGD where the worst case is known in closed form, beside a library, and on layers that solve."""

import copy
import math

import pytest
import torch
from torch import nn

from csc_nets.evaluation.attacks import Adversarial, Budget, apgd, fgsm, pgd, square, strongest
from csc_nets.evaluation.attacks.losses import cross_entropy
from csc_nets.evaluation.attacks.search import climb
from csc_nets.functional import as_norm, ascend
from csc_nets.models import Normalised, create_model

FREE = (-math.inf, math.inf)


def two_classes(linear, count=200):
    """A linear network of two classes, images, labels, and the margins of the labels."""
    model, x = linear(2), torch.rand(count, 1, 6, 6, dtype=torch.float64)
    logits = model(x).detach()
    label = logits.argmax(1)
    return (
        model,
        x,
        label,
        (logits[:, 0] - logits[:, 1]).abs(),
        (model.layer.weight[0] - model.layer.weight[1]).detach(),
    )


@pytest.mark.parametrize(("norm", "order"), [("linf", 1), ("l2", 2)])
def test_one_step_is_the_worst_case_of_a_linear_network_of_two_classes(linear, norm, order):
    model, x, label, margin, weight = two_classes(linear)
    radius = margin / weight.norm(p=order)  # Hoelder
    eps = radius.sort().values[99:101].mean().item()
    found = fgsm(model, x, label, eps, norm=norm, bounds=FREE)
    assert torch.equal(found.success, radius < eps) and 0.4 < found.accuracy < 0.6
    left = model(found.images).detach()
    left = (left.gather(1, label[:, None]) - left.gather(1, 1 - label[:, None]))[:, 0]
    torch.testing.assert_close(left, margin - eps * weight.norm(p=order))


def test_in_the_cube_of_pixels_one_step_is_exact_for_l_inf(linear):
    model, x, label, _, weight = two_classes(linear)
    eps, towards = 0.3, torch.where(label == 0, -1.0, 1.0)[:, None] * weight.sign()
    worst = model((x.flatten(1) + eps * towards).clamp(0, 1).view_as(x))
    found = fgsm(model, x, label, eps)
    assert torch.equal(found.success, worst.argmax(1) != label)
    assert (pgd(model, x, label, eps, steps=10).success == found.success).all()


@pytest.mark.parametrize("attack", [pgd, apgd])
def test_many_steps_find_the_nearest_of_many_classes(linear, attack):
    model, x = linear(5), torch.rand(100, 1, 6, 6, dtype=torch.float64)
    logits, weight = model(x).detach(), model.layer.weight.detach()
    label = logits.argmax(1)
    gaps = logits.gather(1, label[:, None]) - logits
    norms = torch.cdist(weight, weight)[label]
    radius = torch.where(norms > 0, gaps / norms, math.inf).amin(1)
    eps = radius.median().item()
    clear = (radius / eps - 1).abs() > 0.01
    found = attack(model, x, label, eps, norm="l2", steps=20, restarts=3, bounds=FREE)
    assert not (found.success & (radius > eps)).any()  # nobody can
    if attack is apgd:
        found = strongest(model, x, label, eps, norm="l2", budget=Budget(steps=30, restarts=2), bounds=FREE)
        assert torch.equal(found.success[clear], (radius < eps)[clear])
    else:
        assert found.success.sum() > 0.8 * (radius < eps).sum()


def every(model, x, y, **options):
    yield fgsm(model, x, y, 0.1, **options)
    yield pgd(model, x, y, 0.1, steps=3, restarts=2, **options)
    yield apgd(model, x, y, 0.1, steps=5, **options)
    yield apgd(model, x, y, 0.1, steps=3, loss="targeted_dlr", targets=2, **options)
    yield square(model, x, y, 0.1, queries=20, **options)


@pytest.mark.parametrize("norm", ["linf", "l2", {"name": "local", "window": 3}])
def test_what_comes_back_can_be_repeated_and_the_network_is_as_it_was(packaged, norm):
    network, x, y = packaged
    network, x, y = copy.deepcopy(network).train(), x[:4].clone(), y[:4].clone()
    y[0] = (y[0] + 1) % 10  # the network has one wrong
    network.model.stages[0].eval()
    frozen = next(network.parameters())
    frozen.requires_grad_(False)
    modes = [module.training for module in network.modules()]
    before, images = copy.deepcopy(network.state_dict()), x.clone()
    for found, again in zip(every(network, x, y, norm=norm), every(network, x, y, norm=norm), strict=True):
        assert isinstance(found, Adversarial) and torch.equal(found.images, again.images)  # seeded
        assert torch.equal(x, images) and not found.images.requires_grad
        assert found.images.amin() >= 0 and found.images.amax() <= 1
        assert (as_norm(norm).size(found.images - x) <= 0.1 + 1e-6).all()
        assert found.success[0] and torch.equal(found.images[0], x[0])
        with torch.no_grad():
            assert torch.equal(copy.deepcopy(network).eval()(found.images).argmax(1) != y, found.success)
        assert found.accuracy == 1 - found.success.double().mean().item()
    assert modes == [module.training for module in network.modules()]
    assert [p.requires_grad for p in network.parameters()] == [p is not frozen for p in network.parameters()]
    assert all(p.grad is None for p in network.parameters())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_attacks_run_where_gradients_are_off(digits):
    network, x, y = digits
    expected = pgd(network, x[:8], y[:8], 0.15, steps=4)
    with torch.no_grad():
        assert torch.equal(pgd(network, x[:8], y[:8], 0.15, steps=4).images, expected.images)
    with torch.inference_mode():
        assert torch.equal(pgd(network, x[:8], y[:8], 0.15, steps=4).images, expected.images)


def test_more_is_at_least_as_strong(digits):
    network, x, y = digits
    eps = 0.15
    one, some = fgsm(network, x, y, eps), pgd(network, x, y, eps, steps=10)
    more = pgd(network, x, y, eps, steps=10, restarts=3)
    assert more.accuracy <= some.accuracy <= one.accuracy < 0.8
    assert list(more.left) == ["clean", "start 1", "start 2", "start 3"]
    assert list(more.left.values()) == sorted(more.left.values(), reverse=True)
    assert pgd(network, x, y, 0.0, steps=2).accuracy == more.left["clean"]
    assert pgd(network, x, y, 1.0, steps=10).accuracy == 0


def test_gradients_go_through_all_steps_of_a_pursuit_and_through_an_equilibrium():
    torch.manual_seed(0)
    x = torch.rand(6, 1, 8, 8, dtype=torch.float64)

    def network(**options):
        torch.manual_seed(0)
        model = create_model(
            "csc_small", in_chans=1, num_classes=10, widths=[6, 8], lam=0.05, ridge=0.5, **options
        ).double()
        return Normalised(model.eval(), [0.3], [0.4]).double()

    unrolled, again = network(steps=6), network(steps=6, gradient="recompute")
    long, solved = network(steps=300, pursuit="ista"), network(steps=None, tol=1e-10)
    options = {"steps": 3, "random_start": False, "norm": "l2"}
    y = unrolled(x).argmax(1)
    expected = pgd(unrolled, x, y, 0.3, **options)
    torch.testing.assert_close(pgd(again, x, y, 0.3, **options).images, expected.images)
    y = long(x).argmax(1)
    theirs, ours = pgd(long, x, y, 0.3, **options), pgd(solved, x, y, 0.3, **options)
    torch.testing.assert_close(ours.images, theirs.images, atol=1e-4, rtol=0)
    assert torch.equal(ours.success, theirs.success)


def test_images_are_those_of_the_adversarial_robustness_toolbox(digits):
    evasion = pytest.importorskip("art.attacks.evasion", reason="adversarial-robustness-toolbox")
    from art.estimators.classification import PyTorchClassifier

    network, x, y = digits
    x, y = x[:16], y[:16]
    shape, hot = tuple(x.shape[1:]), nn.functional.one_hot(y, 10).numpy()
    theirs = PyTorchClassifier(copy.deepcopy(network).eval(), nn.CrossEntropyLoss(), shape, 10, clip_values=(0, 1))
    for norm, order, eps in (("linf", math.inf, 0.03), ("l2", 2, 0.3)):
        step = evasion.FastGradientMethod(theirs, norm=order, eps=eps).generate(x.numpy(), hot)
        ours = fgsm(network, x, y, eps, norm=norm)
        torch.testing.assert_close(ours.images, torch.from_numpy(step), atol=1e-5, rtol=0)
        count = {"linf": 6, "l2": 2}[norm]  # rounding of a norm grows from step to step
        attack = evasion.ProjectedGradientDescentPyTorch(
            theirs, norm=order, eps=eps, eps_step=eps / 4, max_iter=count, num_random_init=0, verbose=False
        )
        many = torch.from_numpy(attack.generate(x.numpy(), hot))

        def gradient(point):
            return climb(network, point, y, cross_entropy)[2]

        last = ascend(gradient, x, as_norm(norm), eps, steps=count, step_size=eps / 4)
        torch.testing.assert_close(last, many, atol=1e-5, rtol=0)
        ours = pgd(network, x, y, eps, norm=norm, steps=count, step_size=eps / 4, random_start=False)
        height = [cross_entropy(network(x), y) for x in (ours.images, many)]
        assert (height[0] >= height[1] - 1e-4)[~ours.success].all()  # the best point is kept, or the first that fell


class Detached(nn.Module):
    def forward(self, x):
        return torch.eye(3)[(x.detach().flatten(1).sum(1) > 3).long()]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.rand(2, 1, 4, 4) + 1}, r"pixels in \[0, 1\], got .*Normalised\(network\)"),
        ({"images": torch.full((2, 1, 4, 4), math.nan)}, r"pixels in \[0, 1\]"),
        ({"images": torch.zeros(2, 1, 4, 4, dtype=torch.uint8)}, r"\(N, C, \*S\) floats, got torch.uint8"),
        ({"labels": torch.tensor([0])}, "labels must be 2 of int64"),
        ({"labels": torch.tensor([0.0, 1.0])}, "labels must be 2 of int64, got torch.float32"),
        ({"labels": torch.tensor([0, 3])}, "labels must be 0 to 2, got 0 to 3"),
        ({"eps": -0.1}, "eps must be a finite number >= 0, got -0.1"),
        ({"eps": math.nan}, "eps must be a finite number >= 0, got nan"),
        ({"norm": "l1"}, "norm must be one of"),
        ({"loss": "dlr "}, "loss must be one of .* did you mean 'dlr'"),
        ({"steps": 0}, "steps must be an int >= 1, got 0"),
        ({"restarts": 0}, "restarts must be an int >= 1, got 0"),
        ({"step_size": 0.0}, "step_size must be above 0, got 0.0"),
        ({"bounds": (1.0, 0.0)}, "bounds must be"),
        ({"model": Detached()}, "no gradient by the images"),
        ({"model": nn.Identity()}, r"must return logits \(N, K\), got \(2, 1, 4, 4\)"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    arguments = {"model": model, "images": torch.zeros(2, 1, 4, 4), "labels": torch.zeros(2).long(), "eps": 0.1}
    with pytest.raises(ValueError, match=message):
        pgd(**{**arguments, **change})


def test_a_broken_gradient_is_no_failed_attack():
    def broken(x):
        return torch.stack([x.flatten(1).sum(1), (x - x).flatten(1).sum(1).sqrt()], 1)

    with pytest.raises(FloatingPointError, match="gradients of 2 of 2 images hold NaN"):
        pgd(broken, torch.rand(2, 1, 4, 4), torch.zeros(2).long(), 0.1)
