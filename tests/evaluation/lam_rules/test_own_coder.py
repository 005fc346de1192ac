"""Rules and reports ask a layer what it can do, not for its class."""

import pytest
import torch
from torch import nn

from csc_nets.evaluation import lam_rule, list_lam_rules
from csc_nets.evaluation.coding import coding_rows
from csc_nets.evaluation.robustness.methods import robustness_methods
from csc_nets.functional import NonnegativeL1, Problem, fista
from csc_nets.layers import CodedStep, CSC2d, Dictionary2d, MultiLayerCSC


class Own(nn.Module):
    """FISTA on a dictionary, written from nothing of the package's layers but the protocol of a coder."""

    def __init__(self, dictionary, lam):
        super().__init__()
        self.dictionary = dictionary
        self.register_buffer("lam", torch.tensor(lam))

    def problem(self, x, lam=None, mask=None):
        return Problem(x, self.dictionary, self.lam if lam is None else lam, mask=mask, penalty=NonnegativeL1())

    def forward(self, x, *, lam=None, mask=None):
        return fista(x, self.dictionary, self.lam if lam is None else lam, steps=4, penalty=NonnegativeL1())

    def coded(self, x, output, **arguments):
        return [CodedStep(x, self.dictionary.weight, self.dictionary.geometry, output)]

    def thresholds(self):
        return {"": self.lam.expand(self.dictionary.out_channels)}

    def synthesize(self, z, output_size=None):
        return self.dictionary.synthesis(z, output_size)


@pytest.fixture
def pair():
    """A layer of the package and one of somebody's own, with the same codes."""
    torch.manual_seed(0)
    layer = CSC2d(1, 6, 3, padding=1, lam=0.05, steps=4).eval()
    return nn.Sequential(layer), nn.Sequential(Own(layer.dictionary, 0.05)).eval()


@pytest.mark.parametrize("rule", list_lam_rules())
def test_a_rule_serves_a_coder_of_ones_own(pair, rule):
    if rule == "residual":
        rule = {"name": "residual", "slope": 1.0, "intercept": 0.0}
    theirs, own = pair
    x = torch.rand(3, 1, 12, 12) + 0.3 * torch.randn(3, 1, 12, 12)
    with torch.no_grad(), lam_rule(theirs, rule):
        expected = theirs(x)
    with torch.no_grad(), lam_rule(own, rule):
        torch.testing.assert_close(own(x), expected)
        assert not torch.equal(expected, theirs(x))  # the rule has changed something


def test_reports_see_it(pair):
    x = torch.rand(3, 1, 12, 12)
    (theirs,), (own,) = (coding_rows(model, x) for model in pair)
    assert own["pursuit"] == "Own" and own["excess"] == pytest.approx(theirs["excess"], abs=1e-5)
    assert [m.name for m in robustness_methods(pair[1], ["discrepancy"])] == [
        m.name for m in robustness_methods(pair[0], ["discrepancy"])
    ]


def test_layers_of_several_weights_are_refused():
    model = nn.Sequential(MultiLayerCSC([Dictionary2d(1, 4, 3), Dictionary2d(4, 4, 3)]))
    with (
        pytest.raises(ValueError, match="Sequential has no coding layer, whose lam a rule could choose"),
        lam_rule(model, "sure"),
    ):
        pass
    with pytest.raises(ValueError, match="expected a network with CSC layers"):
        coding_rows(model, torch.rand(1, 1, 8, 8))
