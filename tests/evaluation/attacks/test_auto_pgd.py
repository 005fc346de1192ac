"""Auto-PGD: its schedule, its losses, and what it leaves beside two other programs."""

import logging

import pytest
import torch
from torch import nn

from csc_nets.evaluation.attacks import Budget, apgd, auto_attack, pgd, register_loss, strongest
from csc_nets.evaluation.attacks.auto_pgd import checkpoints
from csc_nets.evaluation.attacks.losses import as_loss, targeted_dlr


def test_checkpoints_are_those_of_the_paper():
    assert checkpoints(100) == [0, 22, 41, 57, 70, 80, 87, 93, 99]  # for N = 100
    assert checkpoints(1) == [0, 1] and checkpoints(10)[:3] == [0, 3, 5]


def test_losses_are_their_formulas():
    logits, label = torch.tensor([[3.0, 1.0, 0.5, -1.0, 2.5]]), torch.tensor([0])
    assert as_loss("margin")(logits, label).item() == -0.5
    assert as_loss("dlr")(logits, label).item() == pytest.approx(-(3 - 2.5) / (3 - 1))
    target = torch.tensor([2])
    assert targeted_dlr(target)(logits, label).item() == pytest.approx(-(3 - 0.5) / (3 - (1 + 0.5) / 2))
    wrong = torch.tensor([4])
    assert as_loss("dlr")(logits, wrong).item() == pytest.approx(-(2.5 - 3) / (3 - 1))
    expected = nn.functional.cross_entropy(logits, label)
    torch.testing.assert_close(as_loss("cross_entropy")(logits, label), expected[None])
    for loss in ("dlr", "margin"):  # of a network whose logits are larger, dlr is the same
        factor = 1 if loss == "dlr" else 7
        torch.testing.assert_close(as_loss(loss)(7 * logits, label), factor * as_loss(loss)(logits, label))


def test_a_loss_of_ones_own(digits):
    @register_loss
    def half_margin(logits, labels):
        return as_loss("margin")(logits, labels) / 2

    network, x, y = digits
    ours, theirs = (apgd(network, x[:8], y[:8], 0.1, loss=loss, steps=5) for loss in ("half_margin", "margin"))
    torch.testing.assert_close(ours.images, theirs.images)


def test_it_is_not_blind_where_logits_are_large(digits):
    """The cross-entropy of logits times 1000 has no gradient in float32; the DLR does not see the factor."""
    network, x, y = digits
    x, y = x[:16], y[:16]

    def sure(images):
        return 1000 * network(images)

    assert pgd(sure, x, y, 0.2, steps=10).accuracy > 0.8
    blind, seeing = (apgd(sure, x, y, 0.3, steps=20, loss=loss).accuracy for loss in ("cross_entropy", "dlr"))
    assert blind > 0.8 and seeing < 0.1
    assert seeing == apgd(network, x, y, 0.3, steps=20, loss="dlr").accuracy


def test_beside_two_other_programs_of_the_same_attack(digits):
    autoattack = pytest.importorskip("pyautoattack.autopgd_base", reason="pyautoattack")
    network, x, y = digits
    eps = 0.15
    ours = apgd(network, x, y, eps, steps=25)
    assert 0.1 < ours.accuracy < 0.9
    frozen = network.eval().requires_grad_(False)
    theirs = autoattack.APGDAttack(
        frozen, n_iter=25, norm="Linf", eps=eps, loss="ce", seed=0, device="cpu", n_restarts=1
    )
    left = (frozen(theirs.perturb(x, y)).argmax(1) == y).double().mean().item()
    assert abs(ours.accuracy - left) <= 1.5 / 48  # another random start
    frozen.requires_grad_(True)


def test_autoattack_takes_no_network_for_a_dynamic_or_random_defence(digits, caplog):
    pytest.importorskip("pyautoattack", reason="pyautoattack")
    network, x, y = digits
    x, y, eps = x[:12], y[:12], 0.15
    with caplog.at_level(logging.WARNING):
        found = auto_attack(network, x, y, eps, attacks=["apgd-ce"])
    ours = strongest(network, x, y, eps, budget=Budget(steps=50, restarts=2, targets=2, queries=0))
    assert not caplog.text
    assert list(found.left) == ["clean", "autoattack"] and 0.1 < found.accuracy < 0.9
    assert ours.accuracy <= found.accuracy


def test_autoattack_sees_a_random_network(digits, caplog):
    pytest.importorskip("pyautoattack", reason="pyautoattack")
    network, x, y = digits

    def noisy(images):
        return network(images + 0.1 * torch.randn_like(images))

    with caplog.at_level(logging.WARNING):
        auto_attack(noisy, x[:4], y[:4], 0.3, attacks=["apgd-ce"])
    assert "randomized defense" in caplog.text


def test_too_few_classes_for_a_loss_are_named(linear):
    x, model = torch.rand(2, 1, 6, 6, dtype=torch.float64), linear(2)
    with pytest.raises(ValueError, match="'dlr' needs at least 3 classes, got 2: take loss='margin'"):
        apgd(model, x, model(x).argmax(1), 0.1, loss="dlr")
    model = linear(3)
    with pytest.raises(ValueError, match="targeted DLR loss needs at least 4 classes, got 3"):
        apgd(model, x, model(x).argmax(1), 0.1, loss="targeted_dlr")
