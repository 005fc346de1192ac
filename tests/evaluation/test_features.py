import math

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier

from csc_nets.evaluation import (
    effective_rank,
    extract_features,
    linear_probe,
    nearest_neighbours,
    nearest_subspace,
)
from csc_nets.models import create_model


@pytest.fixture
def classes():
    """Three classes in planes of their own in six dimensions, off the origin, with little noise."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(6, 6, generator=generator))[0].view(3, 2, 6)
    labels = torch.arange(240) % 3 + 4
    codes = torch.randn(240, 2, generator=generator)
    z = torch.einsum("nk,nkd->nd", codes, basis[labels - 4]) + 0.05 * torch.randn(240, 6, generator=generator)
    return z[:150], labels[:150], z[150:], labels[150:]


@pytest.mark.parametrize("centred", [True, False])
def test_nearest_subspace_is_the_published_rule(classes, centred):
    train, labels, test, truth = classes
    residuals = []
    for j in (4, 5, 6):
        own = train[labels == j].numpy()
        if centred:
            pca = PCA(2).fit(own)
            back = pca.inverse_transform(pca.transform(test.numpy()))
        else:
            u = np.linalg.svd(own, full_matrices=False)[2][:2]
            back = test.numpy() @ u.T @ u
        residuals.append(np.linalg.norm(test.numpy() - back, axis=1))
    found = nearest_subspace(train, labels, test, components=2, centred=centred)
    assert found.tolist() == (np.argmin(residuals, 0) + 4).tolist()
    assert (found == truth).float().mean() > 0.95


def test_a_class_has_no_more_directions_than_it_spans():
    train = torch.tensor([[0.0, 0, 0], [10, 1, 0], [9, 1, 0]])
    labels = torch.tensor([0, 1, 1])
    assert nearest_subspace(train, labels, torch.tensor([[10.0, 0, 0], [1, 0, 0]]), components=1).tolist() == [1, 0]


def test_nearest_neighbours_are_those_of_scikit_learn(classes):
    train, labels, test, truth = classes
    reference = KNeighborsClassifier(1, metric="cosine").fit(train.numpy(), labels.numpy())
    assert nearest_neighbours(train, labels, test, k=1).tolist() == reference.predict(test.numpy()).tolist()
    assert (nearest_neighbours(train, labels, test, k=5) == truth).float().mean() > 0.8


def test_a_linear_probe_tells_what_is_linearly_told_apart(classes):
    train, labels, test, truth = classes
    shifted = torch.nn.functional.one_hot(labels - 4, 6).float(), torch.nn.functional.one_hot(truth - 4, 6).float()
    assert (linear_probe(train + 3 * shifted[0], labels, test + 3 * shifted[1]) == truth).all()
    # Planes through the origin are not.
    assert (linear_probe(train, labels, test) == truth).float().mean() < 0.7


def test_effective_rank():
    assert effective_rank(torch.eye(7)) == pytest.approx(7)
    assert effective_rank(torch.ones(5, 9)) == pytest.approx(1, abs=1e-6)
    p = torch.tensor([3.0, 1.0])
    assert effective_rank(p.diag()) == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))
    with pytest.raises(ValueError, match="all features are zero"):
        effective_rank(torch.zeros(3, 2))


def test_features_of_classifiers_and_autoencoders():
    x, y = torch.randn(10, 1, 16, 16), torch.arange(10)
    batches = [(x[:4], y[:4]), (x[4:8], y[4:8]), (x[8:], y[8:])]
    classifier = create_model("csc_small", in_chans=1, widths=[4, 6]).eval()
    features, labels = extract_features(classifier, batches)
    torch.testing.assert_close(features, classifier.forward_features(x).mean((2, 3)).detach())
    assert torch.equal(labels, y)
    loop = create_model("csc_ctrl_32", in_chans=1, widths=[4, 6], features=8, input_size=16).eval()
    features, labels = extract_features(loop, batches, limit=5)
    torch.testing.assert_close(features, loop.encode(x[:5]).detach())
    assert len(labels) == 5
    wide = create_model("csc_autoencoder", in_chans=1, widths=[300]).eval()
    features, _ = extract_features(wide, batches)
    assert features.shape == (10, 300 * 9)  # 8 x 8 positions in 3 x 3 parts
    with pytest.raises(ValueError, match="no images"):
        extract_features(loop, [])
    with pytest.raises(ValueError, match="Linear has neither encode nor forward_head"):
        extract_features(torch.nn.Linear(2, 2), batches)


def test_bad_input_is_refused(classes):
    train, labels, test, _ = classes
    with pytest.raises(ValueError, match=r"features must be \(N, 6\), as those for training, got \(90, 5\)"):
        nearest_subspace(train, labels, test[:, :5])
    with pytest.raises(ValueError, match=r"labels must be \(150,\), got \(3,\)"):
        linear_probe(train, labels[:3], test)
    with pytest.raises(ValueError, match="k must be from 1 to 150, got 151"):
        nearest_neighbours(train, labels, test, k=151)
    with pytest.raises(ValueError, match="components must be from 1 to 5, got 6"):
        nearest_subspace(train, labels, test, components=6)
