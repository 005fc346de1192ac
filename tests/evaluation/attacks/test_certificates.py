"""What is certified never falls, for a thresholding of sparse signals and for a network that is a contraction."""

import math

import pytest
import torch
from torch import nn

from csc_nets.evaluation.attacks import Budget, robustness_rows
from csc_nets.functional import hard_threshold
from csc_nets.layers import Dictionary1d
from csc_nets.theory import hard_thresholding, label_certificate, measure
from csc_nets.theory.sparse.dictionary_design import low_coherence_atoms

SHORT = Budget(steps=15, restarts=1, targets=2, queries=50)
SIZE, KERNEL = 32, 5


class Thresholding(nn.Module):
    """Hard thresholding with a fixed threshold, and a linear classifier of its code."""

    def __init__(self):
        super().__init__()
        self.dictionary = Dictionary1d(8, 4, KERNEL, padding="same", padding_mode="circular", dtype=torch.float64)
        self.dictionary.weight = low_coherence_atoms(4, 8, [KERNEL], steps=200)
        self.dictionary.refresh()
        self.weight, self.threshold = nn.Parameter(torch.randn(3, 4 * SIZE, dtype=torch.float64)), 0.7

    def forward(self, x):
        return hard_threshold(self.dictionary.analysis(x), self.threshold).flatten(1) @ self.weight.T


@pytest.mark.parametrize("norm", ["l2", {"name": "local", "window": KERNEL}])
def test_certified_labels_of_sparse_signals_stand(norm):
    network = Thresholding().eval()
    code = torch.zeros(24, 4, SIZE, dtype=torch.float64)
    atom, place = torch.randint(4, (24,)), torch.randint(SIZE, (24,))
    code[torch.arange(24), atom, place] = 1 + torch.rand(24, dtype=torch.float64)
    signals = network.dictionary.synthesis(code, (SIZE,)).detach()
    logits = (code.flatten(1) @ network.weight.T).detach()
    labels = logits.argmax(1)

    def bound(sample):
        layers = measure([network.dictionary], [code[sample : sample + 1]])
        return lambda noise: hard_thresholding(layers, noise, thresholds=[network.threshold]).error

    certificate = label_certificate(
        logits, network.weight.detach(), [bound(i) for i in range(24)], support=code.flatten(1) != 0
    )
    rows = robustness_rows(
        network,
        signals,
        labels,
        [0.6, 0.02, 0.1, 0.2, 1.0, 3.0],
        certificate=certificate,
        norm=norm,
        budget=SHORT,
        bounds=(-math.inf, math.inf),
    )
    assert [row["eps"] for row in rows] == [0.02, 0.1, 0.2, 0.6, 1.0, 3.0]
    assert all(row["certified"] <= row["attacked"] and row["contradictions"] == 0 for row in rows)
    assert rows[0]["certified"] > 0.5 and rows[-1]["certified"] == 0 and rows[-1]["attacked"] < 0.2
    assert [row["attacked"] for row in rows] == sorted((row["attacked"] for row in rows), reverse=True)


def lipschitz_network(fit, pixels):
    """A thresholding and a linear classifier, test images and labels, and the Lipschitz constant of the code."""
    images, labels = pixels
    network = fit(images[:1200], labels[:1200], 100.0, pursuit="threshold")
    # A prox is a contraction, so the code moves no more than the largest singular value of D^T allows.
    columns = network[0].dictionary.analysis(torch.eye(64, dtype=torch.float64).view(64, 1, 8, 8)).flatten(1)
    return network, images[1200:], labels[1200:], torch.linalg.matrix_norm(columns, 2).item()


def test_a_lipschitz_constant_certifies_digits(fit, pixels):
    network, images, labels, lipschitz = lipschitz_network(fit, pixels)
    with torch.no_grad():
        moved = torch.randn_like(images[:50]) * 0.1
        change = (network[0](images[:50] + moved) - network[0](images[:50])).flatten(1).norm(dim=1)
        assert (change <= lipschitz * moved.flatten(1).norm(dim=1)).all()
        logits = network(images)
    assert (logits.argmax(1) == labels).double().mean() > 0.85
    images, labels, logits = images[:25], labels[:25], logits[:25]
    certificate = label_certificate(logits, network[2].weight.detach(), lambda noise: lipschitz * noise)
    rows = robustness_rows(
        network, images, labels, [0.05, 0.1, 0.2, 0.5, 3.0], certificate=certificate, norm="l2", budget=SHORT
    )
    assert all(row["certified"] <= row["attacked"] and row["contradictions"] == 0 for row in rows), rows
    assert rows[1]["certified"] > 0.6 and rows[-1]["attacked"] == 0


def test_a_false_certificate_is_found_out(fit, pixels):
    network, images, labels, _ = lipschitz_network(fit, pixels)
    with torch.no_grad():
        logits = network(images[:20])
    certificate = label_certificate(logits, network[2].weight.detach(), lambda noise: 1e-6 * noise)
    (row,) = robustness_rows(network, images[:20], labels[:20], [2.0], certificate=certificate, norm="l2", budget=SHORT)
    assert row["contradictions"] > 10


def test_a_certificate_of_other_images_is_refused():
    network, x = nn.Flatten(), torch.rand(3, 1, 2, 2)
    other = label_certificate(torch.rand(2, 4), torch.eye(4), lambda noise: noise)
    with pytest.raises(ValueError, match="certificate must be of 3 images"):
        robustness_rows(network, x, torch.zeros(3).long(), [0.1], certificate=other)
    with pytest.raises(ValueError, match="a function of noise"):
        fixed = label_certificate(torch.rand(3, 4), torch.eye(4), 0.1)
        robustness_rows(network, x, torch.zeros(3).long(), [0.1], certificate=fixed)
