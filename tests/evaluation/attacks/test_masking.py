"""Networks that hide their gradients are found out, and one that does not passes."""

import copy

import pytest
import torch
from torch import nn

from csc_nets.evaluation.attacks import Budget, StraightThrough, loss_surface, masked_gradients, pgd, strongest
from csc_nets.layers import CSC2d

SHORT = Budget(steps=10, restarts=1, targets=0, queries=100)


def signs(model, digits, **options):
    _, x, y = digits
    return masked_gradients(model, x[:32], y[:32], 0.2, budget=SHORT, **options)


def test_a_network_of_the_package_passes(digits):
    network = digits[0]
    other = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1 + 0.05 * torch.randn_like(parameter))
    found = signs(network, digits, others={"a neighbour": other})
    assert found.passes, str(found)
    assert len(found.rows) == 10 and len(str(found).splitlines()) == 11
    assert found["accuracy at a large eps"].value == 0


def test_a_quantised_input_is_found_out_and_an_attack_through_it_is_not_stopped(digits, quantised):
    network, x, y = digits
    masked = quantised(network, levels=8)
    found = signs(masked, digits, others={"the same network": network})
    failed = {row.name for row in found.rows if not row.passes}
    assert (
        not found.passes
        and {
            "slope along the gradient, deviation",
            "images without a gradient",
            "accuracy of the attack, limit: of a random search",
            "accuracy of the attack, limit: of transfer from the same network",
        }
        <= failed
    )
    assert pgd(masked, x, y, 0.2, steps=10).accuracy > 0.9
    assert pgd(StraightThrough(masked, network), x, y, 0.2, steps=10).accuracy < 0.6


def test_large_logits_do_not_stop_the_attack(digits):
    """They stop the cross-entropy, see test_auto_pgd.py; the DLR does not see them."""
    network, x, y = digits

    def sure(images):
        return 1000 * network(images)

    found = signs(sure, digits)
    assert found["accuracy of the attack, limit: of a random search"].passes
    left, plain = (strongest(model, x, y, 0.2, budget=SHORT).accuracy for model in (sure, network))
    assert abs(left - plain) < 3 / 48
    with pytest.raises(KeyError, match="no such sign"):
        found["no such sign"]


class Ruled(nn.Module):
    """A network whose lam is chosen from the residual of each image at a first lam."""

    def __init__(self, seen):
        super().__init__()
        torch.manual_seed(0)
        self.coding, self.head, self.seen = CSC2d(1, 12, 3, padding=1, lam=0.05, steps=8), nn.Linear(12 * 16, 10), seen

    def forward(self, x):
        with torch.set_grad_enabled(self.seen and torch.is_grad_enabled()):
            code = self.coding(x)
            residual = (x - self.coding.synthesize(code, x.shape[2:])).flatten(1).square().sum(1)
            lam = (0.02 + 3 * residual).view(-1, 1, 1, 1)
        return self.head(nn.functional.adaptive_avg_pool2d(self.coding(x, lam=lam), 4).flatten(1))


def test_an_attack_goes_through_a_rule_for_lam_and_a_rule_without_gradient_is_found_out(digits):
    x = digits[1][:16]
    through, hidden = Ruled(seen=True).eval(), Ruled(seen=False).eval()
    hidden.load_state_dict(through.state_dict())
    with torch.no_grad():
        assert torch.equal(through(x), hidden(x))
        y = through(x).argmax(1)
    eps = 0.02
    options = {"budget": Budget(steps=2, restarts=1, targets=0, queries=2), "norm": "l2"}
    seen, unseen = (masked_gradients(model, x, y, eps, **options) for model in (through, hidden))
    slope = "slope along random directions, deviation"
    assert seen[slope].passes and not unseen[slope].passes and unseen[slope].value > 3 * seen[slope].value
    # Its logits with the other's gradient: an attack on the rule as it is.
    ours = pgd(through, x, y, eps, steps=5, random_start=False)
    theirs = pgd(StraightThrough(hidden, through), x, y, eps, steps=5, random_start=False)
    torch.testing.assert_close(ours.images, theirs.images)


def test_a_surface_holds_the_loss_of_the_image_and_rises_along_the_gradient(digits, quantised):
    network, x, y = digits
    x, y = x[:6], y[:6]
    surface = loss_surface(network, x, y, 0.05, points=5)
    logits = network(x).detach()
    own = logits.gather(1, y[:, None])[:, 0]
    expected = logits.scatter(1, y[:, None], -torch.inf).amax(1) - own
    assert surface.shape == (6, 5, 5)
    torch.testing.assert_close(surface[:, 2, 2], expected)
    assert (surface[:, 4, 2] > surface[:, 2, 2]).all() and (surface[:, 4, 2] > surface[:, 2, 4]).all()
    flat = loss_surface(quantised(network, 8), x, y, 0.01, points=3)
    assert (flat[:, 2, 1] == flat[:, 1, 1]).all()
    with pytest.raises(ValueError, match="points must be odd, got 4"):
        loss_surface(network, x, y, 0.05, points=4)


def test_bad_arguments_are_refused(digits):
    network, x, y = digits
    with pytest.raises(ValueError, match="eps must be above 0, got 0"):
        masked_gradients(network, x, y, 0)
    with pytest.raises(ValueError, match="large must be given"):
        masked_gradients(network, x, y, 0.1, bounds=(-torch.inf, torch.inf))
