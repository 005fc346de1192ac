"""The worst case is no weaker than each attack, and a random search needs no gradient."""

import pytest
import torch

from csc_nets.evaluation.attacks import Budget, apgd, fgsm, pgd, square, strongest

SHORT = Budget(steps=8, restarts=2, targets=2, queries=50)


def test_the_worst_case_is_no_weaker_than_its_parts(digits):
    network, x, y = digits
    x, y, eps = x[:20], y[:20], 0.15
    found = strongest(network, x, y, eps, budget=SHORT)
    parts = [
        fgsm(network, x, y, eps),
        pgd(network, x, y, eps, steps=8, restarts=2),
        apgd(network, x, y, eps, steps=8, restarts=2),
        square(network, x, y, eps, queries=50),
    ]
    assert all(found.accuracy <= part.accuracy for part in parts) and 0 < found.accuracy < 1
    assert list(found.left) == [
        "clean", "fgsm", "pgd", "apgd cross_entropy", "apgd dlr", "apgd targeted_dlr", "square"
    ]  # fmt: skip
    assert list(found.left.values()) == sorted(found.left.values(), reverse=True)
    assert found.left["square"] == pytest.approx(found.accuracy)
    assert found.left["fgsm"] == pytest.approx(parts[0].accuracy)
    parted = strongest(network, x, y, eps, budget=Budget(4, 1, 0, 0), batch_size=7)
    assert parted.images.shape == x.shape and list(parted.left)[-1] == "apgd dlr"
    assert parted.accuracy == pytest.approx(1 - parted.success.double().mean().item())


def test_a_random_search_needs_no_gradient_and_is_weaker_than_one(digits, quantised):
    network, x, y = digits
    few, many = (square(network, x, y, 0.2, queries=queries) for queries in (5, 200))
    assert pgd(network, x, y, 0.2, steps=20, restarts=2).accuracy <= many.accuracy < few.accuracy
    masked = quantised(network, 8)
    assert square(masked, x, y, 0.2, queries=200).accuracy < 0.8
    assert square(network, x, y, 1.5, norm="l2", queries=200).accuracy < few.left["clean"]


def test_two_classes_are_attacked_through_their_margin(linear):
    model, x = linear(2), torch.rand(20, 1, 6, 6, dtype=torch.float64)
    found = strongest(model, x, model(x).argmax(1), 0.02, budget=SHORT)
    assert list(found.left) == ["clean", "fgsm", "pgd", "apgd cross_entropy", "apgd margin", "square"]


@pytest.mark.parametrize("change", [{"steps": 0}, {"restarts": 0}, {"targets": -1}, {"queries": 1.5}])
def test_bad_budgets_are_refused(change):
    (name,) = change
    with pytest.raises(ValueError, match=f"{name} must be an int"):
        Budget(**change)
