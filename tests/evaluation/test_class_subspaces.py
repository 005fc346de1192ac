import pytest
import torch
from sklearn.decomposition import PCA

from csc_nets.evaluation import ClassSubspaces


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(90, 5, generator=generator) * torch.tensor([3.0, 2, 1, 0.5, 0.1]) + 4
    labels = torch.arange(90) % 2 * 7
    return z, labels


def test_they_are_the_principal_components_of_scikit_learn(features):
    z, labels = features
    found = ClassSubspaces.fit(z, labels, 3)
    assert found.classes.tolist() == [0, 7]
    for j, label in enumerate((0, 7)):
        own = z[labels == label].double().numpy()
        pca = PCA(3).fit(own)
        torch.testing.assert_close(found.means[j], torch.from_numpy(pca.mean_))
        cosines = (found.directions[j] * torch.from_numpy(pca.components_)).sum(1)
        torch.testing.assert_close(cosines.abs(), torch.ones(3, dtype=torch.float64))
        variances = torch.from_numpy(pca.explained_variance_) * (len(own) - 1) / len(own)
        torch.testing.assert_close(found.deviations[j].square(), variances)


def test_points_along_a_direction_and_distances(features):
    z, labels = features
    found = ClassSubspaces.fit(z, labels, 3)
    points = found.along(1, torch.tensor([-2.0, 0, 1]))
    assert points.shape == (3, 3, 5)
    torch.testing.assert_close(points[:, 1], found.means[1].expand(3, -1))
    moved = points - found.means[1]
    torch.testing.assert_close(moved.norm(dim=2), found.deviations[1][:, None] * torch.tensor([[2.0, 0, 1]]).double())
    # They lie in the subspace of their class, and not in the other one.
    distances = found.distances(points.flatten(0, 1))
    assert distances[:, 1].abs().max() < 1e-12 < distances[:, 0].min()


def test_draws_have_the_mean_and_the_variances_of_the_class(features):
    z, labels = features
    found = ClassSubspaces.fit(z, labels, 2)
    drawn = found.sample(0, 40_000, torch.Generator().manual_seed(0))
    u, s = found.directions[0], found.deviations[0]
    torch.testing.assert_close(drawn.mean(0), found.means[0], atol=0.06, rtol=0)  # 3 / sqrt(40,000), four times
    covariance = (u.T * s**2) @ u
    torch.testing.assert_close(drawn.T.cov(), covariance, atol=0.25, rtol=0)  # 9 * sqrt(2 / 40,000), four times
    torch.testing.assert_close(found.distances(drawn)[:, 0], torch.zeros(40_000).double(), atol=1e-12, rtol=0)


def test_without_means_directions_start_at_the_origin(features):
    z, labels = features
    found = ClassSubspaces.fit(z, labels, 1, centred=False)
    assert not found.means.any()
    assert (found.directions[0] @ z[labels == 0].double().mean(0)).abs() > 8  # the mean, of norm 9, dominates


def test_a_class_of_one_image_has_no_directions(features):
    z, _ = features
    found = ClassSubspaces.fit(z, torch.tensor([1] + [0] * 89), 2)
    assert found.directions[1].shape == (0, 5) and found.along(1, torch.ones(2)).shape == (0, 2, 5)
    torch.testing.assert_close(found.sample(1, 3), z[:1].double().expand(3, -1))


@pytest.mark.parametrize("components", [0, 5])
def test_bad_arguments_are_refused(features, components):
    z, labels = features
    with pytest.raises(ValueError, match=f"components must be from 1 to 4, got {components}"):
        ClassSubspaces.fit(z, labels, components)
    with pytest.raises(ValueError, match=r"labels must be \(90,\), got \(3,\)"):
        ClassSubspaces.fit(z, labels[:3])
    with pytest.raises(ValueError, match=r"features must be \(n, d\), n >= 1, got \(0, 5\)"):
        ClassSubspaces.fit(z[:0], labels[:0])
